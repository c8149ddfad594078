//! The decision: is this request in the sample? A pure function of the rules and the request's head.

use std::sync::Arc;

use arqon_message::{KeySource, Subject, Threshold, TraceKey};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, header};

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

/// Decides. Allocates nothing, hashes once at most, and makes a key of its own only for a request that is chosen.
#[inline]
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
    // The rule first: it costs less than a hash, and what it says of the border spares the hash of most keys.
    let rule = rules.trie.find(subject).filter(|rule| rule.wants(method));
    let threshold = rule.map_or(Threshold::Never, |rule| rule.threshold);
    let judge = |key: &[u8], source| {
        let hash = (threshold != Threshold::Never).then(|| rules.sampler.hash(key));
        (hash.filter(|hash| threshold.contains(*hash)), source)
    };
    match TraceKey::read(headers, extensions, judge) {
        None if rule.is_some() => Decision::NoKey,
        None => PASS,
        Some((Some(hash), source)) => match rule {
            Some(rule) => choose(rule, subject, hash, source, method, headers, extensions),
            None => Decision::Pass { source: Some(source) },
        },
        Some((None, source)) => Decision::Pass { source: Some(source) },
    }
}

/// The key is in the sample: what else may keep the request out of it.
fn choose<'r>(
    rule: &'r Arc<Rule>,
    subject: &'r Subject,
    hash: u64,
    source: KeySource,
    method: &Method,
    headers: &HeaderMap,
    extensions: &Extensions,
) -> Decision<'r> {
    if is_tunnel(method, headers) {
        return Decision::Pass { source: Some(source) };
    }
    if is_shadow(headers) {
        return Decision::Loop { source };
    }
    match TraceKey::from_request(headers, extensions) {
        Some(key) => Decision::Chosen {
            rule,
            subject,
            key,
            hash,
        },
        None => Decision::NoKey,
    }
}

/// Tunnels and WebSockets pass untouched: what flows afterwards is not this request's body. Other upgrades are offers that a
/// server may pass over (clients offer `h2c` with any request), so they hide nothing from the mirror.
fn is_tunnel(method: &Method, headers: &HeaderMap) -> bool {
    let lists = |name: HeaderName, wanted: &[u8]| {
        let is_wanted = |one: &[u8]| one.trim_ascii().eq_ignore_ascii_case(wanted);
        let among = |value: &HeaderValue| value.as_bytes().split(|byte| *byte == b',').any(is_wanted);
        headers.get_all(name).iter().any(among)
    };
    // RFC 9110, 7.8: an upgrade that `Connection` does not name as well is none.
    method == Method::CONNECT
        || (method == Method::GET
            && lists(header::UPGRADE, b"websocket")
            && lists(header::CONNECTION, b"upgrade"))
}

#[cfg(test)]
mod tests;
