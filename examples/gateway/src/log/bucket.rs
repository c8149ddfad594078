//! So many lines a minute.

use std::time::Instant;

/// Lines that may be written now, and how many were not.
#[derive(Clone, Copy)]
pub(super) struct Bucket {
    tokens: f64,
    at: Instant,
    held_back: u64,
}

impl Bucket {
    /// A full one.
    pub(super) fn new(per_min: f64, now: Instant) -> Self {
        Self {
            tokens: per_min,
            at: now,
            held_back: 0,
        }
    }

    fn fill(&mut self, per_min: f64, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * per_min / 60.0).min(per_min);
        self.at = now;
    }

    /// Whether a line may be written now.
    pub(super) fn takes(&mut self, per_min: f64, now: Instant) -> bool {
        self.fill(per_min, now);
        let takes = self.tokens >= 1.0;
        if takes {
            self.tokens -= 1.0;
        } else {
            self.held_back += 1;
        }
        takes
    }

    /// How many lines were held back since it was asked last.
    pub(super) fn held_back(&mut self) -> u64 {
        std::mem::take(&mut self.held_back)
    }

    /// Whether all of it is back and nothing is to be told: as good as new.
    pub(super) fn is_rested(&mut self, per_min: f64, now: Instant) -> bool {
        self.fill(per_min, now);
        self.tokens >= per_min && self.held_back == 0
    }
}
