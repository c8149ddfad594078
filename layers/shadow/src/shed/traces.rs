//! What was decided about the traces that are under way, for as long as the border may pass them.

use std::{
    array::from_fn,
    sync::atomic::{AtomicU64, Ordering},
};

/// Traces remembered, four to a set. Where more are under way, those decided longest ago are forgotten: they are decided
/// anew, by the border of that moment.
const SETS: usize = 4_096;
const WAYS: usize = 4;

/// Bits of an entry: when it was decided, in ticks; whether it is kept; and above, which trace it is.
const TICK_MASK: u64 = (1 << KEPT_BIT) - 1;
const KEPT_BIT: u32 = 23;
const TRACE_SHIFT: u32 = 24;

/// The longest that a decision can hold, in ticks: a quarter of what an entry can count.
const HELD_MAX: u32 = 1 << 21;

/// A set fills half of a cache line.
#[derive(Debug)]
#[repr(align(32))]
struct Set([AtomicU64; WAYS]);

/// A table of decisions, of a fixed size, without a lock: requests that race for an entry lose no more than the memory of
/// one trace.
#[derive(Debug)]
pub(super) struct Traces {
    sets: Box<[Set]>,
    /// How long a decision holds, in ticks.
    held: u32,
}

/// What the borders say of a trace at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Say {
    /// Kept, if it is new.
    Keep,
    /// Shed, if it is new.
    Shed,
    /// Shed, if it is new, and so far from the border that it will be for as long as a decision holds.
    ShedFar,
    /// Shed, whatever was decided before.
    Overrule,
}

impl Traces {
    pub(super) fn new(held_ticks: u32) -> Self {
        Self {
            sets: (0..SETS).map(|_| Set(from_fn(|_| AtomicU64::new(0)))).collect(),
            held: held_ticks.min(HELD_MAX),
        }
    }

    /// The tick to begin with: entries that were never written are out of date.
    pub(super) fn first_tick(&self) -> u32 {
        self.held + 1
    }

    /// Whether the trace `id` (a hash) is kept: as it was decided before, or else as `say` says from now on.
    pub(super) fn keeps(&self, id: u64, now: u32, say: Say) -> bool {
        let set = &self.sets[id as usize % SETS].0;
        let name = (id / SETS as u64) << TRACE_SHIFT;
        let now = u64::from(now) & TICK_MASK;
        let age = |entry: u64| now.wrapping_sub(entry) & TICK_MASK;
        let (mut place, mut seen, mut oldest) = (&set[0], 0, 0);
        for way in set {
            let entry = way.load(Ordering::Relaxed);
            let known = entry >> TRACE_SHIFT == name >> TRACE_SHIFT;
            if known && age(entry) <= u64::from(self.held) {
                if say == Say::Overrule {
                    // It holds from the latest loss on.
                    if entry != name | now {
                        write(way, entry, name | now);
                    }
                    return false;
                }
                return entry >> KEPT_BIT & 1 == 1;
            }
            let since = if known { u64::MAX } else { age(entry) + 1 };
            if since > oldest {
                (place, seen, oldest) = (way, entry, since);
            }
        }
        let keep = say == Say::Keep;
        if say != Say::ShedFar {
            write(place, seen, name | u64::from(keep) << KEPT_BIT | now);
        }
        keep
    }
}

/// Whoever wrote meanwhile is right as well.
fn write(place: &AtomicU64, seen: u64, entry: u64) {
    let _ = place.compare_exchange(seen, entry, Ordering::Relaxed, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> (Traces, u32) {
        let traces = Traces::new(100);
        let now = traces.first_tick();
        (traces, now)
    }

    #[test]
    fn a_decision_holds_for_its_time_and_no_longer() {
        let (traces, now) = table();
        assert!(traces.keeps(7, now, Say::Keep));
        assert!(!traces.keeps(8, now, Say::Shed));
        assert!(traces.keeps(7, now + 100, Say::ShedFar));
        assert!(!traces.keeps(8, now + 100, Say::Keep));
        assert!(!traces.keeps(7, now + 101, Say::Shed));
        assert!(traces.keeps(8, now + 101, Say::Keep));
        assert!(!traces.keeps(7, now + 201, Say::Keep), "decided anew at 101");
    }

    #[test]
    fn what_is_overruled_stays_shed() {
        let (traces, now) = table();
        assert!(traces.keeps(7, now, Say::Keep));
        assert!(!traces.keeps(7, now, Say::Overrule));
        assert!(!traces.keeps(7, now, Say::Keep));
        // From the latest loss on.
        assert!(!traces.keeps(7, now + 90, Say::Overrule));
        assert!(!traces.keeps(7, now + 190, Say::Keep));
        assert!(traces.keeps(7, now + 191, Say::Keep));
    }

    #[test]
    fn what_is_far_from_the_border_takes_no_place() {
        let (traces, now) = table();
        assert!(!traces.keeps(7, now, Say::ShedFar));
        assert!(traces.keeps(7, now, Say::Keep));
    }

    #[test]
    fn a_full_set_forgets_what_was_decided_first() {
        let (traces, now) = table();
        let id = |n: u64| n * SETS as u64;
        for n in 0..5 {
            assert!(traces.keeps(id(n), now + n as u32, Say::Keep));
        }
        for n in 1..5 {
            assert!(traces.keeps(id(n), now + 5, Say::Shed), "{n} is known");
        }
        assert!(!traces.keeps(id(0), now + 5, Say::Shed), "0 is not");
    }

    #[test]
    fn the_clock_may_turn_over() {
        let (traces, _) = table();
        let late = (1 << KEPT_BIT) - 10;
        assert!(traces.keeps(7, late, Say::Keep));
        assert!(traces.keeps(7, late + 50, Say::Shed));
        assert!(!traces.keeps(7, late + 101, Say::Shed));
    }
}
