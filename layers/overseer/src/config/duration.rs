//! Spans of time as people write them: `5ms`, `250us`, `1.5s`.

use std::time::Duration;

/// Reads a number and its unit, one of `us`, `ms` and `s`.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let text = text.trim();
    let at = text.find(|character: char| character.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(at);
    let number: f64 = number.trim().parse().ok()?;
    let seconds = match unit {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        _ => return None,
    };
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_needs_a_number_and_a_unit() {
        assert_eq!(parse("5ms"), Some(Duration::from_millis(5)));
        assert_eq!(parse(" 1.5 s"), Some(Duration::from_millis(1_500)));
        assert_eq!(parse("250us"), Some(Duration::from_micros(250)));
        for text in ["", "5", "ms", "-5ms", "5 minutes", "NaNms", "1e400s"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
