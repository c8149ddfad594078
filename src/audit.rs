//! The audit trail of control actions: append-only, hash-chained JSON lines (DESIGN 8).
//!
//! ```text
//! {"n":0,"prev":"00..","at_us":..,"seq":1,"channel":"gov.t.default.down","envelope":"{..}","verdict":"accepted","h":".."}
//! ```
//!
//! `h` is BLAKE3 of the line's bytes before `,"h":`; `prev` is the `h` of the line before, so a line cannot
//! be changed, dropped or moved without the next one telling. An entry is on disk before
//! [`AuditLog::append`](AuditSink::append) is ready, and only then is a control action acknowledged. Envelopes
//! are kept verbatim: [`AuditLog::open`] yields the records to fold again.
//!
//! A write that was torn by a crash is cut off when the file is opened; it was never acknowledged. What was
//! taken off the end *after* it was acknowledged only somebody who knows [`AuditLog::head`] can tell.

mod chain;

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use arqon_rollout::{AuditEntry, AuditError, AuditFuture, AuditSink, Record};

pub use self::chain::verify;

/// A file above this size is put aside as `<path>.<n of its first line>` and a new one goes on with its head.
pub const ROTATE_BYTES: u64 = 64 * 1024 * 1024;

/// Where a trail ends: what to keep elsewhere to notice that its end was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// How many lines there are, those of files put aside included.
    pub lines: u64,
    /// The last `h`.
    pub hash: [u8; 32],
}

impl Head {
    /// The last `h` as the file has it.
    pub fn to_hex(&self) -> String {
        chain::hex(&self.hash)
    }
}

/// Why a trail cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BrokenAudit {
    /// It cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is not what was written.
    #[error("{path}: entry {index} {what}")]
    Entry {
        /// Which file.
        path: PathBuf,
        /// The `n` it has or should have.
        index: u64,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// What a trail was found to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The `n` of the first line: above 0 in a file that follows one put aside.
    pub first: u64,
    /// Where it ends.
    pub head: Head,
    /// Bytes of a write that was torn at the end.
    pub torn_bytes: u64,
}

/// An audit trail that is open for writing. Clones write the same file.
#[derive(Debug, Clone)]
pub struct AuditLog {
    writer: Arc<Mutex<Writer>>,
}

#[derive(Debug)]
struct Writer {
    path: PathBuf,
    file: File,
    /// How much of the file is whole lines on disk.
    good: u64,
    first: u64,
    head: Head,
    rotate_bytes: u64,
}

impl AuditLog {
    /// Opens or creates a trail: verifies all of it, cuts off a torn write, and yields the records the
    /// control log had given, in order.
    ///
    /// # Errors
    ///
    /// [`BrokenAudit`]: a broken trail is not continued.
    pub fn open(path: impl AsRef<Path>) -> Result<(Self, Vec<Record>), BrokenAudit> {
        let path = path.as_ref().to_path_buf();
        let failed = |source| BrokenAudit::Io {
            path: path.clone(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)
            .and_then(alone)
            .map_err(failed)?;
        let mut records = Vec::new();
        let verified = chain::walk_all(&path, |line, _| records.extend(chain::record(line)))?;
        let length = file.seek(SeekFrom::End(0)).map_err(failed)?;
        let empty = Verified {
            first: 0,
            head: Head {
                lines: 0,
                hash: chain::GENESIS,
            },
            torn_bytes: length,
        };
        let Verified {
            first: oldest,
            head,
            torn_bytes,
        } = verified.unwrap_or(empty);
        if oldest > 0 {
            // The state is the fold of all of it.
            return Err(BrokenAudit::Entry {
                path,
                index: 0,
                what: "is missing, and all before the first one here: put the older files back beside it",
            });
        }
        let good = length.saturating_sub(torn_bytes);
        if good < length {
            tracing::warn!(component = "audit", torn_bytes, "a torn write is cut off");
            file.set_len(good)
                .and_then(|()| file.sync_all())
                .map_err(failed)?;
        }
        sync_folder(&path).map_err(failed)?;
        let first = chain::first_of(&path)?.unwrap_or(head.lines);
        let writer = Writer {
            path,
            file,
            good,
            first,
            head,
            rotate_bytes: ROTATE_BYTES,
        };
        Ok((
            Self {
                writer: Arc::new(Mutex::new(writer)),
            },
            records,
        ))
    }

    /// Where the trail ends now.
    pub fn head(&self) -> Head {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).head
    }

    /// Whether the trail has, or once had as its end, this head: reads all of it.
    pub fn holds(&self, lines: u64, hash: &str) -> bool {
        let path = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .path
            .clone();
        holds(&path, lines, hash).unwrap_or(false)
    }
}

impl AuditSink for AuditLog {
    fn append(&self, entry: AuditEntry) -> AuditFuture<'_> {
        let writer = self.writer.clone();
        Box::pin(async move {
            let write = move || {
                writer
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .append(&entry)
            };
            let written = tokio::task::spawn_blocking(write).await;
            written
                .map_err(|error| AuditError(error.into()))?
                .map_err(|error| AuditError(error.into()))
        })
    }
}

impl Writer {
    /// Writes a line and waits until it is on disk. A line that could not be written whole is taken back.
    fn append(&mut self, entry: &AuditEntry) -> io::Result<()> {
        if self.good >= self.rotate_bytes {
            self.rotate()?;
        }
        let (line, hash) = chain::line(entry, self.head)?;
        let written = self.file.write_all(&line).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            self.file.set_len(self.good)?;
            return Err(error);
        }
        self.good += line.len() as u64;
        self.head = Head {
            lines: self.head.lines + 1,
            hash,
        };
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        fs::rename(&self.path, chain::numbered(&self.path, self.first))?;
        self.file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&self.path)
            .and_then(alone)?;
        sync_folder(&self.path)?;
        (self.good, self.first) = (0, self.head.lines);
        Ok(())
    }
}

/// A trail that two processes wrote would be broken by the first line of the second: the lock ends with the process.
fn alone(file: File) -> io::Result<File> {
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "another process writes this trail: give every gateway its own",
        )),
        Err(TryLockError::Error(error)) => {
            // Some file systems know no locks.
            tracing::warn!(component = "audit", %error, "the trail cannot be locked against another gateway");
            Ok(file)
        }
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => File::open(folder)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

/// Whether there is a trail: its file, or files that were put aside before a crash.
#[must_use]
pub fn is_there(path: impl AsRef<Path>) -> bool {
    let path = path.as_ref();
    path.is_file() || chain::aside(path).is_ok_and(|files| !files.is_empty())
}

/// Whether a trail has this head, or once had it as its end.
///
/// # Errors
///
/// As [`verify`].
pub fn holds(path: impl AsRef<Path>, lines: u64, hash: &str) -> Result<bool, BrokenAudit> {
    let mut held = lines == 0;
    chain::walk_all(path.as_ref(), |line, digest| {
        held |= line.n + 1 == lines && chain::hex(&digest) == hash;
    })?;
    Ok(held)
}

#[cfg(test)]
mod tests;
