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
//! A write that was torn by a crash is cut off when the file is opened; it was never acknowledged. The head of what was
//! acknowledged is kept beside the trail, in `<trail>.head`: a trail that lacks it lost its end and is not continued. Whoever
//! can change both files is found out by a head kept elsewhere, such as the one exported to NATS.

mod chain;
mod kept;

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use arqon_rollout::{AuditEntry, AuditError, AuditFuture, AuditSink, Recovered};

use self::kept::Kept;

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
    /// Of a trail without a line.
    const GENESIS: Self = Self {
        lines: 0,
        hash: chain::GENESIS,
    };

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
    /// The head that is kept beside the trail is gone: whether its end was cut off cannot be told.
    #[error(
        "{path} is missing, which holds where the trail beside it ended: put it back; if its end is as it should be, such as after \
         an upgrade, `arqon audit seal` writes a new one"
    )]
    Headless {
        /// Where it should be.
        path: PathBuf,
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

/// Checks a trail from its first line to its last, the files put aside before it included, and that it ends no earlier than
/// the head kept beside it says, if there is one. None: there is not one whole line.
///
/// # Errors
///
/// [`BrokenAudit::Entry`] names the first line that is not what was written, does not follow the one before, or is missing.
pub fn verify(path: impl AsRef<Path>) -> Result<Option<Verified>, BrokenAudit> {
    // Before the trail, which may be written meanwhile.
    let kept = kept::read(path.as_ref());
    if let Ok(Some(Head { lines: 1.., .. })) = kept
        && !is_there(path.as_ref())
    {
        return Err(BrokenAudit::Entry {
            path: path.as_ref().to_path_buf(),
            index: 0,
            what: "was acknowledged and is missing, with all that follow: the trail is gone, and its head is here",
        });
    }
    match walk_to(path.as_ref(), kept, |_, _| {})? {
        (_, Some(missing)) if !matches!(missing, BrokenAudit::Headless { .. }) => Err(missing),
        (found, _) => Ok(found),
    }
}

/// Whether the head of a trail is kept beside it.
#[must_use]
pub fn has_head(path: impl AsRef<Path>) -> bool {
    kept::path_of(path.as_ref()).is_file()
}

/// Takes the end of a trail as it is: keeps its head beside it. For a trail of an older version, or once the loss of its end
/// was looked into.
///
/// # Errors
///
/// [`BrokenAudit`]: the chain is broken, somebody writes the trail, or the head cannot be written.
pub fn seal(path: impl AsRef<Path>) -> Result<Head, BrokenAudit> {
    let path = path.as_ref();
    let failed = |source| BrokenAudit::Io {
        path: path.to_path_buf(),
        source,
    };
    let _alone = File::options()
        .read(true)
        .append(true)
        .open(path)
        .and_then(alone)
        .map_err(failed)?;
    let head = chain::walk_all(path, |_, _| {})?.map_or(Head::GENESIS, |found| found.head);
    Kept::make(path, head).map_err(failed)?;
    Ok(head)
}

/// Every line of a trail in order, and what is wrong with its end, by the head that is kept of it.
fn walk_to(
    path: &Path,
    kept: Result<Option<Head>, BrokenAudit>,
    mut each: impl FnMut(chain::Line, [u8; 32]),
) -> Result<(Option<Verified>, Option<BrokenAudit>), BrokenAudit> {
    let expected = kept
        .as_ref()
        .ok()
        .copied()
        .flatten()
        .filter(|kept| kept.lines > 0);
    let mut there = expected.is_none();
    let found = chain::walk_all(path, |line, hash| {
        there |= expected.is_some_and(|kept| line.n + 1 == kept.lines && hash == kept.hash);
        each(line, hash);
    })?;
    let lines = found.as_ref().map_or(0, |found| found.head.lines);
    let broken = |index, what| BrokenAudit::Entry {
        path: path.to_path_buf(),
        index,
        what,
    };
    let missing = match kept {
        Err(unreadable) => Some(unreadable),
        Ok(None) => found.is_some().then(|| BrokenAudit::Headless {
            path: kept::path_of(path),
        }),
        Ok(Some(_)) if there => None,
        Ok(Some(kept)) if lines < kept.lines => Some(broken(
            lines,
            "was acknowledged and is missing: the end of the trail was cut off",
        )),
        Ok(Some(kept)) => Some(broken(kept.lines - 1, "is not the one that was acknowledged")),
    };
    Ok((found, missing))
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
    kept: Kept,
    rotate_bytes: u64,
    /// Whether a write that failed may have left bytes after `good`.
    littered: bool,
    /// Whether the name of the file may not be on disk yet.
    unnamed: bool,
}

impl AuditLog {
    /// Opens or creates a trail: verifies all of it, cuts off a torn write, and yields the records the
    /// control log had given, in order.
    ///
    /// # Errors
    ///
    /// [`BrokenAudit`]: a broken trail is not continued.
    pub fn open(path: impl AsRef<Path>) -> Result<(Self, Vec<Recovered>), BrokenAudit> {
        let (log, records, _) = Self::open_with(path.as_ref(), false)?;
        Ok((log, records))
    }

    /// The same where the control log is kept elsewhere, too, and gives again what the end of the trail lost: goes on from what
    /// is left, and says what is wrong with its end, for people.
    ///
    /// # Errors
    ///
    /// [`BrokenAudit`]: what is left is broken itself.
    pub fn open_beside_a_log(
        path: impl AsRef<Path>,
    ) -> Result<(Self, Vec<Recovered>, Option<String>), BrokenAudit> {
        Self::open_with(path.as_ref(), true)
    }

    fn open_with(path: &Path, lenient: bool) -> Result<(Self, Vec<Recovered>, Option<String>), BrokenAudit> {
        let path = path.to_path_buf();
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
        let (verified, missing) = walk_to(&path, kept::read(&path), |line, _| {
            records.extend(chain::record(line))
        })?;
        let missing = match missing {
            Some(missing) if !lenient => return Err(missing),
            missing => missing,
        };
        let length = file.seek(SeekFrom::End(0)).map_err(failed)?;
        let empty = Verified {
            first: 0,
            head: Head::GENESIS,
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
        // A last line that got to the disk before anybody was told counts from now on.
        let kept = match Kept::open(&path) {
            Ok(mut kept) if missing.is_none() => kept.write(head).map(|()| kept),
            _ => Kept::make(&path, head),
        };
        let kept = kept.map_err(|source| BrokenAudit::Io {
            path: kept::path_of(&path),
            source,
        })?;
        let writer = Writer {
            path,
            file,
            good,
            first,
            head,
            kept,
            rotate_bytes: ROTATE_BYTES,
            littered: false,
            unnamed: false,
        };
        let log = Self {
            writer: Arc::new(Mutex::new(writer)),
        };
        Ok((log, records, missing.map(|missing| missing.to_string())))
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
        if self.littered {
            self.file.set_len(self.good)?;
            self.littered = false;
        }
        if self.good >= self.rotate_bytes {
            self.rotate()?;
        }
        if self.unnamed {
            sync_folder(&self.path)?;
            self.unnamed = false;
        }
        let (line, hash) = chain::line(entry, self.head)?;
        let head = Head {
            lines: self.head.lines + 1,
            hash,
        };
        let file = &mut self.file;
        let written = file.write_all(&line).and_then(|()| file.sync_data());
        // Never the head before the line: after a crash the trail may go further than it, not end before it.
        if let Err(error) = written.and_then(|()| self.kept.write(head)) {
            self.littered = self.file.set_len(self.good).is_err();
            return Err(error);
        }
        self.good += line.len() as u64;
        self.head = head;
        Ok(())
    }

    /// Puts the file aside and begins the next one. What failed half way is gone on with; nothing is renamed over a file that was
    /// put aside.
    fn rotate(&mut self) -> io::Result<()> {
        let aside = chain::numbered(&self.path, self.first);
        if !aside.try_exists()? {
            fs::rename(&self.path, &aside)?;
        } else if self.path.try_exists()? && fs::metadata(&self.path)?.len() > 0 {
            let error = format!("{} is in the way of the trail", aside.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, error));
        }
        self.file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&self.path)
            .and_then(alone)?;
        (self.good, self.first, self.unnamed) = (0, self.head.lines, true);
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
