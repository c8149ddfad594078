//! From what the file says to what the layer runs by, or to everything that is wrong with it.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Arc, OnceLock},
    thread,
    time::Duration,
};

use arqon_message::{SubjectPattern, TenantId};
use bytes::Bytes;
use http::{HeaderName, Method};

use super::{
    FailureConfig, OverseerConfig, POLICIES_MAX, PolicyConfig,
    findings::{Findings, quoted},
};
use crate::{
    abi::{
        arqon_host_v1::{Guest, GuestLimits},
        shape::PAGE_BYTES,
    },
    edit,
    engine::{Budget, ModuleCache, REST_MAX, Settings},
    error::ConfigError,
    recorder::RecordSettings,
    scope::{Route, Scope},
    spec::{PolicySpec, Source},
    verdict::Cause,
    verify::LoadLimits,
};

/// Fuel when nothing is said: 0.7 ms of a byte loop, 7 ms of a chain of square roots.
const FUEL_DEFAULT: u64 = 10_000_000;
const DEADLINE_DEFAULT: Duration = Duration::from_millis(5);
/// Slots of a pool beyond what runs and stands by: loading, dry runs, instances being dropped.
const SPARE_SLOTS: usize = 16;
/// Slots for what runs at once on one shard: a call does not leave its thread, so more would mean as many threads.
const RUNNING_MAX: usize = 256;
/// Slots of all pools together: each takes 4 GiB of address space, which is 32 TiB of the 128 there are.
const SLOTS_MAX: usize = 8_192;

/// How much fuel a call gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fuel {
    Units(u64),
    /// As much as this time is worth on this machine.
    Worth(Duration),
}

/// A configuration in which everything holds.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) enabled: bool,
    pub(crate) fuel: Fuel,
    pub(crate) deadline: Duration,
    pub(crate) pool_wait: Duration,
    pub(crate) body_bytes_max: usize,
    pub(crate) settings: Settings,
    pub(crate) load: LoadLimits,
    pub(crate) record: Option<RecordSettings>,
    /// Their budgets are filled in by `Parsed::set_fuel`.
    pub(crate) policies: Vec<PolicySpec>,
}

impl Parsed {
    /// Gives every policy its budget, once the fuel is known.
    pub(crate) fn set_fuel(&mut self, fuel: u64) {
        for policy in &mut self.policies {
            policy.budget = Budget {
                fuel,
                deadline: self.deadline,
            };
        }
    }
}

impl OverseerConfig {
    /// Judges everything at once.
    pub(crate) fn parse(&self) -> Result<Parsed, Vec<ConfigError>> {
        let mut findings = Findings::default();
        let (fuel, deadline) = self.fuel(&mut findings);
        self.limits(&mut findings);
        let (min, max) = (Duration::from_millis(1), Duration::from_secs(60));
        let wait = Duration::from_millis(50);
        let pool_wait = findings.span("pool_wait", &self.pool_wait, Duration::ZERO, max, wait);
        let compile = Duration::from_secs(5);
        let compile_deadline = findings.span("compile_deadline", &self.compile_deadline, min, max, compile);
        if self.watch_interval != "0s" {
            let looks = Duration::from_millis(500);
            findings.span(
                "watch_interval",
                &self.watch_interval,
                Duration::from_millis(10),
                max,
                looks,
            );
        }
        if self.policies.len() > POLICIES_MAX {
            findings.add(
                "policies",
                self.policies.len(),
                format!("a chain has at most {POLICIES_MAX} policies"),
                "merge policies, or run a second layer",
            );
        }
        let limits = GuestLimits {
            log_bytes_max: self.log_bytes_max,
            log_lines_max: self.log_lines_max,
            reason_bytes_max: self.reason_bytes_max,
            header_edits_max: self.header_edits_max,
            header_bytes_max: self.header_bytes_max,
            body_bytes_max: self.max_body_bytes,
        };
        let record = self.record.as_ref().map(|record| record.parse(&mut findings));
        let mut names = BTreeSet::new();
        let mut policies = Vec::new();
        for (at, policy) in self.policies.iter().enumerate() {
            let key = format!("policies[{at}]");
            if !names.insert(policy.name.as_str()) && !policy.name.is_empty() {
                findings.add(
                    &format!("{key}.name"),
                    quoted(&policy.name),
                    "another policy has this name",
                    "name each policy differently",
                );
            }
            policies.extend(policy.parse(&key, limits, &mut findings));
        }
        if findings.0.is_empty() {
            let load = LoadLimits {
                memory_bytes_max: self.memory_bytes_max,
                table_elements_max: self.table_elements_max,
                module_bytes_max: self.module_bytes_max,
                functions_max: self.functions_max,
                function_bytes_max: self.function_bytes_max,
                compile_deadline,
            };
            let settings = self.settings(policies.len(), deadline);
            let record = record.flatten();
            let (enabled, body_bytes_max) = (self.enabled, self.max_body_bytes);
            Ok(Parsed {
                enabled,
                fuel,
                deadline,
                pool_wait,
                body_bytes_max,
                settings,
                load,
                record,
                policies,
            })
        } else {
            Err(findings.0)
        }
    }

