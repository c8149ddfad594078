//! The clock of the heads that a connection waits for.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::rt::{Sleep, Timer};
use tokio::time;

type Clock = Pin<Box<time::Sleep>>;

/// A connection's timer. hyper asks for a new sleep for each head and drops it once the head is there; to enter one of the
/// runtime's and take it out again costs more than to read the head. So one is kept, and wound again: later, which is
/// one step.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeadTimer {
    idle: Arc<Mutex<Option<Clock>>>,
}

/// What is slept until the kept clock's deadline.
struct HeadSleep {
    /// There until this is dropped.
    clock: Option<Clock>,
    home: HeadTimer,
}

impl HeadTimer {
    fn swap(&self, clock: Option<Clock>) -> Option<Clock> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *idle, clock)
    }
}

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        let clock = match self.swap(None) {
            Some(mut clock) => {
                clock.as_mut().reset(deadline.into());
                clock
            }
            None => Box::pin(time::sleep_until(deadline.into())),
        };
        Box::pin(HeadSleep {
            clock: Some(clock),
            home: self.clone(),
        })
    }

    fn now(&self) -> Instant {
        time::Instant::now().into()
    }
}

impl Future for HeadSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.clock {
            Some(clock) => clock.as_mut().poll(cx),
            None => Poll::Ready(()),
        }
    }
}

impl Sleep for HeadSleep {}

impl Drop for HeadSleep {
    fn drop(&mut self) {
        // It may ring where nobody sleeps: then the connection is looked at once more.
        drop(self.home.swap(self.clock.take()));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn seconds(since: Instant, timer: &HeadTimer) -> u64 {
        (timer.now() - since).as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn each_sleep_has_its_own_deadline_on_one_clock() {
        let timer = HeadTimer::default();
        let begun = timer.now();
        // Looked at, and dropped before its time, as for a head that came.
        let mut head = timer.sleep(Duration::from_secs(10));
        assert!((&mut head).now_or_never().is_none());
        time::advance(Duration::from_secs(4)).await;
        drop(head);
        timer.sleep(Duration::from_secs(10)).await;
        assert_eq!(seconds(begun, &timer), 14);
        // One that rang, and one that rang while nobody slept.
        timer.sleep(Duration::from_secs(10)).await;
        assert_eq!(seconds(begun, &timer), 24);
        let mut head = timer.sleep(Duration::from_secs(1));
        assert!((&mut head).now_or_never().is_none());
        drop(head);
        time::advance(Duration::from_secs(6)).await;
        timer.sleep(Duration::from_secs(10)).await;
        assert_eq!(seconds(begun, &timer), 40);
        // An earlier one.
        let mut head = timer.sleep(Duration::from_secs(60));
        assert!((&mut head).now_or_never().is_none());
        drop(head);
        timer.sleep(Duration::from_secs(1)).await;
        assert_eq!(seconds(begun, &timer), 41);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sleep_that_is_reset_rings_at_its_new_deadline() {
        let timer = HeadTimer::default();
        let begun = timer.now();
        let mut head = timer.sleep(Duration::from_secs(5));
        assert!((&mut head).now_or_never().is_none());
        timer.reset(&mut head, begun + Duration::from_secs(9));
        head.await;
        assert_eq!(seconds(begun, &timer), 9);
    }
}
