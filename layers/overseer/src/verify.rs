//! From bytes to a module that may run, or to everything that is wrong with it.

use std::{
    borrow::Cow,
    fmt::Write,
    sync::{Arc, OnceLock},
    time::Instant,
};

use http::Request;
use sha2::{Digest, Sha256};
use wasmtime::Linker;

use crate::{
    abi::arqon_host_v1::{self as abi, Guest, Phase, Plan, Role, State},
    engine::{Budget, Compiled, Engine, Image, PAGES_CLEARED},
    error::{CompileError, EngineError},
    exchange::Lent,
    report::{DryRun, LoadReport},
    run::{self, Call},
    spec::PolicySpec,
    standby::{Refill, Standby, Used},
    trial::Trials,
    verdict::Verdict,
};

/// Caps on a module, checked before it is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LoadLimits {
    pub(crate) memory_bytes_max: usize,
    pub(crate) table_elements_max: usize,
    pub(crate) module_bytes_max: usize,
    pub(crate) functions_max: usize,
    pub(crate) function_bytes_max: usize,
    pub(crate) compile_deadline: std::time::Duration,
}

/// Fuel below which a policy is warned about: the original's 10,000 is 3.6 microseconds of guest time.
const FUEL_LOW: u64 = 100_000;

/// A module that passed every check and is compiled for every shard.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) compiled: Compiled<State>,
    pub(crate) guest: Arc<Guest>,
    pub(crate) plan: Plan,
    pub(crate) sha256: String,
    /// What loading found.
    pub(crate) report: LoadReport,
    pub(crate) standby: Standby,
    /// Where instances may be used again: what their memory is to be like.
    pub(crate) image: Option<Image>,
}

