//! The folder of entries: one file per compiled module, its digest first.

use std::{
    fs::{self, DirBuilder, File, Metadata, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use sha2::{Digest, Sha256};

/// Bytes of the digest that a file starts with.
const DIGEST_BYTES: usize = 32;
/// Characters of an entry's name.
const NAME_CHARS: usize = 43;
/// Entries kept; those unused for longest go.
pub(super) const ENTRIES_MAX: usize = 1_024;
/// Bytes of all entries kept.
const BYTES_MAX: u64 = 512 << 20;

/// What wasmtime wrote for a module.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The folder it was written to, named after wasmtime's version.
    pub(super) folder: String,
    /// What the file holds.
    pub(super) bytes: Vec<u8>,
}

/// The folder that outlives the process.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    /// Something of ours: whose entries are taken.
    own: Option<Metadata>,
}

impl Store {
    /// Makes the folder, for this user alone, if there is none, and refuses one that others may write to.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        private(DirBuilder::new().recursive(true)).create(folder)?;
        let folder = folder.to_owned();
        Ok(Self { folder, own: None })
    }

    /// Takes only entries of whoever `own` belongs to, or of root, that nobody else may write to: the folder itself may have
    /// been put in the place of ours by whoever may write to the one around it.
    pub(super) fn of(mut self, own: Metadata) -> Self {
        self.own = Some(own);
        self
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The entry of this name, if it is as it was written.
    pub(super) fn read(&self, name: &str) -> Option<Entry> {
        let path = self.folder.join(name);
        // A pipe would never open.
        fs::metadata(&path).ok().filter(Metadata::is_file)?;
        let file = File::open(&path).ok()?;
        let about = file.metadata().ok().filter(Metadata::is_file)?;
        if about.len() > BYTES_MAX {
            return None;
        }
        if let Some(own) = &self.own
            && let Err(error) = trusted(&about, own)
        {
            tracing::warn!(entry = %path.display(), %error, "a compiled policy is not taken from the disk; it is compiled anew");
            return None;
        }
        let mut bytes = Vec::new();
        // The very file that was looked at, whatever stands under its name by now.
        (&file).take(BYTES_MAX).read_to_end(&mut bytes).ok()?;
        let Some(entry) = decode(name, &bytes) else {
            tracing::warn!(entry = %path.display(), "a compiled policy is damaged on disk; it is compiled anew");
            return None;
        };
        // What was used last is kept longest; a folder that cannot be written to still serves.
        let _ignored: io::Result<()> = file.set_modified(SystemTime::now());
        Some(entry)
    }

    /// Keeps an entry, by way of a file `temporary` on the same file system.
    pub(super) fn write(&self, name: &str, entry: &Entry, temporary: &Path) -> io::Result<()> {
        private_file(OpenOptions::new().write(true).create_new(true))
            .open(temporary)?
            .write_all(&encode(name, entry))?;
        fs::rename(temporary, self.folder.join(name))?;
        self.prune(ENTRIES_MAX, BYTES_MAX)
    }

    /// Removes what was used longest ago, if there is more than that.
    pub(super) fn prune(&self, entries_max: usize, bytes_max: u64) -> io::Result<()> {
        let mut found = Vec::new();
        for file in fs::read_dir(&self.folder)? {
            let file = file?;
            if file.file_name().len() == NAME_CHARS
                && let Ok(about) = file.metadata()
                && about.is_file()
            {
                found.push((about.modified()?, about.len(), file.path()));
            }
        }
        found.sort_unstable_by(|a, b| b.cmp(a));
        let mut bytes = 0;
        for (at, (_, len, path)) in found.into_iter().enumerate() {
            bytes += len;
            if at >= entries_max || bytes > bytes_max {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

fn digest(name: &str, body: &[u8]) -> [u8; DIGEST_BYTES] {
    let mut digest = Sha256::new();
    digest.update(name);
    digest.update([0]);
    digest.update(body);
    digest.finalize().into()
}

fn encode(name: &str, entry: &Entry) -> Vec<u8> {
    let body = [entry.folder.as_bytes(), b"\n", &entry.bytes].concat();
    [&digest(name, &body)[..], &body].concat()
}

fn decode(name: &str, file: &[u8]) -> Option<Entry> {
    let (said, body) = file.split_first_chunk()?;
    if *said != digest(name, body) {
        return None;
    }
    let end = body.iter().position(|byte| *byte == b'\n')?;
    let folder = std::str::from_utf8(&body[..end]).ok()?;
    let plain = |char: char| char.is_ascii_alphanumeric() || "-._+".contains(char);
    (folder.starts_with("wasmtime") && folder.chars().all(plain)).then(|| Entry {
        folder: folder.to_owned(),
        bytes: body[end + 1..].to_vec(),
    })
}

/// Whether nobody but the user whom `own` belongs to, and root, may write to what `about` is of.
#[cfg(unix)]
pub(super) fn trusted(about: &Metadata, own: &Metadata) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let (mode, owner) = (about.mode() & 0o7777, about.uid());
    let reason = if mode & 0o022 != 0 {
        format!("its mode is {mode:o}: others may write machine code there; chmod go-w")
    } else if owner != own.uid() && owner != 0 {
        format!("it belongs to user {owner}, who may write machine code there")
    } else {
        return Ok(());
    };
    Err(io::Error::new(io::ErrorKind::PermissionDenied, reason))
}

#[cfg(not(unix))]
pub(super) fn trusted(_about: &Metadata, _own: &Metadata) -> io::Result<()> {
    Ok(())
}

/// What only this user may read and write.
fn private_file(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

/// What only this user may look into.
pub(super) fn private(builder: &mut DirBuilder) -> &mut DirBuilder {
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(builder, 0o700);
    builder
}
