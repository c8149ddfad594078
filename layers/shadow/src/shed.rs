//! Coherent shedding: under overload whole traces are let go, not random messages.
//!
//! One number, the *kept share*, multiplies every rule's threshold. A key is kept while its hash is below the product,
//! so the kept keys at a smaller share are a subset of those at a larger one: a trace is lost or kept as a whole, apart
//! from those that are under way when the share itself moves. So it moves seldom, and no further than it has to:
//!
//! - Above the high-water mark, each tick cuts it to what the sink took of what came in, less a twentieth. It is halved at
//!   once at each of three more marks above, for a burst that does not wait for a tick.
//! - After a cut it stays as it is until the queue has been low for a third of `recover_seconds`.
//! - Then it grows by the same factor with each tick, tenfold in `recover_seconds`.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use arqon_message::Threshold;

/// How often the drain task looks at the queue.
pub(crate) const TICK: std::time::Duration = std::time::Duration::from_millis(100);

/// A full queue.
pub(crate) const FULL: u32 = 1024;

/// How many marks there are from the high-water mark up.
const MARKS: u32 = 4;
/// The least that is kept: somebody has to try whether the sink takes anything.
const KEPT_MIN: u64 = u64::MAX / 256;
/// A cut leaves this much of what the sink took: the queue has to shrink too.
const MARGIN: f64 = 0.95;
/// The most that one tick cuts away leaves this.
const CUT_MAX: f64 = 0.25;

/// The state of shedding, shared by requests (which read it and may cut it) and the drain task (which moves it back).
#[derive(Debug)]
pub(crate) struct Shedder {
    /// The kept share times 2^64, less one: `u64::MAX` keeps everything.
    kept: AtomicU64,
    /// The marks that were reached since the queue was last low.
    marks: AtomicU8,
    /// A mark was reached since the last tick: what came in and went out meanwhile tells nothing.
    halved: AtomicBool,
    /// Copies that came into the queue since the last tick.
    entered: AtomicU64,
    /// Ticks of a low queue until the share grows.
    hold: AtomicU32,
    /// Of [`FULL`].
    high_water: u32,
    /// How many ticks a share stays after it was cut.
    hold_ticks: u32,
    /// By which part of itself the share grows with a tick.
    growth: f64,
}

/// The queue at one tick.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Level {
    /// In messages or in bytes, whichever is worse, of [`FULL`].
    pub(crate) fill: u32,
    /// In messages.
    pub(crate) queued: usize,
}

impl Shedder {
    /// `high_water` is a share of the queue, `recover_ticks` the ticks from a tenth to everything.
    pub(crate) fn new(high_water: f64, recover_ticks: u64) -> Self {
        let ticks = recover_ticks.max(1);
        Self {
            kept: AtomicU64::new(u64::MAX),
            marks: AtomicU8::new(0),
            halved: AtomicBool::new(false),
            entered: AtomicU64::new(0),
            hold: AtomicU32::new(0),
            high_water: ((high_water * f64::from(FULL)) as u32).clamp(1, FULL),
            hold_ticks: u32::try_from(ticks / 3).unwrap_or(u32::MAX),
            growth: std::f64::consts::LN_10 / ticks as f64,
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

    /// A copy went into the queue, which is now filled to `fill` of [`FULL`].
    #[inline]
    pub(crate) fn filled(&self, fill: u32) {
        self.entered.fetch_add(1, Ordering::Relaxed);
        if fill >= self.high_water {
            self.mark(fill);
        }
    }

    /// A copy found the queue full.
    #[cold]
    pub(crate) fn overflowed(&self) {
        self.mark(FULL);
    }

    /// Halves once for each mark above the first.
    #[cold]
    fn mark(&self, fill: u32) {
        let band = ((FULL - self.high_water) / MARKS).max(1);
        let marks = 1 + (fill - self.high_water) / band;
        let marks = marks.max(if fill == FULL { 2 } else { 1 }).min(MARKS) as u8;
        let before = self.marks.fetch_max(marks, Ordering::Relaxed).max(1);
        for _ in before..marks {
            // Whoever raised `marks` cuts; two requests never cut for the same mark.
            self.halved.store(true, Ordering::Relaxed);
            self.scale(0.5);
        }
    }

    fn scale(&self, by: f64) {
        let scaled = |kept: u64| Some(((kept as f64 * by) as u64).max(KEPT_MIN));
        let _ = self
            .kept
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, scaled);
    }

    /// One tick of the drain task: the queue now and at the tick before. Returns whether anything is shed.
    pub(crate) fn tick(&self, now: Level, before: Level) -> bool {
        let entered = self.entered.swap(0, Ordering::Relaxed);
        let halved = self.halved.swap(false, Ordering::Relaxed);
        if now.fill >= self.high_water && now.fill >= before.fill {
            if !halved {
                let left = (entered + before.queued as u64).saturating_sub(now.queued as u64);
                let taken = left as f64 / entered.max(1) as f64;
                self.scale((taken * MARGIN).clamp(CUT_MAX, MARGIN));
            }
            self.hold.store(self.hold_ticks, Ordering::Relaxed);
        } else if halved {
            self.hold.store(self.hold_ticks, Ordering::Relaxed);
        } else if now.fill < self.high_water / 2 {
            self.marks.store(0, Ordering::Relaxed);
            let hold = self.hold.load(Ordering::Relaxed);
            if hold > 0 {
                self.hold.store(hold - 1, Ordering::Relaxed);
            } else {
                // A float above the largest number becomes the largest: everything.
                self.scale(1.0 + self.growth);
            }
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
