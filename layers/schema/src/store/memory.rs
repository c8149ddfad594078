//! [`MemoryStore`]: schemas put in by the program itself.

use std::{
    collections::BTreeMap,
    future::pending,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;

use super::SchemaStore;
use crate::{
    error::{ApplyError, StoreError},
    handle::{Applied, RegistryWriter},
    registry::{Change, Entry},
};

/// Schemas in memory, for embedding, tests and demos. Clones share the content.
///
/// ```
/// use arqon_schema::{MappingConfig, MemoryStore, RegistryConfig, channel};
///
/// let mut config = RegistryConfig::default();
/// config.mappings.push(MappingConfig::new("in.t.*.users.created", "v1.events.user_created").require("user_id"));
/// let (registry, writer) = channel(config)?;
///
/// let store = MemoryStore::new();
/// store.load(&writer)?;
/// store.put_source(
///     "v1.events.user_created",
///     r#"syntax = "proto3"; package events.v1; message UserCreated { string user_id = 1; }"#,
/// )?;
/// assert!(registry.unavailable().is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: BTreeMap<String, (u64, Bytes)>,
    revision: u64,
    writer: Option<RegistryWriter>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts everything into the registry and keeps it up to date from now on.
    ///
    /// # Errors
    ///
    /// [`StoreError::Refused`] lists the schemas that cannot be used; the others are in force.
    pub fn load(&self, writer: &RegistryWriter) -> Result<usize, StoreError> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = inner.entries.iter();
        let entries = entries
            .map(|(id, (revision, bytes))| Entry::new(id.as_str(), *revision, bytes.clone()))
            .collect();
        inner.writer = Some(writer.clone());
        done(writer.apply(Change::Reset { entries }))
    }

    /// Writes a descriptor set (plain or gzipped) and returns its revision.
    ///
    /// # Errors
    ///
    /// The attached registry refused it; the store keeps what it had.
    pub fn put(&self, id: &str, descriptor_set: impl Into<Bytes>) -> Result<u64, StoreError> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (revision, bytes) = (inner.revision + 1, descriptor_set.into());
        if let Some(writer) = &inner.writer {
            done(writer.apply(Change::Put(Entry::new(id, revision, bytes.clone()))))?;
        }
        inner.revision = revision;
        inner.entries.insert(id.to_owned(), (revision, bytes));
        Ok(revision)
    }

    /// [`put`](Self::put) of `.proto` source text that imports nothing but `google/protobuf/*.proto`.
    ///
    /// # Errors
    ///
    /// It does not compile, or see [`put`](Self::put).
    pub fn put_source(&self, id: &str, source: &str) -> Result<u64, StoreError> {
        let name = format!("{id}.proto");
        let bytes = crate::source::compile_text(&name, source).map_err(|cause| {
            StoreError::Refused(vec![ApplyError::Load {
                id: id.to_owned(),
                revision: 0,
                cause,
            }])
        })?;
        self.put(id, bytes)
    }

    /// Deletes a schema; whether it was there.
    pub fn delete(&self, id: &str) -> bool {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.revision += 1;
        if let Some(writer) = &inner.writer {
            let _ = writer.apply(Change::Delete {
                id: id.to_owned(),
                revision: inner.revision,
            });
        }
        inner.entries.remove(id).is_some()
    }
}

impl SchemaStore for MemoryStore {
    async fn run(self, writer: RegistryWriter) -> Result<(), StoreError> {
        self.load(&writer)?;
        pending().await
    }
}

/// An error if anything was refused.
pub(super) fn done(applied: Applied) -> Result<usize, StoreError> {
    if applied.refused.is_empty() {
        Ok(applied.changed)
    } else {
        Err(StoreError::Refused(applied.refused))
    }
}
