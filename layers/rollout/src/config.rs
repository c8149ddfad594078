//! `[platform.rollout]` (DESIGN 14).

use std::path::{Path, PathBuf};

use arqon_message::TenantId;
use serde::{Deserialize, Serialize};

use crate::{
    assignment::{Cohort, Key, Sampling},
    catalog::Catalog,
    error::Finding,
    guard::GuardConfig,
    keys::{KeyConfig, KeyPair, PublicKey},
    record::NodeId,
};

/// The config of a node's rollouts.
///
/// ```
/// let config: arqon_rollout::Config = toml::from_str(r#"
///     enabled = true
///     tenants = ["default"]
///     node_id = "gw-1"
///     threshold = 1
///     keys = [{ keyid = "ops-1", ed25519 = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=" }]
///     key = "sub"
/// "#)?;
/// assert!(config.validate().is_empty());
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Config {
    /// Whether anything is rolled out. Default false.
    pub enabled: bool,
    /// Whose rollouts this node serves. Default `["default"]`.
    pub tenants: Vec<String>,
    /// This node's name, `[A-Za-z0-9_-]{1,64}`. Default `node`.
    pub node_id: String,
    /// File with the seed this node signs proposals with. Default: a key made at start; with a log that other
    /// nodes read, who do not know such a key, none: the node proposes nothing.
    pub node_key: Option<PathBuf>,
    /// How many different `keys` must sign a control message. Default 1.
    pub threshold: usize,
    /// Operators.
    pub keys: Vec<KeyConfig>,
    /// May sign a stop or a pause alone.
    pub stop_keys: Vec<KeyConfig>,
    /// Other nodes whose proposals count, `keyid` is their `node_id` (additive; the same on every node).
    pub node_keys: Vec<KeyConfig>,
    /// Whether a rotation in the log names this node's key, so that `node_keys` need not (additive). Default false.
    pub node_key_by_rotation: bool,
    /// May sign testers' pins, and nothing else (additive). Default none: pins do nothing.
    pub pin_keys: Vec<KeyConfig>,
    /// Where the variants are described.
    pub catalog: Option<CatalogConfig>,
    /// Where control actions are recorded.
    pub audit: Option<AuditConfig>,
    /// What decisions are sticky by: `sub`, `trace`, `header:<name>`, `cookie:<name>`, `claim:<name>`.
    /// Default `trace`.
    pub key: String,
    /// `sticky` (default) or `random`, the source's coin flip.
    pub sampling: Sampling,
    /// Whom a growing share reaches: `all` (default), or `new_sessions`: an open WebSocket session keeps the
    /// variant it was opened with (additive).
    pub cohort: Cohort,
    /// Compares the variant with the baseline and lowers what this node serves when it is worse (additive).
    /// Default: no guard.
    pub guard: Option<GuardConfig>,
    /// How often figures of the rollouts are sent upstream, seconds (additive). Default 0: never.
    pub telemetry_seconds: u64,
    /// Accepts control messages without a signature. Default false.
    pub allow_unsigned: bool,
    /// Accepts approvals without a ramp: everyone at once. Default false.
    pub allow_unramped: bool,
}

/// Where the first catalog is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct CatalogConfig {
    /// A JSON file.
    pub path: Option<PathBuf>,
    /// `<bucket>/<key>` in NATS KV; read by the program that owns the connection.
    pub kv: Option<String>,
}

impl CatalogConfig {
    /// The folder of its file, where `file://` catalogs may be: that of this process for a bare name. None for one in KV.
    pub fn folder(&self) -> Option<&Path> {
        let folder = self.path.as_deref()?.parent()?;
        Some(if folder.as_os_str().is_empty() {
            Path::new(".")
        } else {
            folder
        })
    }
}

