//! upb as the second oracle of the wire: payloads made from seeds, mutated, the verdicts of PyPI's protobuf beside ours.
//! Where they differ is the table of the notes, section 7, and nothing else.
//!
//! The short form reads the verdicts of `vectors/upb.json`. The long form asks a live Python:
//! `TEST_PYTHON=python TEST_ROUNDS=1000000 cargo test --release -p arqon-schema --test upb --test oracle`;
//! `TEST_UPB_WRITE=1` writes the file anew.
#![expect(clippy::unwrap_used, reason = "helpers of tests panic like tests")]

mod support;

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use arqon_schema::{Level, Violations, rule};
use support::Rng;

/// Rounds of the short form, per syntax.
const SHORT: u64 = 10_000;

fn vectors(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/vectors")
        .join(name)
}

/// The payload of a round: well-formed, then mutated in three rounds of four.
fn payload(descriptor: &prost_reflect::MessageDescriptor, round: u64) -> Vec<u8> {
    let mut rng = Rng(round);
    let mut payload = support::payload(descriptor, &mut rng, 0);
    if !round.is_multiple_of(4) {
        support::mutate(&mut payload, &mut rng);
    }
    payload
}

/// Whether upb reads each payload.
fn ask(python: &std::ffi::OsStr, set: &[u8], payloads: &[Vec<u8>]) -> Vec<bool> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("set.binpb");
    std::fs::write(&file, set).unwrap();
    let mut child = Command::new(python)
        .arg(vectors("upb.py"))
        .arg(&file)
        .arg(support::NAME)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = std::io::BufWriter::new(child.stdin.take().unwrap());
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let verdicts = std::thread::scope(|scope| {
        scope.spawn(move || {
            for payload in payloads {
                let hex: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
                writeln!(stdin, "{hex}").unwrap();
            }
        });
        stdout
            .lines()
            .map(|line| line.unwrap() == "1")
            .collect::<Vec<bool>>()
    });
    assert!(child.wait().unwrap().success());
    verdicts
}

/// The verdicts of the short form: one letter a round.
fn known(syntax: &str) -> Vec<bool> {
    let text = std::fs::read_to_string(vectors("upb.json")).unwrap();
    let known: serde_json::Value = serde_json::from_str(&text).unwrap();
    known[syntax]
        .as_str()
        .unwrap()
        .bytes()
        .map(|letter| letter == b'1')
        .collect()
}

#[test]
fn wire_verdicts_are_upbs_but_for_the_table() {
    let python = std::env::var_os("TEST_PYTHON");
    let rounds = std::env::var("TEST_ROUNDS").map_or(SHORT, |rounds| rounds.parse::<u64>().unwrap() / 2);
    let mut written = serde_json::Map::new();
    for syntax in ["proto2", "proto3"] {
        let set = support::set(syntax);
        let descriptor = support::oracle(&set);
        let validator = support::validator(&set, Level::Wire, &[]);
        let rounds = if python.is_some() {
            rounds
        } else {
            rounds.min(SHORT)
        };
        let (mut accepted, mut tabled) = (0_u64, 0_u64);
        // In parts: a million payloads are not held at once.
        for part in 0..rounds.div_ceil(SHORT) {
            let from = part * SHORT;
            let payloads: Vec<Vec<u8>> = (from..(from + SHORT).min(rounds))
                .map(|round| payload(&descriptor, round))
                .collect();
            let theirs = match &python {
                Some(python) => ask(python, &set, &payloads),
                None => known(syntax),
            };
            assert!(theirs.len() >= payloads.len());
            if std::env::var_os("TEST_UPB_WRITE").is_some() && part == 0 {
                let letters: String = theirs.iter().map(|read| if *read { '1' } else { '0' }).collect();
                written.insert(syntax.to_owned(), letters.into());
            }
            for ((payload, theirs), round) in payloads.iter().zip(&theirs).zip(from..) {
                let found = validator
                    .validate_wire(payload)
                    .err()
                    .map_or_else(Vec::new, Violations::into_vec);
                let rules: BTreeSet<&str> = found.iter().map(|one| &*one.rule).collect();
                // upb takes a field of a wrong wire type for an unknown one, a tenth byte of any value, and in proto2
                // strings that are no UTF-8.
                let more = rules.contains(rule::WIRE_TYPE)
                    || rules.contains(rule::WIRE_VARINT)
                    || syntax == "proto2" && rules.contains(rule::WIRE_UTF8);
                accepted += u64::from(found.is_empty());
                tabled += u64::from(!found.is_empty() && *theirs);
                assert!(
                    found.is_empty() == *theirs || *theirs && more,
                    "{syntax} round {round}: upb {theirs}, ours {rules:?}: {payload:02x?}"
                );
            }
        }
        println!("{syntax}: {rounds} payloads, {accepted} accepted, {tabled} refused by the table alone");
        assert!(accepted > rounds / 5 && accepted < rounds);
    }
    if !written.is_empty() {
        std::fs::write(
            vectors("upb.json"),
            serde_json::to_string_pretty(&written).unwrap() + "\n",
        )
        .unwrap();
    }
}
