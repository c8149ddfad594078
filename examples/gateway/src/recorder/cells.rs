//! Numbers that many threads add to, each in a place of its own.

use std::{
    cell::Cell,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread::available_parallelism,
};

/// Threads that can have a place of their own: a bit each in [`TAKEN`].
const PLACES_MAX: usize = u64::BITS as usize;
/// The place of all threads that have none of their own.
const SHARED: usize = 0;
const PER_LINE: usize = 8;

/// Which places are taken.
static TAKEN: AtomicU64 = AtomicU64::new(1 << SHARED);

thread_local! {
    /// This thread's place, once it was asked for.
    static PLACE: Cell<Option<usize>> = const { Cell::new(None) };
    static LEASE: Lease = Lease::new();
}

/// A thread's place; when the thread ends, the next one gets it.
struct Lease(usize);

impl Lease {
    fn new() -> Self {
        let mut taken = TAKEN.load(Ordering::Relaxed);
        loop {
            let free = taken.trailing_ones() as usize;
            if free >= places() {
                return Self(SHARED);
            }
            // Acquire: what its last owner wrote is where this one goes on.
            match TAKEN.compare_exchange_weak(taken, taken | 1 << free, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => return Self(free),
                Err(now) => taken = now,
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // What this thread still counts at its end goes where everybody's does.
        PLACE.set(Some(SHARED));
        if self.0 != SHARED {
            TAKEN.fetch_and(!(1 << self.0), Ordering::Release);
        }
    }
}

/// How many places there are: one for each worker of a runtime, as many for other threads, and some.
fn places() -> usize {
    static PLACES: OnceLock<usize> = OnceLock::new();
    *PLACES.get_or_init(|| {
        let cores = available_parallelism().map_or(1, usize::from);
        (2 * cores + 8).min(PLACES_MAX)
    })
}

#[inline]
fn place() -> usize {
    PLACE.get().unwrap_or_else(take)
}

#[cold]
fn take() -> usize {
    let place = LEASE.try_with(|lease| lease.0).unwrap_or(SHARED);
    PLACE.set(Some(place));
    place
}

/// Numbers in as many copies as there are places. A thread with a place of its own changes its copy by a load and a store: no
/// other thread writes it, and no two copies share a cache line.
pub(super) struct Cells {
    lines_each: usize,
    lines: Box<[Line]>,
}

#[derive(Default)]
#[repr(align(64))]
struct Line([AtomicU64; PER_LINE]);

impl Cells {
    /// So many numbers, all 0.
    pub(super) fn new(numbers: usize) -> Self {
        let lines_each = numbers.div_ceil(PER_LINE);
        Self {
            lines_each,
            lines: (0..lines_each * places()).map(|_| Line::default()).collect(),
        }
    }

    /// Replaces this thread's copy of a number.
    #[inline]
    pub(super) fn change(&self, number: usize, to: impl Fn(u64) -> u64) {
        let place = place();
        let cell = self.cell(place, number);
        if place == SHARED {
            // It always has one to put there.
            let _ = cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| Some(to(old)));
        } else {
            cell.store(to(cell.load(Ordering::Relaxed)), Ordering::Relaxed);
        }
    }

    /// Every copy of a number.
    pub(super) fn copies(&self, number: usize) -> impl Iterator<Item = u64> + '_ {
        (0..places()).map(move |place| self.cell(place, number).load(Ordering::Relaxed))
    }

    #[inline]
    fn cell(&self, place: usize, number: usize) -> &AtomicU64 {
        &self.lines[place * self.lines_each + number / PER_LINE].0[number % PER_LINE]
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Barrier, Mutex, MutexGuard, PoisonError},
        thread,
    };

    use super::*;

    /// They take all places.
    fn lock() -> MutexGuard<'static, ()> {
        static ONE: Mutex<()> = Mutex::new(());
        ONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sum(cells: &Cells, number: usize) -> u64 {
        cells.copies(number).sum()
    }

    #[test]
    fn nothing_is_lost_with_more_threads_than_places_nor_when_a_place_is_handed_on() {
        let _alone = lock();
        const TURNS: u64 = 20_000;
        let cells = Cells::new(PER_LINE + 3);
        let threads = places() + 7;
        for wave in 1..=3 {
            let barrier = Barrier::new(threads);
            thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| {
                        barrier.wait();
                        for _ in 0..TURNS {
                            cells.change(0, |old| old + 1);
                            cells.change(PER_LINE + 2, |old| old + 3);
                        }
                        // Each holds its place until all had one.
                        barrier.wait();
                    });
                }
            });
            let all = wave * TURNS * threads as u64;
            assert_eq!((sum(&cells, 0), sum(&cells, PER_LINE + 2)), (all, 3 * all));
            assert!((1..PER_LINE + 2).all(|number| sum(&cells, number) == 0));
        }
    }

    #[test]
    fn a_threads_place_goes_to_another_when_it_ends() {
        let _alone = lock();
        let own = |_| {
            let held = thread::spawn(|| (place(), place())).join();
            let (first, second) = held.expect("no panic");
            assert_eq!(first, second);
            first != SHARED
        };
        // Other tests of this process may have some at the moment.
        let late = (0..4 * PLACES_MAX).map(own).skip(2 * PLACES_MAX);
        assert!(late.filter(|own| *own).count() > 0);
    }

    #[test]
    fn a_thread_that_finds_no_place_shares_one() {
        let _alone = lock();
        let most = places();
        let all = Barrier::new(most + 1);
        let taken: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..=most)
                .map(|_| {
                    scope.spawn(|| {
                        let held = place();
                        all.wait();
                        held
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("no panic"))
                .collect()
        });
        assert!(taken.contains(&SHARED));
        for place in 1..most {
            assert!(
                taken.iter().filter(|taken| **taken == place).count() <= 1,
                "{place}"
            );
        }
        assert!(taken.iter().all(|place| *place < most));
    }
}
