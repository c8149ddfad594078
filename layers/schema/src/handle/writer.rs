//! [`RegistryWriter`]: the one way to change what is in force.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::sync::watch;

use super::{Origin, Registry, Shared};
use crate::{
    compat::{Compatibility, Profile},
    config::Pins,
    error::ApplyError,
    event::{Event, EventSink},
    metrics::{self, Alarm},
    registry::{Change, Entry, Outcome, Terms},
};

struct Writer {
    shared: Arc<Shared>,
    /// Held while a change is compiled: one at a time, in order.
    turn: Mutex<Option<(Compatibility, Profile)>>,
    events: EventSink,
    /// Counts the changes of the pins.
    repinned: watch::Sender<u64>,
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
    pub(super) fn new(shared: Arc<Shared>, events: EventSink) -> Self {
        let guard = shared.common.config.guard();
        Self {
            inner: Arc::new(Writer {
                shared,
                turn: Mutex::new(guard),
                events,
                repinned: watch::Sender::new(0),
            }),
        }
    }

    /// Compiles the change and, if it is good, puts it in force for every request that starts afterwards, all at
    /// once. Takes up to tens of milliseconds: call it where blocking is allowed, or use
    /// [`apply_in_background`](Self::apply_in_background). A refusal is told once, however often it is offered.
    pub fn apply(&self, change: Change) -> Applied {
        let whole = matches!(change, Change::Reset { .. } | Change::Listing { .. });
        let applied = self.swap(|before, terms| before.apply(terms, change));
        if whole {
            self.mark_ready();
        }
        applied
    }

    /// Tells that an update cannot even be read: what is in force stays.
    pub fn refuse(&self, id: &str, revision: u64, error: ApplyError) {
        let _told = self.swap(|before, _| before.refuse_unread(id, revision, error));
    }

    /// Puts copies in force: the registry is not ready by them, since only the store can tell what is missing.
    pub(crate) fn apply_copies(&self, entries: Vec<Entry>) -> Applied {
        let gone = Vec::new();
        let applied = self.swap(|before, terms| before.apply(terms, Change::Merge { entries, gone }));
        if applied.changed > 0 {
            let origin = &self.inner.shared.origin;
            // A store that was read meanwhile is the better source; whether it was does not matter here.
            let _ = origin.compare_exchange(
                Origin::Nowhere as u8,
                Origin::Copy as u8,
                Ordering::AcqRel,
                Ordering::Acquire,
            );
        }
        applied
    }

    fn swap(&self, change: impl FnOnce(&crate::registry::Snapshot, Terms<'_>) -> Outcome) -> Applied {
        let Writer {
            shared, turn, events, ..
        } = &*self.inner;
        // A panic while holding it cannot have left half a change: the snapshot is swapped last.
        let guard = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let before = shared.snapshot.load_full();
        let pins = shared.pins.load_full();
        let terms = Terms {
            common: &shared.common,
            guard: *guard,
            pins: &pins,
        };
        let mut outcome = change(&before, terms);
        if let Some(snapshot) = outcome.snapshot.take() {
            shared.snapshot.store(Arc::new(snapshot));
        }
        for news in &outcome.news {
            tracing::warn!(component = %"registry", error = %news, "schema update");
        }
        for event in outcome.events {
            count(&event);
            events(event);
        }
        Applied {
            changed: outcome.changed,
            refused: outcome.refused,
        }
    }

    /// From now on an update must also be compatible with the revision in force. The transitive modes compare with what
    /// this registry had in force before, up to 15 revisions; with all that the store kept when a schema is pushed.
    pub fn require_compatibility(&self, compatibility: Compatibility, profile: Profile) {
        *self.inner.turn.lock().unwrap_or_else(PoisonError::into_inner) = Some((compatibility, profile));
    }

    /// From now on these revisions, and no others, may be in force for those schemas. The store brings them; until then what
    /// is in force stays.
    pub fn pin(&self, pins: Pins) {
        if **self.inner.shared.pins.load() == pins {
            return;
        }
        self.inner.shared.pins.store(Arc::new(pins));
        self.inner.repinned.send_modify(|count| *count += 1);
    }

    /// The pins in force.
    #[must_use]
    pub fn pins(&self) -> Arc<Pins> {
        self.inner.shared.pins.load_full()
    }

    /// Changes whenever the pins do: a store that hears of it brings the pinned revisions.
    #[must_use]
    pub fn repinned(&self) -> watch::Receiver<u64> {
        self.inner.repinned.subscribe()
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
        self.inner.shared.common.contact(0);
    }

    /// Tells that what is in force is known since that long ago only: read from a copy, not from the store.
    pub fn contact_was(&self, age: Duration) {
        let ago = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        self.inner.shared.common.contact(ago);
    }

    /// Everything in force: what a store of copies keeps.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.inner.shared.snapshot.load().entries()
    }

    /// Tells that the store was read completely, although not all of it could be used.
    /// [`Change::Reset`] and [`Change::Listing`] do this by themselves.
    pub fn mark_ready(&self) {
        self.inner
            .shared
            .origin
            .store(Origin::Store as u8, Ordering::Release);
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

/// What has a counter.
fn count(event: &Event) {
    match event {
        Event::SchemaRefused { .. } => metrics::load_error(),
        Event::RevisionRegressed { .. } => {
            metrics::load_error();
            Alarm::Regressed.raise();
        }
        Event::StoreEmptied { .. } => Alarm::Emptied.raise(),
        Event::ContractBroken { .. } => Alarm::Broken.raise(),
        Event::SchemaChanged { .. }
        | Event::SchemaDeleted { .. }
        | Event::SchemaMended { .. }
        | Event::SchemaHeldBack { .. }
        | Event::StoreMended => {}
    }
}