    fn fuel(&self, findings: &mut Findings) -> (Fuel, Duration) {
        let (min, max) = (Duration::from_micros(10), Duration::from_secs(10));
        let budget = self
            .budget
            .as_ref()
            .map(|text| findings.span("budget", text, min, max, DEADLINE_DEFAULT));
        let fuel = match (self.fuel_limit, budget) {
            (Some(fuel), Some(_)) => {
                findings.add(
                    "budget",
                    fuel,
                    "fuel_limit is set too",
                    "keep one of fuel_limit and budget",
                );
                Fuel::Units(fuel)
            }
            (Some(0), None) => {
                findings.add(
                    "fuel_limit",
                    0,
                    "no policy can run without fuel",
                    "write fuel_limit = 10_000_000",
                );
                Fuel::Units(0)
            }
            (Some(fuel), None) => Fuel::Units(fuel),
            (None, Some(time)) => Fuel::Worth(time),
            (None, None) => Fuel::Units(FUEL_DEFAULT),
        };
        let min = Duration::from_millis(1);
        let deadline = match &self.deadline {
            Some(text) => findings.span("deadline", text, min, max, DEADLINE_DEFAULT),
            None => budget.unwrap_or(DEADLINE_DEFAULT),
        };
        (fuel, deadline)
    }

    fn limits(&self, findings: &mut Findings) {
        let page = usize::try_from(PAGE_BYTES).unwrap_or(usize::MAX);
        findings.within("max_body_bytes", self.max_body_bytes, 1, 1 << 30);
        findings.within("memory_bytes_max", self.memory_bytes_max, page, 1 << 30);
        if !self.memory_bytes_max.is_multiple_of(page) {
            let fix = self.memory_bytes_max.next_multiple_of(page);
            findings.add(
                "memory_bytes_max",
                self.memory_bytes_max,
                "it is no multiple of 65536, a Wasm page",
                format!("write {fix}"),
            );
        }
        findings.within("stack_bytes_max", self.stack_bytes_max, 16 << 10, 1 << 20);
        findings.within("table_elements_max", self.table_elements_max, 1, 1 << 20);
        findings.within("concurrency", self.concurrency, 1, 4_096);
        findings.within("standby", self.standby, 0, 1_024);
        findings.within("shards", self.shards, 0, 64);
        findings.within("log_bytes_max", self.log_bytes_max, 16, 1 << 20);
        findings.within("reason_bytes_max", self.reason_bytes_max, 0, 4_096);
        findings.within("header_edits_max", self.header_edits_max, 0, 1_024);
        findings.within("header_bytes_max", self.header_bytes_max, 0, 1 << 20);
        findings.within("module_bytes_max", self.module_bytes_max, 8, 1 << 28);
        if let Some(folder) = self.cache_dir.as_ref().filter(|_| !ModuleCache::AVAILABLE) {
            let problem = "this build has no module cache";
            findings.add(
                "cache_dir",
                folder.display(),
                problem,
                "build arqon-overseer with its feature `cache`",
            );
        }
        findings.within("functions_max", self.functions_max, 1, 1_000_000);
        findings.within("function_bytes_max", self.function_bytes_max, 1, 1 << 24);
    }