/// Where the audit trail is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct AuditConfig {
    /// A JSON lines file, appended to. Stops in force are kept beside it, in `<path>.stop`.
    pub path: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: false,
            tenants: vec!["default".to_owned()],
            node_id: "node".to_owned(),
            node_key: None,
            threshold: 1,
            keys: Vec::new(),
            stop_keys: Vec::new(),
            node_keys: Vec::new(),
            node_key_by_rotation: false,
            pin_keys: Vec::new(),
            catalog: None,
            audit: None,
            key: Key::Trace.to_string(),
            sampling: Sampling::Sticky,
            cohort: Cohort::All,
            guard: None,
            telemetry_seconds: 0,
            allow_unsigned: false,
            allow_unramped: false,
        }
    }
}

impl Config {
    /// Everything that is wrong, without reading a file. A config that is not enabled is checked too.
    pub fn validate(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        if self.enabled && self.tenants.is_empty() {
            findings.push(Finding::new(
                "tenants",
                "[]",
                "name at least one, such as [\"default\"]",
            ));
        }
        for (at, tenant) in self.tenants.iter().enumerate() {
            if TenantId::new(tenant).is_err() {
                let fix = "use 1 to 64 of A-Z a-z 0-9 _ -";
                findings.push(Finding::new(format!("tenants[{at}]"), format!("{tenant:?}"), fix));
            }
            if self.tenants.iter().take(at).any(|other| other == tenant) {
                findings.push(Finding::new(
                    format!("tenants[{at}]"),
                    format!("{tenant:?}"),
                    "name it once",
                ));
            }
        }
        if NodeId::new(&self.node_id).is_err() {
            let fix = "use 1 to 64 of A-Z a-z 0-9 _ -";
            findings.push(Finding::new("node_id", format!("{:?}", self.node_id), fix));
        }
        if let Err(error) = self.key.parse::<Key>() {
            findings.push(Finding::new("key", format!("{:?}", self.key), format!("{error}")));
        }
        self.validate_keys(&mut findings);
        if let Some(CatalogConfig { path, kv }) = &self.catalog {
            let value = format!("{{ path = {path:?}, kv = {kv:?} }}");
            match (path, kv) {
                (Some(_), None) => {}
                (None, Some(kv))
                    if kv
                        .split_once('/')
                        .is_some_and(|(a, b)| !a.is_empty() && !b.is_empty()) => {}
                (None, Some(_)) => {
                    findings.push(Finding::new("catalog.kv", value, "write \"<bucket>/<key>\""))
                }
                (Some(_), Some(_)) => {
                    findings.push(Finding::new("catalog", value, "keep one of `path` and `kv`"))
                }
                (None, None) => {
                    findings.push(Finding::new(
                        "catalog",
                        value,
                        "name a `path`, or `kv = \"<bucket>/<key>\"`",
                    ));
                }
            }
        }
        if self
            .audit
            .as_ref()
            .is_some_and(|audit| audit.path.as_os_str().is_empty())
        {
            findings.push(Finding::new(
                "audit.path",
                "\"\"",
                "name a file, such as \"audit.jsonl\"",
            ));
        }
        for (key, value, fix) in self.guard.iter().flat_map(GuardConfig::findings) {
            findings.push(Finding::new(format!("guard.{key}"), value, fix));
        }
        findings
    }

    /// What is wrong with it where other nodes read the same log, as they do on NATS: what one of them accepts all have to
    /// accept. Reads the file of `node_key`, if there is one.
    pub fn validate_shared(&self) -> Vec<Finding> {
        let Some(own) = self.node_key.as_ref().and_then(|_| self.load_node_key().ok()) else {
            return Vec::new();
        };
        let own = own.public().to_config();
        if !self.enabled
            || self.node_key_by_rotation
            || self.node_keys.iter().any(|key| key.keyid == own.keyid)
        {
            return Vec::new();
        }
        let fix = format!(
            "the other nodes refuse what this one proposes: add {{ keyid = \"{}\", ed25519 = \"{}\" }} to `node_keys` in the configuration of every node, or have it named by a rotation and set `node_key_by_rotation = true`",
            own.keyid, own.ed25519
        );
        vec![Finding::new("node_keys", own.keyid, fix)]
    }

