//! The clock of the heads that a connection waits for.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use hyper::rt::{Sleep, Timer};
use tokio::{task::unconstrained, time};

/// A connection's timer. hyper asks for a new sleep for each head and drops it once the head is there; to enter one of the
/// runtime's and take it out again costs more than to read the head. So one clock is kept. While it would ring before its
/// sleep is over it runs on as it is, and is wound for the rest when it rings: one step in the time of a head, not one a head.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeadTimer {
    idle: Arc<Mutex<Option<Clock>>>,
}

#[derive(Debug)]
struct Clock {
    sleep: Pin<Box<time::Sleep>>,
    /// Whom it wakes.
    wakes: Option<Waker>,
}

/// What is slept until its deadline.
struct HeadSleep {
    deadline: time::Instant,
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
        let deadline = deadline.into();
        let clock = match self.swap(None) {
            Some(mut clock) => {
                if clock.sleep.deadline() > deadline {
                    clock.wind(deadline);
                }
                clock
            }
            None => Clock {
                sleep: Box::pin(time::sleep_until(deadline)),
                wakes: None,
            },
        };
        Box::pin(HeadSleep {
            deadline,
            clock: Some(clock),
            home: self.clone(),
        })
    }

    fn now(&self) -> Instant {
        time::Instant::now().into()
    }
}

impl Clock {
    fn wind(&mut self, deadline: time::Instant) {
        self.sleep.as_mut().reset(deadline);
        self.wakes = None;
    }

    /// Waits until `deadline`, or less: it may have been wound for an earlier one.
    fn poll(&mut self, deadline: time::Instant, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let known = self.wakes.as_ref();
            if !self.sleep.is_elapsed() && known.is_some_and(|waker| waker.will_wake(cx.waker())) {
                return Poll::Pending;
            }
            // Unconstrained: where a task has used up its turn, a sleep is pending without a word to its clock.
            let mut sleep = pin!(unconstrained(self.sleep.as_mut()));
            if sleep.as_mut().poll(cx).is_pending() {
                // The clock has nothing left to say before it rings.
                self.wakes = Some(cx.waker().clone());
                return Poll::Pending;
            }
            if self.sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            self.wind(deadline);
        }
    }
}

impl Future for HeadSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = self.deadline;
        match &mut self.clock {
            Some(clock) => clock.poll(deadline, cx),
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
    async fn a_clock_that_rings_early_is_wound_for_the_rest_and_wakes_whoever_waits_by_then() {
        let timer = HeadTimer::default();
        let begun = timer.now();
        let mut task = tokio_test::task::spawn(timer.sleep(Duration::from_secs(10)));
        assert!(task.poll().is_pending());
        drop(task);
        time::advance(Duration::from_secs(6)).await;
        // The next head: its own ten seconds, while the clock still runs for four.
        let mut task = tokio_test::task::spawn(timer.sleep(Duration::from_secs(10)));
        assert!(task.poll().is_pending());
        time::advance(Duration::from_secs(5)).await;
        assert!(task.is_woken(), "early");
        assert!(task.poll().is_pending());
        time::advance(Duration::from_secs(4)).await;
        assert!(!task.is_woken() && task.poll().is_pending());
        time::advance(Duration::from_secs(1)).await;
        assert!(task.is_woken() && task.poll().is_ready());
        assert_eq!(seconds(begun, &timer), 16);
        drop(task);
        // Rung, and used again.
        let mut task = tokio_test::task::spawn(timer.sleep(Duration::from_secs(10)));
        assert!(task.poll().is_pending());
        time::advance(Duration::from_secs(10)).await;
        assert!(task.is_woken() && task.poll().is_ready());
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
