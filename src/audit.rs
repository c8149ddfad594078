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

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use arqon_rollout::{AuditEntry, AuditError, AuditFuture, AuditSink, Record};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};

/// A file above this size is put aside as `<path>.<n of its first line>` and a new one goes on with its head.
pub const ROTATE_BYTES: u64 = 64 * 1024 * 1024;

/// Longest line that is read: an envelope and a catalog, both escaped.
const LINE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Before the digest, at the end of every line.
const TAIL: &str = ",\"h\":\"";

/// The `prev` of the very first line.
const GENESIS: [u8; 32] = [0; 32];

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
        hex(&self.hash)
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

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    n: u64,
    prev: String,
    at_us: u64,
    seq: Option<u64>,
    channel: String,
    envelope: String,
    /// The envelope was no text: it is base64 then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    base64: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    catalog: Option<String>,
    verdict: Verdict,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Accepted,
    Refused,
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
        let mut records = Vec::new();
        for (_, aside) in aside(&path).map_err(failed)? {
            walk(&aside, |line| records.extend(record(line)))?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)
            .map_err(failed)?;
        let verified = walk(&path, |line| records.extend(record(line)))?;
        let verified = verified.unwrap_or_else(|| Verified {
            first: 0,
            head: Head {
                lines: 0,
                hash: GENESIS,
            },
            torn_bytes: fs::metadata(&path).map_or(0, |file| file.len()),
        });
        let length = file.seek(SeekFrom::End(0)).map_err(failed)?;
        let good = length.saturating_sub(verified.torn_bytes);
        if good < length {
            tracing::warn!(
                component = "audit",
                torn_bytes = verified.torn_bytes,
                "a torn write is cut off"
            );
            file.set_len(good)
                .and_then(|()| file.sync_all())
                .map_err(failed)?;
        }
        sync_folder(&path).map_err(failed)?;
        let Verified { first, head, .. } = verified;
        let (first, head) = match last_aside(&path)? {
            // Everything was put aside, and the new file has no line yet.
            Some(before) if good == 0 => (before.lines, before),
            _ => (first, head),
        };
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
        let (line, hash) = line(entry, self.head)?;
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
        fs::rename(&self.path, numbered(&self.path, self.first))?;
        self.file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&self.path)?;
        sync_folder(&self.path)?;
        (self.good, self.first) = (0, self.head.lines);
        Ok(())
    }
}

fn line(entry: &AuditEntry, head: Head) -> io::Result<(Vec<u8>, [u8; 32])> {
    let text = std::str::from_utf8(&entry.envelope);
    let line = Line {
        n: head.lines,
        prev: head.to_hex(),
        at_us: entry.received_at_us,
        seq: entry.seq,
        channel: entry.channel.clone(),
        envelope: text.map_or_else(|_| BASE64_STANDARD.encode(&entry.envelope), str::to_owned),
        base64: text.is_err(),
        catalog: entry
            .catalog
            .as_ref()
            .map(|catalog| BASE64_STANDARD.encode(catalog)),
        verdict: if entry.refusal.is_none() {
            Verdict::Accepted
        } else {
            Verdict::Refused
        },
        reason: entry.refusal.as_ref().map(|refusal| refusal.reason.to_string()),
        detail: entry.refusal.as_ref().map(|refusal| refusal.detail.clone()),
    };
    let mut bytes = serde_json::to_vec(&line)?;
    bytes.pop();
    let hash = *blake3::hash(&bytes).as_bytes();
    bytes.extend_from_slice(format!("{TAIL}{}\"}}\n", hex(&hash)).as_bytes());
    Ok((bytes, hash))
}

/// Checks a trail from its first line to its last. None: there is not one whole line.
///
/// # Errors
///
/// [`BrokenAudit::Entry`] names the first line that is not what was written.
pub fn verify(path: impl AsRef<Path>) -> Result<Option<Verified>, BrokenAudit> {
    walk(path.as_ref(), |_| {})
}

fn walk(path: &Path, mut each: impl FnMut(Line)) -> Result<Option<Verified>, BrokenAudit> {
    let failed = |source| BrokenAudit::Io {
        path: path.to_path_buf(),
        source,
    };
    let mut reader = BufReader::new(File::open(path).map_err(failed)?);
    let mut found: Option<Verified> = None;
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        reader
            .by_ref()
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut bytes)
            .map_err(failed)?;
        let Some(whole) = bytes.strip_suffix(b"\n") else {
            if let Some(found) = &mut found {
                found.torn_bytes = bytes.len() as u64;
            }
            return Ok(found);
        };
        let index = found.as_ref().map_or(0, |found| found.head.lines);
        let broken = |what| BrokenAudit::Entry {
            path: path.to_path_buf(),
            index,
            what,
        };
        let (line, hash) = read(whole).ok_or_else(|| broken("is not what was written"))?;
        if let Some(found) = &found {
            if line.n != index || line.prev != found.head.to_hex() {
                return Err(broken("does not follow the one before"));
            }
        } else if line.n == 0 && line.prev != hex(&GENESIS) {
            return Err(broken("does not start a trail"));
        }
        let first = found.as_ref().map_or(line.n, |found| found.first);
        let head = Head {
            lines: line.n.saturating_add(1),
            hash,
        };
        found = Some(Verified {
            first,
            head,
            torn_bytes: 0,
        });
        each(line);
    }
}

/// A line whose digest is right.
fn read(whole: &[u8]) -> Option<(Line, [u8; 32])> {
    let tail = TAIL.len() + 64 + 2;
    let (body, end) = whole.split_at_checked(whole.len().checked_sub(tail)?)?;
    let hash = *blake3::hash(body).as_bytes();
    if end != format!("{TAIL}{}\"}}", hex(&hash)).as_bytes() {
        return None;
    }
    let mut object = body.to_vec();
    object.push(b'}');
    Some((serde_json::from_slice(&object).ok()?, hash))
}

/// The record a line was written for; None for a message that never got to the log.
fn record(line: Line) -> Option<Record> {
    let envelope = if line.base64 {
        BASE64_STANDARD.decode(line.envelope).ok()?
    } else {
        line.envelope.into_bytes()
    };
    Some(Record {
        seq: line.seq?,
        received_at_us: line.at_us,
        channel: line.channel.parse().ok()?,
        envelope: envelope.into(),
        catalog: match line.catalog {
            Some(catalog) => Some(BASE64_STANDARD.decode(catalog).ok()?.into()),
            None => None,
        },
    })
}

/// The files put aside, oldest first.
fn aside(path: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let name = path
        .file_name()
        .map(|name| format!("{}.", name.display()))
        .unwrap_or_default();
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let number = entry
            .file_name()
            .to_str()
            .and_then(|file| file.strip_prefix(&name)?.parse().ok());
        files.extend(number.map(|number| (number, entry.path())));
    }
    files.sort();
    Ok(files)
}

/// The head of the newest file put aside.
fn last_aside(path: &Path) -> Result<Option<Head>, BrokenAudit> {
    let files = aside(path).map_err(|source| BrokenAudit::Io {
        path: path.to_path_buf(),
        source,
    })?;
    match files.last() {
        Some((_, newest)) => Ok(verify(newest)?.map(|verified| verified.head)),
        None => Ok(None),
    }
}

fn numbered(path: &Path, first: u64) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{first}"));
    name.into()
}

fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => File::open(folder)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

fn hex(bytes: &[u8; 32]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;