    fn validate_keys(&self, findings: &mut Vec<Finding>) {
        let sets = [
            ("keys", &self.keys),
            ("stop_keys", &self.stop_keys),
            ("node_keys", &self.node_keys),
            ("pin_keys", &self.pin_keys),
        ];
        for (name, set) in sets {
            for (at, key) in set.iter().enumerate() {
                if key.keyid.is_empty() {
                    findings.push(Finding::new(
                        format!("{name}[{at}].keyid"),
                        "\"\"",
                        "name the key",
                    ));
                }
                if let Err(error) = PublicKey::parse(key) {
                    let fix = format!("{error}: paste the public key that `arqon gov keygen` printed");
                    findings.push(Finding::new(
                        format!("{name}[{at}].ed25519"),
                        format!("{:?}", key.ed25519),
                        fix,
                    ));
                }
            }
            if set.len() > crate::keys::MAX_KEYS {
                let fix = format!("at most {} keys", crate::keys::MAX_KEYS);
                findings.push(Finding::new(name, format!("{} keys", set.len()), fix));
            }
        }
        let reachable = 1..=self.keys.len();
        if self.keys.is_empty() {
            if self.enabled && !self.allow_unsigned {
                let fix =
                    "name the operators' keys (`arqon gov keygen` makes one), or set `allow_unsigned = true`";
                findings.push(Finding::new("keys", "[]", fix));
            }
        } else if !reachable.contains(&self.threshold) {
            let fix = format!("use 1 to {}, the number of `keys`", self.keys.len());
            findings.push(Finding::new("threshold", self.threshold.to_string(), fix));
        }
    }

    /// Makes relative paths relative to `base`, the folder of the config file.
    pub fn resolve_paths(&mut self, base: &Path) {
        let catalog = self.catalog.as_mut().and_then(|catalog| catalog.path.as_mut());
        let audit = self.audit.as_mut().map(|audit| &mut audit.path);
        for path in self.node_key.as_mut().into_iter().chain(catalog).chain(audit) {
            *path = base.join(&*path);
        }
    }

    pub(crate) fn node(&self) -> NodeId {
        NodeId::new(&self.node_id).unwrap_or_else(|_| NodeId::new("node").expect("`node` is a legal node id"))
    }

    /// Where stops and pauses in force survive a restart: beside the audit trail.
    pub(crate) fn latch_path(&self) -> Option<PathBuf> {
        let mut path = self.audit.as_ref()?.path.clone().into_os_string();
        path.push(".stop");
        Some(path.into())
    }

    /// The catalog of `catalog.path`.
    pub(crate) fn load_catalog(&self) -> Result<Option<Catalog>, Finding> {
        let Some(path) = self.catalog.as_ref().and_then(|catalog| catalog.path.as_ref()) else {
            return Ok(None);
        };
        let finding = |fix: String| Finding::new("catalog.path", path.display().to_string(), fix);
        let bytes = std::fs::read(path).map_err(|error| finding(format!("it cannot be read: {error}")))?;
        Catalog::parse(&bytes)
            .map(Some)
            .map_err(|error| finding(error.to_string()))
    }

