//! What the layer measures of a variant: answers, errors, and how long they took.

use std::{
    array,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Buckets of the latency sketch: 16 of one microsecond, then 8 to each power of two up to 2^34 µs. A
/// quantile is right within one eighth.
const BUCKETS: usize = 256;

/// Counts since the rollout started. Written by requests, read by the executor.
#[derive(Debug)]
pub(crate) struct Stats {
    decided: AtomicU64,
    errors: AtomicU64,
    latency: [AtomicU64; BUCKETS],
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            decided: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            latency: array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl Stats {
    /// One request was sent this way.
    pub(crate) fn decide(&self) {
        self.decided.fetch_add(1, Ordering::Relaxed);
    }

    /// How many requests were sent this way.
    pub(crate) fn decided(&self) -> u64 {
        self.decided.load(Ordering::Relaxed)
    }

    /// One answer.
    pub(crate) fn record(&self, took: Duration, error: bool) {
        if let Some(bucket) = self
            .latency
            .get(bucket(u64::try_from(took.as_micros()).unwrap_or(u64::MAX)))
        {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        if error {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The counts so far.
    pub(crate) fn totals(&self) -> Window {
        let latency = self
            .latency
            .iter()
            .map(|bucket| bucket.load(Ordering::Relaxed))
            .collect();
        Window {
            errors: self.errors.load(Ordering::Relaxed),
            latency,
        }
    }
}

/// Counts of a time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Window {
    pub(crate) errors: u64,
    latency: Vec<u64>,
}

impl Window {
    /// What came after `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let before = |at: usize| earlier.latency.get(at).copied().unwrap_or_default();
        let latency = self
            .latency
            .iter()
            .enumerate()
            .map(|(at, count)| count.saturating_sub(before(at)));
        Self {
            errors: self.errors.saturating_sub(earlier.errors),
            latency: latency.collect(),
        }
    }

    pub(crate) fn requests(&self) -> u64 {
        self.latency.iter().sum()
    }

    #[expect(clippy::cast_precision_loss, reason = "counts below 2^53")]
    pub(crate) fn error_rate(&self) -> f64 {
        match self.requests() {
            0 => 0.0,
            requests => self.errors as f64 / requests as f64,
        }
    }

    /// How many answers took longer than this, in seconds, as well as the sketch can tell.
    #[expect(clippy::cast_precision_loss, reason = "borders below 2^53")]
    pub(crate) fn above(&self, seconds: f64) -> u64 {
        let beyond = self.latency.iter().enumerate();
        beyond
            .filter(|(at, _)| border_us(*at) as f64 / 1e6 > seconds)
            .map(|(_, count)| count)
            .sum()
    }

    /// The upper border of the bucket that holds the quantile, in seconds; 0 without an answer.
    #[expect(clippy::cast_precision_loss, reason = "counts below 2^53")]
    pub(crate) fn quantile(&self, quantile: f64) -> f64 {
        let rank = (self.requests() as f64 * quantile).ceil();
        let mut seen = 0_u64;
        for (at, count) in self.latency.iter().enumerate() {
            seen += count;
            if *count > 0 && seen as f64 >= rank {
                return border_us(at) as f64 / 1e6;
            }
        }
        0.0
    }

    #[cfg(test)]
    pub(crate) fn of(answers: &[(u64, u64)], errors: u64) -> Self {
        let stats = Stats::default();
        for (micros, count) in answers {
            (0..*count).for_each(|_| stats.record(Duration::from_micros(*micros), false));
        }
        Self {
            errors,
            ..stats.totals()
        }
    }
}

fn bucket(micros: u64) -> usize {
    if micros < 16 {
        return usize::try_from(micros).unwrap_or_default();
    }
    let octave = 63 - micros.leading_zeros() as usize;
    let eighth = usize::try_from((micros >> (octave - 3)) & 7).unwrap_or_default();
    (16 + (octave - 4) * 8 + eighth).min(BUCKETS - 1)
}

/// The first microsecond above a bucket.
fn border_us(bucket: usize) -> u64 {
    match bucket.checked_sub(16) {
        None => bucket as u64 + 1,
        Some(at) => (9 + at as u64 % 8) << (at / 8 + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_below_its_border_and_within_an_eighth() {
        let mut before = 0;
        for exponent in 0..34 {
            for offset in [0, 1, 3, 7] {
                let micros = (1_u64 << exponent) + ((offset << exponent) >> 3);
                let (at, border) = (bucket(micros), border_us(bucket(micros)));
                assert!(micros < border && at >= before, "{micros} in {at} up to {border}");
                assert!(
                    border - micros <= micros / 8 + 1,
                    "{micros} in {at} up to {border}"
                );
                before = at;
            }
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_window_is_what_came_between() {
        let earlier = Window::of(&[(100, 10)], 3);
        let later = Window::of(&[(100, 15), (1_000, 5)], 4);
        let window = later.since(&earlier);
        assert_eq!((window.requests(), window.errors), (10, 1));
        assert!((window.error_rate() - 0.1).abs() < 1e-12);
        assert!(
            (window.quantile(0.5) - 104e-6).abs() < 1e-9,
            "{}",
            window.quantile(0.5)
        );
        assert!(window.quantile(0.99) >= 1e-3);
        assert!(Window::default().quantile(0.99) <= 0.0);
    }
}
