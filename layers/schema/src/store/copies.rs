//! [`Copies`]: the last known good schemas on disk, for a start while the store is away.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use prost::Message;

use crate::{
    error::StoreError,
    handle::{Applied, RegistryWriter},
    registry::Change,
};

/// One file with everything in force. It is replaced whole, and what is read from it is checked like an update from the
/// store, so a damaged file restores less, never something else.
#[derive(Clone, Debug)]
pub struct Copies {
    path: PathBuf,
}

#[derive(Clone, PartialEq, Message)]
struct File {
    #[prost(message, repeated, tag = "1")]
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
}

impl Copies {
    /// Copies in that file. Nothing is read or written yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Writes everything in force: beside the file first, then in its place. Blocks.
    ///
    /// # Errors
    ///
    /// The file cannot be written; the old one stays.
    pub fn save(&self, writer: &RegistryWriter) -> Result<(), StoreError> {
        let entries = writer.entries().into_iter();
        let entries = entries
            .map(|entry| Copy {
                id: entry.id,
                revision: entry.revision,
                bytes: entry.bytes,
            })
            .collect();
        let draft = self.path.with_extension("new");
        let write = |draft: &Path| {
            let file = fs::File::create(draft)?;
            io::Write::write_all(&mut &file, &File { entries }.encode_to_vec())?;
            file.sync_all()?;
            fs::rename(draft, &self.path)
        };
        write(&draft).map_err(|cause| StoreError::Io {
            path: self.path.clone(),
            cause,
        })
    }

    /// Puts the copies into the registry, which is as old as the file from now on and not ready yet: only the store can
    /// tell what is missing. No file restores nothing. Blocks.
    ///
    /// # Errors
    ///
    /// The file is there but cannot be read, or is no such file.
    pub fn restore(&self, writer: &RegistryWriter) -> Result<Applied, StoreError> {
        let io = |cause| StoreError::Io {
            path: self.path.clone(),
            cause,
        };
        let bytes = match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Applied::default()),
            read => read.map_err(io)?,
        };
        let written = fs::metadata(&self.path)
            .and_then(|meta| meta.modified())
            .map_err(io)?;
        let file = File::decode(bytes.as_slice())
            .map_err(|error| io(io::Error::new(io::ErrorKind::InvalidData, error)))?;
        let mut restored = Applied::default();
        for Copy { id, revision, bytes } in file.entries {
            let Applied { changed, refused } = writer.apply(Change::Put { id, revision, bytes });
            restored.changed += changed;
            restored.refused.extend(refused);
        }
        // A clock that went back makes no copy fresher than now.
        writer.contact_was(
            SystemTime::now()
                .duration_since(written)
                .unwrap_or(Duration::ZERO),
        );
        Ok(restored)
    }
}
