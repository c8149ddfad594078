//! The fuzz targets on every toolchain: the corpus under `fuzz/corpus`, and what a small generator makes of it.
//!
//! `FUZZ_CASES` says how many mutants each target gets (default 400), `FUZZ_SEED` which; a failure prints both.

use std::{fs, path::PathBuf};

use crate::targets;

/// A small generator with a seed, so that a failure comes again (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % limit as u64).unwrap()
    }

    /// A corpus entry with some bytes changed, cut, doubled, or taken from another.
    fn mutant(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            match self.below(6) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 if at < bytes.len() => bytes[at] = u8::try_from(self.below(256)).unwrap(),
                2 => bytes.truncate(at.max(8)),
                3 => bytes.insert(at, u8::try_from(self.below(256)).unwrap()),
                4 => {
                    let other = &corpus[self.below(corpus.len())];
                    let from = self.below(other.len());
                    bytes.splice(at..at, other[from..].iter().take(64).copied());
                }
                _ => {
                    let edge = [0, 1, u32::MAX, 1 << 31, i32::MAX as u32, 65_536, 131_072][self.below(7)];
                    let end = (at + 4).min(bytes.len());
                    bytes.splice(at..end, edge.to_le_bytes());
                }
            }
        }
        bytes
    }
}

/// Whatever passes the target's own assertions passes; how many of the entries, and of the mutants, it said yes to.
fn run(name: &str, target: fn(&[u8]) -> bool) -> (usize, usize) {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "..", "fuzz", "corpus", name]
        .iter()
        .collect();
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let corpus: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(corpus.len() >= 4, "{name} has a corpus");
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let (cases, seed) = (
        number("FUZZ_CASES").unwrap_or(400),
        number("FUZZ_SEED").unwrap_or(1),
    );
    let mut random = Random(seed);
    println!("{name}: {} entries, {cases} mutants, seed {seed}", corpus.len());
    let entries = corpus.iter().filter(|bytes| target(bytes)).count();
    let mutants = (0..cases).filter(|_| target(&random.mutant(&corpus))).count();
    (entries, mutants)
}

#[test]
fn modules_of_any_bytes_load_or_are_refused() {
    let (loaded, _) = run("overseer_module", targets::module);
    assert!(loaded >= 3, "{loaded} of the corpus load");
}

#[test]
fn generated_modules_run_within_their_limits_and_alike_each_time() {
    let (_, loaded) = run("overseer_generated", targets::generated);
    assert!(loaded > 0, "some generated modules load and run");
}

#[test]
fn scripts_of_host_calls_do_what_they_may_and_alike_each_time() {
    let (allowed, more) = run("overseer_abi", targets::abi);
    assert!(allowed > 0 && more > 10, "some scripts get through to their end");
}
