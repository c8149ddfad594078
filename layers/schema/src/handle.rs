//! [`Registry`] and [`RegistryWriter`]: the schemas in force, and the one way to change them.

mod writer;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use arqon_message::{Subject, SubjectPattern, SubjectTrie, TenantId};
use serde::Serialize;

pub use self::writer::{Applied, RegistryWriter};
use crate::{
    common::Common,
    config::{MappingConfig, OnStale, Pins, RegistryConfig},
    error::{ConfigError, Finding},
    event::EventSink,
    registry::{Binding, Snapshot},
};

/// Makes a registry without schemas: the half a [`SchemaLayer`](crate::SchemaLayer) reads and the half a
/// [`SchemaStore`](crate::SchemaStore) writes.
///
/// # Errors
///
/// [`ConfigError`] with every finding of [`RegistryConfig::validate`].
pub fn channel(config: RegistryConfig) -> Result<(Registry, RegistryWriter), ConfigError> {
    channel_with(config, Arc::new(|_| {}))
}

/// [`channel`], with a sink for the facts.
///
/// # Errors
///
/// As [`channel`].
pub fn channel_with(
    config: RegistryConfig,
    events: EventSink,
) -> Result<(Registry, RegistryWriter), ConfigError> {
    let mut findings = config.validate();
    let mut routes = SubjectTrie::new();
    for (at, mapping) in config.mappings.iter().enumerate() {
        if let Ok(pattern) = SubjectPattern::parse(&mapping.subject)
            && let Err(error) = routes.insert(&pattern, at)
            && findings.is_empty()
        {
            findings.push(Finding {
                key: format!("mappings[{at}].subject"),
                value: mapping.subject.clone(),
                fix: format!("{error}: keep one"),
            });
        }
    }
    if !findings.is_empty() {
        return Err(ConfigError(findings));
    }
    let shared = Arc::new(Shared {
        snapshot: ArcSwap::from_pointee(Snapshot::new(config.mappings.len())),
        pins: ArcSwap::from_pointee(config.pins.clone()),
        common: Arc::new(Common::new(config)),
        routes,
        origin: AtomicU8::new(Origin::Nowhere as u8),
    });
    let writer = RegistryWriter::new(Arc::clone(&shared), events);
    Ok((Registry { shared }, writer))
}

struct Shared {
    common: Arc<Common>,
    /// Pattern to index into `config.mappings`.
    routes: SubjectTrie<usize>,
    snapshot: ArcSwap<Snapshot>,
    /// Swapped by the writer only.
    pins: ArcSwap<Pins>,
    /// An [`Origin`].
    origin: AtomicU8,
}

/// The schemas in force. Cheap to clone; reading waits for nobody.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("schemas", &self.schemas())
            .finish_non_exhaustive()
    }
}

/// What the registry says about a subject.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Route {
    /// No mapping matches.
    Unmapped,
    /// A mapping matches, but its schema is not there.
    Unavailable {
        /// The missing schema.
        schema_id: String,
    },
    /// A mapping matches, but the store was not heard of for too long.
    Stale {
        /// How long.
        age: Duration,
    },
    /// The contract in force. A request keeps this one to its end.
    Bound(Arc<Binding>),
}

/// Where what is in force comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Origin {
    /// Nothing was read yet.
    Nowhere = 0,
    /// The last known good copy on disk; the store was not read yet.
    Copy = 1,
    /// The store was read completely at least once; it may have been empty.
    Store = 2,
}

/// The newest update of a schema that was refused, for a status page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RefusedInfo {
    /// The store key.
    pub id: String,
    /// The refused revision.
    pub revision: u64,
    /// Why, in one line.
    pub reason: String,
}

/// One schema in force, for a status page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SchemaInfo {
    /// The store key: the schema id, or `t.<tenant>.<schema id>`.
    pub id: String,
    /// The revision in force.
    pub revision: u64,
    /// How many mappings use it.
    pub mappings: usize,
    /// Whether a pin keeps this revision.
    pub pinned: bool,
    /// The newest revision that the pin keeps out.
    pub held_back: Option<u64>,
}

impl Registry {
    pub(crate) fn common(&self) -> &Common {
        &self.shared.common
    }

    /// The configuration it was made with.
    #[must_use]
    pub fn config(&self) -> &RegistryConfig {
        &self.shared.common.config
    }

    /// Which contract holds for that subject. The tenant is the one given, else the subject's own; its schema goes
    /// before the common one. Does not allocate, except to name a missing schema.
    #[must_use]
    pub fn route(&self, subject: &Subject, tenant: Option<&TenantId>) -> Route {
        self.route_with(subject, || tenant)
    }

    /// The tenant is asked for only where one has a schema of its own.
    #[inline]
    pub(crate) fn route_with<'t>(
        &self,
        subject: &'t Subject,
        tenant: impl FnOnce() -> Option<&'t TenantId>,
    ) -> Route {
        let Some(&at) = self.shared.routes.find(subject) else {
            return Route::Unmapped;
        };
        if let Some(age) = self.stale() {
            return Route::Stale { age };
        }
        let tenant = || tenant().map(TenantId::as_str).or_else(|| subject.tenant());
        match self.shared.snapshot.load().binding(at, tenant) {
            Some(binding) => Route::Bound(Arc::clone(binding)),
            None => Route::Unavailable {
                schema_id: self.shared.common.config.mappings[at].schema_id.clone(),
            },
        }
    }

    /// Time since the store was last heard of; zero for a store that cannot go away.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.shared.common.age()
    }

    /// Whether the store was read completely at least once. An empty store counts, an unread one does not.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.origin() == Origin::Store
    }

    /// Where what is in force comes from.
    #[must_use]
    pub fn origin(&self) -> Origin {
        match self.shared.origin.load(Ordering::Acquire) {
            0 => Origin::Nowhere,
            1 => Origin::Copy,
            _ => Origin::Store,
        }
    }

    /// Whether mapped subjects are refused because the store was not heard of for too long.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.stale().is_some()
    }

    /// The age, if it is too much.
    fn stale(&self) -> Option<Duration> {
        let config = &self.shared.common.config;
        if config.on_stale == OnStale::Serve {
            return None;
        }
        let age = self.age();
        (age.as_secs() >= config.cache_ttl_seconds).then_some(age)
    }

    /// The newest update of each schema that was refused and not followed by a good one, sorted by id.
    #[must_use]
    pub fn refused(&self) -> Vec<RefusedInfo> {
        self.shared.snapshot.load().refused()
    }

    /// The schemas in force that the store does not have, nor their deletion, sorted.
    #[must_use]
    pub fn lost(&self) -> Vec<String> {
        self.shared.snapshot.load().lost()
    }

    /// The mappings whose schema is not there: their subjects are refused with 503.
    #[must_use]
    pub fn unavailable(&self) -> Vec<&MappingConfig> {
        let snapshot = self.shared.snapshot.load();
        let mappings = self.shared.common.config.mappings.iter().enumerate();
        mappings
            .filter(|(at, _)| snapshot.binding(*at, || None).is_none())
            .map(|(_, mapping)| mapping)
            .collect()
    }

    /// Every schema in force, sorted by id.
    #[must_use]
    pub fn schemas(&self) -> Vec<SchemaInfo> {
        self.shared.snapshot.load().infos(&self.shared.pins.load())
    }
}