    /// The key of `node_key`, else a new one.
    pub(crate) fn load_node_key(&self) -> Result<KeyPair, Finding> {
        let keyid = self.node_id.as_str();
        match &self.node_key {
            Some(path) => KeyPair::load(keyid, path).map_err(|error| {
                let fix = format!("{error}: make one with `arqon gov keygen`");
                Finding::new("node_key", path.display().to_string(), fix)
            }),
            None => KeyPair::generate(keyid)
                .map_err(|error| Finding::new("node_key", "none", format!("{error}: name a file"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_is_told_at_once_with_key_value_and_fix() {
        let config: Config = toml::from_str(
            r#"
            enabled = true
            tenants = ["a b", "x", "x"]
            node_id = "gw.1"
            threshold = 3
            keys = [{ keyid = "", ed25519 = "AAAA" }]
            catalog = {}
            audit = { path = "" }
            key = "query:x"
            "#,
        )
        .unwrap();
        let findings = config.validate();
        let keys: Vec<&str> = findings.iter().map(|finding| finding.key.as_str()).collect();
        for key in [
            "tenants[0]",
            "tenants[2]",
            "node_id",
            "key",
            "keys[0].keyid",
            "keys[0].ed25519",
            "threshold",
            "catalog",
            "audit.path",
        ] {
            assert!(keys.contains(&key), "{key} is not in {keys:?}");
        }
        assert!(
            findings
                .iter()
                .all(|finding| !finding.value.is_empty() && !finding.fix.is_empty())
        );
    }

    #[test]
    fn an_empty_key_list_fails_closed() {
        let mut config = Config {
            enabled: true,
            ..Config::default()
        };
        assert_eq!(config.validate()[0].key, "keys");
        config.allow_unsigned = true;
        assert!(config.validate().is_empty());
    }

    #[test]
    fn on_a_shared_log_a_node_s_own_key_is_one_that_all_nodes_know() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gw-1.key");
        let key = crate::KeyPair::from_seed("gw-1", [5; 32]);
        std::fs::write(&path, key.to_seed_text()).unwrap();
        let mut config = Config {
            enabled: true,
            allow_unsigned: true,
            node_id: "gw-1".to_owned(),
            node_key: Some(path),
            ..Config::default()
        };
        let public = key.public().to_config();
        let findings = config.validate_shared();
        assert_eq!((findings.len(), findings[0].key.as_str()), (1, "node_keys"));
        assert!(findings[0].fix.contains(&public.ed25519), "{findings:?}");
        assert!(crate::Executor::builder(&config).silent().build().is_err());
        assert!(crate::Executor::builder(&config).build().is_ok(), "alone it may");
        config.node_key_by_rotation = true;
        assert_eq!(config.validate_shared(), []);
        let by_rotation = crate::Executor::builder(&config).silent().build().unwrap();
        let tenant = by_rotation.handle().tenants().remove(0);
        assert_eq!(
            by_rotation.state(&tenant).unwrap().keys().node_keys,
            [],
            "the log names it"
        );
        config.node_key_by_rotation = false;
        config.node_keys.push(public);
        assert_eq!(config.validate_shared(), []);
        assert!(crate::Executor::builder(&config).silent().build().is_ok());
    }

    #[test]
    fn paths_are_relative_to_the_config_file() {
        let mut config: Config = toml::from_str(
            "node_key = \"n.key\"\ncatalog = { path = \"/c.json\" }\naudit = { path = \"a.jsonl\" }",
        )
        .unwrap();
        config.resolve_paths(Path::new("/etc/arqon"));
        assert_eq!(config.node_key.as_deref(), Some(Path::new("/etc/arqon/n.key")));
        assert_eq!(
            config.catalog.unwrap().path.as_deref(),
            Some(Path::new("/c.json"))
        );
        assert_eq!(config.audit.unwrap().path, Path::new("/etc/arqon/a.jsonl"));
    }

    #[tokio::test]
    async fn the_folder_of_a_config_file_that_is_named_without_one_is_where_the_program_runs() {
        use crate::{CatalogSource as _, CatalogWanted, FileCatalogs};
        let mut config: Config = toml::from_str("catalog = { path = \"Cargo.toml\" }").unwrap();
        // `--config gateway.toml`: its folder has no name.
        config.resolve_paths(Path::new(""));
        let catalog = config.catalog.unwrap();
        let files = FileCatalogs::new(catalog.folder().map(Path::to_path_buf));
        let here = std::env::current_dir().unwrap();
        let uri = format!("file://{}", here.join("README.md").display());
        assert!(files.fetch(CatalogWanted::new(&uri, 2, None)).await.is_ok());
        let kv = CatalogConfig {
            kv: Some("c/k".to_owned()),
            ..CatalogConfig::default()
        };
        assert_eq!(kv.folder(), None);
        let path = Some("/etc/arqon/c.json".into());
        assert_eq!(
            CatalogConfig { path, kv: None }.folder(),
            Some(Path::new("/etc/arqon"))
        );
    }
}
