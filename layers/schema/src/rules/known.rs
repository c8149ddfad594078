//! The rules of messages with a meaning: timestamps, durations, `Any`, field masks, wrappers.
//!
//! They are judged by their bytes: the slices that the message merges from, later fields over earlier ones.

use std::time::{SystemTime, UNIX_EPOCH};

use super::{
    Report, Value,
    range::{Range, list},
    read::{float, integer},
};
use crate::{
    table::Kind,
    wire::{DEPTH_MAX, read},
};

const SECOND: i128 = 1_000_000_000;

/// Calls for every field, in order.
fn each<'a>(slices: &[&'a [u8]], mut found: impl FnMut(u32, &'a [u8])) {
    for slice in slices {
        let mut rest = *slice;
        while let Ok((tag, after)) = read::tag(rest) {
            let Ok((value, after)) = read::skip(tag, after, DEPTH_MAX) else {
                break;
            };
            found(tag, value);
            rest = after;
        }
    }
}

/// Seconds and nanoseconds, fields 1 and 2 of `Duration` and `Timestamp`, as nanoseconds.
pub(super) fn nanoseconds(slices: &[&[u8]]) -> i128 {
    let (mut seconds, mut nanos) = (0, 0);
    each(slices, |tag, value| match tag {
        8 => seconds = integer(Kind::Int64, value).unwrap_or(0),
        16 => nanos = integer(Kind::Int32, value).unwrap_or(0),
        _ => {}
    });
    seconds * SECOND + nanos
}

/// The value of a wrapper.
pub(super) fn wrapped<'a>(kind: Kind, slices: &[&'a [u8]]) -> Option<Value<'a>> {
    let mut last = Value::zero(kind)?;
    each(slices, |tag, value| {
        if tag >> 3 == 1
            && let Some(value) = scalar(kind, value)
        {
            last = value;
        }
    });
    Some(last)
}

/// The value of these bytes in a scalar kind.
pub(crate) fn scalar(kind: Kind, bytes: &[u8]) -> Option<Value<'_>> {
    Some(match kind {
        Kind::Double | Kind::Float => Value::Float(float(kind, bytes)?),
        Kind::Bool => Value::Bool(integer(kind, bytes)? != 0),
        Kind::String | Kind::Bytes => Value::Bytes(bytes),
        Kind::Message(_) | Kind::Group(_) => return None,
        _ => Value::Integer(integer(kind, bytes)?),
    })
}

/// `TimestampRules`, compiled.
#[derive(Debug)]
pub(crate) struct Moment {
    pub(super) range: Range<i128>,
    pub(super) before_now: bool,
    pub(super) after_now: bool,
    /// Nanoseconds around now.
    pub(super) within: Option<i128>,
}

impl Moment {
    pub(super) fn check(&self, slices: &[&[u8]], report: &mut impl Report) {
        let value = nanoseconds(slices);
        self.range.check("timestamp", value, report);
        if !self.before_now && !self.after_now && self.within.is_none() {
            return;
        }
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| i128::try_from(since.as_nanos()).unwrap_or(i128::MAX));
        if self.before_now
            && value > now
            && !report.broken("timestamp.lt_now", || "must be less than now".to_owned())
        {
            return;
        }
        if self.after_now
            && value < now
            && !report.broken("timestamp.gt_now", || "must be greater than now".to_owned())
        {
            return;
        }
        if let Some(within) = self.within
            && (value < now - within || value > now + within)
        {
            report.broken("timestamp.within", || {
                format!("must be within {} of now", write_duration(within))
            });
        }
    }
}

/// `AnyRules`, compiled.
#[derive(Debug, Default)]
pub(crate) struct Urls {
    pub(super) among: Vec<Box<str>>,
    pub(super) not_among: Vec<Box<str>>,
}

impl Urls {
    pub(super) fn check(&self, slices: &[&[u8]], report: &mut impl Report) {
        let mut url: &[u8] = b"";
        each(slices, |tag, value| {
            if tag == 10 {
                url = value;
            }
        });
        let holds = |set: &[Box<str>]| set.iter().any(|one| one.as_bytes() == url);
        if !self.among.is_empty()
            && !holds(&self.among)
            && !report.broken("any.in", || "type URL must be in the allow list".to_owned())
        {
            return;
        }
        if holds(&self.not_among) {
            report.broken("any.not_in", || {
                "type URL must not be in the block list".to_owned()
            });
        }
    }
}

/// `FieldMaskRules`, compiled.
#[derive(Debug, Default)]
pub(crate) struct Mask {
    pub(super) constant: Option<Vec<Box<str>>>,
    pub(super) among: Vec<Box<str>>,
    pub(super) not_among: Vec<Box<str>>,
}

impl Mask {
    pub(super) fn check(&self, slices: &[&[u8]], report: &mut impl Report) {
        let (mut count, mut same, mut within, mut outside) = (0, true, true, true);
        let covers = |set: &[Box<str>], path: &[u8]| {
            set.iter().any(|one| {
                let rest = path.strip_prefix(one.as_bytes());
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"."))
            })
        };
        each(slices, |tag, path| {
            if tag == 10 {
                let wanted = self.constant.as_ref().and_then(|paths| paths.get(count));
                same &= wanted.is_some_and(|wanted| wanted.as_bytes() == path);
                within &= covers(&self.among, path);
                outside &= !covers(&self.not_among, path);
                count += 1;
            }
        });
        let all = |set: &[Box<str>]| list(set.iter().map(ToString::to_string));
        if let Some(constant) = &self.constant
            && !(same && count == constant.len())
            && !report.broken("field_mask.const", || {
                format!("must equal paths {}", all(constant))
            })
        {
            return;
        }
        if !self.among.is_empty()
            && !within
            && !report.broken("field_mask.in", || {
                format!("must only contain paths in {}", all(&self.among))
            })
        {
            return;
        }
        if !outside {
            report.broken("field_mask.not_in", || {
                format!("must not contain any paths in {}", all(&self.not_among))
            });
        }
    }
}

/// `1.5s`.
pub(super) fn write_duration(nanoseconds: i128) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let (seconds, nanos) = (nanoseconds.abs() / SECOND, nanoseconds.abs() % SECOND);
    format!("{sign}{seconds}{}s", fraction(nanos))
}

/// RFC 3339 in UTC.
pub(super) fn write_timestamp(nanoseconds: i128) -> String {
    let (seconds, nanos) = (nanoseconds.div_euclid(SECOND), nanoseconds.rem_euclid(SECOND));
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days since 0000-03-01, in cycles of 400 years of 146,097 days.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = year_of_era + era * 400 + i128::from(month <= 2);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    let fraction = fraction(nanos);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// `.5`, or nothing.
fn fraction(nanos: i128) -> String {
    if nanos == 0 {
        return String::new();
    }
    format!(".{nanos:09}").trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::{write_duration, write_timestamp};

    #[test]
    fn moments_are_written_as_the_json_mapping_writes_them() {
        assert_eq!(write_timestamp(0), "1970-01-01T00:00:00Z");
        assert_eq!(write_timestamp(951_868_800_000_000_000), "2000-03-01T00:00:00Z");
        assert_eq!(
            write_timestamp(-62_135_596_800_000_000_000),
            "0001-01-01T00:00:00Z"
        );
        assert_eq!(
            write_timestamp(253_402_300_799_000_000_500),
            "9999-12-31T23:59:59.0000005Z"
        );
        assert_eq!(write_timestamp(-1), "1969-12-31T23:59:59.999999999Z");
        assert_eq!(write_duration(-1_500_000_000), "-1.5s");
    }
}
