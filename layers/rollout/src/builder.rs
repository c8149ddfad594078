//! Puts an executor together from a config.

use std::{
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::Duration,
};

use arc_swap::ArcSwap;
use arqon_message::TenantId;
use tokio::sync::{broadcast, watch};

use crate::{
    audit::{AuditSink, NoAudit},
    catalog::Catalog,
    catalog_source::{CatalogSource, FileCatalogs},
    clock::{Clock, SystemClock},
    config::{CatalogConfig, Config},
    error::{ConfigError, Finding},
    event::{Event, OnEvent},
    executor::Executor,
    handle::{CLIENT_BUFFER, Handle, Shared},
    keys::{KeyPair, KeySet, PublicKey},
    latch::LatchFile,
    live::Live,
    log::{ControlLog, MemoryLog},
    snapshot::Snapshot,
    state::{Policy, State},
    wire::AlertSeverity,
};

/// Collects the parts of an [`Executor`]. Everything has a default that needs nothing else to run: the log
/// in memory, the system's clock, no audit trail, a node key made at start.
#[must_use]
pub struct ExecutorBuilder {
    config: Config,
    log: Option<Arc<dyn ControlLog>>,
    clock: Arc<dyn Clock>,
    audit: Arc<dyn AuditSink>,
    catalogs: Option<Arc<dyn CatalogSource>>,
    catalog: Option<Catalog>,
    node_key: Option<KeyPair>,
    silent: bool,
    on_event: Option<OnEvent>,
}

