//! The chain: which policies look at a request, and what comes of it.

use std::{sync::Arc, time::Duration};

use arqon_message::{Code, Problem, Rejection};
use http::{Request, StatusCode};
use http_body::Body;

use crate::{
    abi::arqon_host_v1::{Phase, Role},
    candidate::Candidate,
    event::{Event, OnEvent},
    exchange::{Exchange, Lent},
    metrics::{Outcome, PolicyMetrics, Ran},
    recorder::Recorder,
    report::LoadReport,
    spec::PolicySpec,
    tap::Awaiting,
    trial::Trial,
    verdict::{Cause, Verdict},
    verify::{Loaded, Loader},
};

/// One policy of a chain.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) spec: PolicySpec,
    /// Absent when loading failed and the operator wrote `failure.load = "open"`.
    pub(crate) loaded: Option<Arc<Loaded>>,
    /// Tried beside the active module; its verdicts are only compared.
    pub(crate) candidate: Option<Arc<Candidate>>,
    /// What ran before the last change.
    pub(crate) former: Option<Arc<Loaded>>,
    /// SHA-256 of what was last loaded from the policy's path.
    pub(crate) source_sha256: Option<String>,
    /// Why there is no module; a module has its own.
    pub(crate) report: LoadReport,
    pub(crate) metrics: Arc<PolicyMetrics>,
}

/// What a request runs by: read once, kept to its end.
pub(crate) struct Snapshot {
    pub(crate) loader: Arc<Loader>,
    pub(crate) policies: Box<[Arc<Policy>]>,
    /// Whether any of them, or any candidate, looks at responses.
    pub(crate) responses: bool,
    pub(crate) body_bytes_max: usize,
    pub(crate) pool_wait: Duration,
    pub(crate) recorder: Option<Arc<Recorder>>,
    pub(crate) on_event: OnEvent,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot")
            .field("policies", &self.policies)
            .finish_non_exhaustive()
    }
}

/// The policies that look at a request, and how long its body may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Matching {
    /// A bit each, in the order of the chain.
    policies: u64,
    /// What it is at most, if that is known to be within the cap.
    body_bytes: Option<usize>,
}

impl Matching {
    pub(crate) const fn is_empty(self) -> bool {
        self.policies == 0
    }

    const fn has(self, at: usize) -> bool {
        self.policies & (1 << at) != 0
    }
}

impl Policy {
    /// Whether the module or its candidate looks at responses.
    pub(crate) fn responds(&self) -> bool {
        self.has(Phase::Response) || self.only_tries(Phase::Response)
    }

    fn has(&self, phase: Phase) -> bool {
        match &self.loaded {
            Some(loaded) => loaded.compiled.has(phase.entry()),
            // Its failure is a request's.
            None => phase == Phase::Request,
        }
    }

    fn needs_body(&self) -> bool {
        self.loaded.as_ref().is_some_and(|loaded| loaded.plan.needs_body)
    }

    /// Whether only the candidate looks at this phase.
    fn only_tries(&self, phase: Phase) -> bool {
        let tries = |candidate: &Arc<Candidate>| candidate.loaded.compiled.has(phase.entry());
        self.candidate.as_ref().is_some_and(tries) && !self.has(phase)
    }

    /// Whether a request passes that this policy did not allow for `cause`.
    fn passes(&self, cause: Cause) -> bool {
        self.spec.monitor || self.spec.open[cause.index()]
    }

    /// Counts a failure and says what comes of it: `None` if the request passes.
    fn fail(&self, cause: Cause, detail: &str, on_event: &OnEvent) -> Option<Rejection> {
        let module = &*self.spec.guest.name;
        self.metrics.failed(cause);
        let outcome = match (self.spec.monitor, self.spec.open[cause.index()]) {
            (true, _) => Outcome::Monitor,
            (false, true) => Outcome::FailOpen,
            (false, false) => Outcome::FailClosed,
        };
        self.metrics.decided(outcome);
        let loud = self.metrics.loud(cause);
        if loud {
            tracing::warn!(component = "overseer", module, %cause, ?outcome, msg = detail);
        } else {
            tracing::debug!(component = "overseer", module, %cause, ?outcome, msg = detail);
        }
        match outcome {
            Outcome::FailClosed => Some(self.reject(Problem::new(cause.code(), describe(cause)))),
            Outcome::FailOpen if loud => {
                on_event(Event::FailedOpen {
                    name: module.to_owned(),
                    cause,
                });
                None
            }
            _ => None,
        }
    }

