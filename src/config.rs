//! The configuration of a whole program: file, environment and flags, read once into typed sections.
//!
//! Flags go before the environment (`ARQON_*`, where `__` nests: `ARQON_GATEWAY__LISTEN`), that before the file, that
//! before the defaults; `RON_BUS_CAPACITY` and its like are the bus's own variables. Paths are relative to the file. Every finding is
//! reported at once, with its key, its value and what would mend it; an unknown key is an error.

mod auth;
mod edge;
#[cfg(feature = "cli")]
mod flags;
mod gateway;
mod nats;
mod origin;
mod read;
mod reload;
#[cfg(feature = "cli")]
mod schema;
mod sources;
mod url;

use std::{fmt, path::Path};

use arqon_overseer::OverseerConfig;
pub use arqon_rollout::Config as GovernanceConfig;
use arqon_schema::RegistryConfig;
use arqon_shadow::ShadowConfig;
use figment::{
    Figment,
    providers::{Format, Toml},
};
use serde::Serialize;
use serde_json::Value;

pub(crate) use self::url::{shown_url, urls_of, user_of, without_user};
pub use self::{
    auth::{AuthConfig, IssuerConfig},
    edge::{RateLimitConfig, TlsConfig, WebSocketConfig},
    gateway::{BusSection, GatewayConfig, LogFormat, TelemetryConfig, amnesia, control_token},
    nats::{NatsConfig, NatsServeConfig, NatsUserConfig},
    origin::{Origin, Place},
    read::Finding,
};
#[cfg(feature = "cli")]
#[cfg_attr(docsrs, doc(cfg(feature = "cli")))]
pub use self::{flags::ConfigFlags, schema::schema};
use self::{
    read::Known,
    sources::{figment, flag_of, nameless, source_of, variable_of},
};

/// Everything that `gateway.toml` can say (DESIGN 14).
#[derive(Clone, Debug, Default, Serialize)]
pub struct Config {
    /// `[gateway]`
    pub gateway: GatewayConfig,
    /// `[nats]`; `None` is the embedded engine.
    pub nats: Option<NatsConfig>,
    /// `[auth]`; `None` authenticates nobody.
    pub auth: Option<AuthConfig>,
    /// `[bus]`
    pub bus: BusSection,
    /// `[telemetry]`
    pub telemetry: TelemetryConfig,
    /// `[platform.*]`
    pub platform: PlatformConfig,
}

/// The four layers' sections. A section that is absent is a layer that has nothing to do.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PlatformConfig {
    /// `[platform.overseer]`
    pub overseer: OverseerConfig,
    /// `[platform.registry]`
    pub registry: RegistryConfig,
    /// `[platform.rollout]`
    pub rollout: GovernanceConfig,
    /// `[platform.mirroring]`
    pub mirroring: ShadowConfig,
}

/// All that does not hold in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidConfig(pub Vec<Finding>);

impl fmt::Display for InvalidConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for InvalidConfig {}

