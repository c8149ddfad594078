//! Scalars in JSON: which texts are numbers of a type, and which strings are bytes.

use super::lexer::number_length;
use crate::table::Kind;

/// What is wrong with a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Misfit {
    /// Not a number at all.
    Format,
    /// Outside the type's range, or a fraction for an integer.
    Range,
}

/// The integer that a JSON number stands for, exactly; `1.0` and `1e2` are integers. With a point or an exponent other
/// parsers read it as a double, so one that no double is exactly is none: each would take another number for it.
pub(crate) fn integer(text: &str) -> Option<i128> {
    if let Some(value) = plain(text) {
        return Some(i128::from(value));
    }
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
    let (mantissa, exponent) = match digits.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, clamped(exponent)),
        None => (digits, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if mantissa.len() == digits.len() && fraction.is_empty() {
        return whole
            .parse::<i128>()
            .ok()
            .filter(|_| whole.len() <= 20)
            .map(|value| sign * value);
    }
    // The digits as one number, its trailing zeros moved into the exponent.
    let all = whole.bytes().chain(fraction.bytes());
    let (mut significant, mut zeros, mut value) = (0_u32, 0_i64, 0_i128);
    for digit in all {
        if digit == b'0' {
            zeros += 1;
            continue;
        }
        if value != 0 {
            significant = significant.checked_add(u32::try_from(zeros).ok()?)?;
        }
        significant = significant.checked_add(1)?;
        if significant > 20 {
            return None;
        }
        let shift = if value == 0 { 0 } else { u32::try_from(zeros).ok()? };
        value = value * 10_i128.pow(shift + 1) + i128::from(digit - b'0');
        zeros = 0;
    }
    if value == 0 {
        return Some(0);
    }
    let scale = exponent + zeros - i64::try_from(fraction.len()).ok()?;
    let scale = u32::try_from(scale).ok().filter(|scale| *scale <= 20)?;
    let value = sign * value * 10_i128.pow(scale);
    is_a_double(value).then_some(value)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "whether anything is lost is the question"
)]
fn is_a_double(value: i128) -> bool {
    value as f64 as i128 == value
}

/// A number of at most 18 digits and nothing else.
fn plain(text: &str) -> Option<i64> {
    let (negative, digits) = text
        .strip_prefix('-')
        .map_or((false, text), |digits| (true, digits));
    if digits.is_empty() || digits.len() > 18 {
        return None;
    }
    let value = digits.bytes().try_fold(0_i64, |value, byte| {
        let digit = byte.wrapping_sub(b'0');
        (digit < 10).then(|| value * 10 + i64::from(digit))
    })?;
    Some(if negative { -value } else { value })
}

/// An exponent, or one that is just as far out of range.
fn clamped(exponent: &str) -> i64 {
    let (sign, digits) = match exponent.as_bytes().first() {
        Some(b'-') => (-1, &exponent[1..]),
        Some(b'+') => (1, &exponent[1..]),
        _ => (1, exponent),
    };
    let digits = digits.trim_start_matches('0');
    if digits.len() > 12 {
        sign * 1_000_000_000_000
    } else {
        sign * digits.parse::<i64>().unwrap_or(0)
    }
}

/// The small number, if it fits an integer kind.
#[inline]
pub(crate) fn small_fits(kind: Kind, value: i64) -> Result<i64, Misfit> {
    let within = match kind {
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 | Kind::Enum(_) => i32::try_from(value).is_ok(),
        Kind::Uint32 | Kind::Fixed32 => u32::try_from(value).is_ok(),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => true,
        _ => value >= 0,
    };
    if within { Ok(value) } else { Err(Misfit::Range) }
}

/// The number, if it fits an integer kind.
pub(crate) fn fits(kind: Kind, text: &str) -> Result<i128, Misfit> {
    if let Some(value) = plain(text) {
        return small_fits(kind, value).map(i128::from);
    }
    let value = integer(text).ok_or(Misfit::Range)?;
    let within = match kind {
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 | Kind::Enum(_) => i32::try_from(value).is_ok(),
        Kind::Uint32 | Kind::Fixed32 => u32::try_from(value).is_ok(),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => i64::try_from(value).is_ok(),
        _ => u64::try_from(value).is_ok(),
    };
    if within { Ok(value) } else { Err(Misfit::Range) }
}

/// The number, if it fits `float` or `double`.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the cast is what a float field does"
)]
pub(crate) fn floats(kind: Kind, text: &str) -> Result<f64, Misfit> {
    let value: f64 = text.parse().map_err(|_| Misfit::Format)?;
    let value = match kind {
        Kind::Float => f64::from(value as f32),
        _ => value,
    };
    if value.is_finite() {
        Ok(value)
    } else {
        Err(Misfit::Range)
    }
}

/// Whether a JSON number has a bit set as a float (minus zero has), where that is plain: so short and without an exponent,
/// it is neither too large for `float` nor so small that it is zero.
pub(crate) fn short_float(text: &str) -> Option<bool> {
    if text.len() > 20 {
        return None;
    }
    let mut filled = false;
    for byte in text.bytes() {
        match byte {
            b'0' | b'.' => {}
            b'e' | b'E' => return None,
            _ => filled = true,
        }
    }
    Some(filled)
}

/// The text of a number in quotes is a whole JSON number.
pub(crate) fn is_number(text: &str) -> bool {
    number_length(text.as_bytes()) == Some(text.len())
}

