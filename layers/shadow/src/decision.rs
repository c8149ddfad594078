//! The decision: is this request in the sample? A pure function of the rules and the request's head.

use std::sync::Arc;

use arqon_message::{KeySource, Subject, TraceKey};
use http::{Extensions, HeaderMap, HeaderValue, Method, header};

use crate::{is_shadow, rule::Rule, rules::Rules};

/// What was decided, with what it takes to go on.
#[derive(Debug)]
pub(crate) enum Decision<'r> {
    /// No rule concerns it, or its key is not in the sample. `source`: of the key, if one was looked for.
    Pass { source: Option<KeySource> },
    /// A rule covers it, but there is no key to be coherent by.
    NoKey,
    /// It is a shadow copy itself.
    Loop { source: KeySource },
    /// It is in the sample; whether overload lets it go is another question.
    Chosen {
        rule: &'r Arc<Rule>,
        subject: &'r Subject,
        key: TraceKey,
        hash: u64,
    },
}

const PASS: Decision<'static> = Decision::Pass { source: None };

/// Decides. Allocates nothing; hashes once at most, and asks for the rule only when some rule would take the key.
pub(crate) fn decide<'r>(
    rules: &'r Rules,
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
        hash,
    }
}

/// Tunnels and WebSockets pass untouched: what flows afterwards is not this request's body. Other upgrades are offers that a
/// server may pass over (clients offer `h2c` with any request), so they hide nothing from the mirror.
fn is_tunnel(method: &Method, headers: &HeaderMap) -> bool {
    let is_websocket = |value: &HeaderValue| {
        let protocols = value.as_bytes().split(|byte| *byte == b',');
        protocols
            .map(<[u8]>::trim_ascii)
            .any(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))
    };
    method == Method::CONNECT
        || (method == Method::GET && headers.get_all(header::UPGRADE).iter().any(is_websocket))
}

#[cfg(test)]
mod tests;