    fn reject(&self, problem: Problem) -> Rejection {
        let rejection = Rejection::new(problem);
        if self.spec.close_session {
            rejection.closing_session()
        } else {
            rejection
        }
    }
}

/// What a client is told of a failure: its class and nothing else.
const fn describe(cause: Cause) -> &'static str {
    match cause {
        Cause::Load => "a policy that must look at this request is not loaded",
        Cause::Trap => "a policy failed on this request",
        Cause::Fuel => "a policy used up its fuel on this request",
        Cause::Deadline => "a policy ran past its deadline on this request",
        Cause::Memory => "a policy ran out of memory on this request",
        Cause::Stack => "a policy overflowed its stack on this request",
        Cause::Pool => "too many requests are waiting for policies",
        Cause::Body => "the body could not be read to its end",
    }
}

impl Snapshot {
    /// The same snapshot again, without policies.
    pub(crate) fn share(&self) -> Self {
        Self {
            loader: Arc::clone(&self.loader),
            policies: Box::default(),
            responses: false,
            body_bytes_max: self.body_bytes_max,
            pool_wait: self.pool_wait,
            recorder: self.recorder.clone(),
            on_event: Arc::clone(&self.on_event),
        }
    }

    /// The policies that look at this request. One that only monitors is left out when the body may be over the cap, so that
    /// watching never refuses anything.
    #[inline]
    pub(crate) fn matching<B: Body>(&self, request: &Request<B>) -> Matching {
        let upper = request.body().size_hint().upper();
        let body_bytes = upper
            .and_then(|upper| usize::try_from(upper).ok())
            .filter(|upper| *upper <= self.body_bytes_max);
        let mut matching = Matching {
            policies: 0,
            body_bytes,
        };
        for (at, policy) in self.policies.iter().enumerate() {
            if !policy.spec.scope.covers(request) {
                continue;
            }
            if policy.spec.monitor && body_bytes.is_none() && policy.needs_body() {
                let detail = "the body may be over max_body_bytes, and the policy only monitors";
                drop(policy.fail(Cause::Body, detail, &self.on_event));
                continue;
            }
            matching.policies |= 1 << at;
        }
        matching
    }

