//! [`Registry`] and [`RegistryWriter`]: the schemas in force, and the one way to change them.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use arqon_message::{Subject, SubjectPattern, SubjectTrie, TenantId};
use serde::Serialize;

use crate::{
    compat::{Compatibility, Profile},
    config::{MappingConfig, OnStale, RegistryConfig},
    error::{ApplyError, ConfigError, Finding},
    event::{Event, EventSink},
    registry::{Binding, Change, Entry, Snapshot, Terms},
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
        config,
        routes,
        started: Instant::now(),
        contact: AtomicU64::new(0),
        ready: AtomicBool::new(false),
    });
    let writer = Arc::new(Writer {
        shared: Arc::clone(&shared),
        turn: Mutex::new(None),
        events,
    });
    Ok((Registry { shared }, RegistryWriter { inner: writer }))
}

/// The start, on a scale that also holds contacts of earlier processes.
const STARTED: u64 = 1 << 42;

struct Shared {
    config: RegistryConfig,
    /// Pattern to index into `config.mappings`.
    routes: SubjectTrie<usize>,
    snapshot: ArcSwap<Snapshot>,
    started: Instant,
    /// The last contact in milliseconds, [`STARTED`] being the time of `started`; 0 while nobody reports contact.
    contact: AtomicU64,
    ready: AtomicBool,
}

impl Shared {
    fn now(&self) -> u64 {
        STARTED.saturating_add(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
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

/// One schema in force, for a status page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SchemaInfo {
    /// The store key: the schema id, or `t.<tenant>.<schema id>`.
    pub id: String,
    /// The revision in force.
    pub revision: u64,
    /// How many mappings use it.
    pub mappings: usize,
}

impl Registry {
    /// The configuration it was made with.
    #[must_use]
    pub fn config(&self) -> &RegistryConfig {
        &self.shared.config
    }

    /// Which contract holds for that subject. The tenant is the one given, else the subject's own; its schema goes
    /// before the common one. Does not allocate, except to name a missing schema.
    #[must_use]
    pub fn route(&self, subject: &Subject, tenant: Option<&TenantId>) -> Route {
        let Some(&at) = self.shared.routes.find(subject) else {
            return Route::Unmapped;
        };
        if self.shared.config.on_stale == OnStale::Reject {
            let age = self.age();
            if age.as_secs() >= self.shared.config.cache_ttl_seconds {
                return Route::Stale { age };
            }
        }
        let tenant = tenant.map(TenantId::as_str).or_else(|| subject.tenant());
        match self.shared.snapshot.load().binding(at, tenant) {
            Some(binding) => Route::Bound(Arc::clone(binding)),
            None => Route::Unavailable {
                schema_id: self.shared.config.mappings[at].schema_id.clone(),
            },
        }
    }

    /// Time since the store was last heard of; zero for a store that cannot go away.
    #[must_use]
    pub fn age(&self) -> Duration {
        match self.shared.contact.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            contact => Duration::from_millis(self.shared.now().saturating_sub(contact)),
        }
    }

    /// Whether the store was read completely at least once. An empty store counts, an unread one does not.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.shared.ready.load(Ordering::Acquire)
    }

    /// The mappings whose schema is not there: their subjects are refused with 503.
    #[must_use]
    pub fn unavailable(&self) -> Vec<&MappingConfig> {
        let snapshot = self.shared.snapshot.load();
        let mappings = self.shared.config.mappings.iter().enumerate();
        mappings
            .filter(|(at, _)| snapshot.binding(*at, None).is_none())
            .map(|(_, mapping)| mapping)
            .collect()
    }

    /// Every schema in force, sorted by id.
    #[must_use]
    pub fn schemas(&self) -> Vec<SchemaInfo> {
        self.shared.snapshot.load().infos()
    }
}

struct Writer {
    shared: Arc<Shared>,
    /// Held while a change is compiled: one at a time, in order.
    turn: Mutex<Option<(Compatibility, Profile)>>,
    events: EventSink,
}

