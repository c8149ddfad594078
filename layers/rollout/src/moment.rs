//! What time it is on a node, by its own clock and by the log's.

use crate::live::Live;

/// A time on a node: shares grow by its own clock, what has an end ends by the later of that and the log's. So a clock that is
/// behind never serves more than a right one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// By the node's clock.
    pub(crate) now_us: u64,
    /// By the later one; never before `now_us`.
    pub(crate) ends_us: u64,
}

/// The last beat of the clock: nodes that publish a few milliseconds apart publish the same share.
pub(crate) fn on_the_beat(now_us: u64) -> u64 {
    const BEAT_US: u64 = 250_000;
    now_us - now_us % BEAT_US
}

impl Moment {
    /// The last beat of both.
    pub(crate) fn on_the_beat(self) -> Self {
        Self {
            now_us: on_the_beat(self.now_us),
            ends_us: on_the_beat(self.ends_us),
        }
    }
}

impl From<u64> for Moment {
    /// On a clock that is right.
    fn from(now_us: u64) -> Self {
        let ends_us = now_us;
        Self { now_us, ends_us }
    }
}

impl Live {
    /// It is `log_us` or later where the log is kept; `fresh`: it was asked just now.
    pub(crate) fn log_tells(&mut self, log_us: u64, now_us: u64, fresh: bool) {
        self.latest_us = self.moment(now_us).ends_us;
        let known_us = if fresh { 0 } else { self.late_us };
        self.late_us = log_us.saturating_sub(now_us).max(known_us);
    }

    /// A moment of this node's clock, and by when what has an end is over.
    pub(crate) fn moment(&self, now_us: u64) -> Moment {
        let ends_us = now_us.saturating_add(self.late_us).max(self.latest_us);
        Moment { now_us, ends_us }
    }
}
