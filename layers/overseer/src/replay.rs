//! One policy on one recorded request, without a server: what `arqon policy run` does.
//!
//! A guest sees no clock, no randomness and no network, so the same request, configuration and module give the same
//! verdict and the same fuel here as they did live.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderValue;
use serde::{Deserialize, Serialize};

use crate::{
    abi::arqon_host_v1::{Phase, Role},
    assemble::{self, read_and_load},
    config::{OverseerConfig, PolicyConfig},
    edit::Edit,
    error::{BuildError, ConfigError},
    exchange::{Lent, LogLine, Masked},
    record::{InvalidRecord, RecordedRequest},
    report::LoadReport,
    spec::PolicySpec,
    verdict::Verdict,
    verify::{Loaded, Loader},
};

/// Offline the clock decides nothing that fuel would.
const DEADLINE_MIN: Duration = Duration::from_secs(10);

/// What a policy did with a request: the object that `arqon policy run --json` prints, every key always there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// `allow` or `reject`.
    pub verdict: String,
    /// The status of the refusal; `null` for `allow`.
    pub status: Option<u16>,
    /// Why: the policy's reason, or what went wrong; `null` for `allow`.
    pub reason: Option<String>,
    /// `denied`, or the cause for which there was no verdict; `null` for `allow`.
    pub cause: Option<String>,
    /// Header edits in order: `add`, `set` or `remove`, the name, the value (`null` for `remove`).
    pub headers: Vec<(String, String, Option<String>)>,
    /// The new payload, if the policy replaced it.
    pub body_base64: Option<String>,
    /// What it logged.
    pub logs: Vec<LogLine>,
    /// Fuel it used, host calls included.
    pub fuel: u64,
}

/// What replaying a record came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Replayed {
    /// What the policy did with what the record holds.
    pub outcome: Outcome,
    /// What it was given of which the record has only the length: headers, and `:query`.
    pub masked_read: Vec<String>,
}

impl Outcome {
    /// Whether the policy let the request pass.
    #[must_use]
    pub fn allows(&self) -> bool {
        self.verdict == "allow"
    }
}

/// Loads policies and runs them on recorded requests: the engine of [`OverseerLayer`](crate::OverseerLayer) without the
/// layer.
///
/// ```
/// use arqon_overseer::{PolicyConfig, PolicyEngine, RecordedRequest};
///
/// let engine = PolicyEngine::new()?;
/// let wat = r#"(module
///   (memory (export "memory") 1)
///   (global (export "arqon_abi_v1") i32 (i32.const 1))
///   (func (export "on_request") (result i32) i32.const 1))"#;
/// let policy = engine.load(&PolicyConfig::from_module("no", wat))?;
/// let outcome = engine.validate_with_context(&policy, &RecordedRequest::default())?;
/// assert_eq!((outcome.verdict.as_str(), outcome.status), ("reject", Some(403)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct PolicyEngine {
    loader: Loader,
    config: OverseerConfig,
}

/// A policy that was loaded by a [`PolicyEngine`].
#[derive(Debug)]
pub struct LoadedPolicy {
    spec: PolicySpec,
    loaded: Arc<Loaded>,
    report: LoadReport,
}

impl LoadedPolicy {
    /// What loading found.
    #[must_use]
    pub const fn report(&self) -> &LoadReport {
        &self.report
    }
}

impl PolicyEngine {
    /// An engine with the default limits.
    ///
    /// # Errors
    ///
    /// When the system refuses the address space or a thread.
    pub fn new() -> Result<Self, BuildError> {
        Self::with_limits(&OverseerConfig::default())
    }

    /// An engine with the limits of `config`; its policies do not matter. The deadline is at least ten seconds, so that
    /// the outcome depends on fuel and not on how busy this machine is.
    ///
    /// # Errors
    ///
    /// Also everything wrong with the limits.
    pub fn with_limits(config: &OverseerConfig) -> Result<Self, BuildError> {
        let config = OverseerConfig {
            shards: 1,
            standby: 0,
            policies: Vec::new(),
            enabled: true,
            ..config.clone()
        };
        let parsed = config.parse().map_err(BuildError::Config)?;
        let (loader, _) = assemble::loader(parsed)?;
        Ok(Self { loader, config })
    }

