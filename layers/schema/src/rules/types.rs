//! The options of each type but strings and bytes, read into what is checked.

use super::{
    format::{
        is_email, is_full_name, is_host_and_port, is_hostname, is_ip, is_ipv4, is_ipv4_prefix, is_ipv6,
        is_ipv6_prefix, is_tuuid, is_ulid, is_uuid,
    },
    known::{Mask, Moment, Urls, nanoseconds, write_duration, write_timestamp},
    range::{Bound, Range},
    read::{Option_, fields, float, integer},
    text::Format,
    uri::{is_uri, is_uri_ref},
};
use crate::table::Kind;

/// A rule that is not there, or that is CEL.
pub(super) fn unknown(number: u32) -> String {
    if number >= 1000 {
        format!("has a predefined rule (field {number}), which is in CEL and not available")
    } else {
        format!("has a buf.validate rule (field {number}) that this version does not know")
    }
}

/// `const`, `lt`, `lte`, `gt`, `gte`: fields `first` to `first + 4`. Whether the option was one of them.
fn bound<T: Copy>(range: &mut Range<T>, first: u32, number: u32, value: T) {
    let end = |inclusive| Some(Bound { at: value, inclusive });
    match number - first {
        0 => range.constant = Some(value),
        1 => range.below = end(false),
        2 => range.below = end(true),
        3 => range.above = end(false),
        _ => range.above = end(true),
    }
}

pub(super) fn integers(kind: Kind, rules: &[u8]) -> Result<Range<i128>, String> {
    let mut range = Range::new(|value: i128| value.to_string());
    let example = if kind == Kind::Int64 { 9 } else { 8 };
    for option in fields(rules)? {
        match option.number {
            1..=5 => bound(&mut range, 1, option.number, option.number_of(kind)?),
            6 => range.among.extend(numbers(kind, &option)?),
            7 => range.not_among.extend(numbers(kind, &option)?),
            number if number == example => {}
            other => return Err(unknown(other)),
        }
    }
    Ok(range)
}

fn numbers(kind: Kind, option: &Option_<'_>) -> Result<Vec<i128>, String> {
    let elements = option.elements(kind)?;
    Ok(elements
        .into_iter()
        .filter_map(|bytes| integer(kind, bytes))
        .collect())
}

pub(super) fn floats(kind: Kind, rules: &[u8]) -> Result<(Range<f64>, bool), String> {
    let mut range = Range::new(write_float);
    let mut finite = false;
    for option in fields(rules)? {
        let all = || -> Result<Vec<f64>, String> {
            let elements = option.elements(kind)?;
            Ok(elements
                .into_iter()
                .filter_map(|bytes| float(kind, bytes))
                .collect())
        };
        match option.number {
            1..=5 => {
                let value = float(kind, option.bytes).ok_or("has an unreadable number")?;
                bound(&mut range, 1, option.number, value);
            }
            6 => range.among.extend(all()?),
            7 => range.not_among.extend(all()?),
            8 => finite = option.flag()?,
            9 => {}
            other => return Err(unknown(other)),
        }
    }
    Ok((range, finite))
}

fn write_float(value: f64) -> String {
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    value.to_string()
}

pub(super) fn boolean(rules: &[u8]) -> Result<Option<bool>, String> {
    let mut wanted = None;
    for option in fields(rules)? {
        match option.number {
            1 => wanted = Some(option.flag()?),
            2 => {}
            other => return Err(unknown(other)),
        }
    }
    Ok(wanted)
}

pub(super) fn enumeration(rules: &[u8]) -> Result<(Range<i128>, bool), String> {
    let mut range = Range::new(|value: i128| value.to_string());
    let mut defined = false;
    for option in fields(rules)? {
        match option.number {
            1 => range.constant = Some(option.number_of(Kind::Int32)?),
            2 => defined = option.flag()?,
            3 => range.among.extend(numbers(Kind::Int32, &option)?),
            4 => range.not_among.extend(numbers(Kind::Int32, &option)?),
            5 => {}
            other => return Err(unknown(other)),
        }
    }
    Ok((range, defined))
}

