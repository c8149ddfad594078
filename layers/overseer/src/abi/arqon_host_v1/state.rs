//! The state of one call.

use std::{mem, sync::Arc, time::Duration};

use quanta::Instant;

use wasmtime::Memory;

use super::Guest;
use crate::{
    engine::{Host, Limiter, Looks, Timer},
    exchange::Lent,
    verdict::Denial,
};

/// Where in its life an instance is. The numbers of the last three are those of its entry points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Start functions: nothing of a request can be seen.
    Start,
    /// `on_request`, or the original's `policy_check`.
    Request,
    /// `on_response`.
    Response,
    /// `on_configure`.
    Configure,
}

impl Phase {
    /// The number of the phase's entry point; start functions have none of their own.
    pub(crate) const fn entry(self) -> usize {
        match self {
            Self::Start | Self::Request => 0,
            Self::Response => 1,
            Self::Configure => 2,
        }
    }
}

/// Whose verdict is asked for: told apart in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The policy's own module.
    Active,
    /// One that runs beside it.
    Candidate,
}

/// What the host functions work on.
#[derive(Debug)]
pub(crate) struct State {
    pub(super) guest: Arc<Guest>,
    pub(super) phase: Phase,
    pub(super) role: Role,
    pub(super) exchange: Option<Lent>,
    pub(super) denial: Option<Denial>,
    /// Edits made in this call, and their bytes.
    pub(super) edits: usize,
    pub(super) edit_bytes: usize,
    /// Lines logged in this call, and lines dropped over the limit.
    pub(super) log_lines: u32,
    pub(super) logs_dropped: u32,
    /// None before anything has begun.
    timer: Option<Timer>,
    looks: Arc<Looks>,
    limiter: Limiter,
    memory: Option<Memory>,
}

impl State {
    pub(crate) const fn new(guest: Arc<Guest>, role: Role, limiter: Limiter, looks: Arc<Looks>) -> Self {
        Self {
            guest,
            phase: Phase::Start,
            role,
            exchange: None,
            denial: None,
            edits: 0,
            edit_bytes: 0,
            log_lines: 0,
            logs_dropped: 0,
            timer: None,
            looks,
            limiter,
            memory: None,
        }
    }

    /// Whose call it is.
    pub(crate) fn guest(&self) -> &Guest {
        &self.guest
    }

    /// Lends the exchange to the call that comes.
    pub(crate) fn begin(&mut self, phase: Phase, exchange: Option<Lent>) {
        self.phase = phase;
        self.exchange = exchange;
    }

    /// Takes the exchange back, and what `host_reject` said, if the guest called it.
    pub(crate) fn end(&mut self) -> (Option<Lent>, Option<Denial>) {
        (self.exchange.take(), self.denial.take())
    }

    /// As it was before the call. The role says whose calls it is for.
    pub(crate) fn renew(&mut self) {
        let Self {
            guest: _,
            role: _,
            looks: _,
            memory: _,
            phase,
            exchange,
            denial,
            edits,
            edit_bytes,
            log_lines,
            logs_dropped,
            timer,
            limiter,
        } = self;
        *phase = Phase::Start;
        *exchange = None;
        *denial = None;
        (*edits, *edit_bytes) = (0, 0);
        (*log_lines, *logs_dropped) = (0, 0);
        *timer = None;
        limiter.renew();
    }

    pub(crate) const fn role(&self) -> Role {
        self.role
    }

    /// Log lines over the limit, which were dropped.
    pub(crate) const fn logs_dropped(&self) -> u32 {
        self.logs_dropped
    }

    pub(crate) const fn growth_refused(&self) -> bool {
        self.limiter.refused()
    }
}

impl Host for State {
    fn limiter(&mut self) -> &mut Limiter {
        &mut self.limiter
    }

    fn attach(&mut self, memory: Memory) {
        self.memory = Some(memory);
    }

    fn memory(&self) -> Option<Memory> {
        self.memory
    }

    fn started(&mut self) {
        // The limits on logs count from the call, so that standby and inline instances behave the same.
        self.log_lines = 0;
        self.logs_dropped = 0;
        drop(mem::take(&mut self.denial));
    }

    #[inline]
    fn timed(&mut self, deadline: Duration) {
        self.timer = Some(Timer::start(deadline));
    }

    fn ticked(&mut self) -> bool {
        let Some(timer) = &mut self.timer else { return true };
        let now = Instant::now();
        let next = timer.look(now);
        if let Some(next) = next {
            self.looks.answer(now, next);
        }
        next.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use bytes::Bytes;
    use http::Request;
    use wasmtime::ResourceLimiter;

    use super::*;
    use crate::abi::arqon_host_v1::GuestLimits;

    fn guest() -> Arc<Guest> {
        Arc::new(Guest {
            name: "p".into(),
            config: Bytes::new(),
            rewrite: false,
            headers: None,
            limits: GuestLimits {
                log_bytes_max: 1,
                log_lines_max: 1,
                reason_bytes_max: 1,
                header_edits_max: 1,
                header_bytes_max: 1,
                body_bytes_max: 1,
            },
            metrics: OnceLock::new(),
        })
    }

    #[test]
    fn a_state_that_was_renewed_has_nothing_of_the_call_before() {
        let (guest, looks) = (guest(), Arc::default());
        let new = || {
            let limiter = Limiter::new(1 << 16, 1);
            State::new(Arc::clone(&guest), Role::Active, limiter, Arc::clone(&looks))
        };
        let mut state = new();
        let (request, ()) = Request::new(()).into_parts();
        state.begin(Phase::Request, Some(Lent::request(request, None)));
        state.timed(Duration::from_secs(60));
        state.denial = Some(Denial::new(403, "no".to_owned()));
        (state.edits, state.edit_bytes) = (1, 2);
        (state.log_lines, state.logs_dropped) = (3, 4);
        assert!(!state.limiter().memory_growing(0, 1 << 17, None).unwrap());
        state.renew();
        // As text, so that a field that is added is looked at, too.
        assert_eq!(format!("{state:?}"), format!("{:?}", new()));
    }

    #[test]
    fn what_start_functions_used_up_is_not_missing_in_the_call() {
        let mut state = State::new(guest(), Role::Active, Limiter::new(1 << 16, 1), Arc::default());
        state.timed(Duration::ZERO);
        assert!(state.ticked(), "it is late, and has its grace");
        (state.log_lines, state.logs_dropped) = (1, 1);
        state.started();
        assert_eq!((state.log_lines, state.logs_dropped), (0, 0));
        state.timed(Duration::from_secs(60));
        assert!(state.ticked(), "the call has a time of its own");
    }
}