    fn of(&self, matching: Matching) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies
            .iter()
            .enumerate()
            .filter_map(move |(at, policy)| matching.has(at).then_some(policy))
    }

    /// Whether a policy's module needs the body. For a candidate nobody waits: it is asked when the body was handed on.
    pub(crate) fn needs_body(&self, matching: Matching) -> bool {
        self.of(matching).any(|policy| policy.needs_body())
    }

    pub(crate) fn sees_responses(&self, matching: Matching) -> bool {
        self.responses && self.of(matching).any(|policy| policy.has(Phase::Response))
    }

    /// Whether a candidate is to be tried on the response that no policy looks at.
    pub(crate) fn tries_responses(&self, matching: Matching) -> bool {
        self.responses && self.of(matching).any(|policy| policy.only_tries(Phase::Response))
    }

    /// The verdict of the chain. If the request `entered` the gate, its place is given back at the end.
    pub(crate) fn look(
        &self,
        matching: Matching,
        phase: Phase,
        exchange: Lent,
        entered: bool,
    ) -> (Lent, Result<(), Rejection>) {
        if !entered {
            return (exchange, self.exhausted(matching, phase));
        }
        let place = self.loader.engine.gate().entered();
        let decided = self.decide(matching, phase, exchange);
        drop(place);
        decided
    }

    /// Runs the policies in order until one refuses; what they amended is in the exchange.
    fn decide(&self, matching: Matching, phase: Phase, mut exchange: Lent) -> (Lent, Result<(), Rejection>) {
        for policy in self.of(matching) {
            if !policy.has(phase) {
                if policy.candidate.is_some() {
                    self.only_try(policy, matching, phase, &mut exchange);
                }
                continue;
            }
            let verdict;
            (exchange, verdict) = self.consult(policy, matching, phase, exchange);
            if let Err(rejection) = verdict {
                return (exchange, Err(rejection));
            }
        }
        (exchange, Ok(()))
    }

    fn consult(
        &self,
        policy: &Policy,
        matching: Matching,
        phase: Phase,
        mut exchange: Lent,
    ) -> (Lent, Result<(), Rejection>) {
        let Some(loaded) = &policy.loaded else {
            self.try_instead(policy, matching, phase, &mut exchange);
            return (
                exchange,
                policy
                    .fail(Cause::Load, "the policy is not loaded", &self.on_event)
                    .map_or(Ok(()), Err),
            );
        };
        let mark = policy.spec.monitor.then(|| exchange.mark());
        let trial = policy
            .candidate
            .as_ref()
            .and_then(|candidate| self.trial(candidate, matching, phase, &exchange));
        let recorder = self.recorder.as_deref().filter(|_| phase == Phase::Request);
        let record = recorder.and_then(|recorder| Some((recorder, recorder.before(&exchange)?)));
        let begun = policy.metrics.now();
        let (call, exchange, used) =
            self.loader
                .call_and_keep(policy.spec.budget, loaded, phase, Role::Active, Some(exchange));
        let mut exchange = exchange.expect("a call hands the exchange back");
        let ran = Ran {
            begun,
            ended: policy.metrics.now(),
            fuel: call.fuel,
            outcome: matches!(call.verdict, Verdict::Allow).then_some(Outcome::Allow),
        };
        // Counted when the instance is dropped, which is after the response if anybody does that.
        if let Some(ran) = self.loader.refill.retire(used, Some(ran)) {
            policy.metrics.ran(&ran);
        }
        if call.logs_dropped > 0 {
            policy.metrics.log_lines_dropped(Role::Active, call.logs_dropped);
        }
        if let Some((recorder, seen)) = record {
            recorder.after(seen, &policy.spec, loaded, &call);
        }
        if let Some(trial) = trial {
            self.hand_over(trial, matching, &call.verdict, &mut exchange);
        }
        if let Some(mark) = mark {
            exchange.restore(mark);
        }
        let verdict = match call.verdict {
            Verdict::Allow => Ok(()),
            Verdict::Deny(denial) if policy.spec.monitor => {
                policy.metrics.decided(Outcome::Monitor);
                let module = &*policy.spec.guest.name;
                tracing::info!(
                    component = "overseer",
                    module,
                    status = denial.status,
                    msg = "would have rejected"
                );
                Ok(())
            }
            Verdict::Deny(denial) => {
                policy.metrics.decided(Outcome::Reject);
                let status = StatusCode::from_u16(denial.status).unwrap_or(StatusCode::FORBIDDEN);
                let problem = if denial.reason.is_empty() {
                    Problem::new(Code::OverseerDenied, "a policy denied the request")
                } else {
                    Problem::new(Code::OverseerDenied, denial.reason)
                };
                Err(policy.reject(problem.with_status(status)))
            }
            Verdict::Fail(cause, detail) => policy.fail(cause, &detail, &self.on_event).map_or(Ok(()), Err),
        };
        (exchange, verdict)
    }

    /// What the candidate is to be tried on, if there is room to try it.
    #[cold]
    fn trial(
        &self,
        candidate: &Arc<Candidate>,
        matching: Matching,
        phase: Phase,
        exchange: &Lent,
    ) -> Option<Box<Trial>> {
        let (trials, shard) = (&self.loader.trials, self.loader.engine.shard());
        candidate.before(trials, shard, phase, exchange, matching.body_bytes)
    }

    /// Has the candidate tried, now that it is known what the active module said and left, or once the body was handed on.
    #[cold]
    fn hand_over(&self, trial: Box<Trial>, matching: Matching, verdict: &Verdict, exchange: &mut Exchange) {
        let trials = &self.loader.trials;
        match trial.after(verdict, exchange) {
            Some(trial) if trial.awaits_body() => {
                let bytes_max = matching.body_bytes.unwrap_or(0);
                let awaiting = exchange
                    .awaiting
                    .get_or_insert_with(|| Box::new(Awaiting::new(trials, bytes_max)));
                awaiting.push(*trial);
            }
            Some(trial) => trials.send(trial),
            None => {}
        }
    }

    /// Has the candidate of a policy that is not loaded tried: this is when one most wants to know.
    #[cold]
    fn try_instead(&self, policy: &Policy, matching: Matching, phase: Phase, exchange: &mut Lent) {
        if let Some(candidate) = &policy.candidate
            && let Some(trial) = self.trial(candidate, matching, phase, exchange)
        {
            let missing = Verdict::Fail(Cause::Load, String::new());
            self.hand_over(trial, matching, &missing, exchange);
        }
    }

    /// Has the candidate tried on what its active module does not look at.
    #[cold]
    fn only_try(&self, policy: &Policy, matching: Matching, phase: Phase, exchange: &mut Lent) {
        if policy.only_tries(phase)
            && let Some(candidate) = &policy.candidate
            && let Some(trial) = self.trial(candidate, matching, phase, exchange)
        {
            self.hand_over(trial, matching, &Verdict::Allow, exchange);
        }
    }

    /// Has the candidates tried on a response that no policy looks at.
    #[cold]
    pub(crate) fn only_try_response(&self, matching: Matching, exchange: &mut Lent) {
        for policy in self.of(matching) {
            self.only_try(policy, matching, Phase::Response, exchange);
        }
    }

    /// No instance came free in time: refused unless every policy that would have run lets that pass.
    fn exhausted(&self, matching: Matching, phase: Phase) -> Result<(), Rejection> {
        let mut refused = Ok(());
        for policy in self.of(matching).filter(|policy| policy.has(phase)) {
            if let Some(rejection) = policy.fail(Cause::Pool, "no instance came free in time", &self.on_event)
            {
                refused = refused.and(Err(rejection));
            }
        }
        refused
    }

    /// The body that some policy needs could not be had: always refused, there is nothing to hand on.
    pub(crate) fn unreadable(&self, matching: Matching, problem: Problem) -> Rejection {
        let mut close = false;
        for policy in self.of(matching).filter(|policy| policy.needs_body()) {
            policy.metrics.failed(Cause::Body);
            policy.metrics.decided(Outcome::FailClosed);
            close |= policy.spec.close_session;
        }
        let rejection = Rejection::new(problem);
        if close {
            rejection.closing_session()
        } else {
            rejection
        }
    }

    /// Lets the modules of this chain stand by, and no others.
    pub(crate) fn stand_by(&self) {
        let mut modules = Vec::new();
        let mut beside = Vec::new();
        for policy in &self.policies {
            let active = policy.loaded.iter();
            modules.extend(active.map(|loaded| (Arc::clone(loaded), policy.spec.budget)));
            beside.extend(
                policy
                    .candidate
                    .iter()
                    .map(|candidate| Arc::clone(&candidate.loaded)),
            );
        }
        self.loader.refill.stand_by(&modules, &beside);
    }

    /// The names of policies under which a request may pass that they did not allow.
    pub(crate) fn relaxed(&self) -> impl Iterator<Item = (&str, &'static str)> {
        self.policies.iter().filter_map(|policy| {
            let why = if policy.spec.monitor {
                "mode = \"monitor\""
            } else if Cause::ALL.into_iter().any(|cause| policy.passes(cause)) {
                "failure = \"open\""
            } else {
                return None;
            };
            Some((&*policy.spec.guest.name, why))
        })
    }
}
