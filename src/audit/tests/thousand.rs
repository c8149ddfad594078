//! Every byte and every line of a trail of 1,000 entries (threat T18).

use super::*;

/// Verifies the whole trail for every byte, and not for one of each line: some ten minutes of one core, optimised.
const WHOLE: &str = "TEST_AUDIT_EVERY_BYTE";
const ENTRIES: u64 = 1_000;

struct Trail {
    folder: tempfile::TempDir,
    good: Vec<u8>,
    /// Where each line ends.
    ends: Vec<usize>,
}

impl Trail {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let (log, _) = AuditLog::open(&path).unwrap();
        let mut ends = Vec::new();
        for seq in 0..ENTRIES {
            log.writer.lock().unwrap().append(&entry(seq)).unwrap();
            ends.push(usize::try_from(fs::metadata(&path).unwrap().len()).unwrap());
        }
        drop(log);
        let good = fs::read(&path).unwrap();
        Self { folder, good, ends }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("audit.jsonl")
    }

    /// The bytes of a line.
    fn line(&self, at: usize) -> std::ops::Range<usize> {
        let begin = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        begin..self.ends[at]
    }

    /// What `arqon audit verify` finds in other bytes.
    fn verify(&self, bytes: &[u8]) -> u64 {
        fs::write(self.path(), bytes).unwrap();
        found(verify(self.path()))
    }
}

fn found<T: std::fmt::Debug>(verdict: Result<T, BrokenAudit>) -> u64 {
    match verdict {
        Err(BrokenAudit::Entry { index, .. }) => index,
        other => panic!("not found: {other:?}"),
    }
}

#[test]
fn a_flipped_bit_of_every_byte_and_every_dropped_line_of_a_thousand_is_found_with_its_index() {
    let trail = Trail::new();
    let whole = std::env::var_os(WHOLE).is_some();
    let mut bytes = trail.good.clone();
    let mut checked = 0_u64;
    for at in 0..trail.ends.len() {
        let (index, line) = (at as u64, trail.line(at));
        for byte in line.clone() {
            let bit = 1 << (byte % 8);
            bytes[byte] ^= bit;
            // By the file one byte and the line feed of some lines, and whatever makes two lines of one; a line alone tells of
            // itself whether it is what was written, and two that run into each other are none.
            let feed = byte + 1 == line.end;
            let chosen = at % 40 == 39 && (feed || byte - line.start == at % line.len());
            if whole || chosen || bytes[byte] == b'\n' || line.end == bytes.len() && feed {
                assert_eq!(trail.verify(&bytes), index, "byte {byte}");
            } else {
                let end = if feed { trail.ends[at + 1] } else { line.end };
                assert!(chain::read(&bytes[line.start..end - 1]).is_none(), "byte {byte}");
            }
            bytes[byte] ^= bit;
            checked += 1;
        }
        // The end of the trail is missed by the head that is kept beside it.
        if whole || at % 40 < 2 {
            let dropped = [&trail.good[..line.start], &trail.good[line.end..]].concat();
            if at == 0 {
                fs::write(trail.path(), dropped).unwrap();
                let first = verify(trail.path()).unwrap().unwrap().first;
                assert_eq!(first, 1, "the command says that entry 0 is missing");
            } else {
                assert_eq!(trail.verify(&dropped), index, "line {at} dropped");
            }
        }
    }
    assert_eq!(checked, trail.good.len() as u64);
    println!("{checked} bytes and {ENTRIES} lines: each found with its index");
    fs::write(trail.path(), &trail.good).unwrap();
    assert_eq!(verify(trail.path()).unwrap().unwrap().head.lines, ENTRIES);
}
