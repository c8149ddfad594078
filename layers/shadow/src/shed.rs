//! Coherent shedding: under overload whole traces are let go, not random messages.
//!
//! One number, the *kept share*, multiplies every rule's threshold. A key is kept while its hash is below the product,
//! so the kept keys at a smaller share are a subset of those at a larger one: a trace is lost or kept as a whole, apart
//! from the moments when the share itself moves. It is cut at once when the queue crosses the high-water mark (halved
//! there and at three more marks above it), goes on falling by a quarter a tick while the queue does not shrink, and
//! comes back linearly over `recover_seconds`, slowly, because each cut splits the traces that are under way.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use arqon_message::Threshold;

/// How often the drain task looks at the queue.
pub(crate) const TICK: std::time::Duration = std::time::Duration::from_millis(100);

/// A full queue.
pub(crate) const FULL: u32 = 1024;

/// How many marks there are from the high-water mark up.
const MARKS: u32 = 4;

/// The state of shedding, shared by requests (which read it and may cut it) and the drain task (which moves it back).
#[derive(Debug)]
pub(crate) struct Shedder {
    /// The kept share times 2^64, less one: `u64::MAX` keeps everything.
    kept: AtomicU64,
    /// How many marks were cut at since the queue was last low.
    cuts: AtomicU8,
    /// Of [`FULL`].
    high_water: u32,
    /// What one tick gives back.
    step: u64,
}

impl Shedder {
    /// `high_water` is a share of the queue, `recover_ticks` the ticks from nothing to everything.
    pub(crate) fn new(high_water: f64, recover_ticks: u64) -> Self {
        Self {
            kept: AtomicU64::new(u64::MAX),
            cuts: AtomicU8::new(0),
            high_water: ((high_water * f64::from(FULL)) as u32).clamp(1, FULL),
            step: u64::MAX / recover_ticks.max(1),
        }
    }

    /// Whether a key that its rule has chosen is kept.
    #[inline]
    pub(crate) fn keeps(&self, threshold: Threshold, hash: u64) -> bool {
        let kept = self.kept.load(Ordering::Relaxed);
        kept == u64::MAX || hash < border(threshold, kept)
    }

    /// The kept share, 0.0 to 1.0.
    pub(crate) fn kept(&self) -> f64 {
        match self.kept.load(Ordering::Relaxed) {
            u64::MAX => 1.0,
            kept => kept as f64 / 18_446_744_073_709_551_616.0,
        }
    }

    /// A copy went into the queue, which is now filled to `fill` of [`FULL`]. Cuts at most once per mark.
    #[inline]
    pub(crate) fn filled(&self, fill: u32) {
        if fill >= self.high_water {
            self.cut(fill);
        }
    }

    #[cold]
    fn cut(&self, fill: u32) {
        let band = ((FULL - self.high_water) / MARKS).max(1);
        let marks = (1 + (fill - self.high_water) / band).min(MARKS) as u8;
        let before = self.cuts.fetch_max(marks, Ordering::Relaxed);
        for _ in before..marks {
            // Whoever raised `cuts` cuts; two requests never cut for the same mark.
            let _ = self
                .kept
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |kept| Some(kept / 2));
        }
    }

    /// One tick of the drain task: `fill` now and at the tick before. Returns whether anything is shed.
    pub(crate) fn tick(&self, fill: u32, before: u32) -> bool {
        if fill >= self.high_water && fill >= before {
            self.filled(fill);
            let _ = self
                .kept
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |kept| Some(kept / 4 * 3));
        } else if fill < self.high_water / 2 {
            self.cuts.store(0, Ordering::Relaxed);
            let back = |kept: u64| Some(kept.saturating_add(self.step));
            let _ = self.kept.fetch_update(Ordering::Relaxed, Ordering::Relaxed, back);
        }
        self.kept.load(Ordering::Relaxed) != u64::MAX
    }
}

/// The border of a threshold of which `kept` is left.
fn border(threshold: Threshold, kept: u64) -> u64 {
    match threshold {
        Threshold::Never => 0,
        Threshold::Below(border) => ((u128::from(border) * u128::from(kept)) >> 64) as u64,
        Threshold::Always => kept,
    }
}

#[cfg(test)]
mod tests;
