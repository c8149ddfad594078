//! The reports of one batch, and the thread their texts are freed on.
//!
//! The last subscriber to let go of a batch would free what another thread has made. Where those are two cores, that moves
//! every text's cache lines there and back, which costs more than all else in a batch (ADR 0036).
//! So a batch goes home instead: it waits, within a bound, for the next batch that its maker's thread publishes.

use std::{
    fmt, mem,
    ops::Deref,
    sync::{
        atomic::{AtomicU64, Ordering},
        Arc, Mutex, MutexGuard, PoisonError,
    },
};

use crate::{
    ledger::Numbers,
    sync::{here, step},
    Event,
};

/// Makers told apart; threads that share a home free for one another.
const HOMES: usize = 16;
/// Most bytes of batches that wait in one home: 8 KiB. With 2 KiB of its list that makes 160 KiB in a bus.
const HOME_BYTES_MAX: usize = 8 * 1024;
/// Most batches that wait in one home.
const HOME_BATCHES_MAX: usize = 64;

/// The reports of one batch: a shared slice of [`Event`].
#[derive(Clone)]
pub struct Reports(Arc<Inner>);

struct Inner {
    events: Vec<Event>,
    /// What the event's public numbers say too: these cannot be changed by who receives it. Written before the batch is
    /// sent, which makes them seen by whoever receives it.
    batch_index: AtomicU64,
    first_seq: AtomicU64,
    bytes: usize,
    maker: usize,
    origin: Arc<Origin>,
}

/// Identity of the bus that numbered a batch, and where its read batches wait to be freed.
#[derive(Debug, Default)]
pub(crate) struct Origin {
    homes: [Home; HOMES],
}

/// Its maker's thread looks into it with each batch. A plain lock in models too: it is taken under the channel's, where
/// loom must not let another thread go first. (Aligned to cache lines, `Bus::new` would take twice as long, and batches
/// would be no faster.)
#[derive(Debug, Default)]
struct Home(Mutex<Waiting>);

/// Read batches with their sizes.
#[derive(Debug, Default)]
struct Waiting {
    batches: Vec<(Vec<Event>, usize)>,
    bytes: usize,
}

