//! The decision: is this request mirrored? A pure function of the rules, the kept share and the request's head.

use std::sync::Arc;

use arqon_message::{KeySource, Subject, TraceKey};
use http::{Extensions, HeaderMap, Method, header};

use crate::{is_shadow, rule::Rule, rules::Rules, shed::Shedder};

/// What was decided, with what it takes to go on.
#[derive(Debug)]
pub(crate) enum Decision<'r> {
    /// No rule concerns it, or its key is not in the sample. `source`: of the key, if one was looked for.
    Pass { source: Option<KeySource> },
    /// A rule covers it, but there is no key to be coherent by.
    NoKey,
    /// It is a shadow copy itself.
    Loop { source: KeySource },
    /// It is in the sample; `kept` unless overload lowered the threshold below its key.
    Chosen {
        rule: &'r Arc<Rule>,
        subject: &'r Subject,
        key: TraceKey,
        kept: bool,
    },
}

const PASS: Decision<'static> = Decision::Pass { source: None };

/// Decides. Allocates nothing; hashes once at most, and asks for the rule only when some rule would take the key.
pub(crate) fn decide<'r>(
    rules: &'r Rules,
    shed: &Shedder,
    method: &Method,
    headers: &HeaderMap,
    extensions: &'r Extensions,
) -> Decision<'r> {
    if rules.is_idle() {
        return PASS;
    }
    let Some(subject) = extensions.get::<Subject>() else {
        return PASS;
    };
    if subject.is_shadow() {
        return PASS;
    }
    let rule = || rules.trie.find(subject).filter(|rule| rule.wants(method));
    let Some(key) = TraceKey::from_request(headers, extensions) else {
        return if rule().is_some() { Decision::NoKey } else { PASS };
    };
    let source = key.source();
    let hash = rules.sampler.hash(key.as_bytes());
    let reached = if rules.reach.contains(hash) { rule() } else { None };
    let Some(rule) = reached.filter(|rule| rule.threshold.contains(hash) && !is_tunnel(method, headers))
    else {
        return Decision::Pass { source: Some(source) };
    };
    if is_shadow(headers) {
        return Decision::Loop { source };
    }
    Decision::Chosen {
        rule,
        subject,
        key,
        kept: shed.keeps(rule.threshold, hash),
    }
}

/// Tunnels and upgrades pass untouched: what flows afterwards is not this request's body.
fn is_tunnel(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::CONNECT || headers.contains_key(header::UPGRADE)
}

#[cfg(test)]
mod tests;