pub(super) fn duration(rules: &[u8]) -> Result<Range<i128>, String> {
    let mut range = Range::new(write_duration);
    for option in fields(rules)? {
        let value = nanoseconds(&[option.bytes]);
        match option.number {
            2..=6 => bound(&mut range, 2, option.number, value),
            7 => range.among.push(value),
            8 => range.not_among.push(value),
            9 => {}
            other => return Err(unknown(other)),
        }
    }
    Ok(range)
}

pub(super) fn timestamp(rules: &[u8]) -> Result<Moment, String> {
    let mut moment = Moment {
        range: Range::new(write_timestamp),
        before_now: false,
        after_now: false,
        within: None,
    };
    for option in fields(rules)? {
        match option.number {
            2..=6 => bound(&mut moment.range, 2, option.number, nanoseconds(&[option.bytes])),
            7 => moment.before_now = option.flag()?,
            8 => moment.after_now = option.flag()?,
            9 => moment.within = Some(nanoseconds(&[option.bytes])),
            10 => {}
            other => return Err(unknown(other)),
        }
    }
    Ok(moment)
}

pub(super) fn urls(rules: &[u8]) -> Result<Urls, String> {
    let mut urls = Urls::default();
    for option in fields(rules)? {
        match option.number {
            2 => urls.among.push(option.text()?.into()),
            3 => urls.not_among.push(option.text()?.into()),
            other => return Err(unknown(other)),
        }
    }
    Ok(urls)
}

pub(super) fn mask(rules: &[u8]) -> Result<Mask, String> {
    let mut mask = Mask::default();
    for option in fields(rules)? {
        match option.number {
            1 => {
                let paths = mask.constant.get_or_insert_default();
                for path in fields(option.bytes)?.iter().filter(|path| path.number == 1) {
                    paths.push(path.text()?.into());
                }
            }
            2 => mask.among.push(option.text()?.into()),
            3 => mask.not_among.push(option.text()?.into()),
            4 => {}
            other => return Err(unknown(other)),
        }
    }
    Ok(mask)
}

/// The well-known form of a string that a field of `StringRules` asks for.
pub(super) fn format_of(number: u32) -> Option<Format> {
    type Form = (&'static str, &'static str, fn(&str) -> bool);
    let (id, what, fits): Form = match number {
        12 => ("email", "email address", is_email),
        13 => ("hostname", "hostname", is_hostname),
        14 => ("ip", "IP address", is_ip),
        15 => ("ipv4", "IPv4 address", is_ipv4),
        16 => ("ipv6", "IPv6 address", is_ipv6),
        17 => ("uri", "URI", is_uri),
        18 => ("uri_ref", "URI Reference", is_uri_ref),
        21 => ("address", "hostname, or ip address", |text| {
            is_hostname(text) || is_ip(text)
        }),
        22 => ("uuid", "UUID", is_uuid),
        26 => ("ip_with_prefixlen", "IP prefix", |text| {
            is_ipv4_prefix(text, false) || is_ipv6_prefix(text, false)
        }),
        27 => ("ipv4_with_prefixlen", "IPv4 address with prefix length", |text| {
            is_ipv4_prefix(text, false)
        }),
        28 => ("ipv6_with_prefixlen", "IPv6 address with prefix length", |text| {
            is_ipv6_prefix(text, false)
        }),
        29 => ("ip_prefix", "IP prefix", |text| {
            is_ipv4_prefix(text, true) || is_ipv6_prefix(text, true)
        }),
        30 => ("ipv4_prefix", "IPv4 prefix", |text| is_ipv4_prefix(text, true)),
        31 => ("ipv6_prefix", "IPv6 prefix", |text| is_ipv6_prefix(text, true)),
        32 => (
            "host_and_port",
            "host (hostname or IP address) and port pair",
            is_host_and_port,
        ),
        33 => ("tuuid", "trimmed UUID", is_tuuid),
        35 => ("ulid", "ULID", is_ulid),
        37 => ("protobuf_fqn", "fully-qualified Protobuf name", is_full_name),
        38 => (
            "protobuf_dot_fqn",
            "fully-qualified Protobuf name with a leading dot",
            |text| text.strip_prefix('.').is_some_and(is_full_name),
        ),
        _ => return None,
    };
    let empty = match number {
        // A reference may be empty.
        18 => None,
        32 => Some("host and port pair"),
        _ => Some(what),
    };
    Some(Format {
        id,
        what,
        empty,
        fits,
    })
}
