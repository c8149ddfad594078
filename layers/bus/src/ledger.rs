//! Turns lost slots into lost events. Pure arithmetic: no channel, no lock.
//!
//! A receiver is told how many *slots* it lost; a slot is one event or one batch. Batches are numbered, so
//! the numbers on both sides of a loss tell how many of the lost slots were batches, and of how many reports.

/// What a bus has sent in batches so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Numbers {
    pub(crate) batches: u64,
    pub(crate) reports: u64,
}

/// One subscriber's account of the batches it met or missed.
#[derive(Debug)]
pub(crate) struct Ledger {
    next: Numbers,
    unsettled: bool,
}

impl Ledger {
    /// For a receiver that subscribed when the bus stood at `start`.
    pub(crate) fn starting_at(start: Numbers) -> Self {
        Self {
            next: start,
            unsettled: false,
        }
    }

    /// Slots were lost: what was in them is open until [`settle`](Self::settle) or the next batch.
    pub(crate) fn lost(&mut self) {
        self.unsettled = true;
    }

    /// Whether a loss is still counted in slots only.
    pub(crate) fn is_unsettled(&self) -> bool {
        self.unsettled
    }

    /// A batch arrived, with what was sent before it: returns the events lost before it beyond one for each lost slot.
    pub(crate) fn batch(&mut self, sent_before: Numbers, len: u32) -> u64 {
        if sent_before.batches < self.next.batches {
            return 0; // A copy, forwarded by a raw sender: it was accounted for the first time.
        }
        let extra = self.settle(sent_before);
        self.next = Numbers {
            batches: sent_before.batches + 1,
            reports: sent_before.reports + u64::from(len),
        };
        extra
    }

    /// Everything sent up to `now` was received or lost: returns the lost events beyond one for each slot.
    pub(crate) fn settle(&mut self, now: Numbers) -> u64 {
        let batches = now.batches.saturating_sub(self.next.batches);
        let reports = now.reports.saturating_sub(self.next.reports);
        self.next = now;
        self.unsettled = false;
        reports.saturating_sub(batches)
    }
}

#[cfg(test)]
mod tests {
    use super::{Ledger, Numbers};

    fn before(batches: u64, reports: u64) -> Numbers {
        Numbers { batches, reports }
    }

    #[test]
    fn a_gap_in_the_numbers_is_what_was_lost() {
        let mut ledger = Ledger::starting_at(Numbers {
            batches: 3,
            reports: 20,
        });
        assert_eq!(ledger.batch(before(3, 20), 8), 0);
        ledger.lost(); // Say 5 slots: 2 batches of 8 and 4, 3 single events; 15 events, 5 counted.
        assert_eq!(ledger.batch(before(6, 40), 1), 10);
        assert!(!ledger.is_unsettled());
    }

    #[test]
    fn settling_needs_no_later_batch() {
        let mut ledger = Ledger::starting_at(Numbers::default());
        ledger.lost();
        assert_eq!(
            ledger.settle(Numbers {
                batches: 2,
                reports: 64
            }),
            62
        );
        assert_eq!(
            ledger.settle(Numbers {
                batches: 2,
                reports: 64
            }),
            0
        );
    }

    #[test]
    fn a_forwarded_copy_changes_nothing() {
        let mut ledger = Ledger::starting_at(Numbers::default());
        assert_eq!(ledger.batch(before(0, 0), 4), 0);
        assert_eq!(ledger.batch(before(0, 0), 4), 0);
        assert_eq!(ledger.batch(before(1, 4), 4), 0);
        assert_eq!(ledger.batch(before(2, 8), 4), 0);
        assert_eq!(ledger.batch(before(0, 0), 4), 0, "an old one");
        assert_eq!(ledger.batch(before(3, 12), 4), 0, "nothing was lost since");
        ledger.lost();
        assert_eq!(ledger.batch(before(1, 4), 4), 0);
        assert!(ledger.is_unsettled(), "a copy says nothing of what was lost");
        assert_eq!(ledger.batch(before(5, 20), 4), 3);
    }
}
