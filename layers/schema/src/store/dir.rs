//! [`DirStore`]: a folder of schemas, watched.

use std::{
    collections::{HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use notify::{RecursiveMode, Watcher};
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    time::{MissedTickBehavior, interval, sleep},
};

use super::{SchemaStore, files::schema_files, memory::done};
use crate::{
    descriptors::read_set,
    error::{ApplyError, StoreError},
    handle::{Applied, RegistryWriter},
    registry::{Change, Entry},
};

/// The folder is read completely at least this often, whatever the watcher says.
const RECONCILE: Duration = Duration::from_secs(30);
/// Editors write in several steps: wait this long after the first sign.
const SETTLE: Duration = Duration::from_millis(50);

/// A folder of schemas: `.proto` sources, or descriptor sets (`.binpb`, `.pb`, `.fds`, `.desc`, `.protoset`, each
/// also with `.gz`). The schema id is the file's name without its ending: `v1.events.user_created.proto`. A tenant's
/// own schema is `t.<tenant>.<schema id>.proto`. Sub-folders hold what is imported, not schemas.
///
/// A file's revision is counted from 1 and rises when its content (imports included) changes, while the process lives.
/// A file that does not load keeps the last good one in force; the folder gone or empty unloads nothing.
#[derive(Clone, Debug)]
pub struct DirStore {
    dir: PathBuf,
    /// Schema id to revision and hash of the content.
    known: Arc<Mutex<HashMap<String, (u64, u64)>>>,
}

impl DirStore {
    /// The store of that folder. Nothing is read yet.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            known: Arc::default(),
        }
    }

    /// Reads the folder into the registry. Blocks; meant for start-up, where a bad schema should stop the program.
    ///
    /// # Errors
    ///
    /// The folder cannot be read, or some files are refused (the others are in force).
    pub fn load(&self, writer: &RegistryWriter) -> Result<usize, StoreError> {
        done(self.sync(writer)?)
    }

    /// Reads the folder and tells the registry.
    fn sync(&self, writer: &RegistryWriter) -> Result<Applied, StoreError> {
        let files = schema_files(&self.dir).map_err(|cause| StoreError::Io {
            path: self.dir.clone(),
            cause,
        })?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let in_force = writer.revisions();
        let mut refused = Vec::new();
        let mut entries = Vec::with_capacity(files.len());
        let (mut unread, mut holes) = (Vec::new(), Vec::new());
        for (id, paths) in files {
            let read = match paths.as_slice() {
                [path] => read_set(path),
                several => Err(crate::LoadError::Compile(format!(
                    "several files for one schema id: {}; keep one",
                    several
                        .iter()
                        .map(|path| path.display().to_string())
                        .collect::<Vec<_>>()
                        .join(", ")
                ))),
            };
            let last = known.get(&id).copied();
            match read {
                Ok(bytes) => {
                    let mut hasher = DefaultHasher::new();
                    bytes.hash(&mut hasher);
                    let hash = hasher.finish();
                    let revision = match last {
                        Some((revision, same)) if same == hash => revision,
                        Some((revision, _)) => revision + 1,
                        None => in_force.get(&id).map_or(1, |revision| revision + 1),
                    };
                    known.insert(id.clone(), (revision, hash));
                    entries.push(Entry::new(id, revision, bytes));
                }
                Err(cause) => {
                    holes.push(id.clone());
                    unread.push((id, last.map_or(1, |(revision, _)| revision + 1), cause));
                }
            }
        }
        drop(known);
        for (id, revision, cause) in unread {
            let error = |cause| ApplyError::Load {
                id: id.clone(),
                revision,
                cause,
            };
            // Told here, in words; the caller gets the error itself.
            let words = crate::LoadError::Compile(cause.to_string());
            writer.refuse(&id, revision, error(words));
            refused.push(error(cause));
        }
        let mut applied = if refused.is_empty() {
            writer.apply(Change::Reset { entries })
        } else {
            // A listing with holes must not unload what is in them.
            let gone = in_force.into_keys();
            let gone = gone.filter(|id| !holes.contains(id) && !entries.iter().any(|entry| entry.id == *id));
            let gone = gone.map(|id| (id, 0)).collect();
            writer.apply(Change::Listing {
                entries,
                gone,
                unread: holes,
            })
        };
        applied.refused.extend(refused);
        Ok(applied)
    }
}

impl SchemaStore for DirStore {
    async fn run(self, writer: RegistryWriter) -> Result<(), StoreError> {
        // One place is enough: a sign that is already there covers the next.
        let (signs, mut signalled) = mpsc::channel::<()>(1);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let read_only = event.is_ok_and(|event| event.kind.is_access());
            if !read_only && let Err(TrySendError::Closed(())) = signs.try_send(()) {
                tracing::debug!(component = %"registry", "folder watcher outlived its store");
            }
        });
        match &mut watcher {
            Ok(watcher) => {
                if let Err(error) = watcher.watch(&self.dir, RecursiveMode::Recursive) {
                    tracing::warn!(component = %"registry", %error, "cannot watch the folder, reading it every 30 s");
                }
            }
            Err(error) => {
                tracing::warn!(component = %"registry", %error, "cannot watch folders, reading it every 30 s")
            }
        }
        let third = Duration::from_secs(writer.registry().config().cache_ttl_seconds) / 3;
        let mut reconcile = interval(RECONCILE.min(third).max(Duration::from_millis(100)));
        reconcile.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watching = true;
        loop {
            tokio::select! {
                _ = reconcile.tick() => {}
                sign = signalled.recv(), if watching => match sign {
                    Some(()) => {
                        sleep(SETTLE).await;
                        let _ = signalled.try_recv();
                    }
                    None => {
                        watching = false;
                        continue;
                    }
                },
            }
            let (store, target) = (self.clone(), writer.clone());
            match tokio::task::spawn_blocking(move || store.sync(&target)).await {
                Ok(Ok(_)) => writer.contact(),
                Ok(Err(error)) => {
                    tracing::warn!(component = %"registry", %error, "the schema folder cannot be read")
                }
                // Whoever runs this store is told of a panic; the other way to fail is the end of the runtime.
                Err(died) => match died.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => return Ok(()),
                },
            }
        }
    }
}
