//! What the services of one layer and its handle have in common.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::{ArcSwapOption, Guard};

use crate::{
    assemble::assemble,
    chain::Snapshot,
    config::OverseerConfig,
    error::BuildError,
    event::{Event, OnEvent},
};

pub(crate) struct Shared {
    /// Whether there is a snapshot: all that a request looks at when there is none.
    active: AtomicBool,
    snapshot: ArcSwapOption<Snapshot>,
    /// Held by whoever loads modules, which takes milliseconds: one at a time, so that the last one asked for wins.
    loading: Mutex<()>,
    /// Held by whoever changes the snapshot, which takes microseconds; never by a request.
    writer: Mutex<()>,
    /// Why the file of a policy is not what runs, by the policy's name.
    refused: Mutex<HashMap<Arc<str>, Vec<String>>>,
    on_event: OnEvent,
}

impl Shared {
    pub(crate) fn new(config: &OverseerConfig, on_event: OnEvent) -> Result<Self, BuildError> {
        let snapshot = assemble(config, &on_event)?.map(Arc::new);
        if let Some(snapshot) = &snapshot {
            snapshot.stand_by();
        }
        Ok(Self {
            active: AtomicBool::new(snapshot.is_some()),
            snapshot: ArcSwapOption::new(snapshot),
            loading: Mutex::new(()),
            writer: Mutex::new(()),
            refused: Mutex::default(),
            on_event,
        })
    }

    /// What a request runs by from its start to its end: borrowed, which counts nothing that workers share.
    #[inline]
    pub(crate) fn current(&self) -> Option<Guard<Option<Arc<Snapshot>>>> {
        self.active.load(Ordering::Acquire).then(|| self.snapshot.load())
    }

    pub(crate) fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.snapshot.load_full()
    }

    /// Runs what loads modules, one after the other. Only what runs in here may change the loader of the snapshot.
    pub(crate) fn load<T>(&self, load: impl FnOnce() -> T) -> T {
        let loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = load();
        drop(loading);
        loaded
    }

    /// Changes the snapshot, one change at a time; an error changes nothing.
    pub(crate) fn change<T, E>(
        &self,
        change: impl FnOnce(Option<&Arc<Snapshot>>) -> Result<(Option<Arc<Snapshot>>, T), E>,
    ) -> Result<T, E> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, answer) = change(self.snapshot.load_full().as_ref())?;
        let active = next.is_some();
        if let Some(next) = &next {
            next.stand_by();
        }
        self.snapshot.store(next);
        self.active.store(active, Ordering::Release);
        drop(writer);
        Ok(answer)
    }

    /// What was wrong with the policies' files when they were last looked at.
    pub(crate) fn set_refused(&self, refused: HashMap<Arc<str>, Vec<String>>) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = refused;
    }

    /// What is wrong with the file of the policy called `name`.
    pub(crate) fn refused(&self, name: &str) -> Vec<String> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.get(name).cloned().unwrap_or_default()
    }

    pub(crate) fn on_event(&self) -> &OnEvent {
        &self.on_event
    }

    pub(crate) fn tell(&self, event: Event) {
        (self.on_event)(event);
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("active", &self.active)
            .finish_non_exhaustive()
    }
}
