//! A circuit breaker: a service that fails again and again is left alone for a while.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Failures in a row that open the circuit.
const FAILURES: u32 = 5;
/// The first pause; each failed probe doubles it.
const PAUSE: Duration = Duration::from_secs(1);
/// How often it is doubled: at most 64 seconds, cut to a minute.
const DOUBLINGS: u32 = 6;
const PAUSE_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Breaker {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// In a row; those of requests that were sent before the circuit opened count once.
    failures: u32,
    /// Open until then; afterwards one probe decides.
    open_until: Option<Instant>,
    probing: bool,
}

/// Leave to try once. Dropped without success, it is a failure.
#[derive(Debug)]
pub(super) struct Attempt<'a> {
    breaker: &'a Breaker,
    probe: bool,
    succeeded: bool,
}

impl Breaker {
    /// Leave to try, unless the circuit is open.
    pub(super) fn attempt(&self) -> Option<Attempt<'_>> {
        let mut state = self.state();
        let probe = match state.open_until {
            None => false,
            Some(until) if Instant::now() < until || state.probing => return None,
            Some(_) => {
                state.probing = true;
                true
            }
        };
        Some(Attempt {
            breaker: self,
            probe,
            succeeded: false,
        })
    }

    /// Whether an attempt would be refused for its time: the service is left alone.
    pub(super) fn is_open(&self) -> bool {
        let state = self.state();
        state.open_until.is_some_and(|until| Instant::now() < until)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attempt<'_> {
    /// The service answered.
    pub(super) fn succeeded(mut self) {
        self.succeeded = true;
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let mut state = self.breaker.state();
        if self.succeeded {
            *state = State::default();
        } else if self.probe || state.open_until.is_none() {
            state.failures = state.failures.saturating_add(1);
            if let Some(over) = state.failures.checked_sub(FAILURES) {
                state.open_until = Some(Instant::now() + (PAUSE * (1 << over.min(DOUBLINGS))).min(PAUSE_MAX));
            }
        }
        state.probing &= !self.probe;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn fail(breaker: &Breaker) -> bool {
        breaker.attempt().map(drop).is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn five_failures_open_it_one_probe_at_a_time_tries_and_a_success_closes_it() {
        let breaker = Breaker::default();
        (0..4).for_each(|_| assert!(fail(&breaker)));
        breaker.attempt().expect("closed").succeeded();
        (0..5).for_each(|_| assert!(fail(&breaker)));
        assert!(!fail(&breaker));
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let opened = Instant::now();
            while breaker
                .state()
                .open_until
                .is_some_and(|until| Instant::now() < until)
            {
                assert!(breaker.is_open() && !fail(&breaker));
                advance(Duration::from_millis(500)).await;
            }
            pauses.push(opened.elapsed().as_secs());
            assert!(!breaker.is_open());
            let probe = breaker.attempt().expect("half open");
            assert!(!fail(&breaker), "one probe at a time");
            drop(probe);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        advance(PAUSE_MAX).await;
        breaker.attempt().expect("half open").succeeded();
        assert!(fail(&breaker) && fail(&breaker));
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_were_under_way_when_it_opened_do_not_lengthen_the_pause() {
        let breaker = Breaker::default();
        let under_way: Vec<_> = (0..100).map(|_| breaker.attempt().expect("closed")).collect();
        drop(under_way);
        assert!(!fail(&breaker));
        advance(PAUSE).await;
        breaker.attempt().expect("half open").succeeded();
    }
}
