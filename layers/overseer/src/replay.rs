//! One policy on one recorded request, without a server: what `arqon policy run` does.
//!
//! A guest sees no clock, no randomness and no network, so the same request, configuration and module give the same
//! verdict and the same fuel here as they did live.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use arqon_message::{Claims, Protocol, RemoteAddr, Subject, TenantId};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Uri, request::Parts};
use serde::{Deserialize, Serialize};

use crate::{
    abi::arqon_host_v1::Phase,
    assemble::{self, read_and_load},
    config::{OverseerConfig, PolicyConfig},
    edit::Edit,
    error::{BuildError, ConfigError},
    exchange::{Exchange, LogLine},
    report::LoadReport,
    spec::PolicySpec,
    verdict::Verdict,
    verify::{Loaded, Loader},
};

/// Offline the clock decides nothing that fuel would.
const DEADLINE_MIN: Duration = Duration::from_secs(10);

/// A request as recorded, `R.json` of `arqon policy run`. Every key may be left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RecordedRequest {
    /// Default `GET`.
    pub method: Option<String>,
    /// Path and query. Default `/`.
    pub path: Option<String>,
    /// Header values by name.
    pub headers: BTreeMap<String, HeaderValues>,
    /// The subject.
    pub subject: Option<String>,
    /// The tenant.
    pub tenant: Option<String>,
    /// The client's address and port.
    pub remote_addr: Option<String>,
    /// `http/1.1` (default), `h2`, `ws` or `nats`.
    pub protocol: Option<String>,
    /// The verified claims.
    pub claims: Option<serde_json::Map<String, serde_json::Value>>,
    /// The body as text. Not together with `body_base64`.
    pub body: Option<String>,
    /// The body in base64.
    pub body_base64: Option<String>,
}

/// One value of a header, or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum HeaderValues {
    /// One.
    One(String),
    /// Several, in order.
    Many(Vec<String>),
}

impl HeaderValues {
    fn iter(&self) -> impl Iterator<Item = &str> {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Many(values) => values.as_slice(),
        }
        .iter()
        .map(String::as_str)
    }
}

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
        let mut exchange = Exchange::request(parts, policy.loaded.plan.needs_body.then_some(body));
        exchange.logs = Some(Vec::new());
        if !policy.loaded.compiled.has(Phase::Request.entry()) {
            return Ok(outcome(Verdict::Allow, exchange, 0));
        }
        let (call, exchange) =
            self.loader
                .call(policy.spec.budget, &policy.loaded, Phase::Request, Some(exchange));
        let exchange = exchange.expect("a call hands the exchange back");
        Ok(outcome(call.verdict, exchange, call.fuel))
    }
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

fn outcome(verdict: Verdict, exchange: Exchange, fuel: u64) -> Outcome {
    let logs = exchange.logs.unwrap_or_default();
    match verdict {
        Verdict::Allow => Outcome {
            verdict: "allow".to_owned(),
            status: None,
            reason: None,
            cause: None,
            headers: exchange.edits.iter().map(edit).collect(),
            body_base64: exchange
                .body
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

/// What keeps a record from being a request: the key, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct InvalidRecord {
    /// The key of the record.
    pub key: String,
    /// What is wrong with its value.
    pub problem: String,
}

fn invalid(key: impl Into<String>, problem: impl fmt::Display) -> InvalidRecord {
    InvalidRecord {
        key: key.into(),
        problem: problem.to_string(),
    }
}

impl RecordedRequest {
    /// The request's head with its extensions, and its body.
    ///
    /// # Errors
    ///
    /// The first key that does not hold.
    pub fn parts(&self) -> Result<(Parts, Bytes), InvalidRecord> {
        let (mut parts, ()) = Request::new(()).into_parts();
        if let Some(method) = &self.method {
            parts.method = Method::from_bytes(method.as_bytes()).map_err(|error| invalid("method", error))?;
        }
        if let Some(path) = &self.path {
            parts.uri = path.parse::<Uri>().map_err(|error| invalid("path", error))?;
        }
        for (name, values) in &self.headers {
            let key = || format!("headers.{name}");
            let header = HeaderName::from_bytes(name.as_bytes()).map_err(|error| invalid(key(), error))?;
            for value in values.iter() {
                let value = HeaderValue::from_str(value).map_err(|error| invalid(key(), error))?;
                parts
                    .headers
                    .try_append(header.clone(), value)
                    .map_err(|error| invalid(key(), error))?;
            }
        }
        if let Some(subject) = &self.subject {
            parts
                .extensions
                .insert(Subject::parse(subject).map_err(|error| invalid("subject", error))?);
        }
        if let Some(tenant) = &self.tenant {
            parts
                .extensions
                .insert(TenantId::new(tenant).map_err(|error| invalid("tenant", error))?);
        }
        if let Some(addr) = &self.remote_addr {
            let parsed = addr
                .parse()
                .map_err(|_| invalid("remote_addr", "write an address and a port: 203.0.113.7:4242"))?;
            parts.extensions.insert(RemoteAddr(parsed));
        }
        if let Some(protocol) = &self.protocol {
            let known = [Protocol::Http1, Protocol::H2, Protocol::Ws, Protocol::Nats];
            let found = known.into_iter().find(|known| known.as_str() == protocol);
            parts
                .extensions
                .insert(found.ok_or_else(|| invalid("protocol", "write http/1.1, h2, ws or nats"))?);
        }
        if let Some(claims) = &self.claims {
            parts.extensions.insert(Claims::new(claims.clone()));
        }
        let body = match (&self.body, &self.body_base64) {
            (Some(_), Some(_)) => return Err(invalid("body_base64", "body is there too: keep one")),
            (Some(text), None) => Bytes::from(text.clone()),
            (None, Some(text)) => STANDARD
                .decode(text)
                .map_err(|error| invalid("body_base64", error))?
                .into(),
            (None, None) => Bytes::new(),
        };
        Ok((parts, body))
    }
}
