//! Strings with a form of their own: timestamps, durations, field masks.

/// RFC 3339 with upper-case `T` and `Z`, years 0001 to 9999 in UTC, at most nine fraction digits.
pub(crate) fn is_timestamp(text: &str) -> bool {
    timestamp(text).is_some_and(|seconds| (-62_135_596_800..=253_402_300_799).contains(&seconds))
}

fn timestamp(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| digits(bytes.get(from..to)?);
    let at = |index: usize, byte: u8| (bytes.get(index) == Some(&byte)).then_some(());
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    for (index, byte) in [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')] {
        at(index, byte)?;
    }
    if year < 1 || !(1..=12).contains(&month) || day < 1 || day > days_in(year, month) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut zone = 19;
    if bytes.get(zone) == Some(&b'.') {
        let fraction = bytes[zone + 1..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        if !(1..=9).contains(&fraction) {
            return None;
        }
        zone += 1 + fraction;
    }
    let offset = match bytes.get(zone..)? {
        b"Z" => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (digits(&[*h1, *h2])?, digits(&[*m1, *m2])?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let offset = hours * 3_600 + minutes * 60;
            if *sign == b'+' { offset } else { -offset }
        }
        _ => return None,
    };
    let days = days_before(year) + (1..month).map(|month| days_in(year, month)).sum::<i64>() + day - 1;
    // Days from 0001-01-01 to 1970-01-01.
    Some((days - 719_162) * 86_400 + hour * 3_600 + minute * 60 + second - offset)
}

fn digits(bytes: &[u8]) -> Option<i64> {
    bytes.iter().try_fold(0, |value, byte| {
        byte.is_ascii_digit().then(|| value * 10 + i64::from(byte - b'0'))
    })
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 0001-01-01 to the first of January.
fn days_before(year: i64) -> i64 {
    let past = year - 1;
    past * 365 + past / 4 - past / 100 + past / 400
}

/// Seconds with at most nine fraction digits and `s`, within about 10,000 years.
pub(crate) fn is_duration(text: &str) -> bool {
    let Some(text) = text.strip_suffix('s') else {
        return false;
    };
    let text = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = match text.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (text, None),
    };
    let fraction_fits = fraction.is_none_or(|fraction| {
        (1..=9).contains(&fraction.len()) && fraction.bytes().all(|byte| byte.is_ascii_digit())
    });
    let zero = fraction.is_none_or(|fraction| fraction.bytes().all(|byte| byte == b'0'));
    let seconds = if (1..=12).contains(&whole.len()) {
        digits(whole.as_bytes())
    } else {
        None
    };
    fraction_fits
        && seconds.is_some_and(|seconds| seconds < 315_576_000_000 || seconds == 315_576_000_000 && zero)
}

/// Paths in lowerCamelCase, joined by commas; the empty string is the empty mask.
pub(crate) fn is_field_mask(text: &str) -> bool {
    let is_path = |path: &str| {
        path.split('.').all(|part| {
            part.bytes()
                .next()
                .is_some_and(|first| first.is_ascii_alphabetic())
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
        })
    };
    text.is_empty() || text.split(',').all(is_path)
}

#[cfg(test)]
mod tests {
    use super::{is_duration, is_field_mask, is_timestamp, timestamp};

    #[test]
    fn timestamps_are_rfc_3339_within_the_range() {
        for text in [
            "1970-01-01T00:00:00Z",
            "0001-01-01T00:00:00Z",
            "9999-12-31T23:59:59.999999999Z",
            "2024-02-29T12:00:00.1+01:30",
            "1970-01-01T00:00:00-08:00",
        ] {
            assert!(is_timestamp(text), "{text}");
        }
        for text in [
            "",
            "1970-01-01t00:00:00Z",
            "1970-01-01T00:00:00z",
            "1970-01-01T00:00:00",
            "1970-01-01 00:00:00Z",
            "1970-01-01T00:00:00.0123456789Z",
            "1970-01-01T00:00:00.Z",
            "0000-01-01T00:00:00Z",
            "0001-01-01T00:00:00+01:00",
            "9999-12-31T23:59:59-01:00",
            "2023-02-29T00:00:00Z",
            "1970-13-01T00:00:00Z",
            "1970-01-01T24:00:00Z",
            "1970-01-01T00:00:60Z",
            "1970-01-01T00:00:00+0100",
            "10000-01-01T00:00:00Z",
        ] {
            assert!(!is_timestamp(text), "{text}");
        }
        assert_eq!(timestamp("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(timestamp("2000-03-01T00:00:00Z"), Some(951_868_800));
    }

    #[test]
    fn durations_are_seconds() {
        for text in ["0s", "1.5s", "-0.000000001s", "315576000000s", "-315576000000.0s"] {
            assert!(is_duration(text), "{text}");
        }
        for text in [
            "",
            "s",
            "1",
            "1.s",
            ".5s",
            "+1s",
            "1.0123456789s",
            "315576000001s",
            "315576000000.1s",
            "1 s",
            "--1s",
        ] {
            assert!(!is_duration(text), "{text}");
        }
    }

    #[test]
    fn field_masks_are_camel_case_paths() {
        assert!(is_field_mask("") && is_field_mask("foo,barBaz.qux1"));
        for text in ["foo_bar", "foo,", ",", "foo..bar", "foo bar", ".foo", "1a"] {
            assert!(!is_field_mask(text), "{text}");
        }
    }
}
