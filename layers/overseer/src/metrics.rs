//! What is counted. Handles are taken when a policy is loaded, so install the recorder first; every series starts at 0.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use metrics::{Counter, Gauge, Histogram};
use quanta::Clock;

use crate::{
    abi::arqon_host_v1::Role,
    candidate::{COMPARED, Compared},
    standby::Popped,
    status::{FuelBucket, FuelStatus},
    verdict::Cause,
};

/// Upper bounds of what one call took, in fuel; the last bucket has none.
const FUEL_BUCKETS: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

/// Upper bounds, in seconds, for `shield_wasm_execution_duration_seconds` and `shield_overseer_candidate_duration_seconds`:
/// from 100 ns on, because a policy costs less than the smallest bucket usual for HTTP.
pub const EXECUTION_SECONDS_BUCKETS: [f64; 16] = [
    100e-9, 250e-9, 500e-9, 1e-6, 2.5e-6, 5e-6, 10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3,
    5e-3, 25e-3,
];

/// What became of one call of one policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Allow,
    Reject,
    /// No verdict, refused.
    FailClosed,
    /// No verdict, passed because the operator wrote `failure = "open"`.
    FailOpen,
    /// Would have been refused, passed because the operator wrote `mode = "monitor"`.
    Monitor,
}

const OUTCOMES: [(Outcome, &str); 5] = [
    (Outcome::Allow, "allow"),
    (Outcome::Reject, "reject"),
    (Outcome::FailClosed, "fail_closed"),
    (Outcome::FailOpen, "fail_open"),
    (Outcome::Monitor, "monitor"),
];

/// One call of a policy that is over, as it is counted: off the request's path where an instance stood by for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ran {
    /// By [`PolicyMetrics::now`].
    pub(crate) begun: u64,
    pub(crate) ended: u64,
    pub(crate) fuel: u64,
    /// Absent where it is told at once: only what passes is counted late.
    pub(crate) outcome: Option<Outcome>,
}

/// The series of one policy.
pub(crate) struct PolicyMetrics {
    /// Reads the processor's own counter where it is steady.
    clock: Clock,
    seconds: Histogram,
    fuel: Counter,
    /// Calls by [`FUEL_BUCKETS`], each call in one of them.
    fuel_buckets: [AtomicU64; FUEL_BUCKETS.len() + 1],
    decisions: [Counter; 5],
    failures: [Counter; 8],
    /// By [`Role`].
    log_lines_dropped: [Counter; 2],
    /// By [`COMPARED`].
    compared: [Counter; COMPARED.len()],
    candidate_seconds: Histogram,
    candidate_failures: [Counter; 8],
    reloads: [Counter; 2],
    relaxed: Gauge,
    since: Instant,
    /// The second after `since` in which each cause was last told aloud, plus 1.
    told: [AtomicU64; 8],
}

impl PolicyMetrics {
    pub(crate) fn new(module: &str) -> Self {
        describe();
        let module = module.to_owned();
        let this = Self {
            // Measures once in a process what a tick is worth: now, and not for the first request.
            clock: Clock::new(),
            seconds: metrics::histogram!("shield_wasm_execution_duration_seconds", "module" => module.clone()),
            fuel: metrics::counter!("shield_wasm_fuel_consumed_total", "module" => module.clone()),
            fuel_buckets: Default::default(),
            decisions: OUTCOMES.map(|(_, decision)| {
                metrics::counter!("shield_overseer_decisions_total", "module" => module.clone(), "decision" => decision)
            }),
            failures: Cause::ALL.map(|cause| {
                metrics::counter!("shield_overseer_failures_total", "module" => module.clone(), "cause" => cause.as_str())
            }),
            log_lines_dropped: [
                metrics::counter!("shield_overseer_log_lines_dropped_total", "module" => module.clone()),
                metrics::counter!("shield_overseer_candidate_log_lines_dropped_total", "module" => module.clone()),
            ],
            compared: COMPARED.map(|verdict| {
                metrics::counter!("shield_overseer_candidate_total", "module" => module.clone(), "verdict" => verdict)
            }),
            candidate_seconds: metrics::histogram!(
                "shield_overseer_candidate_duration_seconds", "module" => module.clone()
            ),
            candidate_failures: Cause::ALL.map(|cause| {
                metrics::counter!(
                    "shield_overseer_candidate_failures_total", "module" => module.clone(), "cause" => cause.as_str()
                )
            }),
            reloads: ["ok", "refused"].map(|result| {
                metrics::counter!("shield_overseer_reloads_total", "module" => module.clone(), "result" => result)
            }),
            relaxed: metrics::gauge!("shield_overseer_relaxed", "module" => module),
            since: Instant::now(),
            told: Default::default(),
        };
        this.fuel.increment(0);
        let counters = this.decisions.iter().chain(&this.failures).chain(&this.reloads);
        let counters = counters.chain(&this.log_lines_dropped);
        for counter in counters.chain(&this.compared).chain(&this.candidate_failures) {
            counter.increment(0);
        }
        this
    }

    /// 1 while the operator lets requests pass that this policy did not allow (`monitor`, `failure = "open"`).
    pub(crate) fn relaxed(&self, relaxed: bool) {
        self.relaxed.set(if relaxed { 1.0 } else { 0.0 });
    }

