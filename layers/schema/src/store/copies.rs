//! [`Copies`]: the last known good schemas on disk, for a start while the store is away.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use flate2::Crc;
use prost::Message;

use crate::{
    error::StoreError,
    handle::{Applied, RegistryWriter},
    metrics::Alarm,
    registry::Entry,
};

/// What the first field of the file says.
const FORMAT: &str = "arqon schema copies 1";
/// The largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// One file with everything in force. It is replaced whole, and each schema in it has a checksum, so that a damaged file
/// restores less, never something else. What it restores is checked like an update from the store.
#[derive(Clone, Debug)]
pub struct Copies {
    path: PathBuf,
    store: String,
}

#[derive(Clone, PartialEq, Message)]
struct File {
    #[prost(string, tag = "1")]
    format: String,
    /// The store the copies are of.
    #[prost(string, tag = "2")]
    store: String,
    #[prost(message, repeated, tag = "3")]
    entries: Vec<Copy>,
}

#[derive(Clone, PartialEq, Message)]
struct Copy {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(uint64, tag = "2")]
    revision: u64,
    #[prost(bytes = "bytes", tag = "3")]
    bytes: Bytes,
    #[prost(fixed32, tag = "4")]
    checksum: u32,
}

impl Copy {
    /// Of the store's name too: a copy that is moved into another file does not fit there.
    fn checksum_in(&self, store: &str) -> u32 {
        let mut crc = Crc::new();
        for part in [store.as_bytes(), self.id.as_bytes(), &self.bytes] {
            crc.update(&(part.len() as u64).to_le_bytes());
            crc.update(part);
        }
        crc.update(&self.revision.to_le_bytes());
        crc.sum()
    }
}

/// What a file of copies gave.
#[derive(Debug, Default)]
#[must_use = "a damaged copy is something to tell"]
#[non_exhaustive]
pub struct Restored {
    /// What came in force, and what was refused.
    pub applied: Applied,
    /// Schemas that were damaged and are left out.
    pub damaged: Vec<String>,
    /// How old the copies are; `None` where there is no file.
    pub age: Option<Duration>,
}

impl Copies {
    /// Copies in that file, of the store of that name. Nothing is read or written yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, store: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            store: store.into(),
        }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes everything in force: beside the file first, then in its place. Blocks.
    ///
    /// # Errors
    ///
    /// The file cannot be written; the old one stays.
    pub fn save(&self, writer: &RegistryWriter) -> Result<(), StoreError> {
        let entries = writer.entries().into_iter();
        let entries = entries.map(|entry| {
            let mut copy = Copy {
                id: entry.id,
                revision: entry.revision,
                bytes: entry.bytes,
                checksum: 0,
            };
            copy.checksum = copy.checksum_in(&self.store);
            copy
        });
        let file = File {
            format: FORMAT.to_owned(),
            store: self.store.clone(),
            entries: entries.collect(),
        };
        let written = self.replace(&file.encode_to_vec());
        written.map_err(|cause| self.failed(cause))
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let mut draft = OsString::from(&self.path);
        draft.push(".new");
        let file = fs::File::create(&draft)?;
        io::Write::write_all(&mut &file, bytes)?;
        file.sync_all()?;
        fs::rename(&draft, &self.path)?;
        // The name in the folder is as durable as the content, where the system can say so.
        if let Some(folder) = self.path.parent() {
            let here = folder.as_os_str().is_empty().then(|| Path::new("."));
            if let Ok(folder) = fs::File::open(here.unwrap_or(folder)) {
                let _ = folder.sync_all();
            }
        }
        Ok(())
    }

    /// Says that the copies are still what the store has: they are fresh again. Blocks.
    ///
    /// # Errors
    ///
    /// The file is not there, or its time cannot be set.
    pub fn touch(&self) -> Result<(), StoreError> {
        let touched = fs::File::options()
            .append(true)
            .open(&self.path)
            .and_then(|file| file.set_modified(SystemTime::now()));
        touched.map_err(|cause| self.failed(cause))
    }

    fn failed(&self, cause: io::Error) -> StoreError {
        Alarm::Copies.raise();
        StoreError::Io {
            path: self.path.clone(),
            cause,
        }
    }

    /// Puts the copies into the registry, which is as old as the file from now on and not ready yet: only the store can
    /// tell what is missing. No file restores nothing. Blocks.
    ///
    /// # Errors
    ///
    /// The file is there but cannot be read, is no such file, or is of another store; then nothing is restored.
    pub fn restore(&self, writer: &RegistryWriter) -> Result<Restored, StoreError> {
        let damaged = |problem: String| {
            Alarm::Copies.raise();
            StoreError::Damaged {
                path: self.path.clone(),
                problem,
            }
        };
        let meta = match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Restored::default()),
            meta => meta.map_err(|cause| self.failed(cause))?,
        };
        if meta.len() > FILE_BYTES_MAX {
            return Err(damaged(format!("it has {} bytes", meta.len())));
        }
        let written = meta.modified().map_err(|cause| self.failed(cause))?;
        let bytes = fs::read(&self.path).map_err(|cause| self.failed(cause))?;
        let file = File::decode(bytes.as_slice()).map_err(|error| damaged(error.to_string()))?;
        if file.format != FORMAT {
            return Err(damaged(format!("it begins with {:?}", file.format)));
        }
        if file.store != self.store {
            return Err(damaged(format!(
                "it has copies of {:?}, not of {:?}",
                file.store, self.store
            )));
        }
        let (whole, broken): (Vec<_>, Vec<_>) = file
            .entries
            .into_iter()
            .partition(|copy| copy.checksum == copy.checksum_in(&self.store));
        if !broken.is_empty() {
            Alarm::Copies.raise();
        }
        let entries = whole.into_iter();
        let entries = entries.map(|copy| Entry::new(copy.id, copy.revision, copy.bytes));
        let applied = writer.apply_copies(entries.collect());
        // A clock that went back makes no copy fresher than now.
        let age = SystemTime::now()
            .duration_since(written)
            .unwrap_or(Duration::ZERO);
        writer.contact_was(age);
        Ok(Restored {
            applied,
            damaged: broken.into_iter().map(|copy| copy.id).collect(),
            age: Some(age),
        })
    }
}
