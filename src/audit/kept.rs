//! The head of a trail, kept in a file beside it: what is cut off the end of the trail is missed.
//!
//! ```text
//! <trail>.head = two slots of 4,096 bytes, each "arqnhead" | lines u64 | last `h`, 32 bytes | BLAKE3 of all that | zeros
//! ```
//!
//! The file takes its room once and is overwritten in place, one slot and then the other: a write that is torn leaves the head
//! before it, and none needs room on a disk that is full.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use super::{BrokenAudit, Head, sync_folder};

const MAGIC: &[u8; 8] = b"arqnhead";
const SLOT: usize = 4_096;
const SAID: usize = 8 + 8 + 32;

/// The open file.
#[derive(Debug)]
pub(super) struct Kept {
    file: File,
    /// Which slot holds the newest head.
    newest: usize,
}

/// Where the head of a trail is kept.
pub(super) fn path_of(trail: &Path) -> PathBuf {
    let mut path = trail.as_os_str().to_owned();
    path.push(".head");
    path.into()
}

/// The head that is kept of a trail; None where none is. A file that was made and never written is a trail of no lines.
pub(super) fn read(trail: &Path) -> Result<Option<Head>, BrokenAudit> {
    let path = path_of(trail);
    let failed = |source| BrokenAudit::Io {
        path: path.clone(),
        source,
    };
    match File::open(&path) {
        Ok(mut file) => decode_both(&mut file).map(|(head, _)| Some(head)).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

impl Kept {
    /// Opens the file that is there.
    pub(super) fn open(trail: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).write(true).open(path_of(trail))?;
        let (_, newest) = decode_both(&mut file)?;
        Ok(Self { file, newest })
    }

    /// Makes the file, for a trail that ends at `head`.
    pub(super) fn make(trail: &Path, head: Head) -> io::Result<Self> {
        let path = path_of(trail);
        let mut next = path.clone().into_os_string();
        next.push(".next");
        let made = File::create(&next).and_then(|mut file| {
            file.write_all(&slot(head))?;
            file.write_all(&slot(head))?;
            file.sync_all()?;
            fs::rename(&next, &path)
        });
        if let Err(error) = made {
            let _ = fs::remove_file(&next);
            return Err(error);
        }
        sync_folder(&path)?;
        Self::open(trail)
    }

    /// One that takes no head.
    #[cfg(test)]
    pub(super) fn read_only(trail: &Path) -> Self {
        let file = File::open(path_of(trail)).expect("it is there");
        Self { file, newest: 0 }
    }

    /// Keeps a head; it is on disk when this returns.
    pub(super) fn write(&mut self, head: Head) -> io::Result<()> {
        let next = 1 - self.newest;
        self.file.seek(SeekFrom::Start((next * SLOT) as u64))?;
        self.file.write_all(&slot(head))?;
        self.file.sync_data()?;
        self.newest = next;
        Ok(())
    }
}

fn slot(head: Head) -> Vec<u8> {
    let mut slot = Vec::with_capacity(SLOT);
    slot.extend_from_slice(MAGIC);
    slot.extend_from_slice(&head.lines.to_le_bytes());
    slot.extend_from_slice(&head.hash);
    let sum = blake3::hash(&slot);
    slot.extend_from_slice(sum.as_bytes());
    slot.resize(SLOT, 0);
    slot
}

fn decode(slot: &[u8]) -> Option<Head> {
    let (said, rest) = slot.split_at_checked(SAID)?;
    let sum: [u8; 32] = *rest.first_chunk()?;
    let (magic, rest) = said.split_first_chunk::<8>()?;
    let (lines, hash) = rest.split_first_chunk::<8>()?;
    let head = Head {
        lines: u64::from_le_bytes(*lines),
        hash: hash.try_into().ok()?,
    };
    (magic == MAGIC && *blake3::hash(said).as_bytes() == sum).then_some(head)
}

/// The newer of the two heads, and its slot.
fn decode_both(file: &mut File) -> io::Result<(Head, usize)> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(2 * SLOT as u64 + 1).read_to_end(&mut bytes)?;
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "it holds no head that can be read");
    let (first, second) = bytes.split_at_checked(SLOT).ok_or_else(wrong)?;
    let found = [decode(first), decode(second)].into_iter().enumerate();
    let heads = found.filter_map(|(at, head)| Some((head?, at)));
    heads.max_by_key(|(head, _)| head.lines).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(lines: u64) -> Head {
        Head {
            lines,
            hash: [u8::try_from(lines).unwrap(); 32],
        }
    }

    #[test]
    fn a_head_is_there_again_and_a_torn_write_leaves_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let trail = folder.path().join("audit.jsonl");
        assert_eq!(read(&trail).unwrap(), None);
        let mut kept = Kept::make(&trail, head(0)).unwrap();
        for lines in 0..5 {
            let before = fs::read(path_of(&trail)).unwrap();
            kept.write(head(lines + 1)).unwrap();
            let after = fs::read(path_of(&trail)).unwrap();
            assert_eq!((before.len(), after.len()), (2 * SLOT, 2 * SLOT));
            let at = usize::try_from((lines + 1) % 2).unwrap() * SLOT;
            for cut in 0..=SAID + 32 {
                let mut torn = before.clone();
                torn[at..at + cut].copy_from_slice(&after[at..at + cut]);
                fs::write(path_of(&trail), &torn).unwrap();
                let found = read(&trail).unwrap().unwrap();
                let whole = torn == after;
                assert_eq!(found, head(lines + u64::from(whole)), "{lines} {cut}");
            }
            fs::write(path_of(&trail), &after).unwrap();
            kept = Kept::open(&trail).unwrap();
        }
    }

    #[test]
    fn a_file_in_which_no_head_can_be_read_is_an_error_and_not_a_trail_without_one() {
        let folder = tempfile::tempdir().unwrap();
        let trail = folder.path().join("audit.jsonl");
        Kept::make(&trail, head(7)).unwrap();
        let good = fs::read(path_of(&trail)).unwrap();
        for at in 0..SAID + 32 {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            fs::write(path_of(&trail), &bad).unwrap();
            assert_eq!(read(&trail).unwrap(), Some(head(7)), "the other slot: {at}");
            bad[SLOT + at] ^= 1;
            fs::write(path_of(&trail), &bad).unwrap();
            assert!(read(&trail).is_err() && Kept::open(&trail).is_err(), "{at}");
        }
        for bytes in [&b""[..], b"x", &good[..100]] {
            fs::write(path_of(&trail), bytes).unwrap();
            assert!(read(&trail).is_err(), "{} bytes", bytes.len());
        }
    }
}
