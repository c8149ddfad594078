//! How long a subscriber looks again before it parks: as long as that pays.

/// Looks, each after a turn for the other tasks, before a subscriber parks that has just had something: where events
/// come every few microseconds more will follow, and a parked receiver costs its producer a wake-up, often a system call,
/// and itself some 15 us. Shared among the subscribers, so that together they look for about what one wake-up costs.
#[cfg(not(loom))]
const LOOKS_SHARED: u32 = 48;
/// A model needs to see one.
#[cfg(loom)]
const LOOKS_SHARED: u32 = 1;
/// A wake-up spared is worth as many looks as a round has, and at least so many.
const WORTH_MIN: u32 = 8;
/// What is put by: a busy stream may pause for two rounds of one subscriber.
const CREDIT_MAX: u32 = 2 * LOOKS_SHARED;
/// Without credit one round in so many is a trial.
const TRIAL_EVERY: u32 = 64;

/// A subscriber's account of its looks: each costs one, and what it finds is worth a wake-up. Pure arithmetic.
#[derive(Debug)]
pub(crate) struct Patience {
    credit: u32,
    parked: u32,
    round: u32,
    left: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            credit: CREDIT_MAX,
            parked: 0,
            round: 0,
            left: 0,
        }
    }
}

impl Patience {
    /// A round begins, where so many subscribe.
    pub(crate) fn begin(&mut self, subscribers: u32) {
        self.round = LOOKS_SHARED / subscribers.clamp(1, LOOKS_SHARED);
        self.left = self.round;
        if self.credit == 0 {
            self.parked += 1;
            if self.parked < TRIAL_EVERY {
                self.left = 0;
            } else {
                self.parked = 0;
            }
        }
    }

    /// Whether to look once more; the round is over when not.
    pub(crate) fn look(&mut self) -> bool {
        let more = self.left > 0;
        if more {
            self.left -= 1;
            self.credit = self.credit.saturating_sub(1);
        }
        more
    }

    /// The look found something: the round is over.
    pub(crate) fn found(&mut self) {
        self.left = 0;
        self.credit = (self.credit + self.round.max(WORTH_MIN)).min(CREDIT_MAX);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{Patience, CREDIT_MAX, LOOKS_SHARED, TRIAL_EVERY};

    /// Rounds with looks among 6,400 of one of `subscribers`; in `percent` of them the `at`th look finds something.
    fn rounds(subscribers: u32, percent: u32, at: u32) -> u32 {
        let mut patience = Patience::default();
        let mut looked = 0;
        for round in 0..100 * TRIAL_EVERY {
            patience.begin(subscribers);
            let hit = round * 37 % 100 < percent; // Spread evenly, not in a row.
            let mut looks = 0;
            while patience.look() {
                looks += 1;
                if hit && looks == at {
                    patience.found();
                }
            }
            looked += u32::from(looks > 0);
        }
        looked
    }

    #[test]
    fn looks_go_on_while_they_pay() {
        // A subscriber alone finds the next event late in each round; many find it at the one look they have.
        assert_eq!(rounds(1, 100, LOOKS_SHARED), 6_400);
        assert_eq!(rounds(4, 80, 4), 6_400);
        assert_eq!(rounds(28, 40, 1), 6_400);
    }

    #[test]
    fn looks_that_find_little_end_but_for_a_trial_in_64() {
        for (subscribers, percent, at) in [(4, 13, 6), (8, 39, 3), (32, 4, 1)] {
            let looked = rounds(subscribers, percent, at);
            assert!(looked < 640, "{subscribers} subscribers: {looked}");
        }
        let looked = rounds(1, 0, 1);
        assert!((100..=104).contains(&looked), "{looked}: a trial in 64");
    }

    #[test]
    fn the_subscribers_share_the_looks_and_each_has_one() {
        let looks = |subscribers| {
            let mut patience = Patience::default();
            patience.begin(subscribers);
            (0..).take_while(|_| patience.look()).count() as u32
        };
        assert_eq!(looks(0), LOOKS_SHARED);
        assert_eq!(looks(4), LOOKS_SHARED / 4);
        assert_eq!((looks(48), looks(1_000)), (1, 1));
    }

    #[test]
    fn a_stream_that_speeds_up_is_noticed_at_the_next_trial() {
        let mut patience = Patience::default();
        for _ in 0..CREDIT_MAX {
            patience.begin(1);
            while patience.look() {}
        }
        patience.parked = 0;
        let mut skipped = 0;
        while {
            patience.begin(1);
            !patience.look()
        } {
            skipped += 1;
        }
        assert_eq!(skipped, TRIAL_EVERY - 1);
        patience.found();
        patience.begin(1);
        assert!(patience.look());
    }
}
