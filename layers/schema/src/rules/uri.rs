//! RFC 3986, with the zones of RFC 6874; percent-encoded hosts have to be UTF-8.

use super::format::is_ipv6;

/// An absolute URI.
pub(super) fn is_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else {
        return false;
    };
    let named = scheme
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    named && is_hierarchical(rest, false)
}

/// An absolute URI, or a reference relative to one.
pub(super) fn is_uri_ref(text: &str) -> bool {
    is_uri(text) || is_hierarchical(text, true)
}

/// What follows the scheme; `relative`: there is none, so the first segment has no colon.
fn is_hierarchical(text: &str, relative: bool) -> bool {
    let (text, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (text, query) = text.split_once('?').unwrap_or((text, ""));
    if !made_of(query, b":@/?") || !made_of(fragment, b":@/?") {
        return false;
    }
    let path = match text.strip_prefix("//") {
        Some(rest) => {
            let end = rest.find('/').unwrap_or(rest.len());
            if !is_authority(&rest[..end]) {
                return false;
            }
            &rest[end..]
        }
        None => text,
    };
    let first = path.split('/').next().unwrap_or_default();
    made_of(path, b":@/") && !(relative && first.contains(':'))
}

fn is_authority(text: &str) -> bool {
    let (user, place) = text
        .split_once('@')
        .map_or((None, text), |(user, place)| (Some(user), place));
    if user.is_some_and(|user| !made_of(user, b":")) {
        return false;
    }
    let (host, port) = if place.starts_with('[') {
        match place.find(']') {
            Some(end) => place.split_at(end + 1),
            None => return false,
        }
    } else {
        place.split_at(place.find(':').unwrap_or(place.len()))
    };
    let port_fits = port.is_empty()
        || port
            .strip_prefix(':')
            .is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
    port_fits
        && match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(literal) => is_literal(literal),
            None => made_of(host, b"") && decodes(host),
        }
}

fn is_literal(text: &str) -> bool {
    if let Some(future) = text.strip_prefix(['v', 'V']) {
        return future.split_once('.').is_some_and(|(version, address)| {
            !version.is_empty()
                && version.bytes().all(|byte| byte.is_ascii_hexdigit())
                && !address.is_empty()
                && !address.contains('%')
                && made_of(address, b":")
        });
    }
    match text.split_once('%') {
        None => is_ipv6(text),
        Some((address, zone)) => zone.strip_prefix("25").is_some_and(|zone| {
            let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte);
            is_ipv6(address)
                && !zone.is_empty()
                && zone.bytes().all(unreserved)
                && made_of(zone, b"")
                && decodes(zone)
        }),
    }
}

/// Unreserved letters, sub-delimiters, percent-encoded bytes and the extra ones.
fn made_of(text: &str, extra: &[u8]) -> bool {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte == b'%' {
            let digits = bytes.get(at + 1..at + 3);
            if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
                return false;
            }
            at += 3;
            continue;
        }
        if !byte.is_ascii_alphanumeric() && !b"-._~!$&'()*+,;=".contains(&byte) && !extra.contains(&byte) {
            return false;
        }
        at += 1;
    }
    true
}

/// The percent-encoded bytes are UTF-8. Every `%` has its two digits.
fn decodes(text: &str) -> bool {
    let mut parts = text.split('%');
    let mut decoded: Vec<u8> = parts.next().unwrap_or_default().bytes().collect();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2).unwrap_or(("", ""));
        decoded.push(u8::from_str_radix(digits, 16).unwrap_or(0xff));
        decoded.extend(rest.bytes());
    }
    std::str::from_utf8(&decoded).is_ok()
}