impl std::fmt::Debug for ExecutorBuilder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ExecutorBuilder")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl ExecutorBuilder {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            config,
            log: None,
            clock: Arc::new(SystemClock::new()),
            audit: Arc::new(NoAudit),
            catalogs: None,
            catalog: None,
            node_key: None,
            silent: false,
            on_event: None,
        }
    }

    /// Reads and writes this log.
    pub fn log(mut self, log: impl ControlLog) -> Self {
        self.log = Some(Arc::new(log));
        self
    }

    /// Tells the time by this clock.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Writes this audit trail before anything is acknowledged.
    pub fn audit(mut self, audit: impl AuditSink) -> Self {
        self.audit = Arc::new(audit);
        self
    }

    /// Fetches catalog updates from here; without it, `file://` in the folder of the config's catalog.
    pub fn catalogs(mut self, catalogs: impl CatalogSource) -> Self {
        self.catalogs = Some(Arc::new(catalogs));
        self
    }

    /// Starts with this catalog and does not read the config's.
    pub fn catalog(mut self, catalog: Catalog) -> Self {
        self.catalog = Some(catalog);
        self
    }

    /// Signs this node's proposals with this key and does not read the config's.
    pub fn node_key(mut self, key: KeyPair) -> Self {
        self.node_key = Some(key);
        self
    }

    /// Makes no key at start when the config names none: this node proposes nothing. For a log that other nodes
    /// read, too: a key made here they do not know, and what one node accepts all have to accept.
    pub fn silent(mut self) -> Self {
        self.silent = true;
        self
    }

    /// Tells facts. The callback must not block.
    pub fn on_event(mut self, on_event: impl Fn(Event) + Send + Sync + 'static) -> Self {
        self.on_event = Some(Arc::new(on_event));
        self
    }

    /// Checks the config, reads its files, and makes the executor. Nothing runs yet.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with every finding.
    pub fn build(self) -> Result<Executor, ConfigError> {
        let Self {
            config,
            log,
            clock,
            audit,
            catalogs,
            catalog,
            node_key,
            silent,
            on_event,
        } = self;
        let mut findings = config.validate();
        if silent && node_key.is_none() {
            findings.extend(config.validate_shared());
        }
        let silent = silent && node_key.is_none() && config.node_key.is_none();
        let catalog = match (catalog, config.load_catalog()) {
            (Some(catalog), _) | (None, Ok(Some(catalog))) => catalog,
            (None, Ok(None)) => Catalog::empty(),
            (None, Err(finding)) => {
                findings.push(finding);
                Catalog::empty()
            }
        };
        let node_key = match node_key.map_or_else(|| config.load_node_key(), Ok) {
            Ok(node_key) => Some(node_key).filter(|_| !silent),
            Err(finding) => {
                findings.push(finding);
                None
            }
        };
        let keys = key_set(&config, node_key.as_ref(), &mut findings);
        // Nothing is made on disk for a config that is refused anyway.
        let path = config.latch_path().filter(|_| findings.is_empty());
        let loaded = match path.as_deref().map(LatchFile::open) {
            None => None,
            Some(Ok(loaded)) => Some(loaded),
            // Which tenants were stopped is not known, or a stop could not be kept: not starting is the safe side.
            Some(Err(error)) => {
                let path = path.map_or_else(String::new, |path| path.display().to_string());
                let fix = format!(
                    "what is stopped cannot be kept there ({error}): make room, mend it, or remove it and stop again"
                );
                findings.push(Finding::new("audit.path", path, fix));
                None
            }
        };
        if !findings.is_empty() {
            return Err(ConfigError(findings));
        }
        if config.allow_unsigned {
            tracing::warn!(
                component = "rollout",
                "allow_unsigned: control messages need no signature"
            );
        }
        let policy = |tenant: TenantId| Policy {
            allow_unsigned: config.allow_unsigned,
            allow_unramped: config.allow_unramped,
            ..Policy::strict(tenant)
        };
        let tenants = config
            .tenants
            .iter()
            .filter_map(|tenant| TenantId::new(tenant).ok());
        let states = tenants.map(|tenant| State::genesis(policy(tenant), keys.clone(), catalog.clone()));
        let mut live = Live::new(states);
        let (mut latch_file, mut torn) = (None, false);
        if let Some(loaded) = loaded {
            (live.latches, live.spent, live.caps) = (loaded.latches, loaded.spent, loaded.caps);
            live.kept_seq = loaded.contact_seq;
            (latch_file, torn) = (Some(loaded.file), loaded.torn);
        }
        let telemetry = (config.telemetry_seconds > 0).then(|| Duration::from_secs(config.telemetry_seconds));
        let pin_keys: Vec<_> = config
            .pin_keys
            .iter()
            .filter_map(|key| PublicKey::parse(key).ok())
            .collect();
        live.pinned = !pin_keys.is_empty();
        live.measured = telemetry.is_some() || config.guard.is_some();
        let log = log.unwrap_or_else(|| Arc::new(MemoryLog::with_clock(clock.clone())));
        let catalogs = catalogs.unwrap_or_else(|| {
            let folder = config.catalog.as_ref().and_then(CatalogConfig::folder);
            Arc::new(FileCatalogs::new(folder.map(std::path::Path::to_path_buf)))
        });
        let handle = Handle::new(Shared {
            live: Mutex::new(live),
            snapshot: ArcSwap::from_pointee(Snapshot::default()),
            idle: AtomicBool::new(true),
            position: watch::Sender::new(0),
            accepted: broadcast::Sender::new(CLIENT_BUFFER),
            log,
            clock,
            audit,
            catalogs,
            on_event,
            node: config.node(),
            node_key,
            key: config.key.parse().unwrap_or_default(),
            sampling: config.sampling,
            latch_file,
            guard: config.guard,
            telemetry,
            cohort: config.cohort,
            pin_keys,
        });
        let shared = handle.shared;
        // What is served is right before the first request and before the log answers.
        shared.publish(shared.lock());
        if torn && let Some(file) = &shared.latch_file {
            let message = format!(
                "{}: one of its two copies could not be read: a write was cut off, which nobody was told had succeeded, or the disk is bad",
                file.path().display()
            );
            shared.alert(AlertSeverity::Error, message);
        }
        Ok(Executor { shared })
    }
}

fn key_set(config: &Config, node_key: Option<&KeyPair>, findings: &mut Vec<Finding>) -> KeySet {
    let parse =
        |keys: &[crate::KeyConfig]| keys.iter().filter_map(|key| PublicKey::parse(key).ok()).collect();
    let mut set = KeySet {
        epoch: 1,
        threshold: config.threshold,
        keys: parse(&config.keys),
        stop_keys: parse(&config.stop_keys),
        node_keys: parse(&config.node_keys),
    };
    let own = node_key.filter(|_| !config.node_key_by_rotation);
    if let Some(own) = own.map(KeyPair::public) {
        let known = set.node_keys.iter().find(|key| key.keyid() == own.keyid());
        match known.map(|known| known.as_bytes() == own.as_bytes()) {
            Some(true) => {}
            None => set.node_keys.push(own),
            Some(false) => findings.push(Finding::new(
                "node_keys",
                own.keyid(),
                "the entry of this node is not the public half of its `node_key`: list what `arqon gov keygen` printed",
            )),
        }
    }
    if findings.is_empty()
        && !set.keys.is_empty()
        && let Err(refusal) = set.check()
    {
        findings.push(Finding::new(
            "keys",
            refusal.detail,
            "give every key its own `keyid` and its own `ed25519`",
        ));
    }
    set
}
