//! What the leader of the stream tells of it, and its time: nodes compare their clocks with it.

use serde::Deserialize;

/// What the leader answers: all else of it is not needed.
#[derive(Deserialize)]
pub(super) struct Told {
    state: Ends,
    /// Its time; a server before 2.10 does not say.
    ts: Option<String>,
}

#[derive(Deserialize)]
struct Ends {
    last_seq: u64,
}

impl Told {
    /// Where the stream ends.
    pub(super) fn end(&self) -> u64 {
        self.state.last_seq
    }

    /// The time there, microseconds since the Unix epoch.
    pub(super) fn time_us(&self) -> Option<u64> {
        self.ts.as_deref().and_then(micros)
    }
}

/// Microseconds since the Unix epoch of an RFC 3339 time in UTC, as the server writes it.
fn micros(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<u64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut time = time.splitn(3, ':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) {
        return None;
    }
    // Years that begin with March: the leap day is their last.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day;
    // From 1 March of year 0 to the epoch.
    let days = days.checked_sub(719_469)?;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    let fraction: String = fraction.chars().chain("000000".chars()).take(6).collect();
    Some(seconds * 1_000_000 + fraction.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_s_time_is_read_to_the_microsecond() {
        for (text, us) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T23:59:59.5Z", 951_868_799_500_000),
            ("2024-03-01T00:00:00.000001Z", 1_709_251_200_000_001),
            ("2026-11-21T19:26:11.123456789Z", 1_795_289_171_123_456),
        ] {
            assert_eq!(micros(text), Some(us), "{text}");
        }
        for text in [
            "",
            "2026-11-21",
            "2026-13-21T00:00:00Z",
            "2026-11-21T19:26:11+01:00",
            "x-11-21T19:26:11Z",
        ] {
            assert_eq!(micros(text), None, "{text}");
        }
    }
}
