//! Two slots of a file that is made beforehand and overwritten in place: what is written survives a crash at any moment,
//! and needs no room on a disk that is full.
//!
//! ```text
//! slot = "arqnstop" | sequence u64 | length u32 | SHA-256 of sequence, length and payload | payload | whatever was there
//! ```
//!
//! The slot that is not the newest is written and synced first, then the other one: a torn write leaves the older value, and
//! once both are written a slot that rots takes nothing with it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
};

use sha2::{Digest as _, Sha256};

/// Bytes of a slot: room for some hundreds of stops as operators sign them.
pub(crate) const SLOT_BYTES: usize = 256 * 1024;

const MAGIC: &[u8; 8] = b"arqnstop";
const HEAD: usize = 8 + 8 + 4 + 32;

/// The open file.
#[derive(Debug)]
pub(crate) struct Slots {
    file: File,
    sequence: u64,
    /// Which slots hold the newest value.
    newest: [bool; 2],
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) slots: Slots,
    /// The newest value; empty before the first.
    pub(crate) payload: Vec<u8>,
    /// Whether a slot could not be read: a write was torn, which nobody was told had succeeded, or the disk is bad.
    pub(crate) torn: bool,
}

impl Slots {
    /// Opens the file, or makes it and takes its room on the disk.
    pub(crate) fn open(path: &Path) -> io::Result<Opened> {
        match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => Self::read(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::make(path),
            Err(error) => Err(error),
        }
    }

    fn make(path: &Path) -> io::Result<Opened> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".next");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&beside)?;
        // Zeros and not a hole: the blocks are this file's from now on.
        let made = (0..2)
            .try_for_each(|_| file.write_all(&vec![0; SLOT_BYTES]))
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&beside, path));
        if let Err(error) = made {
            let _ = fs::remove_file(&beside);
            return Err(error);
        }
        // The name is on disk, too, once its folder is.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
        Self::read(file)
    }

    fn read(mut file: File) -> io::Result<Opened> {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        (&mut file)
            .take(2 * SLOT_BYTES as u64 + 1)
            .read_to_end(&mut bytes)?;
        if bytes.len() != 2 * SLOT_BYTES {
            let error = format!("{} bytes are not two slots of {SLOT_BYTES}", bytes.len());
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        let (first, second) = bytes.split_at(SLOT_BYTES);
        let found = [decode(first), decode(second)];
        let fresh = |slot: &[u8]| slot.iter().all(|byte| *byte == 0);
        let torn = [first, second]
            .iter()
            .zip(&found)
            .any(|(slot, found)| found.is_none() && !fresh(slot));
        let newest = found.iter().flatten().max_by_key(|(sequence, _)| *sequence);
        let Some((sequence, payload)) = newest else {
            if torn {
                let error = "neither slot can be read";
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            let slots = Self {
                file,
                sequence: 0,
                newest: [false; 2],
            };
            return Ok(Opened {
                slots,
                payload: Vec::new(),
                torn: false,
            });
        };
        let (sequence, payload) = (*sequence, payload.to_vec());
        let newest = [0, 1].map(|at: usize| found[at].is_some_and(|(of, _)| of == sequence));
        let slots = Self {
            file,
            sequence,
            newest,
        };
        Ok(Opened { slots, payload, torn })
    }

    /// Writes a value; it is on disk when this returns.
    pub(crate) fn write(&mut self, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len())
            .ok()
            .filter(|_| payload.len() <= SLOT_BYTES - HEAD);
        let Some(length) = length else {
            let error = format!("{} bytes, a slot has {}", payload.len(), SLOT_BYTES - HEAD);
            return Err(io::Error::new(io::ErrorKind::StorageFull, error));
        };
        let sequence = self.sequence + 1;
        let mut slot = Vec::with_capacity(HEAD + payload.len());
        slot.extend_from_slice(MAGIC);
        slot.extend_from_slice(&sequence.to_le_bytes());
        slot.extend_from_slice(&length.to_le_bytes());
        slot.extend_from_slice(&checksum(sequence, length, payload));
        slot.extend_from_slice(payload);
        // Never both at a time: the newest value that is whole stays until the other slot has the next one.
        let first = usize::from(self.newest == [true, false]);
        self.put(first, &slot)?;
        (self.sequence, self.newest) = (sequence, [first == 0, first == 1]);
        match self.put(1 - first, &slot) {
            Ok(()) => self.newest = [true; 2],
            Err(error) => {
                tracing::warn!(component = "rollout", %error, "the second copy of the stops in force was not written");
            }
        }
        Ok(())
    }

    fn put(&mut self, at: usize, slot: &[u8]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start((at * SLOT_BYTES) as u64))?;
        self.file.write_all(slot)?;
        self.file.sync_data()
    }
}

