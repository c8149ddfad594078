//! How many requests may run policies at once.
//!
//! A semaphore whose fast path is one atomic step in and one out: tokio's takes a lock on the way out. A place is held from
//! a request's poll to the end of its guests, within that poll; only when all are taken does anybody wait.

use std::{
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

use tokio::sync::Notify;

#[derive(Debug)]
pub(crate) struct Gate {
    free: AtomicUsize,
    /// Who waits. Nobody goes past them.
    waiting: AtomicUsize,
    freed: Notify,
}

/// A place, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place<'a>(&'a Gate);

/// Somebody who waits, until dropped.
struct Waiting<'a>(&'a Gate);

impl Gate {
    pub(super) fn new(places: usize) -> Self {
        Self {
            free: AtomicUsize::new(places),
            waiting: AtomicUsize::new(0),
            freed: Notify::new(),
        }
    }

    /// Takes a place if one is free and nobody waits. Whoever gets `true` calls [`Gate::entered`].
    pub(crate) fn try_enter(&self) -> bool {
        self.waiting.load(SeqCst) == 0 && self.take()
    }

    /// Waits for a place. Whoever gets to the end of this calls [`Gate::entered`].
    pub(crate) async fn enter(&self) {
        let waiting = Waiting::new(self);
        loop {
            // Heard of from here on: a place that comes free after the attempt below is not missed.
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable();
            if self.take() {
                break;
            }
            freed.await;
        }
        drop(waiting);
    }

    /// The place of somebody who entered.
    pub(crate) const fn entered(&self) -> Place<'_> {
        Place(self)
    }

    fn take(&self) -> bool {
        self.free
            .fetch_update(SeqCst, SeqCst, |free| free.checked_sub(1))
            .is_ok()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.free.fetch_add(1, SeqCst);
        // Looked at after the place is free: whoever waits by then is told, whoever comes later sees the place.
        if self.0.waiting.load(SeqCst) > 0 {
            self.0.freed.notify_one();
        }
    }
}

impl<'a> Waiting<'a> {
    fn new(gate: &'a Gate) -> Self {
        gate.waiting.fetch_add(1, SeqCst);
        Self(gate)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, SeqCst);
        // A place that came free for the one who leaves is there for the next.
        if self.0.waiting.load(SeqCst) > 0 && self.0.free.load(SeqCst) > 0 {
            self.0.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;

    #[tokio::test]
    async fn a_place_is_waited_for_in_turn_and_given_up_by_who_leaves() {
        let gate = Gate::new(1);
        assert!(gate.try_enter());
        let place = gate.entered();
        assert!(!gate.try_enter());
        let mut first = tokio_test::task::spawn(gate.enter());
        let mut second = tokio_test::task::spawn(gate.enter());
        assert!(first.poll().is_pending() && second.poll().is_pending());
        drop(place);
        assert!(!gate.try_enter(), "nobody goes past who waits");
        assert!(first.is_woken() && !second.is_woken());
        // Told of the place, and gone without it.
        drop(first);
        assert!(second.is_woken() && second.poll().is_ready());
        drop(second);
        assert!(!gate.try_enter());
        drop(gate.entered());
        assert!(gate.try_enter());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn everybody_gets_through_and_never_more_than_there_are_places() {
        let gate = Arc::new(Gate::new(3));
        let inside = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = (0..64)
            .map(|at| {
                let (gate, inside) = (Arc::clone(&gate), Arc::clone(&inside));
                tokio::spawn(async move {
                    for round in 0..200 {
                        if !gate.try_enter() {
                            if (at + round) % 7 == 0 {
                                // Gives up at once, or after being told.
                                let gave_up = tokio::time::timeout(Duration::ZERO, gate.enter()).await;
                                if gave_up.is_err() {
                                    continue;
                                }
                            } else {
                                gate.enter().await;
                            }
                        }
                        let place = gate.entered();
                        assert!(inside.fetch_add(1, SeqCst) < 3);
                        std::thread::yield_now();
                        inside.fetch_sub(1, SeqCst);
                        drop(place);
                    }
                })
            })
            .collect();
        let all = async {
            for task in tasks {
                task.await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(60), all).await.unwrap();
        assert_eq!(gate.free.load(SeqCst), 3);
        assert_eq!(gate.waiting.load(SeqCst), 0);
    }
}