/// Locks a home, for a push or a pop.
fn lock(home: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    home.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Waiting {
    /// Takes one in; gives it back where there is no room.
    fn admit(&mut self, events: Vec<Event>, bytes: usize) -> Option<Vec<Event>> {
        if self.bytes + bytes > HOME_BYTES_MAX || self.batches.len() == HOME_BATCHES_MAX {
            return Some(events);
        }
        if self.batches.capacity() == 0 {
            self.batches.reserve_exact(HOME_BATCHES_MAX);
        }
        self.batches.push((events, bytes));
        self.bytes += bytes;
        None
    }

    fn release(&mut self) -> Option<Vec<Event>> {
        let (events, bytes) = self.batches.pop()?;
        self.bytes -= bytes;
        Some(events)
    }
}

impl Origin {
    fn home(&self, maker: usize) -> &Mutex<Waiting> {
        // Spreads addresses that differ by one constant: the top bits of a product with 2^64 / the golden ratio.
        let spread = (maker as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        &self.homes[spread as usize % HOMES].0
    }
}

impl Reports {
    /// A batch that keeps `bytes` from the allocator, unused capacity included. Frees up to two read ones of this thread: more go than come.
    pub(crate) fn new(events: Vec<Event>, bytes: usize, origin: &Arc<Origin>) -> Self {
        let maker = here();
        step();
        let mut home = lock(origin.home(maker));
        let read = [home.release(), home.release()];
        drop(home);
        drop(read);
        Self(Arc::new(Inner {
            events,
            batch_index: AtomicU64::new(0),
            first_seq: AtomicU64::new(0),
            bytes,
            maker,
            origin: Arc::clone(origin),
        }))
    }

    /// Numbers the batch: once, before it is sent.
    pub(crate) fn number(&self, sent_before: Numbers) {
        self.0.batch_index.store(sent_before.batches, Ordering::Relaxed);
        self.0.first_seq.store(sent_before.reports, Ordering::Relaxed);
    }

    /// What its bus had sent before it.
    pub(crate) fn numbers(&self) -> Numbers {
        Numbers {
            batches: self.0.batch_index.load(Ordering::Relaxed),
            reports: self.0.first_seq.load(Ordering::Relaxed),
        }
    }

    /// Reports in it: at most 64.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.0.events.len()).unwrap_or(u32::MAX)
    }

    /// Whether this bus numbered the batch (a raw sender can forward another bus's).
    pub(crate) fn is_from(&self, origin: &Arc<Origin>) -> bool {
        Arc::ptr_eq(&self.0.origin, origin)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.maker != here() {
            // May run under the channel's locks: this one is held for a push, and nothing is locked or freed under it.
            let homeless = lock(self.origin.home(self.maker)).admit(mem::take(&mut self.events), self.bytes);
            drop(homeless);
        }
    }
}

impl Deref for Reports {
    type Target = [Event];

    #[inline]
    fn deref(&self) -> &[Event] {
        &self.0.events
    }
}

impl fmt::Debug for Reports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl PartialEq for Reports {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Reports {}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::{sync::Arc, thread};

    use super::{here, lock, Origin, Reports, Waiting, HOME_BATCHES_MAX, HOME_BYTES_MAX};
    use crate::Event;

    fn reports(n: u64) -> Vec<Event> {
        let report = |revision| Event::SchemaChanged {
            schema_id: "s".into(),
            revision,
        };
        (0..n).map(report).collect()
    }

    fn waiting(origin: &Origin) -> (usize, usize) {
        let home = lock(origin.home(here()));
        (home.batches.len(), home.bytes)
    }

    #[test]
    fn a_batch_read_elsewhere_waits_for_its_makers_next_batch() {
        let origin = Arc::new(Origin::default());
        let read_elsewhere = |n| {
            let batch = Reports::new(reports(n), 100, &origin);
            thread::spawn(move || assert_eq!(batch.len() as u64, n))
                .join()
                .unwrap();
        };
        read_elsewhere(3);
        assert_eq!(waiting(&origin), (1, 100));
        read_elsewhere(4);
        assert_eq!(
            waiting(&origin),
            (1, 100),
            "the first was freed, the second waits"
        );
        let others = [(); 3].map(|()| Reports::new(reports(1), 7, &origin));
        thread::spawn(move || drop(others)).join().unwrap();
        assert_eq!(waiting(&origin), (3, 21));
        drop(Reports::new(reports(1), 7, &origin));
        assert_eq!(
            waiting(&origin),
            (1, 7),
            "two go for one that comes; what is freed at home does not wait"
        );
    }

    #[test]
    fn makers_are_spread_over_the_homes() {
        let origin = Origin::default();
        let spread = |makers: &[usize]| {
            let mut homes: Vec<_> = makers
                .iter()
                .map(|maker| origin.home(*maker) as *const _)
                .collect();
            homes.sort_unstable();
            homes.dedup();
            homes.len()
        };
        // What `here` gives on threads that live at once: addresses some constant apart.
        for apart in [0x1000, 0x20_1000, 0x80_1000] {
            let makers: Vec<usize> = (0..64).map(|thread| 0x7f00_0000_0690 + thread * apart).collect();
            assert!(
                spread(&makers) >= 12,
                "{} homes, {apart:#x} apart",
                spread(&makers)
            );
        }
        let one = [here()];
        assert_eq!(spread(&[one, one].concat()), 1);
    }

    #[test]
    fn what_waits_is_bounded_and_goes_with_the_bus() {
        let mut home = Waiting::default();
        assert!(home.admit(reports(1), HOME_BYTES_MAX + 1).is_some());
        assert!(home.admit(reports(1), HOME_BYTES_MAX).is_none());
        assert_eq!(home.admit(reports(2), 1).expect("full by bytes").len(), 2);
        assert_eq!(home.release().expect("one").len(), 1);
        for _ in 0..HOME_BATCHES_MAX {
            assert!(home.admit(reports(1), 1).is_none());
        }
        assert!(home.admit(reports(1), 1).is_some(), "full by number");

        let origin = Arc::new(Origin::default());
        let held = Arc::downgrade(&origin);
        let batch = Reports::new(reports(2), 2, &origin);
        thread::spawn(move || drop(batch)).join().unwrap();
        assert_eq!(waiting(&origin), (1, 2));
        drop(origin);
        assert!(held.upgrade().is_none(), "what waits does not keep the bus");
    }
}

#[cfg(all(test, loom))]
mod models {
    use std::sync::Arc;

    use super::{lock, Origin, Reports};
    use crate::{sync::step, Event};

    fn let_go(batch: Reports) {
        step();
        drop(batch);
    }

    #[test]
    fn a_batch_that_two_let_go_of_goes_home_once() {
        loom::model(|| {
            let origin = Arc::new(Origin::default());
            let batch = Reports::new(vec![Event::Shutdown], 9, &origin);
            let maker = batch.0.maker;
            let theirs = batch.clone();
            let other = loom::thread::spawn(move || let_go(theirs));
            let third = loom::thread::spawn(move || let_go(batch));
            let next = Reports::new(vec![Event::Shutdown], 9, &origin);
            other.join().unwrap();
            third.join().unwrap();
            drop(next);
            let home = lock(origin.home(maker));
            assert!(home.batches.len() <= 1);
            assert_eq!(home.bytes, 9 * home.batches.len());
        });
    }
}
