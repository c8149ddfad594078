//! That a listener is closed, for all of its connections.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Poll, Waker},
};

use tokio_util::sync::CancellationToken;

/// Given once. A connection asks for it at every turn, which a token answers under two locks: here a turn is one load.
#[derive(Clone, Default)]
pub(super) struct Signal(Arc<Inner>);

#[derive(Default)]
struct Inner {
    given: AtomicBool,
    token: CancellationToken,
}

impl Signal {
    pub(super) fn give(&self) {
        // Before those who wait are woken: whoever is polled sees it, or is still to be woken.
        self.0.given.store(true, Ordering::Release);
        self.0.token.cancel();
    }

    /// Until it is given.
    pub(super) async fn wait(&self) {
        let mut given = pin!(self.0.token.cancelled());
        let mut wakes: Option<Waker> = None;
        poll_fn(|cx| {
            let known = wakes.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
            if known && !self.0.given.load(Ordering::Acquire) {
                return Poll::Pending;
            }
            let polled = given.as_mut().poll(cx);
            wakes = Some(cx.waker().clone());
            polled
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_is_woken_by_the_waker_it_was_polled_with_last() {
        let signal = Signal::default();
        let mut first = tokio_test::task::spawn(Box::pin(signal.wait()));
        assert!(first.poll().is_pending() && first.poll().is_pending());
        // In another task's hands.
        let mut moved = tokio_test::task::spawn(first.into_inner());
        assert!(moved.poll().is_pending() && !moved.is_woken());
        signal.give();
        assert!(moved.is_woken() && moved.poll().is_ready());
        assert!(
            tokio_test::task::spawn(signal.wait()).poll().is_ready(),
            "who comes later"
        );
    }

    #[test]
    fn who_is_polled_between_the_two_steps_is_still_woken() {
        let signal = Signal::default();
        let mut waits = tokio_test::task::spawn(signal.wait());
        assert!(waits.poll().is_pending());
        signal.0.given.store(true, Ordering::Release);
        assert!(waits.poll().is_pending());
        signal.0.token.cancel();
        assert!(waits.is_woken() && waits.poll().is_ready());
    }
}