    /// Everything there is to say about a policy's module.
    #[must_use]
    pub fn check(&self, policy: &PolicyConfig) -> LoadReport {
        match self.load(policy) {
            Ok(policy) => policy.report,
            Err(report) => *report,
        }
    }

    /// Loads a policy.
    ///
    /// # Errors
    ///
    /// Everything wrong with its configuration and its module.
    pub fn load(&self, policy: &PolicyConfig) -> Result<LoadedPolicy, Box<LoadReport>> {
        let spec = self.spec(policy).map_err(|errors| {
            let mut report = LoadReport::new(&policy.name, &policy.path.to_string_lossy());
            for ConfigError {
                key,
                value,
                problem,
                fix,
            } in errors
            {
                report.error("config.invalid", key, format!("{value}: {problem}"), fix);
            }
            Box::new(report)
        })?;
        match read_and_load(&self.loader, &spec) {
            (report, Some(loaded)) => Ok(LoadedPolicy {
                spec,
                loaded: Arc::new(loaded),
                report,
            }),
            (report, None) => Err(Box::new(report)),
        }
    }

    fn spec(&self, policy: &PolicyConfig) -> Result<PolicySpec, Vec<ConfigError>> {
        let config = OverseerConfig {
            policies: vec![policy.clone()],
            ..self.config.clone()
        };
        let mut parsed = config.parse()?;
        parsed.deadline = parsed.deadline.max(DEADLINE_MIN);
        let fuel = match parsed.fuel {
            crate::config::Fuel::Units(fuel) => fuel,
            crate::config::Fuel::Worth(time) => {
                let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
                let rate = self.loader.engine.fuel_per_ms().map_err(|error| {
                    vec![ConfigError::new(
                        "budget",
                        "",
                        error.to_string(),
                        "set fuel_limit instead",
                    )]
                })?;
                rate.saturating_mul(micros) / 1_000
            }
        };
        parsed.set_fuel(fuel);
        parsed.policies.pop().ok_or_else(Vec::new)
    }

    /// Runs the policy on a request. The scope of the policy does not matter here; `mode` and `failure` neither: the
    /// outcome is the policy's own.
    ///
    /// # Errors
    ///
    /// When the record is no request.
    pub fn validate_with_context(
        &self,
        policy: &LoadedPolicy,
        request: &RecordedRequest,
    ) -> Result<Outcome, InvalidRecord> {
        let (parts, body) = request.parts()?;
        if body.len() > self.config.max_body_bytes {
            return Ok(refusal(
                413,
                "body",
                "the body is larger than max_body_bytes".to_owned(),
            ));
        }
        let mut exchange = Lent::request(parts, policy.loaded.plan.needs_body.then_some(body));
        exchange.logs = Some(Vec::new());
        Ok(self.call(policy, exchange).0)
    }

    /// As [`PolicyEngine::validate_with_context`], and which masked values of the request the policy was given: what it
    /// said does not count then, for it never saw them.
    ///
    /// # Errors
    ///
    /// When the record is no request.
    pub fn replay(
        &self,
        policy: &LoadedPolicy,
        request: &RecordedRequest,
    ) -> Result<Replayed, InvalidRecord> {
        let (parts, body) = request.parts()?;
        if body.len() > self.config.max_body_bytes {
            let outcome = self.validate_with_context(policy, request)?;
            return Ok(Replayed {
                outcome,
                masked_read: Vec::new(),
            });
        }
        let mut exchange = Lent::request(parts, policy.loaded.plan.needs_body.then_some(body));
        exchange.logs = Some(Vec::new());
        exchange.masked = (!request.masked.is_empty()).then(|| {
            Box::new(Masked {
                names: request.masked.clone(),
                read: Vec::new(),
            })
        });
        let (outcome, masked) = self.call(policy, exchange);
        Ok(Replayed {
            outcome,
            masked_read: masked.map(|masked| masked.read).unwrap_or_default(),
        })
    }

