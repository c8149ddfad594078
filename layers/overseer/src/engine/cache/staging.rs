//! The folder that wasmtime's cache works in: made by this process, for this user alone, and gone when it ends.

use std::{
    fs::{self, DirBuilder, File},
    io,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

use super::store::{Entry, private};

const PREFIX: &str = "staging-";

/// The private folder. Its lock is held as long as it is used: one that nobody holds was left by a process that was
/// killed.
#[derive(Debug)]
pub(super) struct Staging {
    folder: PathBuf,
    /// Where wasmtime has a folder for each of its versions.
    modules: PathBuf,
    _lock: File,
}

impl Staging {
    /// Makes one in `folder`, and removes those that were left there.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        // No other process looks for abandoned ones while this one has no lock yet.
        let opening = File::create(folder.join("open.lock"))?;
        opening.lock()?;
        sweep(folder)?;
        let own = folder.join(format!("{PREFIX}{}-{}", process::id(), next()));
        private(&mut DirBuilder::new()).create(&own)?;
        owned(folder, &own).inspect_err(|_| drop(fs::remove_dir(&own)))?;
        let lock = File::create(own.join("lock"))?;
        lock.lock()?;
        Ok(Self {
            modules: own.join("modules"),
            folder: own,
            _lock: lock,
        })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A file that is nobody else's.
    pub(super) fn temporary(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.{}", next()))
    }

    /// Lets wasmtime find this entry and no other one under this name.
    pub(super) fn place(&self, name: &str, entry: Option<&Entry>) {
        let Some(entry) = entry else {
            self.remove(name);
            return;
        };
        let place = || {
            let folder = self.modules.join(&entry.folder);
            fs::create_dir_all(&folder)?;
            let temporary = self.temporary(name);
            fs::write(&temporary, &entry.bytes)?;
            fs::rename(temporary, folder.join(name))
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
            let _absent: io::Result<()> = fs::remove_file(folder.join(name));
        }
    }

    fn versions(&self) -> Vec<PathBuf> {
        let found = fs::read_dir(&self.modules).into_iter().flatten();
        found.filter_map(|entry| Some(entry.ok()?.path())).collect()
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // wasmtime's thread may still write its statistics; what is left then goes with the next start.
        let _left: io::Result<()> = fs::remove_dir_all(&self.folder);
    }
}

fn next() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn sweep(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let staged = path.file_name().and_then(|name| name.to_str());
        if staged.is_some_and(|name| name.starts_with(PREFIX))
            && File::open(path.join("lock")).is_ok_and(|lock| lock.try_lock().is_ok())
        {
            let _left: io::Result<()> = fs::remove_dir_all(&path);
        }
    }
    Ok(())
}

/// Whether nobody but this user, whom `own` belongs to, and root may write to `folder`.
#[cfg(unix)]
fn owned(folder: &Path, own: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let (about, own) = (fs::metadata(folder)?, fs::metadata(own)?);
    let (mode, owner) = (about.mode() & 0o7777, about.uid());
    if mode & 0o022 != 0 {
        let reason = format!("its mode is {mode:o}: others may write machine code there; chmod go-w");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
    }
    if owner != own.uid() && owner != 0 {
        let reason = format!("it belongs to user {owner}, who may write machine code there");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
    }
    Ok(())
}

#[cfg(not(unix))]
fn owned(_folder: &Path, _own: &Path) -> io::Result<()> {
    Ok(())
}
