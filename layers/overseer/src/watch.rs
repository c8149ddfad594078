//! The policies' files, looked at while the layer runs.
//!
//! A file is loaded anew when its content is another than the one that was last loaded from it, and has been left alone for
//! one look: an editor or a copy that is still at work is not read half way. What does not load is told once and changes
//! nothing. What an operator uploaded stays until the file changes.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use crate::{
    chain::Snapshot,
    error::HandleError,
    place::{Origin, Place, place},
    shared::Shared,
    spec::{Source, read_module},
    verify::digest,
};

/// What is known of each policy's file, by the policy's name.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    files: HashMap<Arc<str>, Seen>,
    /// Whether it was told that this process can be swapped by now.
    swap_told: bool,
}

#[derive(Debug)]
struct Seen {
    path: PathBuf,
    stamp: Stamp,
    /// Whether its content was looked at since the stamp changed.
    read: bool,
    /// SHA-256 of a content that was refused.
    refused: Option<String>,
    /// Whether its content could be read then.
    readable: bool,
    /// Why the file is not what runs.
    findings: Vec<String>,
}

/// What tells one state of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stamp {
    /// Not looked at yet.
    Unknown,
    Missing,
    File {
        modified: Option<SystemTime>,
        len: u64,
        /// The inode, and when it changed last: a file put in the place of another is another, whatever its times say.
        inode: (u64, i64, i64),
    },
}

impl Stamp {
    fn of(path: &Path) -> Self {
        match fs::metadata(path) {
            Ok(metadata) => Self::File {
                modified: metadata.modified().ok(),
                len: metadata.len(),
                inode: inode(&metadata),
            },
            Err(_) => Self::Missing,
        }
    }
}