    fn call(&self, policy: &LoadedPolicy, exchange: Lent) -> (Outcome, Option<Box<Masked>>) {
        if !policy.loaded.compiled.has(Phase::Request.entry()) {
            return (outcome(Verdict::Allow, exchange, 0), None);
        }
        let budget = policy.spec.budget;
        let (call, exchange) = self.loader.call(
            budget,
            &policy.loaded,
            Phase::Request,
            Role::Active,
            Some(exchange),
        );
        let mut exchange = exchange.expect("a call hands the exchange back");
        let masked = exchange.masked.take();
        (outcome(call.verdict, exchange, call.fuel), masked)
    }

    /// Calls the policy `count` times (at least once) on a request and takes the time.
    ///
    /// # Errors
    ///
    /// As [`PolicyEngine::validate_with_context`].
    pub fn time(
        &self,
        policy: &LoadedPolicy,
        request: &RecordedRequest,
        count: usize,
    ) -> Result<Timing, InvalidRecord> {
        let outcome = self.validate_with_context(policy, request)?;
        let (parts, body) = request.parts()?;
        let exchange = Lent::request(parts, policy.loaded.plan.needs_body.then_some(body));
        let mut nanos: Vec<u64> = (0..count.max(1))
            .map(|_| {
                let exchange = exchange.clone();
                let begun = Instant::now();
                drop(self.call(policy, exchange));
                u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
            })
            .collect();
        nanos.sort_unstable();
        Ok(Timing {
            count: nanos.len(),
            nanos_best: nanos[0],
            nanos_p50: nanos[nanos.len() / 2],
            nanos_p99: nanos[nanos.len() * 99 / 100],
            outcome,
        })
    }
}

/// What a policy takes on one request, an instance made for each call: what `arqon policy bench` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// How often it was called.
    pub count: usize,
    /// Nanoseconds of the quickest call, instance included.
    pub nanos_best: u64,
    /// Nanoseconds at the median.
    pub nanos_p50: u64,
    /// Nanoseconds at the 99th percentile.
    pub nanos_p99: u64,
    /// How it answered.
    pub outcome: Outcome,
}

fn refusal(status: u16, cause: &str, reason: String) -> Outcome {
    Outcome {
        verdict: "reject".to_owned(),
        status: Some(status),
        reason: Some(reason),
        cause: Some(cause.to_owned()),
        headers: Vec::new(),
        body_base64: None,
        logs: Vec::new(),
        fuel: 0,
    }
}

fn outcome(verdict: Verdict, mut exchange: Lent, fuel: u64) -> Outcome {
    let logs = exchange.logs.take().unwrap_or_default();
    match verdict {
        Verdict::Allow => Outcome {
            verdict: "allow".to_owned(),
            status: None,
            reason: None,
            cause: None,
            headers: exchange.edits.iter().map(edit).collect(),
            body_base64: exchange
                .body
                .as_ref()
                .filter(|_| exchange.rewritten)
                .map(|body| STANDARD.encode(body)),
            logs,
            fuel,
        },
        Verdict::Deny(denial) => Outcome {
            logs,
            fuel,
            ..refusal(denial.status, "denied", denial.reason)
        },
        Verdict::Fail(cause, detail) => Outcome {
            logs,
            fuel,
            ..refusal(cause.code().status().as_u16(), cause.as_str(), detail)
        },
    }
}

fn edit(edit: &Edit) -> (String, String, Option<String>) {
    let text = |value: &HeaderValue| Some(String::from_utf8_lossy(value.as_bytes()).into_owned());
    let (what, value) = match edit {
        Edit::Add(_, value) => ("add", text(value)),
        Edit::Set(_, value) => ("set", text(value)),
        Edit::Remove(_) => ("remove", None),
    };
    (what.to_owned(), edit.name().to_string(), value)
}
