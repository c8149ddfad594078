//! The folders that entries are worked on in: made by this process, for this user alone, and gone when it ends.

use std::{
    fs::{self, DirBuilder, File},
    io,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

use super::store::{Entry, private, trusted};

/// Where files are kept in memory, if there is such a place.
const MEMORY: &str = "/dev/shm";

/// The private folders: one beside the entries, where they are written before they are moved into their place, and the one
/// that wasmtime works in. That is in memory if it can be: with each load wasmtime writes statistics, which nobody reads,
/// and a disk takes its time.
#[derive(Debug)]
pub(super) struct Staging {
    beside: Private,
    memory: Option<Private>,
    /// Where wasmtime has a folder for each of its versions.
    modules: PathBuf,
}

/// A folder of this process. Its lock is held as long as it is used: one that nobody holds was left by a process that was
/// killed.
#[derive(Debug)]
struct Private {
    folder: PathBuf,
    _lock: File,
}

impl Private {
    /// Makes one in `parent`, and removes those of this user that were left there. A name may be taken: in a container every
    /// process has the same number, whether it was killed or lives beside this one.
    fn make(parent: &Path, prefix: &str) -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
        for _ in 0..NAMES_TRIED {
            let name = format!("{prefix}{}-{}", process::id(), next());
            match Self::named(parent, prefix, &name) {
                Err(error) if is_taken(&error) => last = error,
                made => return made,
            }
        }
        Err(last)
    }

    fn named(parent: &Path, prefix: &str, name: &str) -> io::Result<Self> {
        let folder = parent.join(name);
        // Under its name it is locked from the beginning: nobody takes it for an abandoned one.
        let new = folder.with_extension("new");
        private(&mut DirBuilder::new()).create(&new)?;
        let made = || -> io::Result<File> {
            let lock = File::create(new.join("lock"))?;
            lock.lock()?;
            sweep(parent, prefix, &new)?;
            fs::rename(&new, &folder)?;
            Ok(lock)
        };
        let lock = made().inspect_err(|_| drop(fs::remove_dir_all(&new)))?;
        Ok(Self { folder, _lock: lock })
    }
}

/// How often a folder that is in use is tried to be removed.
const REMOVALS: usize = 8;
/// Names that are tried for a folder.
const NAMES_TRIED: usize = 1_024;

fn is_taken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty
    )
}

impl Drop for Private {
    fn drop(&mut self) {
        // wasmtime's thread may still write its statistics; what is left after some tries goes with the next start.
        for _ in 0..REMOVALS {
            match fs::remove_dir_all(&self.folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {}
                _ => return,
            }
        }
    }
}

impl Staging {
    /// Makes them, for entries that are kept in `folder`.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let beside = Private::make(folder, "staging-")?;
        trusted(&fs::metadata(folder)?, &fs::metadata(&beside.folder)?)?;
        let memory = Private::make(Path::new(MEMORY), "arqon-overseer-").ok();
        let works_in = memory.as_ref().unwrap_or(&beside);
        Ok(Self {
            modules: works_in.folder.join("modules"),
            beside,
            memory,
        })
    }

    /// Something of this process's user.
    pub(super) fn own(&self) -> io::Result<fs::Metadata> {
        fs::metadata(&self.beside.folder)
    }

    /// The folder that wasmtime works in.
    pub(super) fn folder(&self) -> &Path {
        &self.memory.as_ref().unwrap_or(&self.beside).folder
    }

    /// A file that is nobody else's.
    pub(super) fn temporary(&self, name: &str) -> PathBuf {
        self.beside.folder.join(format!("{name}.{}", next()))
    }

    /// Lets wasmtime find this entry and no other one under this name.
    pub(super) fn place(&self, name: &str, entry: Option<&Entry>) {
        let Some(entry) = entry else {
            self.remove(name);
            return;
        };
        let place = || {
            let folder = self.modules.join(&entry.folder);
            let (temporary, path) = (
                self.folder().join(format!("{name}.{}", next())),
                folder.join(name),
            );
            fs::write(&temporary, &entry.bytes)?;
            match fs::rename(&temporary, &path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    fs::create_dir_all(&folder)?;
                    fs::rename(temporary, path)
                }
                renamed => renamed,
            }
        };
        if place().is_err() {
            self.remove(name);
        }
    }

    /// What wasmtime has under this name by now; it is gone then.
    pub(super) fn take(&self, name: &str) -> Option<Entry> {
        let mut taken = None;
        for folder in self.versions() {
            let path = folder.join(name);
            if let (Ok(bytes), Some(folder)) = (fs::read(&path), folder.file_name())
                && let Some(folder) = folder.to_str()
            {
                let folder = folder.to_owned();
                taken = Some(Entry { folder, bytes });
            }
        }
        self.remove(name);
        taken
    }

    fn remove(&self, name: &str) {
        for folder in self.versions() {
            for name in [name, &format!("{name}.stats")] {
                let _absent: io::Result<()> = fs::remove_file(folder.join(name));
            }
        }
    }

    fn versions(&self) -> Vec<PathBuf> {
        let found = fs::read_dir(&self.modules).into_iter().flatten();
        found.filter_map(|entry| Some(entry.ok()?.path())).collect()
    }
}

pub(super) fn next() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Removes what was left of the user whose folder `own` is.
fn sweep(folder: &Path, prefix: &str, own: &Path) -> io::Result<()> {
    let own = fs::symlink_metadata(own)?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let staged = path.file_name().and_then(|name| name.to_str());
        if staged.is_some_and(|name| name.starts_with(prefix))
            && path.extension().is_none()
            && fs::symlink_metadata(&path).is_ok_and(|about| about.is_dir() && same_owner(&about, &own))
            && is_abandoned(&path)
        {
            let _left: io::Result<()> = fs::remove_dir_all(&path);
        }
    }
    Ok(())
}

/// Whether nobody holds its lock. One without a lock was half removed: under its name a folder has one from the beginning.
fn is_abandoned(folder: &Path) -> bool {
    match File::open(folder.join("lock")) {
        Ok(lock) => lock.try_lock().is_ok(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

#[cfg(unix)]
fn same_owner(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    one.uid() == other.uid()
}

#[cfg(not(unix))]
fn same_owner(_one: &fs::Metadata, _other: &fs::Metadata) -> bool {
    true
}
