//! Exact accounting: every chosen request is one [`Ticket`], and a ticket is settled exactly once.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use arqon_message::TraceKey;

use crate::{Reason, metrics::Metrics, rule::Rule};

/// The books of one layer: what was chosen, what became of it, and the bytes held meanwhile.
pub(crate) struct Ledger {
    sampled: AtomicU64,
    mirrored: AtomicU64,
    dropped: [AtomicU64; Reason::ALL.len()],
    pub(crate) no_key: AtomicU64,
    pub(crate) looped: AtomicU64,
    losses: [Loss; Reason::ALL.len()],
    bytes: AtomicUsize,
    bytes_max: usize,
    /// How many more may wait that hold on to a server's read buffer.
    pins: AtomicUsize,
    pub(crate) metrics: Metrics,
}

/// Drops of one reason that no log line has told yet.
#[derive(Default)]
struct Loss {
    untold: AtomicU64,
    example: Mutex<Option<(Arc<Rule>, TraceKey)>>,
}

/// Drops of one reason since the last look, with one of them as the example.
pub(crate) struct Untold {
    pub(crate) reason: Reason,
    pub(crate) count: u64,
    pub(crate) example: Option<(Arc<Rule>, TraceKey)>,
}

impl Ledger {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            sampled: AtomicU64::new(0),
            mirrored: AtomicU64::new(0),
            dropped: Default::default(),
            no_key: AtomicU64::new(0),
            looped: AtomicU64::new(0),
            losses: Default::default(),
            bytes: AtomicUsize::new(0),
            bytes_max,
            pins: AtomicUsize::new(bytes_max / PINNED_PART / PINNED_BYTES),
            metrics: Metrics::register(),
        }
    }

    /// Takes leave to hold on to a server's read buffer, if there is any left.
    fn pin(&self) -> bool {
        let take = |pins: usize| pins.checked_sub(1);
        self.pins
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }

    /// Takes `bytes` of the budget, or nothing.
    pub(crate) fn reserve(&self, bytes: usize) -> bool {
        let take = |used: usize| used.checked_add(bytes).filter(|&sum| sum <= self.bytes_max);
        self.bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }

    pub(crate) fn release(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes held, and the most that may be.
    pub(crate) fn bytes(&self) -> (usize, usize) {
        (self.bytes.load(Ordering::Relaxed), self.bytes_max)
    }

    /// Mirrored, dropped by reason, sampled. What is settled is read first, so the sums never exceed what was sampled.
    pub(crate) fn read(&self) -> (u64, [u64; Reason::ALL.len()], u64) {
        let mirrored = self.mirrored.load(Ordering::Acquire);
        let dropped = std::array::from_fn(|n| self.dropped[n].load(Ordering::Acquire));
        (mirrored, dropped, self.sampled.load(Ordering::Acquire))
    }

    /// What was dropped since this was called last, reason by reason. The drain task logs it: no request ever logs.
    pub(crate) fn untold(&self) -> impl Iterator<Item = Untold> {
        Reason::ALL
            .into_iter()
            .zip(&self.losses)
            .filter_map(|(reason, loss)| {
                let count = loss.untold.swap(0, Ordering::Relaxed);
                let example = loss
                    .example
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .take();
                (count > 0).then_some(Untold {
                    reason,
                    count,
                    example,
                })
            })
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mirrored, dropped, sampled) = self.read();
        f.debug_struct("Ledger")
            .field("sampled", &sampled)
            .field("mirrored", &mirrored)
            .field("dropped", &dropped)
            .finish_non_exhaustive()
    }
}

/// One chosen request. Settled as mirrored or dropped by value; if it is lost on the way (a dropped future, a dropped
/// body) it settles itself as [`Reason::Cancelled`]. It holds what the request took of the byte budget.
#[derive(Debug)]
pub(crate) struct Ticket {
    ledger: Arc<Ledger>,
    rule: Arc<Rule>,
    key: TraceKey,
    bytes: usize,
    pinned: bool,
    outcome: Outcome,
}

/// What a frame may hold on to: the largest read buffer that hyper makes, in bytes.
const PINNED_BYTES: usize = 8 * 1_024 + 400 * 1_024 + 16;
/// One part in so many of the byte budget may be such buffers.
const PINNED_PART: usize = 8;

#[derive(Clone, Copy, Debug)]
enum Outcome {
    Mirrored,
    Dropped(Reason),
}

impl Ticket {
    pub(crate) fn open(ledger: Arc<Ledger>, rule: Arc<Rule>, key: TraceKey) -> Self {
        ledger.sampled.fetch_add(1, Ordering::Release);
        rule.sampled();
        Self {
            ledger,
            rule,
            key,
            bytes: 0,
            pinned: false,
            outcome: Outcome::Dropped(Reason::Cancelled),
        }
    }

    pub(crate) fn rule(&self) -> &Arc<Rule> {
        &self.rule
    }

    pub(crate) fn key(&self) -> &TraceKey {
        &self.key
    }

    /// Takes more of the byte budget for this request; false if there is not enough left.
    pub(crate) fn reserve(&mut self, bytes: usize) -> bool {
        let granted = self.ledger.reserve(bytes);
        if granted {
            self.bytes += bytes;
        }
        granted
    }

    /// Takes over bytes that were reserved elsewhere for this request.
    pub(crate) fn adopt(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// Takes leave to wait with a frame that holds on to a server's read buffer, of which the budget is told. False: the
    /// frame has to be copied.
    pub(crate) fn pin(&mut self) -> bool {
        if !self.ledger.pin() {
            return false;
        }
        self.pinned = self.reserve(PINNED_BYTES);
        if !self.pinned {
            self.ledger.pins.fetch_add(1, Ordering::Relaxed);
        }
        self.pinned
    }

    /// The sink took the copy.
    pub(crate) fn mirrored(mut self) {
        self.outcome = Outcome::Mirrored;
    }

    /// There is no copy.
    pub(crate) fn dropped(mut self, reason: Reason) {
        self.outcome = Outcome::Dropped(reason);
    }

    /// What losing this ticket will count as, from here on.
    pub(crate) fn if_lost(&mut self, reason: Reason) {
        self.outcome = Outcome::Dropped(reason);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let ledger = &*self.ledger;
        ledger.release(self.bytes);
        if self.pinned {
            ledger.pins.fetch_add(1, Ordering::Relaxed);
        }
        match self.outcome {
            Outcome::Mirrored => {
                ledger.mirrored.fetch_add(1, Ordering::Release);
                self.rule.mirrored();
            }
            Outcome::Dropped(reason) => {
                ledger.dropped[reason.index()].fetch_add(1, Ordering::Release);
                ledger.metrics.dropped(reason);
                let loss = &ledger.losses[reason.index()];
                loss.untold.fetch_add(1, Ordering::Relaxed);
                // Whoever holds the lock is writing an example just as good.
                if let Ok(mut example) = loss.example.try_lock() {
                    example.get_or_insert_with(|| (Arc::clone(&self.rule), self.key));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_taken_to_its_last_byte_and_no_further() {
        let ledger = Ledger::new(100);
        assert!(ledger.reserve(60) && !ledger.reserve(41) && ledger.reserve(40));
        assert!(!ledger.reserve(1) && ledger.reserve(0));
        ledger.release(100);
        assert!(!ledger.reserve(101) && ledger.reserve(100) && !ledger.reserve(usize::MAX));
    }
}
