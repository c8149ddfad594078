//! The sampler against `tests/vectors/sampler.json`, which the reference implementation of XXH3 made (DESIGN 4).
#![allow(clippy::unwrap_used, reason = "a vector that cannot be read fails the test")]

use std::{fs, path::Path};

use arqon_message::{Fraction, Sampler, Threshold};
use serde_json::Value;

fn golden() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/sampler.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn key(row: &Value) -> Vec<u8> {
    if let Some(text) = row["key"].as_str() {
        return text.as_bytes().to_vec();
    }
    let hex = row["key_hex"].as_str().unwrap();
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(byte).collect()
}

fn sampler(row: &Value) -> Sampler {
    Sampler::new(row["seed"].as_str().unwrap().parse().unwrap())
}

fn threshold(row: &Value) -> Threshold {
    Fraction::new(row["fraction"].as_f64().unwrap())
        .unwrap()
        .threshold()
}

#[test]
fn hashes_equal_the_reference_implementation() {
    let golden = golden();
    let rows = golden["hashes"].as_array().unwrap();
    assert!(rows.len() > 100);
    for row in rows {
        let hash = format!("{:016x}", sampler(row).hash(&key(row)));
        assert_eq!(hash, row["hash"].as_str().unwrap(), "{row}");
    }
}

#[test]
fn thresholds_are_exact_at_every_share() {
    for row in golden()["thresholds"].as_array().unwrap() {
        let expected = match row["below"].as_str().unwrap() {
            "never" => Threshold::Never,
            "always" => Threshold::Always,
            border => Threshold::Below(u64::from_str_radix(border, 16).unwrap()),
        };
        assert_eq!(threshold(row), expected, "{row}");
    }
}

#[test]
fn decisions_equal_the_reference_implementation() {
    for row in golden()["decisions"].as_array().unwrap() {
        let said = sampler(row).sample(&key(row), threshold(row));
        assert_eq!(said, row["in"].as_bool().unwrap(), "{row}");
    }
}