/// Loads modules: the engine, and the host functions linked for each of its shards.
pub(crate) struct Loader {
    pub(crate) engine: Engine,
    /// The host functions for the pools of each kind, linked when the first module needs them.
    linkers: [OnceLock<Box<[Linker<State>]>>; 2],
    pub(crate) limits: LoadLimits,
    pub(crate) refill: Refill,
    pub(crate) trials: Trials,
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader")
            .field("engine", &self.engine)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl Loader {
    pub(crate) fn new(engine: Engine, limits: LoadLimits) -> Result<Self, EngineError> {
        let refill = Refill::start(&engine).map_err(EngineError::Thread)?;
        let trials = Trials::new(engine.settings().shards);
        Ok(Self {
            engine,
            linkers: Default::default(),
            limits,
            refill,
            trials,
        })
    }

    /// Checks, compiles, configures and dry-runs a module. What comes back beside the report is there if it is ok.
    pub(crate) fn load(
        &self,
        spec: &PolicySpec,
        role: Role,
        source: &str,
        bytes: &[u8],
    ) -> (LoadReport, Option<Loaded>) {
        let mut report = LoadReport::new(&spec.guest.name, source);
        let mut loaded = self.try_load(&mut report, spec, role, bytes);
        match &mut loaded {
            Some(loaded) if report.ok => loaded.report = report.clone(),
            _ => loaded = None,
        }
        (report, loaded)
    }

    fn try_load(
        &self,
        report: &mut LoadReport,
        spec: &PolicySpec,
        role: Role,
        bytes: &[u8],
    ) -> Option<Loaded> {
        let sha256 = digest(bytes);
        if let Some(pin) = &spec.sha256
            && !pin.eq_ignore_ascii_case(&sha256)
        {
            report.error(
                "sha256.mismatch",
                "sha256",
                format!("the file has {sha256}, the policy is pinned to {pin}"),
                "put the pinned file back, or change the pin on purpose",
            );
        }
        if bytes.len() > self.limits.module_bytes_max {
            report.error(
                "module.too_large",
                "module",
                format!("the module has more than {} bytes", self.limits.module_bytes_max),
                "strip it (wasm-opt, --strip-all), or raise module_bytes_max",
            );
            return None;
        }
        let wasm = binary(report, bytes)?;
        let plan = abi::inspect(report, &wasm, &sha256, spec.guest.rewrite, &self.limits);
        if spec.budget.fuel < FUEL_LOW {
            report.warning(
                "fuel.low",
                "fuel_limit",
                format!("{} fuel is a few microseconds of guest time", spec.budget.fuel),
                "set fuel_limit to 10_000_000, or budget = \"5ms\"",
            );
        }
        if !report.ok {
            return None;
        }
        let begun = Instant::now();
        let compiled = match self.compile(&wasm, &plan) {
            Ok(compiled) => compiled,
            Err(error) => {
                report.error(
                    "compile.failed",
                    "module",
                    error.to_string(),
                    "make the module smaller or simpler",
                );
                return None;
            }
        };
        if let Some(facts) = &mut report.facts {
            facts.compile_ms = Some(begun.elapsed().as_secs_f64() * 1_000.0);
        }
        let standby = Standby::new(self.engine.settings().shards);
        let mut loaded = Loaded {
            image: None,
            standby,
            compiled,
            guest: Arc::clone(&spec.guest),
            plan,
            sha256,
            report: report.clone(),
        };
        self.configure(report, spec, role, &loaded);
        if report.ok {
            self.dry_run(report, spec, role, &loaded);
        }
        // Where there is no scan, larger ones are of the same pool: to write one over whole costs more than a new one.
        if loaded.plan.is_in_memory && loaded.plan.pages <= PAGES_CLEARED {
            let phase = Phase::Request;
            let fresh = loaded.compiled.has(phase.entry()).then(|| {
                let shard = self.engine.shard();
                run::instantiate(&self.engine, shard, &loaded, phase, role, spec.budget)
            });
            loaded.image = fresh.and_then(Result::ok).map(|fresh| fresh.image());
        }
        Some(loaded)
    }

    fn compile(&self, wasm: &[u8], plan: &Plan) -> Result<Compiled<State>, CompileError> {
        let reset = self.engine.reset(plan.pages);
        let shards = self
            .engine
            .pools(reset)
            .map_err(|error| CompileError::Refused(error.to_string()))?;
        let linked = &self.linkers[reset as usize];
        let linkers = match linked.get() {
            Some(linkers) => linkers,
            None => {
                let linkers = abi::link(shards).map_err(CompileError::refused)?;
                linked.get_or_init(|| linkers)
            }
        };
        let (compiler, cache) = (self.engine.compiler(), self.engine.cache());
        let deadline = self.limits.compile_deadline;
        abi::compile(shards, linkers, wasm, plan, compiler, cache, deadline)
    }

    /// Lets the guest look at its configuration; anything but 0 refuses the load.
    fn configure(&self, report: &mut LoadReport, spec: &PolicySpec, role: Role, loaded: &Loaded) {
        if !loaded.plan.configures {
            return;
        }
        let (outcome, _) = self.call(spec.budget, loaded, Phase::Configure, role, None);
        match outcome.verdict {
            Verdict::Allow => {}
            Verdict::Deny(denial) => {
                let reason = if denial.reason.is_empty() {
                    "no reason given"
                } else {
                    &denial.reason
                };
                report.error(
                    "configure.refused",
                    "config",
                    format!("the policy refused its configuration: {reason}"),
                    "correct `config`",
                );
            }
            Verdict::Fail(cause, detail) => report.error(
                "configure.failed",
                "on_configure",
                format!("on_configure ended with {cause}: {detail}"),
                "correct `config`, or the policy",
            ),
        }
    }

    /// Runs the policy on an empty request. Start functions that fail refuse the load; the rest is worth a warning.
    fn dry_run(&self, report: &mut LoadReport, spec: &PolicySpec, role: Role, loaded: &Loaded) {
        let phase = if loaded.compiled.has(Phase::Request.entry()) {
            Phase::Request
        } else {
            Phase::Response
        };
        let (request, ()) = Request::new(()).into_parts();
        let mut exchange = Lent::request(request, Some(bytes::Bytes::new()));
        if phase == Phase::Response {
            exchange.response = Some(Box::new(http::Response::new(()).into_parts().0));
            exchange.body = None;
        }
        let (outcome, _) = self.call(spec.budget, loaded, phase, role, Some(exchange));
        let (verdict, cause) = match &outcome.verdict {
            Verdict::Allow => ("allow", None),
            Verdict::Deny(_) => ("reject", None),
            Verdict::Fail(cause, detail) => {
                if outcome.started {
                    report.warning(
                        "dry_run.failed",
                        "on_request",
                        format!("on an empty GET / the policy ended with {cause}: {detail}"),
                        "make it give a verdict on every request",
                    );
                } else {
                    report.error(
                        "start.failed",
                        "start",
                        format!("the start function ended with {cause}: {detail}"),
                        "make no host calls but host_log before a request",
                    );
                }
                ("failed", Some(*cause))
            }
        };
        if let Some(facts) = &mut report.facts {
            facts.dry_run = Some(DryRun {
                verdict: verdict.to_owned(),
                cause,
                fuel: outcome.fuel,
            });
        }
    }

    /// Calls the module in an instance that stood by, else in one made now.
    ///
    /// What it amended stays in the exchange only if it allowed.
    pub(crate) fn call(
        &self,
        budget: Budget,
        loaded: &Loaded,
        phase: Phase,
        role: Role,
        exchange: Option<Lent>,
    ) -> (Call, Option<Lent>) {
        let (call, exchange, used) = self.call_and_keep(budget, loaded, phase, role, exchange);
        self.refill.retire(used, None);
        if let Some(metrics) = loaded.guest.metrics.get() {
            metrics.log_lines_dropped(role, call.logs_dropped);
        }
        (call, exchange)
    }

    /// As [`Loader::call`]; hands the instance on, to be retired.
    #[inline(always)]
    pub(crate) fn call_and_keep(
        &self,
        budget: Budget,
        loaded: &Loaded,
        phase: Phase,
        role: Role,
        exchange: Option<Lent>,
    ) -> (Call, Option<Lent>, Option<Used>) {
        let shard = self.engine.shard();
        let mut stood_by = None;
        if phase == Phase::Request && self.refill.is_on() {
            stood_by = loaded.standby.pop(shard);
        }
        let ready = match stood_by {
            Some(ready) => Ok(ready),
            None => run::instantiate(&self.engine, shard, loaded, phase, role, budget),
        };
        match ready {
            Ok(ready) => {
                let (call, exchange, ready) = run::call(ready, phase, exchange, budget);
                (call, exchange, Some(Used { shard, ready }))
            }
            Err(verdict) => (
                Call {
                    verdict,
                    fuel: 0,
                    started: false,
                    logs_dropped: 0,
                },
                exchange,
                None,
            ),
        }
    }
}

/// The binary form of a module given as WAT or Wasm.
fn binary<'a>(report: &mut LoadReport, bytes: &'a [u8]) -> Option<Cow<'a, [u8]>> {
    if bytes.starts_with(b"\0asm") {
        return Some(Cow::Borrowed(bytes));
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        report.error(
            "module.unreadable",
            "module",
            "the file is neither a Wasm binary (it would start with \\0asm) nor WAT text",
            "give a .wasm or a .wat file",
        );
        return None;
    };
    if text.trim().is_empty() {
        report.error(
            "module.empty",
            "module",
            "the file is empty",
            "give a .wasm or a .wat file",
        );
        return None;
    }
    match wat::parse_str(text) {
        Ok(wasm) => Some(Cow::Owned(wasm)),
        Err(error) => {
            // What it says first, on one line: the picture of the place below it is for a terminal.
            let said = error.to_string();
            let words: Vec<_> = said.split_whitespace().take(24).collect();
            let detail = abi::visible(words.join(" ").as_bytes(), 1_024);
            report.error(
                "module.text",
                "module",
                format!("the WAT does not parse: {detail}"),
                "correct the text",
            );
            None
        }
    }
}

/// SHA-256 in hex, as `sha256sum` prints it.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let bytes = Sha256::digest(bytes);
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a string takes all that is written");
    }
    text
}
