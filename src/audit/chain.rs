//! The chain itself: lines, digests, files put aside.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use arqon_rollout::{AuditEntry, Record, Recovered};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};

use super::{BrokenAudit, Head, Verified};

/// Longest line that is read: an envelope and a catalog, both escaped.
const LINE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Before the digest, at the end of every line.
pub(super) const TAIL: &str = ",\"h\":\"";

/// The `prev` of the very first line.
pub(super) const GENESIS: [u8; 32] = [0; 32];

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line {
    pub(super) n: u64,
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

pub(super) fn line(entry: &AuditEntry, head: Head) -> io::Result<(Vec<u8>, [u8; 32])> {
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

/// Every line of a trail in order, with its digest.
pub(super) fn walk_all(
    path: &Path,
    mut each: impl FnMut(Line, [u8; 32]),
) -> Result<Option<Verified>, BrokenAudit> {
    let failed = |source| BrokenAudit::Io {
        path: path.to_path_buf(),
        source,
    };
    let mut all: Option<Verified> = None;
    let files = aside(path).map_err(failed)?;
    for file in files.iter().map(|(_, file)| file.as_path()).chain([path]) {
        let before = all.as_ref().map(|all| all.head);
        // A crash right after the last file was put aside: the next one is not made yet.
        if file == path && !files.is_empty() && !path.exists() {
            return Ok(all);
        }
        let found = walk(file, before, &mut each)?;
        all = match (all, found) {
            // The files put aside were whole then: only the last one may end in a torn write.
            (
                Some(Verified {
                    torn_bytes: 1..,
                    head,
                    ..
                }),
                _,
            ) => {
                return Err(BrokenAudit::Entry {
                    path: file.to_path_buf(),
                    index: head.lines,
                    what: "follows a file that was cut off",
                });
            }
            (Some(all), Some(found)) => Some(Verified {
                first: all.first,
                ..found
            }),
            (Some(all), None) => Some(Verified {
                torn_bytes: fs::metadata(file).map_err(failed)?.len(),
                ..all
            }),
            (None, found) => found,
        };
    }
    Ok(all)
}

/// Every line of one file, which has to follow `before`.
fn walk(
    path: &Path,
    before: Option<Head>,
    mut each: impl FnMut(Line, [u8; 32]),
) -> Result<Option<Verified>, BrokenAudit> {
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
        let follows = found.as_ref().map(|found| found.head).or(before);
        let index = follows.map_or(0, |head| head.lines);
        let broken = |what| BrokenAudit::Entry {
            path: path.to_path_buf(),
            index,
            what,
        };
        let Some(whole) = bytes.strip_suffix(b"\n") else {
            // A torn write ends early. A whole entry whose line feed is another byte was written, and changed since.
            if bytes.split_last().is_some_and(|(_, entry)| read(entry).is_some()) {
                return Err(broken("is not what was written"));
            }
            if let Some(found) = &mut found {
                found.torn_bytes = bytes.len() as u64;
            }
            return Ok(found);
        };
        let (line, hash) = read(whole).ok_or_else(|| broken("is not what was written"))?;
        match follows {
            Some(head) if line.n != index || line.prev != head.to_hex() => {
                return Err(broken("does not follow the one before"));
            }
            None if line.n == 0 && line.prev != hex(&GENESIS) => {
                return Err(broken("does not start a trail"));
            }
            Some(_) | None => {}
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
        each(line, hash);
    }
}

/// A line whose digest is right.
pub(super) fn read(whole: &[u8]) -> Option<(Line, [u8; 32])> {
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

/// The record a line was written for, and what became of it; None for a message that never got to the log.
pub(super) fn record(line: Line) -> Option<Recovered> {
    let verdict = match line.verdict {
        Verdict::Accepted => Ok(()),
        Verdict::Refused => Err(line.reason.unwrap_or_default()),
    };
    let envelope = if line.base64 {
        BASE64_STANDARD.decode(line.envelope).ok()?
    } else {
        line.envelope.into_bytes()
    };
    let record = Record {
        seq: line.seq?,
        received_at_us: line.at_us,
        channel: line.channel.parse().ok()?,
        envelope: envelope.into(),
        catalog: match line.catalog {
            Some(catalog) => Some(BASE64_STANDARD.decode(catalog).ok()?.into()),
            None => None,
        },
    };
    Some(Recovered {
        record,
        verdict: Some(verdict),
    })
}

/// The files put aside, oldest first.
pub(super) fn aside(path: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
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

/// The `n` of a file's first line.
pub(super) fn first_of(path: &Path) -> Result<Option<u64>, BrokenAudit> {
    let mut first = None;
    let failed = |source| BrokenAudit::Io {
        path: path.to_path_buf(),
        source,
    };
    let mut line = Vec::new();
    BufReader::new(File::open(path).map_err(failed)?)
        .take(LINE_BYTES_MAX)
        .read_until(b'\n', &mut line)
        .map_err(failed)?;
    if let Some((line, _)) = line.strip_suffix(b"\n").and_then(read) {
        first = Some(line.n);
    }
    Ok(first)
}

pub(super) fn numbered(path: &Path, first: u64) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{first}"));
    name.into()
}

pub(super) fn hex(bytes: &[u8; 32]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
