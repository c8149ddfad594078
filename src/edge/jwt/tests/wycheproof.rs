//! Wycheproof's vectors of JSON Web Signatures: signed, padded, encoded or keyed wrong, and right.

use std::{fs, path::Path};

use serde::Deserialize;
use serde_json::{Value, json};

use super::super::{
    key::{Key, Origin, read_set},
    token::{Jws, Limits},
};

#[derive(Deserialize)]
struct Vectors {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    comment: String,
    key: Value,
    tests: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    id: u32,
    comment: String,
    jws: Value,
    result: String,
}

const LIMITS: Limits = Limits {
    token_bytes_max: 8_192,
    claims_bytes_max: 4_096,
    leeway: 0,
};

/// Where the file is wrong. Two are called invalid and are, letter by letter, the valid number 357; two are called valid and
/// have a `?` in the middle of base64url, which RFC 7515 does not know.
const REALLY_VALID: [u32; 2] = [367, 370];
const REALLY_INVALID: [u32; 2] = [372, 373];

fn vectors() -> Vectors {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/wycheproof/json_web_signature.json");
    serde_json::from_slice(&fs::read(path).expect("in the repository")).expect("as it was written")
}

fn keys(key: &Value) -> Option<Vec<Key>> {
    let set = json!({ "keys": [key] }).to_string();
    read_set(set.as_bytes(), Origin::Own).ok().map(|(keys, _)| keys)
}

#[test]
fn each_signature_of_wycheproof_holds_or_not_as_it_says() {
    let (mut held, mut refused) = (0, 0);
    for group in vectors().groups {
        let Some(keys) = keys(&group.key) else { continue };
        for case in group.tests {
            let wanted = (case.result == "valid" || REALLY_VALID.contains(&case.id))
                && !REALLY_INVALID.contains(&case.id);
            let taken = case
                .jws
                .as_str()
                .is_some_and(|jws| Jws::read(jws, LIMITS).and_then(|jws| jws.check(&keys)).is_ok());
            assert_eq!(taken, wanted, "{} {} {}", group.comment, case.id, case.comment);
            if taken { held += 1 } else { refused += 1 }
        }
    }
    assert_eq!((held, refused), (20, 292));
}

#[test]
fn keys_of_wycheproof_that_are_not_ours_to_use_are_none() {
    let mut unusable: Vec<_> = vectors()
        .groups
        .into_iter()
        .filter(|group| keys(&group.key).is_none())
        .map(|group| group.key["alg"].as_str().unwrap_or("encryption").to_owned())
        .collect();
    unusable.sort_unstable();
    unusable.dedup();
    assert_eq!(
        unusable,
        ["ES521", "PS256", "PS384", "PS512", "RS384", "RS512", "encryption"]
    );
}

#[test]
fn the_vectors_that_are_wrong_are_wrong_as_we_say() {
    let cases: Vec<Case> = vectors()
        .groups
        .into_iter()
        .flat_map(|group| group.tests)
        .collect();
    let text = |id: u32| {
        let case = cases.iter().find(|case| case.id == id).expect("there");
        (case.jws.as_str().expect("compact"), case.result.as_str())
    };
    let (valid, _) = text(357);
    assert!(REALLY_VALID.iter().all(|id| text(*id) == (valid, "invalid")));
    assert!(
        REALLY_INVALID
            .iter()
            .all(|id| text(*id).0.contains('?') && text(*id).1 == "valid")
    );
}