    /// Ticks of the clock, for [`Ran`].
    #[inline]
    pub(crate) fn now(&self) -> u64 {
        self.clock.raw()
    }

    pub(crate) fn ran(&self, ran: &Ran) {
        self.seconds.record(self.clock.delta(ran.begun, ran.ended));
        self.fuel.increment(ran.fuel);
        let bucket = FUEL_BUCKETS.partition_point(|most| *most < ran.fuel);
        self.fuel_buckets[bucket].fetch_add(1, Ordering::Relaxed);
        if let Some(outcome) = ran.outcome {
            self.decided(outcome);
        }
    }

    /// What calls took since the chain was configured.
    pub(crate) fn fuel(&self, limit: u64) -> FuelStatus {
        let bounds = FUEL_BUCKETS.into_iter().map(Some).chain([None]);
        let calls = self
            .fuel_buckets
            .iter()
            .map(|calls| calls.load(Ordering::Relaxed));
        FuelStatus {
            limit,
            buckets: bounds
                .zip(calls)
                .map(|(at_most, calls)| FuelBucket { at_most, calls })
                .collect(),
        }
    }

    pub(crate) fn decided(&self, outcome: Outcome) {
        self.decisions[outcome as usize].increment(1);
    }

    pub(crate) fn failed(&self, cause: Cause) {
        self.failures[cause.index()].increment(1);
    }

    /// Whether a failure is worth a warning and an event: once a second for each cause, because whoever can make a policy
    /// fail could fill the log. The counters count all of them.
    pub(crate) fn loud(&self, cause: Cause) -> bool {
        let second = self.since.elapsed().as_secs() + 1;
        self.told[cause.index()].swap(second, Ordering::Relaxed) != second
    }

    /// Lines over the limit of one call.
    pub(crate) fn log_lines_dropped(&self, role: Role, lines: u32) {
        self.log_lines_dropped[role as usize].increment(u64::from(lines));
    }

    /// A module was loaded for this policy while requests run, or refused.
    pub(crate) fn reloaded(&self, ok: bool) {
        self.reloads[usize::from(!ok)].increment(1);
    }

    /// A candidate was compared, or not.
    pub(crate) fn compared(&self, compared: Compared) {
        self.compared[compared as usize].increment(1);
    }

    /// A candidate was called, from `begun` to `ended` by [`PolicyMetrics::now`].
    pub(crate) fn candidate_ran(&self, begun: u64, ended: u64) {
        self.candidate_seconds.record(self.clock.delta(begun, ended));
    }

    /// A candidate gave no verdict.
    pub(crate) fn candidate_failed(&self, cause: Cause) {
        self.candidate_failures[cause.index()].increment(1);
    }
}

impl std::fmt::Debug for PolicyMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PolicyMetrics")
    }
}

/// What the series mean, for whoever reads `/metrics`.
fn describe() {
    use metrics::{Unit::Seconds, describe_counter, describe_gauge, describe_histogram};

    describe_histogram!(
        "shield_wasm_execution_duration_seconds",
        Seconds,
        "time of one call of a policy"
    );
    describe_histogram!(
        "shield_overseer_candidate_duration_seconds",
        Seconds,
        "time of one call of a candidate, beside the request"
    );
    for (name, what) in [
        (
            "shield_wasm_fuel_consumed_total",
            "fuel that a policy's calls took",
        ),
        ("shield_overseer_decisions_total", "what came of a policy's calls"),
        (
            "shield_overseer_failures_total",
            "calls without a verdict, by cause",
        ),
        (
            "shield_overseer_log_lines_dropped_total",
            "lines over log_lines_max that a policy wanted to log",
        ),
        (
            "shield_overseer_candidate_log_lines_dropped_total",
            "lines over log_lines_max that a policy's candidate wanted to log",
        ),
        (
            "shield_overseer_candidate_total",
            "calls of the active module, by whether its candidate agreed, was not asked or was skipped",
        ),
        (
            "shield_overseer_candidate_failures_total",
            "calls of a candidate without a verdict, by cause",
        ),
        (
            "shield_overseer_reloads_total",
            "modules loaded while requests run, and modules refused",
        ),
        (
            "shield_overseer_standby_total",
            "calls that found an instance that stood by, and calls that had to make one",
        ),
    ] {
        describe_counter!(name, what);
    }
    describe_gauge!(
        "shield_overseer_relaxed",
        "1 while the configuration lets pass what a policy did not allow"
    );
}

/// Series of the whole layer.
#[derive(Clone)]
pub(crate) struct StandbyMetrics {
    hit: Counter,
    miss: Counter,
}

impl StandbyMetrics {
    pub(crate) fn new() -> Self {
        let this = Self {
            hit: metrics::counter!("shield_overseer_standby_total", "result" => "hit"),
            miss: metrics::counter!("shield_overseer_standby_total", "result" => "miss"),
        };
        this.hit.increment(0);
        this.miss.increment(0);
        this
    }

    /// So many requests found an instance that stood by, so many did not.
    pub(crate) fn popped(&self, popped: Popped) {
        for (counter, count) in [(&self.hit, popped.hits), (&self.miss, popped.misses)] {
            if count > 0 {
                counter.increment(count);
            }
        }
    }
}

impl std::fmt::Debug for StandbyMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StandbyMetrics")
    }
}