#[cfg(unix)]
fn inode(metadata: &fs::Metadata) -> (u64, i64, i64) {
    use std::os::unix::fs::MetadataExt;
    (metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
}

#[cfg(not(unix))]
fn inode(_: &fs::Metadata) -> (u64, i64, i64) {
    (0, 0, 0)
}

impl Watch {
    /// Looks at every file once and loads what changed. Blocks while modules compile.
    pub(crate) fn look(&mut self, shared: &Shared) {
        let Some(snapshot) = shared.snapshot() else {
            self.files.clear();
            shared.set_refused(HashMap::new());
            return;
        };
        self.look_at_swap(&snapshot);
        let watched = snapshot.policies.iter().filter_map(|policy| {
            let Source::Path(path) = &policy.spec.source else {
                return None;
            };
            Some((Arc::clone(&policy.spec.guest.name), path, &policy.source_sha256))
        });
        let mut names = Vec::new();
        for (name, path, loaded) in watched {
            let seen = self
                .files
                .entry(Arc::clone(&name))
                .or_insert_with(|| Seen::new(path));
            if seen.path != *path {
                *seen = Seen::new(path);
            }
            if let Some(origin) = seen.changed(loaded.as_deref(), snapshot.loader.limits.module_bytes_max) {
                // What came of it has been told: as an event, in the metrics and in the log.
                seen.findings = match place(shared, &name, &origin, Place::Active) {
                    Err(HandleError::Refused(report)) => report.errors().map(ToString::to_string).collect(),
                    Ok(_) | Err(_) => Vec::new(),
                };
            } else if seen.is_loaded(loaded.as_deref()) {
                seen.findings.clear();
            }
            names.push(name);
        }
        self.files.retain(|name, _| names.contains(name));
        let refused = self.files.iter().filter(|(_, seen)| !seen.findings.is_empty());
        shared.set_refused(
            refused
                .map(|(name, seen)| (Arc::clone(name), seen.findings.clone()))
                .collect(),
        );
    }

    /// Memories that were made to be scanned miss what is swapped out: somebody has to load those modules anew.
    fn look_at_swap(&mut self, snapshot: &Snapshot) {
        let in_vain = snapshot.loader.engine.scans_in_vain();
        if in_vain && !self.swap_told {
            tracing::error!(
                component = "overseer",
                msg = "this process can be swapped by now: policies of more than two pages of memory are to be loaded anew \
                       (a reload of the configuration does it), or what a request wrote may be seen by another"
            );
        }
        self.swap_told = in_vain;
    }
}

impl Seen {
    fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            stamp: Stamp::Unknown,
            read: false,
            refused: None,
            readable: false,
            findings: Vec::new(),
        }
    }

    /// Whether what lies there now is what was last loaded from it. `loaded` is the digest of that.
    fn is_loaded(&self, loaded: Option<&str>) -> bool {
        self.read && self.readable && (self.refused.is_none() || self.refused.as_deref() == loaded)
    }

    /// The file's content, if it is to be tried. `loaded` is the digest of what was last loaded from it.
    fn changed(&mut self, loaded: Option<&str>, bytes_max: usize) -> Option<Origin> {
        let stamp = Stamp::of(&self.path);
        if self.stamp != stamp {
            self.stamp = stamp;
            self.read = false;
            return None;
        }
        if self.read {
            return None;
        }
        match read_module(&self.path, bytes_max) {
            Ok(bytes) => {
                (self.read, self.readable) = (true, true);
                let sha256 = digest(&bytes);
                if loaded == Some(&*sha256) {
                    self.refused = None;
                    return None;
                }
                // If it loads, it is never asked for again: then it is what was loaded last.
                if self.refused.replace(sha256.clone()) == Some(sha256) {
                    return None;
                }
                Some(Origin::File(bytes))
            }
            // Loading says why; whoever interrupted us may try again.
            Err(error) => {
                (self.read, self.readable) = (error.kind() != io::ErrorKind::Interrupted, false);
                self.read.then_some(Origin::Path)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_is_tried_once_it_has_been_left_alone_and_only_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.wat");
        let mut seen = Seen::new(&path);
        let mut tried = |loaded: &[u8]| {
            let loaded = digest(loaded);
            match seen.changed(Some(&loaded), 5) {
                None => "nothing".to_owned(),
                Some(Origin::File(bytes)) => String::from_utf8(bytes.to_vec()).unwrap(),
                Some(origin) => format!("{origin:?}"),
            }
        };
        fs::write(&path, "one").unwrap();
        assert_eq!(tried(b"one"), "nothing", "first seen");
        assert_eq!(tried(b"one"), "nothing", "what is loaded already");

        fs::write(&path, "two").unwrap();
        assert_eq!(tried(b"one"), "nothing", "it may still be written");
        fs::write(&path, "three").unwrap();
        assert_eq!(tried(b"one"), "nothing", "it was still written");
        assert_eq!(tried(b"one"), "three");
        assert_eq!(tried(b"one"), "nothing", "tried, and refused");

        fs::write(&path, "three").unwrap();
        assert_eq!(tried(b"one"), "nothing");
        assert_eq!(tried(b"one"), "nothing", "the same content is refused once");

        fs::write(&path, "one").unwrap();
        assert_eq!(
            (tried(b"one"), tried(b"one")),
            ("nothing".into(), "nothing".into())
        );
        fs::write(&path, "three").unwrap();
        assert_eq!(
            (tried(b"one"), tried(b"one")),
            ("nothing".into(), "three".into()),
            "it may load by now"
        );

        // Put in its place by renaming, with the same length, as careful editors do.
        fs::write(folder.path().join("new"), "seven").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert_eq!((tried(b"one"), tried(b"one")), ("nothing".into(), "seven".into()));

        fs::write(&path, "eleventh").unwrap();
        assert_eq!(
            (tried(b"one"), tried(b"one")),
            ("nothing".into(), "eleven".into()),
            "one byte more than may be is enough to refuse it"
        );

        fs::remove_file(&path).unwrap();
        assert_eq!((tried(b"one"), tried(b"one")), ("nothing".into(), "Path".into()));
        assert_eq!(tried(b"one"), "nothing", "missing is said once");
    }
}
