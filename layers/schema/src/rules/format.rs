//! Well-known forms of strings, by the definitions of protovalidate: email (the form of the HTML standard), hostname, IP
//! addresses and prefixes, host and port, identifiers, HTTP headers.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Letters, digits and signs around one `@`, then labels of a hostname.
pub(super) fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.split_once('@') else {
        return false;
    };
    let local_fits = !local.is_empty()
        && local
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".!#$%&'*+/=?^_`{|}~-".contains(&byte));
    local_fits && domain.split('.').all(is_label)
}

/// RFC 1034: labels of letters, digits and dashes, at most 253 bytes, a dot at the end or not; the last label is no number.
pub(super) fn is_hostname(text: &str) -> bool {
    if text.len() > 253 {
        return false;
    }
    let text = text.strip_suffix('.').unwrap_or(text);
    let last = text.rsplit('.').next().unwrap_or_default();
    text.split('.').all(is_label) && !last.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

pub(super) fn is_ipv4(text: &str) -> bool {
    text.parse::<Ipv4Addr>().is_ok()
}

/// With a zone or without: `fe80::1%eth0`.
pub(super) fn is_ipv6(text: &str) -> bool {
    let (address, zone) = text
        .split_once('%')
        .map_or((text, None), |(address, zone)| (address, Some(zone)));
    address.parse::<Ipv6Addr>().is_ok() && zone.is_none_or(|zone| !zone.is_empty() && !zone.contains('\0'))
}

pub(super) fn is_ip(text: &str) -> bool {
    is_ipv4(text) || is_ipv6(text)
}

/// `10.0.0.0/8`; `network`: the bits after the prefix are zero.
pub(super) fn is_ipv4_prefix(text: &str, network: bool) -> bool {
    let Some((address, length)) = text.split_once('/') else {
        return false;
    };
    let (Ok(address), Some(length)) = (address.parse::<Ipv4Addr>(), decimal(length, 32)) else {
        return false;
    };
    !network || u32::MAX.checked_shr(length).unwrap_or(0) & address.to_bits() == 0
}

/// `2001:db8::/32`; `network`: the bits after the prefix are zero.
pub(super) fn is_ipv6_prefix(text: &str, network: bool) -> bool {
    let Some((address, length)) = text.split_once('/') else {
        return false;
    };
    let (Ok(address), Some(length)) = (address.parse::<Ipv6Addr>(), decimal(length, 128)) else {
        return false;
    };
    !network || u128::MAX.checked_shr(length).unwrap_or(0) & address.to_bits() == 0
}

/// A host (name, IPv4, or IPv6 in brackets), a colon and a port.
pub(super) fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let host_fits = match host.strip_prefix('[') {
        Some(host) => host.strip_suffix(']').is_some_and(is_ipv6),
        None => is_hostname(host) || is_ipv4(host),
    };
    host_fits && decimal(port, 65_535).is_some()
}

/// A decimal number without leading zeros, up to that.
fn decimal(text: &str, most: u32) -> Option<u32> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !plain || text.len() > 1 && text.starts_with('0') {
        return None;
    }
    text.parse().ok().filter(|number| *number <= most)
}

/// 8-4-4-4-12 hexadecimal digits.
pub(super) fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// A UUID without dashes.
pub(super) fn is_tuuid(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// 26 letters of Crockford's base 32, the first at most 7.
pub(super) fn is_ulid(text: &str) -> bool {
    let letters = text
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() && !b"ILOUilou".contains(&byte));
    text.len() == 26 && letters && (b'0'..=b'7').contains(&text.as_bytes()[0])
}

/// Identifiers joined by dots.
pub(super) fn is_full_name(text: &str) -> bool {
    text.split('.').all(|part| {
        let start = part
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
        start
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    })
}

/// RFC 7230, a leading colon allowed; not strictly: anything but NUL and line ends.
pub(super) fn is_header_name(text: &str, strict: bool) -> bool {
    if !strict {
        return !text.is_empty() && !text.contains(['\0', '\n', '\r']);
    }
    let name = text.strip_prefix(':').unwrap_or(text);
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+,-.^_|~`".contains(&byte))
}

/// RFC 7230; not strictly: anything but NUL and line ends.
pub(super) fn is_header_value(text: &str, strict: bool) -> bool {
    if strict {
        text.bytes()
            .all(|byte| byte == b'\t' || byte >= 0x20 && byte != 0x7f)
    } else {
        !text.contains(['\0', '\n', '\r'])
    }
}