/// How many bytes a base64 text stands for: the standard or the URL alphabet (not both), with or without padding.
pub(crate) fn base64(text: &str) -> Option<usize> {
    let unpadded = text.trim_end_matches('=');
    let padding = text.len() - unpadded.len();
    let (mut standard, mut url) = (false, false);
    for byte in unpadded.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => {}
            b'+' | b'/' => standard = true,
            b'-' | b'_' => url = true,
            _ => return None,
        }
    }
    let whole = unpadded.len() % 4 != 1 && (padding == 0 || text.len().is_multiple_of(4) && padding <= 2);
    (whole && !(standard && url)).then_some(unpadded.len() * 3 / 4)
}

/// The bytes of a text that [`base64`] has a length for.
pub(crate) fn decode_base64(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text.bytes() {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => break,
        };
        bits = bits << 6 | u32::from(six);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count & 0xff) as u8);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Misfit, base64, decode_base64, fits, floats, integer, short_float};
    use crate::table::Kind;

    #[test]
    fn integers_are_exact() {
        for (text, value) in [
            ("0", 0),
            ("-0", 0),
            ("1.0", 1),
            ("1e2", 100),
            ("120e-1", 12),
            ("0.001e3", 1),
            ("9007199254740993", 9_007_199_254_740_993),
            ("18446744073709551615", 18_446_744_073_709_551_615),
            ("0e999999999999999999", 0),
            ("1000000000000000000000e-21", 1),
            ("100.50e1", 1005),
            ("9007199254740992.0", 9_007_199_254_740_992),
            ("1e18", 1_000_000_000_000_000_000),
            ("5e0", 5),
        ] {
            assert_eq!(integer(text), Some(value), "{text}");
        }
        for text in [
            "0.5",
            "1e-1",
            "1e99999999999999999999",
            "1e30",
            "123456789012345678901234567890",
        ] {
            assert_eq!(integer(text), None, "{text}");
        }
        // Others read these as doubles, and then another number.
        for text in [
            "9007199254740993.0",
            "9007199254740993e0",
            "900719925474099.3e1",
            "-9223372036854775807.0",
            "18446744073709551615.0",
        ] {
            assert_eq!(integer(text), None, "{text}");
        }
    }

    #[test]
    fn ranges_are_those_of_the_type() {
        assert_eq!(fits(Kind::Int32, "2147483647"), Ok(2_147_483_647));
        assert_eq!(fits(Kind::Int32, "2147483648"), Err(Misfit::Range));
        assert_eq!(fits(Kind::Uint32, "-1"), Err(Misfit::Range));
        assert_eq!(fits(Kind::Uint64, "18446744073709551616"), Err(Misfit::Range));
        assert_eq!(
            fits(Kind::Sint64, "-9223372036854775808"),
            Ok(i128::from(i64::MIN))
        );
        assert_eq!(fits(Kind::Fixed32, "0.0"), Ok(0));
        assert_eq!(floats(Kind::Double, "1e400"), Err(Misfit::Range));
        assert_eq!(floats(Kind::Double, "1e-400"), Ok(0.0));
        assert_eq!(
            floats(Kind::Double, "-0").map(f64::to_bits),
            Ok((-0.0_f64).to_bits())
        );
        assert_eq!(floats(Kind::Float, "3.5e38"), Err(Misfit::Range));
        assert!(floats(Kind::Float, "3.4028235e38").is_ok());
    }

    proptest! {
        #[test]
        fn a_short_float_is_judged_as_the_parser_would(text in "-?(0|[1-9][0-9]{0,17})(\\.[0-9]{1,18})?([eE][+-]?[0-9]{1,3})?") {
            let parsed = floats(Kind::Float, &text);
            if let Some(filled) = short_float(&text) {
                prop_assert_eq!(parsed.map(|value| value.to_bits() != 0), Ok(filled), "{}", text);
            }
        }
    }

    #[test]
    fn base64_comes_in_two_alphabets_with_or_without_padding() {
        for (text, length) in [
            ("", 0),
            ("QQ==", 1),
            ("QQ", 1),
            ("QUI=", 2),
            ("QUJD", 3),
            ("-_", 1),
            ("+/8=", 2),
        ] {
            assert_eq!(base64(text), Some(length), "{text}");
            assert_eq!(decode_base64(text).len(), length, "{text}");
        }
        assert_eq!(decode_base64("QUJDRA=="), b"ABCD");
        assert_eq!(decode_base64("-_8"), [0xfb, 0xff]);
        for text in [
            "Q", "QQ=", "Q===", "QUJD====", "-+==", "Q Q=", "QQ==\n", "=", "Q=Q=",
        ] {
            assert_eq!(base64(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_integer_reads_as_itself_however_it_is_scaled(value: i64, zeros in 0_usize..5) {
            prop_assert_eq!(integer(&value.to_string()), Some(i128::from(value)));
            let scaled = format!("{value}{}e-{zeros}", "0".repeat(zeros));
            let exact = i128::from(value as i32);
            prop_assert_eq!(integer(&scaled), Some(i128::from(value)).filter(|value| super::is_a_double(*value)));
            prop_assert_eq!(integer(&format!("{exact}{}e-{zeros}", "0".repeat(zeros))), Some(exact));
        }
    }
}