    fn settings(&self, policies: usize, deadline: Duration) -> Settings {
        let cpus = thread::available_parallelism().map_or(1, usize::from).min(16);
        let shards = if self.shards == 0 { cpus } else { self.shards };
        let running = self.concurrency.min(RUNNING_MAX);
        // Standing by: every policy, the module it replaced, and as many used ones that wait to be dropped.
        let queues = 2 * policies.max(1) + 1;
        let room = (SLOTS_MAX / shards).saturating_sub(running + SPARE_SLOTS);
        let standby = self.standby.min(room / queues);
        let slots = running + queues * standby + SPARE_SLOTS;
        Settings {
            shards,
            concurrency: self.concurrency,
            standby,
            slots: u32::try_from(slots).unwrap_or(u32::MAX),
            slots_warm: u32::try_from(2 * standby + SPARE_SLOTS).unwrap_or(u32::MAX),
            memory_bytes_max: self.memory_bytes_max,
            table_elements_max: self.table_elements_max,
            stack_bytes_max: self.stack_bytes_max,
            pagemap_scan: self.pagemap_scan,
            rest: deadline.min(REST_MAX),
            cache_dir: self.cache_dir.clone(),
        }
    }
}

impl PolicyConfig {
    /// The policy, if everything about it holds.
    fn parse(&self, key: &str, limits: GuestLimits, findings: &mut Findings) -> Option<PolicySpec> {
        let before = findings.0.len();
        let at = |field: &str| format!("{key}.{field}");
        if TenantId::new(&self.name).is_err() {
            let problem = if self.name.is_empty() {
                "the policy has no name"
            } else {
                "this is no name"
            };
            findings.add(
                &at("name"),
                quoted(&self.name),
                problem,
                "use 1 to 64 letters, digits, _ and -",
            );
        }
        let source = self.source(&at("path"), findings);
        if let Some(pin) = &self.sha256
            && (pin.len() != 64 || !pin.bytes().all(|byte| byte.is_ascii_hexdigit()))
        {
            findings.add(
                &at("sha256"),
                quoted(pin),
                "this is no SHA-256",
                "write the 64 hex digits of `sha256sum`",
            );
        }
        let monitor = findings.one_of(&at("mode"), &self.mode, &["enforce", "monitor"]) == Some("monitor");
        let close = findings.one_of(&at("on_reject"), &self.on_reject, &["nack", "close"]) == Some("close");
        let mut rewrite = false;
        for (grant, text) in self.grants.iter().enumerate() {
            let key = format!("{key}.grants[{grant}]");
            rewrite |= findings.one_of(&key, text, &["rewrite"]).is_some();
        }
        let scope = self.scope(key, findings);
        let headers = self.editable(key, findings);
        let open = self.open(&at("failure"), findings);
        (findings.0.len() == before).then(|| PolicySpec {
            guest: Arc::new(Guest {
                name: self.name.as_str().into(),
                config: Bytes::from(self.config.clone().unwrap_or_default()),
                rewrite,
                headers,
                limits,
                metrics: OnceLock::new(),
            }),
            source,
            sha256: self.sha256.clone(),
            scope,
            monitor,
            open,
            close_session: close,
            budget: Budget {
                fuel: FUEL_DEFAULT,
                deadline: DEADLINE_DEFAULT,
            },
        })
    }

    fn source(&self, key: &str, findings: &mut Findings) -> Source {
        match &self.module {
            Some(module) => Source::Inline(module.clone()),
            None if self.path.as_os_str().is_empty() => {
                findings.add(
                    key,
                    "\"\"",
                    "the policy has no module",
                    "write the path of a .wasm or .wat file",
                );
                Source::Path(PathBuf::new())
            }
            None => Source::Path(self.path.clone()),
        }
    }