/// A value that a flag set, such as `("gateway.listen", "127.0.0.1:0")`.
pub type Override = (&'static str, String);

/// The sections that can stand in a file.
const SECTIONS: &[&str] = &[
    "gateway",
    "nats",
    "auth",
    "bus",
    "telemetry",
    "platform",
    "platform.overseer",
    "platform.registry",
    "platform.rollout",
    "platform.mirroring",
];

impl Config {
    /// Reads `file` (none: defaults), the environment and `flags`.
    ///
    /// # Errors
    /// All findings, when there is one.
    pub fn load(file: Option<&Path>, flags: &[Override]) -> Result<Self, InvalidConfig> {
        let figment = figment(file, flags)?;
        let nameless = nameless();
        if !nameless.is_empty() {
            return Err(InvalidConfig(nameless));
        }
        let base = file.and_then(Path::parent).unwrap_or(Path::new(""));
        Self::from_figment(&figment, base)
    }

    /// Reads TOML alone, without the environment; paths are relative to `base`.
    ///
    /// # Errors
    /// All findings, when there is one.
    pub fn from_toml(text: &str, base: &Path) -> Result<Self, InvalidConfig> {
        Self::from_figment(&Figment::new().merge(Toml::string(text)), base)
    }

    fn from_figment(figment: &Figment, base: &Path) -> Result<Self, InvalidConfig> {
        let mut root: Value = match figment.extract() {
            Ok(root) => root,
            Err(errors) => {
                let findings = errors.into_iter().map(|error| {
                    let source = error
                        .metadata
                        .as_ref()
                        .and_then(|m| m.source.as_ref())
                        .map(ToString::to_string);
                    Finding::new(
                        source.unwrap_or_else(|| "configuration".to_owned()),
                        read::without_secrets(&error.kind.to_string()),
                    )
                });
                return Err(InvalidConfig(findings.collect()));
            }
        };
        let mut findings = Vec::new();
        findings.extend(amnesia().err());
        for finding in origin::not_numbers(figment) {
            mend(&mut root, &finding.key);
            findings.push(finding);
        }
        let known = known();
        let nats = root.get("nats").is_some();
        let auth = root.get("auth").is_some();
        let mut config = Self {
            gateway: read::section(&mut root, "gateway", &known, &mut findings),
            nats: Some(read::section(&mut root, "nats", &known, &mut findings)).filter(|_| nats),
            auth: Some(read::section(&mut root, "auth", &known, &mut findings)).filter(|_| auth),
            bus: read::section(&mut root, "bus", &known, &mut findings),
            telemetry: read::section(&mut root, "telemetry", &known, &mut findings),
            platform: PlatformConfig {
                overseer: read::section(&mut root, "platform.overseer", &known, &mut findings),
                registry: read::section(&mut root, "platform.registry", &known, &mut findings),
                rollout: read::section(&mut root, "platform.rollout", &known, &mut findings),
                mirroring: read::section(&mut root, "platform.mirroring", &known, &mut findings),
            },
        };
        read::leftovers(&root, "", SECTIONS, &mut findings);
        config.resolve_paths(base);
        findings.extend(config.validate());
        for finding in &mut findings {
            finding.source = source_of(figment, &finding.key);
        }
        if findings.is_empty() {
            Ok(config)
        } else {
            Err(InvalidConfig(findings))
        }
    }

    /// What does not hold, in every section. No file is opened but the control token's; the others have to be there.
    #[must_use]
    pub fn validate(&self) -> Vec<Finding> {
        let mut findings = self.gateway.validate();
        findings.extend(self.nats.iter().flat_map(NatsConfig::validate));
        match &self.auth {
            Some(auth) => findings.extend(auth.validate()),
            None if self.gateway.listen.ip().is_loopback() => {}
            None => findings.push(Finding::new(
                "gateway.listen",
                format!(
                    "{} is not a loopback address: without [auth] only 127.0.0.1 or [::1] may be served; name issuers, or put an authenticating proxy in front",
                    self.gateway.listen
                ),
            )),
        }
        findings.extend(self.bus.validate());
        findings.extend(self.telemetry.validate());
        let platform = &self.platform;
        findings.extend(
            platform
                .overseer
                .validate()
                .iter()
                .map(|found| nested("overseer", &found.key, found)),
        );
        findings.extend(
            platform
                .registry
                .validate()
                .iter()
                .map(|found| nested("registry", &found.key, found)),
        );
        findings.extend(
            platform
                .rollout
                .validate()
                .iter()
                .map(|found| nested("rollout", &found.key, found)),
        );
        findings.extend(
            platform
                .mirroring
                .validate()
                .iter()
                .map(|found| nested("mirroring", &found.key, found)),
        );
        if platform.mirroring.compare.is_none() {
            let rules = platform.mirroring.rules.iter().enumerate();
            findings.extend(rules.filter(|(_, rule)| rule.compare).map(|(at, _)| {
                let key = format!("platform.mirroring.rules[{at}].compare");
                Finding::new(
                    key,
                    "there is no candidate to compare with; write [platform.mirroring.compare]",
                )
            }));
        }
        findings.extend(self.absent());
        if self.nats.is_some() {
            let shared = platform.rollout.validate_shared();
            findings.extend(shared.iter().map(|found| nested("rollout", &found.key, found)));
        }
        if platform.registry.enabled && platform.registry.kv_bucket.is_some() && self.nats.is_none() {
            findings.push(Finding::new(
                "platform.registry.kv_bucket",
                "a KV bucket needs [nats]; without it use `dir`",
            ));
        }
        findings
    }

    /// Files and folders that are named and not there: said with all the rest, not once the rest is mended.
    fn absent(&self) -> Vec<Finding> {
        let platform = &self.platform;
        let mut findings = Vec::new();
        let mut file = |key: String, path: &Path| {
            if !path.is_file() {
                findings.push(Finding::new(
                    key,
                    format!("{} is not a file: mend the path", path.display()),
                ));
            }
        };
        for (at, policy) in platform.overseer.policies.iter().enumerate() {
            if policy.module.is_none() && !policy.path.as_os_str().is_empty() {
                file(format!("platform.overseer.policies[{at}].path"), &policy.path);
            }
        }
        if let Some(path) = &platform.rollout.node_key {
            file("platform.rollout.node_key".to_owned(), path);
        }
        if let Some(path) = platform
            .rollout
            .catalog
            .as_ref()
            .and_then(|catalog| catalog.path.as_ref())
        {
            file("platform.rollout.catalog.path".to_owned(), path);
        }
        if let Some(dir) = platform.registry.dir.as_ref().filter(|dir| !dir.is_dir()) {
            let message = format!("{} is not a folder: mend the path, or make it", dir.display());
            findings.push(Finding::new("platform.registry.dir", message));
        }
        findings
    }

    /// What holds, and may not be what was meant: rules that can never match. A message's subject is
    /// `in.t.<tenant>.<suffix>`, and without `[auth]` the tenant is `default` (DESIGN 4).
    #[must_use]
    pub fn warnings(&self) -> Vec<Finding> {
        let platform = &self.platform;
        let policies = platform
            .overseer
            .policies
            .iter()
            .enumerate()
            .filter_map(|(at, policy)| {
                Some((
                    format!("platform.overseer.policies[{at}].subject"),
                    policy.subject.as_deref()?,
                ))
            });
        let mappings = platform
            .registry
            .mappings
            .iter()
            .enumerate()
            .map(|(at, mapping)| {
                (
                    format!("platform.registry.mappings[{at}].subject"),
                    mapping.subject.as_str(),
                )
            });
        let rules = platform.mirroring.rules.iter().enumerate().map(|(at, rule)| {
            (
                format!("platform.mirroring.rules[{at}].prefix"),
                rule.prefix.as_str(),
            )
        });
        let tenant = if self.auth.is_some() {
            "<tenant>"
        } else {
            "default"
        };
        let unmatched = policies
            .chain(mappings)
            .chain(rules)
            .filter(|(_, pattern)| !may_match(pattern, self.auth.is_none().then_some(tenant)));
        let mut warnings: Vec<_> = unmatched
            .map(|(key, pattern)| {
                let message = format!("{pattern:?} matches no message: subjects are in.t.{tenant}.<suffix>");
                Finding::new(key, message)
            })
            .collect();
        if !self.gateway.listen.ip().is_loopback() && self.gateway.tls.is_none() {
            warnings.push(Finding::new(
                "gateway.tls",
                format!(
                    "{} is served without TLS: tokens travel in clear text, unless a proxy in front ends TLS",
                    self.gateway.listen
                ),
            ));
        }
        warnings
    }

    fn resolve_paths(&mut self, base: &Path) {
        self.gateway.resolve_paths(base);
        self.telemetry.resolve_paths(base);
        if let Some(nats) = &mut self.nats {
            nats.resolve_paths(base);
        }
        if let Some(auth) = &mut self.auth {
            auth.resolve_paths(base);
        }
        self.platform.overseer.resolve_paths(base);
        self.platform.registry.resolve_paths(base);
        self.platform.rollout.resolve_paths(base);
    }
}

/// Whether a pattern can match any `in.t.<tenant>.<suffix>`; no tenant is any tenant.
fn may_match(pattern: &str, tenant: Option<&str>) -> bool {
    let mut tokens = pattern.split('.');
    for expected in [Some("in"), Some("t"), tenant] {
        match tokens.next() {
            Some(">") => return true,
            Some(token) if token == "*" || expected.is_none_or(|expected| token == expected) => {}
            _ => return false,
        }
    }
    tokens.next().is_some()
}

/// A layer's own finding, whose text names the key below the layer's table: the table goes before it.
fn nested(section: &str, key: &str, finding: &impl fmt::Display) -> Finding {
    let text = finding.to_string();
    let message = text
        .strip_prefix(key)
        .map_or(text.as_str(), |rest| rest.trim_start_matches([' ', '=', ':']));
    Finding::new(format!("platform.{section}.{key}"), message)
}

/// The keys that each table knows, for suggestions.
fn known() -> Vec<Known> {
    vec![
        Known::of::<GatewayConfig>("gateway"),
        Known::of::<TlsConfig>("gateway.tls"),
        Known::of::<RateLimitConfig>("gateway.rate_limit"),
        Known::of::<WebSocketConfig>("gateway.websocket"),
        Known::of::<NatsConfig>("nats"),
        Known::of::<NatsServeConfig>("nats.serve"),
        Known::of::<NatsUserConfig>("nats.mirror"),
        Known::of::<NatsUserConfig>("nats.control"),
        Known::of::<AuthConfig>("auth"),
        Known::of::<IssuerConfig>("auth.issuers"),
        Known::of::<BusSection>("bus"),
        Known::of::<TelemetryConfig>("telemetry"),
        Known::of::<OverseerConfig>("platform.overseer"),
        Known::of::<arqon_overseer::PolicyConfig>("platform.overseer.policies"),
        Known::of::<arqon_overseer::RecordConfig>("platform.overseer.record"),
        Known::of::<RegistryConfig>("platform.registry"),
        Known::of::<arqon_schema::MappingConfig>("platform.registry.mappings"),
        Known::of::<GovernanceConfig>("platform.rollout"),
        Known::of::<arqon_rollout::CatalogConfig>("platform.rollout.catalog"),
        Known::of::<arqon_rollout::AuditConfig>("platform.rollout.audit"),
        Known::of::<arqon_rollout::GuardConfig>("platform.rollout.guard"),
        Known::of::<ShadowConfig>("platform.mirroring"),
        Known::of::<arqon_shadow::RuleConfig>("platform.mirroring.rules"),
        Known::of::<arqon_shadow::CompareConfig>("platform.mirroring.compare"),
    ]
}

/// Puts a 1 in the place of what was reported already, which fits wherever a number does.
fn mend(root: &mut Value, key: &str) {
    let pointer = format!("/{}", key.replace('[', "/").replace(']', "").replace('.', "/"));
    if let Some(value) = root.pointer_mut(&pointer) {
        *value = Value::from(1);
    }
}

#[cfg(test)]
mod tests;
