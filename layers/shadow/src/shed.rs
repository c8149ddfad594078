//! Coherent shedding: under overload whole traces are let go, not random messages.
//!
//! One number, the *kept share*, multiplies every rule's threshold. A key is kept while its hash is below the product, so
//! the kept keys at a smaller share are a subset of those at a larger one. The share moves, and a trace that is under way
//! does not move with it: what its first request was told holds for a third of `recover_seconds`, in a table of a fixed
//! size ([`traces`]). A trace that takes longer, and connections, which may last for ever, follow the share then.
//!
//! - Above the high-water mark no new trace is let in: the rest of the queue is for those that are under way.
//! - There each tick cuts the share to what the sink took of what came in below the border, less a twentieth. It is cut at
//!   once at each of three more marks above, to a half at most, for a surge that does not wait for a tick.
//! - After a cut the share stays as it is until the queue has been low for as long as a decision holds.
//! - Then it grows by the same factor with each tick, tenfold in `recover_seconds`.
//! - A trace of which a copy found no room, or no sink, is shed from there on.

mod traces;

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use arqon_message::Threshold;

use self::traces::{Say, Traces};

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
    traces: Traces,
    /// Ticks so far.
    now: AtomicU32,
    /// The marks that were reached since the queue was last low.
    marks: AtomicU8,
    /// A mark was reached since the last tick: what came in and went out meanwhile tells nothing.
    halved: AtomicBool,
    /// Copies that came into the queue since the last tick, and those of them that are below the border.
    entered: AtomicU64,
    below: AtomicU64,
    /// Copies that left the queue between the last two ticks.
    taken: AtomicU64,
    /// Ticks of a low queue until the share grows.
    hold: AtomicU32,
    /// Of [`FULL`].
    high_water: u32,
    /// How many ticks a share stays after it was cut, and a decision holds.
    hold_ticks: u32,
    /// By which part of itself the share grows with a tick.
    growth: f64,
}

/// What shedding makes of a key that its rule has chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is kept, being below the border.
    Below,
    /// It is kept although the border is below it now: its trace is under way.
    UnderWay,
    /// It is let go.
    Shed,
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
        let hold_ticks = u32::try_from(ticks / 3).unwrap_or(u32::MAX);
        let traces = Traces::new(hold_ticks);
        Self {
            kept: AtomicU64::new(u64::MAX),
            now: AtomicU32::new(traces.first_tick()),
            traces,
            marks: AtomicU8::new(0),
            halved: AtomicBool::new(false),
            entered: AtomicU64::new(0),
            below: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            hold: AtomicU32::new(0),
            high_water: ((high_water * f64::from(FULL)) as u32).clamp(1, FULL),
            hold_ticks,
            growth: std::f64::consts::LN_10 / ticks as f64,
        }
    }

    /// Whether a key that its rule has chosen is kept, while the queue is filled to `fill` of [`FULL`]. The first request of
    /// a trace decides for those that follow.
    pub(crate) fn fate(&self, threshold: Threshold, hash: u64, fill: u32) -> Fate {
        let kept = self.kept.load(Ordering::Relaxed);
        let below = |share: u64| share == u64::MAX || hash < border(threshold, share);
        let within = below(kept);
        let say = if within && fill < self.high_water {
            Say::Keep
        } else if within || below((kept / 4).saturating_mul(9)) {
            // While a decision holds the share grows to the third root of ten at most, 2.16-fold.
            Say::Shed
        } else {
            Say::ShedFar
        };
        let now = self.now.load(Ordering::Relaxed);
        match (self.traces.keeps(id(threshold, hash), now, say), within) {
            (false, _) => Fate::Shed,
            (true, true) => Fate::Below,
            (true, false) => Fate::UnderWay,
        }
    }

    /// A copy found no room, or no sink. What else comes of its trace would be of no use, and takes the room of others.
    #[cold]
    pub(crate) fn lost(&self, threshold: Threshold, hash: u64) {
        let now = self.now.load(Ordering::Relaxed);
        self.traces.keeps(id(threshold, hash), now, Say::Overrule);
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
    pub(crate) fn filled(&self, fill: u32, fate: Fate) {
        self.entered.fetch_add(1, Ordering::Relaxed);
        if fate == Fate::Below {
            self.below.fetch_add(1, Ordering::Relaxed);
        }
        if fill >= self.high_water {
            self.mark(fill);
        }
    }

    /// A copy found the queue full.
    #[cold]
    pub(crate) fn overflowed(&self) {
        self.mark(FULL);
    }

    /// Cuts once for each mark above the first: to what the sink took in the last tick of what came in below the border
    /// since, to a half at most.
    #[cold]
    fn mark(&self, fill: u32) {
        let band = ((FULL - self.high_water) / MARKS).max(1);
        let marks = 1 + (fill - self.high_water) / band;
        let marks = marks.max(if fill == FULL { 2 } else { 1 }).min(MARKS) as u8;
        let before = self.marks.fetch_max(marks, Ordering::Relaxed).max(1);
        if before < marks {
            // Whoever raised `marks` cuts; two requests never cut for the same mark.
            let below = self.below.swap(0, Ordering::Relaxed);
            let taken = self.taken.load(Ordering::Relaxed);
            if below > taken || fill == FULL {
                self.halved.store(true, Ordering::Relaxed);
                let each = (taken as f64 / below.max(1) as f64).clamp(0.5, 1.0);
                self.scale(each.powi(i32::from(marks - before)));
            }
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
        self.now.fetch_add(1, Ordering::Relaxed);
        let entered = self.entered.swap(0, Ordering::Relaxed);
        let below = self.below.swap(0, Ordering::Relaxed);
        let halved = self.halved.swap(false, Ordering::Relaxed);
        let left = (entered + before.queued as u64).saturating_sub(now.queued as u64);
        self.taken.store(left, Ordering::Relaxed);
        if now.fill >= self.high_water && now.fill >= before.fill {
            let taken = left as f64 / below.max(1) as f64;
            // If the sink takes all that is below the border, it is traces under way that fill the queue: they end.
            if !halved && taken * MARGIN < 1.0 {
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

/// What a trace is remembered by. One may meet rules of different borders: it is remembered for each.
fn id(threshold: Threshold, hash: u64) -> u64 {
    match threshold {
        Threshold::Below(border) => hash ^ border.wrapping_mul(0x9E37_79B9_7F4A_7C15),
        Threshold::Never | Threshold::Always => hash,
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