/// The half of a registry that changes it. Cheap to clone; changes are applied one at a time.
#[derive(Clone)]
pub struct RegistryWriter {
    inner: Arc<Writer>,
}

impl fmt::Debug for RegistryWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryWriter").finish_non_exhaustive()
    }
}

/// What a change did.
#[derive(Debug, Default)]
#[must_use = "a refused update keeps the last good schema, and somebody should hear of it"]
pub struct Applied {
    /// Schemas whose revision in force changed, deleted ones included.
    pub changed: usize,
    /// What was refused. The last good revision of each stays in force.
    pub refused: Vec<ApplyError>,
}

impl RegistryWriter {
    /// Compiles the change and, if it is good, puts it in force for every request that starts afterwards, all at
    /// once. Takes up to tens of milliseconds: call it where blocking is allowed, or use
    /// [`apply_in_background`](Self::apply_in_background).
    pub fn apply(&self, change: Change) -> Applied {
        let Writer { shared, turn, events } = &*self.inner;
        // A panic while holding it cannot have left half a change: the snapshot is swapped last.
        let guard = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let before = shared.snapshot.load_full();
        let reset = matches!(change, Change::Reset { .. });
        let mut outcome = before.apply(
            Terms {
                config: &shared.config,
                guard: *guard,
            },
            change,
        );
        if let Some(snapshot) = outcome.snapshot.take() {
            shared.snapshot.store(Arc::new(snapshot));
        }
        if reset {
            shared.ready.store(true, Ordering::Release);
        }
        for refused in &outcome.refused {
            crate::metrics::load_error();
            tracing::warn!(component = %"registry", error = %refused, "schema update refused, the last good one stays");
        }
        outcome.events.into_iter().for_each(|event: Event| events(event));
        Applied {
            changed: outcome.changed,
            refused: outcome.refused,
        }
    }

    /// From now on an update must also be compatible with the revision in force. The older ones are not kept here: the
    /// transitive modes compare with the one in force as the others do, and with all when a schema is pushed.
    pub fn require_compatibility(&self, compatibility: Compatibility, profile: Profile) {
        *self.inner.turn.lock().unwrap_or_else(PoisonError::into_inner) = Some((compatibility, profile));
    }

    /// [`apply`](Self::apply) on Tokio's blocking pool.
    ///
    /// # Cancellation
    ///
    /// Dropping the future does not take the change back.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime.
    pub async fn apply_in_background(&self, change: Change) -> Applied {
        let writer = self.clone();
        match tokio::task::spawn_blocking(move || writer.apply(change)).await {
            Ok(applied) => applied,
            Err(_) => Applied {
                changed: 0,
                refused: vec![ApplyError::Cancelled],
            },
        }
    }

    /// Tells that the store was heard of just now: a successful read, an update, a heartbeat. From the first call on
    /// the registry has an age; a store that cannot go away never calls this.
    pub fn contact(&self) {
        self.inner
            .shared
            .contact
            .store(self.inner.shared.now(), Ordering::Relaxed);
    }

    /// Tells that what is in force is known since that long ago only: read from a copy, not from the store.
    pub fn contact_was(&self, age: Duration) {
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        self.inner.shared.contact.store(
            self.inner.shared.now().saturating_sub(age).max(1),
            Ordering::Relaxed,
        );
    }

    /// Everything in force: what a store of copies keeps.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.inner.shared.snapshot.load().entries()
    }

    /// Tells that the store was read completely, although not all of it could be used.
    /// [`Change::Reset`] does this by itself.
    pub fn mark_ready(&self) {
        self.inner.shared.ready.store(true, Ordering::Release);
    }

    /// The reading half.
    #[must_use]
    pub fn registry(&self) -> Registry {
        Registry {
            shared: Arc::clone(&self.inner.shared),
        }
    }

    /// The revision in force of each schema, by store key: what a store compares its listing with.
    #[must_use]
    pub fn revisions(&self) -> HashMap<String, u64> {
        self.registry()
            .schemas()
            .into_iter()
            .map(|info| (info.id, info.revision))
            .collect()
    }
}