fn checksum(sequence: u64, length: u32, payload: &[u8]) -> [u8; 32] {
    let hash = Sha256::new()
        .chain_update(sequence.to_le_bytes())
        .chain_update(length.to_le_bytes());
    hash.chain_update(payload).finalize().into()
}

/// The sequence and payload of a slot that is whole.
fn decode(slot: &[u8]) -> Option<(u64, &[u8])> {
    let (magic, rest) = slot.split_first_chunk::<8>()?;
    let (sequence, rest) = rest.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<32>()?;
    let (sequence, length) = (u64::from_le_bytes(*sequence), u32::from_le_bytes(*length));
    let payload = rest.get(..usize::try_from(length).ok()?)?;
    (magic == MAGIC && *sum == checksum(sequence, length, payload)).then_some((sequence, payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> Opened {
        Slots::open(path).unwrap()
    }

    #[test]
    fn a_value_is_there_again_and_the_room_is_taken_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stop");
        let mut opened = open(&path);
        assert!(opened.payload.is_empty() && !opened.torn);
        assert_eq!(fs::metadata(&path).unwrap().len(), 2 * SLOT_BYTES as u64);
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt as _;
            assert!(
                fs::metadata(&path).unwrap().blocks() * 512 >= 2 * SLOT_BYTES as u64,
                "no hole"
            );
        }
        for value in ["one", "", "three, which is longer", "4"] {
            opened.slots.write(value.as_bytes()).unwrap();
            opened = open(&path);
            assert_eq!(
                (opened.payload.as_slice(), opened.torn),
                (value.as_bytes(), false)
            );
        }
        let full = vec![7; SLOT_BYTES - HEAD];
        opened.slots.write(&full).unwrap();
        assert!(
            opened.slots.write(&vec![7; SLOT_BYTES - HEAD + 1]).is_err(),
            "at the border"
        );
        assert_eq!(open(&path).payload, full);
    }

    #[test]
    fn a_write_torn_at_any_byte_leaves_the_old_value_or_the_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stop");
        let mut slots = open(&path).slots;
        slots.write(b"old value").unwrap();
        let before = fs::read(&path).unwrap();
        slots.write(b"new value!").unwrap();
        let after = fs::read(&path).unwrap();
        drop(slots);
        // The order of the two writes, each torn after so many bytes.
        for (done, at) in [(None, 0), (Some(0), 1)] {
            for cut in 0..=HEAD + 10 {
                let mut torn = before.clone();
                if let Some(done) = done {
                    let whole = done * SLOT_BYTES..(done + 1) * SLOT_BYTES;
                    torn[whole.clone()].copy_from_slice(&after[whole]);
                }
                let part = at * SLOT_BYTES..at * SLOT_BYTES + cut;
                torn[part.clone()].copy_from_slice(&after[part]);
                fs::write(&path, &torn).unwrap();
                let Opened {
                    mut slots, payload, ..
                } = open(&path);
                let new = done.is_some() || cut == HEAD + 10;
                assert_eq!(
                    payload,
                    if new { &b"new value!"[..] } else { b"old value" },
                    "{done:?} {cut}"
                );
                // And it goes on from there.
                slots.write(b"next").unwrap();
                assert_eq!(open(&path).payload, b"next");
            }
        }
    }

    #[test]
    fn a_slot_that_rots_takes_nothing_with_it_and_two_are_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stop");
        open(&path).slots.write(b"stopped").unwrap();
        let good = fs::read(&path).unwrap();
        for at in 0..HEAD + 7 {
            for slot in 0..2 {
                let mut bad = good.clone();
                bad[slot * SLOT_BYTES + at] ^= 1 << (at % 8);
                fs::write(&path, &bad).unwrap();
                let opened = open(&path);
                assert_eq!(
                    (opened.payload.as_slice(), opened.torn),
                    (&b"stopped"[..], true),
                    "{slot} {at}"
                );
                bad[(1 - slot) * SLOT_BYTES + at] ^= 1;
                fs::write(&path, &bad).unwrap();
                assert!(Slots::open(&path).is_err(), "both: {at}");
            }
        }
        fs::write(&path, "[]").unwrap();
        assert!(Slots::open(&path).is_err());
    }
}