    fn scope(&self, key: &str, findings: &mut Findings) -> Scope {
        let mut methods = Vec::new();
        for (at, text) in self.methods.iter().enumerate() {
            match Method::from_bytes(text.as_bytes()) {
                Ok(method) if !text.bytes().any(|byte| byte.is_ascii_lowercase()) => methods.push(method),
                _ => findings.add(
                    &format!("{key}.methods[{at}]"),
                    quoted(text),
                    "this is no method",
                    format!("write {:?}", text.trim().to_ascii_uppercase()),
                ),
            }
        }
        let route = self.route.as_ref().and_then(|text| match Route::parse(text) {
            Ok(route) => Some(route),
            Err(fix) => {
                findings.add(
                    &format!("{key}.route"),
                    quoted(text),
                    "this is no path pattern",
                    fix,
                );
                None
            }
        });
        let subject = self
            .subject
            .as_ref()
            .and_then(|text| match SubjectPattern::parse(text) {
                Ok(pattern) => Some(pattern),
                Err(error) => {
                    let fix = "write tokens with dots between, `*` for one token, `>` last for the rest";
                    findings.add(&format!("{key}.subject"), quoted(text), error.to_string(), fix);
                    None
                }
            });
        let tenant = self.tenant.as_ref().and_then(|text| match TenantId::new(text) {
            Ok(tenant) => Some(tenant),
            Err(error) => {
                let fix = "use 1 to 64 letters, digits, _ and -";
                findings.add(&format!("{key}.tenant"), quoted(text), error.to_string(), fix);
                None
            }
        });
        Scope {
            methods: methods.into(),
            route,
            subject,
            tenant,
        }
    }

    fn editable(&self, key: &str, findings: &mut Findings) -> Option<Box<[HeaderName]>> {
        let names = self.headers.as_ref()?;
        let mut parsed = Vec::with_capacity(names.len());
        for (at, text) in names.iter().enumerate() {
            let key = format!("{key}.headers[{at}]");
            match HeaderName::from_bytes(text.as_bytes()) {
                Ok(name) if edit::is_reserved(name.as_str()) => {
                    findings.add(
                        &key,
                        quoted(text),
                        "no policy may edit this header",
                        "leave it out",
                    );
                }
                Ok(name) => parsed.push(name),
                Err(_) => findings.add(
                    &key,
                    quoted(text),
                    "this is no header name",
                    "write a name such as x-role",
                ),
            }
        }
        Some(parsed.into())
    }

    /// For which causes a failure lets the request pass, by `Cause::index`.
    fn open(&self, key: &str, findings: &mut Findings) -> [bool; 8] {
        const CHOICES: [&str; 2] = ["closed", "open"];
        let mut open = [false; 8];
        match &self.failure {
            FailureConfig::Same(text) => {
                if findings.one_of(key, text, &CHOICES) == Some("open") {
                    open = [true; 8];
                    // A body that could not be read cannot be handed on, whatever the policy would have said.
                    open[Cause::Body.index()] = false;
                }
            }
            FailureConfig::ByCause(table) => {
                let known = Cause::ALL.map(Cause::as_str);
                for (name, text) in table {
                    let key = format!("{key}.{name}");
                    let cause = findings.one_of(&key, name, &known);
                    let chosen = findings.one_of(&key, text, &CHOICES) == Some("open");
                    if let Some(cause) = Cause::ALL.into_iter().find(|known| Some(known.as_str()) == cause) {
                        if cause == Cause::Body && chosen {
                            findings.add(
                                &key,
                                quoted(text),
                                "a body that could not be read cannot be handed on",
                                "write \"closed\", or leave it out",
                            );
                        }
                        open[cause.index()] = chosen;
                    }
                }
            }
        }
        open
    }
}
