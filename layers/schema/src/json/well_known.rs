//! Strings with a form of their own: timestamps, durations, field masks.

/// RFC 3339 with upper-case `T` and `Z`, years 0001 to 9999 in UTC, at most nine fraction digits: the seconds since 1970,
/// and the nanoseconds after them.
pub(crate) fn timestamp(text: &str) -> Option<(i64, i32)> {
    moment(text).filter(|(seconds, _)| (-62_135_596_800..=253_402_300_799).contains(seconds))
}

fn moment(text: &str) -> Option<(i64, i32)> {
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
    let mut nanos = 0;
    if bytes.get(zone) == Some(&b'.') {
        let fraction = bytes[zone + 1..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        if !(1..=9).contains(&fraction) {
            return None;
        }
        nanos = nanoseconds(&bytes[zone + 1..zone + 1 + fraction])?;
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
    let seconds = (days - 719_162) * 86_400 + hour * 3_600 + minute * 60 + second - offset;
    Some((seconds, nanos))
}

/// At most nine digits of a fraction.
fn nanoseconds(fraction: &[u8]) -> Option<i32> {
    let scale = 10_i64.pow(9_u32.checked_sub(u32::try_from(fraction.len()).ok()?)?);
    i32::try_from(digits(fraction)? * scale).ok()
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

/// Seconds with at most nine fraction digits and `s`, within about 10,000 years: seconds and nanoseconds of one sign.
pub(crate) fn duration(text: &str) -> Option<(i64, i32)> {
    let text = text.strip_suffix('s')?;
    let (sign, text) = text.strip_prefix('-').map_or((1, text), |text| (-1, text));
    let (whole, nanos) = match text.split_once('.') {
        Some((whole, fraction)) if (1..=9).contains(&fraction.len()) => {
            (whole, nanoseconds(fraction.as_bytes())?)
        }
        Some(_) => return None,
        None => (text, 0),
    };
    let seconds = if (1..=12).contains(&whole.len()) {
        digits(whole.as_bytes())?
    } else {
        return None;
    };
    let within = seconds < 315_576_000_000 || seconds == 315_576_000_000 && nanos == 0;
    within.then_some((i64::from(sign) * seconds, sign * nanos))
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

/// `fooBar.baz` as the binary format has it: `foo_bar.baz`.
pub(crate) fn snake_case(path: &str) -> String {
    let mut out = String::with_capacity(path.len() + 4);
    for letter in path.chars() {
        if letter.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{duration, is_field_mask, snake_case, timestamp};

    fn is_timestamp(text: &str) -> bool {
        timestamp(text).is_some()
    }

    fn is_duration(text: &str) -> bool {
        duration(text).is_some()
    }

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
        assert_eq!(timestamp("1970-01-01T00:00:00Z"), Some((0, 0)));
        assert_eq!(
            timestamp("2000-03-01T00:00:00.05Z"),
            Some((951_868_800, 50_000_000))
        );
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
    fn durations_have_one_sign_and_masks_get_their_underscores_back() {
        assert_eq!(duration("-1.5s"), Some((-1, -500_000_000)));
        assert_eq!(duration("-0.000000001s"), Some((0, -1)));
        assert_eq!(snake_case("fooBar.bazQux1"), "foo_bar.baz_qux1");
    }

    #[test]
    fn field_masks_are_camel_case_paths() {
        assert!(is_field_mask("") && is_field_mask("foo,barBaz.qux1"));
        for text in ["foo_bar", "foo,", ",", "foo..bar", "foo bar", ".foo", "1a"] {
            assert!(!is_field_mask(text), "{text}");
        }
    }
}
