//! Compatibility: 300 random edits with buf 1.75's verdicts, and both directions.
#![expect(clippy::unwrap_used, reason = "helpers of tests panic like tests")]

use std::collections::BTreeSet;

use arqon_schema::{Break, Compatibility, Descriptors, Profile, compare};

fn load(source: &str) -> Descriptors {
    Descriptors::from_source("a.proto", source).unwrap()
}

fn message(fields: &str) -> Descriptors {
    load(&format!(
        "syntax = \"proto3\"; package p; message A {{ {fields} }}"
    ))
}

fn rules(found: Vec<Break>) -> Vec<&'static str> {
    found
        .into_iter()
        .map(|one| one.rule)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}

#[test]
fn three_hundred_edits_have_bufs_verdict_rule_for_rule() {
    #[derive(serde::Deserialize)]
    struct Edit {
        old: String,
        new: String,
        wire: Vec<String>,
        wire_json: Vec<String>,
    }
    let stored = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/compat.json");
    // A longer file of the script.
    let file = std::env::var_os("TEST_COMPAT_VECTORS").map_or(stored, Into::into);
    let edits: Vec<Edit> = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert!(edits.len() >= 300);
    for (at, edit) in edits.iter().enumerate() {
        let (old, new) = (load(&edit.old), load(&edit.new));
        for (profile, expected) in [(Profile::Wire, &edit.wire), (Profile::WireJson, &edit.wire_json)] {
            let found = compare(profile, &old, &new);
            assert_eq!(
                &rules(found),
                expected,
                "edit {at} {profile:?}\n{}\n---\n{}",
                edit.old,
                edit.new
            );
        }
    }
}

#[test]
fn editions_extensions_defaults_and_aliases_have_bufs_verdict_rule_for_rule() {
    #[derive(serde::Deserialize)]
    struct Pair {
        name: String,
        old: String,
        new: String,
        wire: Vec<String>,
        wire_json: Vec<String>,
    }
    let set = |hex: &str| {
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        Descriptors::decode(&(0..hex.len()).step_by(2).map(byte).collect::<Vec<_>>()).unwrap()
    };
    let pairs: Vec<Pair> = serde_json::from_str(include_str!("vectors/compat_pairs.json")).unwrap();
    assert!(pairs.len() >= 139);
    let mut wrong = Vec::new();
    for pair in &pairs {
        let (old, new) = (set(&pair.old), set(&pair.new));
        for (profile, expected) in [(Profile::Wire, &pair.wire), (Profile::WireJson, &pair.wire_json)] {
            let found = rules(compare(profile, &old, &new));
            if found != *expected {
                wrong.push(format!("{} {profile:?}: {found:?}, buf {expected:?}", pair.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn strict_alone_keeps_extensions() {
    let extended = "syntax = \"proto2\"; package p; message A { extensions 100 to 200; }";
    let (with, without) = (
        load(&format!("{extended} extend A {{ optional int32 x = 100; }}")),
        load(extended),
    );
    assert_eq!(
        rules(compare(Profile::Strict, &with, &without)),
        ["EXTENSION_NO_DELETE"]
    );
    assert!(compare(Profile::WireJson, &with, &without).is_empty());
    assert!(compare(Profile::Strict, &without, &with).is_empty());
}

#[test]
fn the_matrix_of_the_notes_holds() {
    let old = message("string id = 1; int32 n = 2; string s = 3; bytes b = 4;");
    let cases = [
        (
            "string id = 1; int32 n = 2; string s = 3; bytes b = 4; int32 new = 5;",
            vec![],
            vec![],
        ),
        (
            "reserved 2; reserved \"n\"; string id = 1; string s = 3; bytes b = 4;",
            vec![],
            vec![],
        ),
        (
            "string id = 1; string s = 3; bytes b = 4;",
            vec!["FIELD_NO_DELETE_UNLESS_NUMBER_RESERVED"],
            vec![
                "FIELD_NO_DELETE_UNLESS_NAME_RESERVED",
                "FIELD_NO_DELETE_UNLESS_NUMBER_RESERVED",
            ],
        ),
        (
            "string ident = 1; int32 n = 2; string s = 3; bytes b = 4;",
            vec![],
            vec!["FIELD_SAME_JSON_NAME", "FIELD_SAME_NAME"],
        ),
        (
            "string id = 1; int64 n = 2; bytes s = 3; bytes b = 4;",
            vec![],
            vec!["FIELD_WIRE_JSON_COMPATIBLE_TYPE"],
        ),
        (
            "string id = 1; sint32 n = 2; string s = 3; string b = 4;",
            vec!["FIELD_WIRE_COMPATIBLE_TYPE"],
            vec!["FIELD_WIRE_JSON_COMPATIBLE_TYPE"],
        ),
        (
            "repeated string id = 1; optional int32 n = 2; string s = 3; bytes b = 4;",
            vec!["FIELD_WIRE_COMPATIBLE_CARDINALITY"],
            vec!["FIELD_WIRE_JSON_COMPATIBLE_CARDINALITY"],
        ),
        (
            "oneof one { string id = 1; } int32 n = 2; string s = 3; bytes b = 4;",
            vec!["FIELD_SAME_ONEOF"],
            vec!["FIELD_SAME_ONEOF"],
        ),
    ];
    for (fields, wire, wire_json) in cases {
        let new = message(fields);
        assert_eq!(rules(compare(Profile::Wire, &old, &new)), wire, "{fields}");
        assert_eq!(
            rules(compare(Profile::WireJson, &old, &new)),
            wire_json,
            "{fields}"
        );
    }
}

#[test]
fn the_direction_decides_and_transitive_looks_past_the_last() {
    let one = message("string id = 1; string s = 2;");
    let two = message("reserved 2; reserved \"s\"; string id = 1;");
    let bytes = message("string id = 1; bytes s = 2;");
    let check = |mode: Compatibility, old: &[&Descriptors], new| {
        rules(mode.check(Profile::Wire, old.iter().copied(), new))
    };
    assert!(
        check(Compatibility::Backward, &[&one], &bytes).is_empty(),
        "bytes read what string wrote"
    );
    assert_eq!(
        check(Compatibility::Forward, &[&one], &bytes),
        ["FIELD_WIRE_COMPATIBLE_TYPE"]
    );
    assert_eq!(
        check(Compatibility::Full, &[&one], &bytes),
        ["FIELD_WIRE_COMPATIBLE_TYPE"]
    );
    assert!(check(Compatibility::None, &[&one], &bytes).is_empty());
    // An addition is fine forwards: the old reader skips it.
    let added = message("string id = 1; string s = 2; int32 n = 3;");
    assert!(check(Compatibility::Full, &[&one], &added).is_empty());
    // The last revision forgot the field; the one before it did not.
    let back = message("reserved 9; string id = 1; int32 s = 2;");
    assert_eq!(
        check(Compatibility::Backward, &[&one, &two], &back),
        ["RESERVED_MESSAGE_NO_DELETE"]
    );
    assert_eq!(
        check(Compatibility::BackwardTransitive, &[&one, &two], &back),
        ["FIELD_WIRE_COMPATIBLE_TYPE", "RESERVED_MESSAGE_NO_DELETE"]
    );
}

#[test]
fn names_are_read_as_they_are_written() {
    assert_eq!("full-transitive".parse(), Ok(Compatibility::FullTransitive));
    assert_eq!("BACKWARD".parse(), Ok(Compatibility::Backward));
    assert!("sideways".parse::<Compatibility>().is_err());
    assert_eq!("wire_json".parse(), Ok(Profile::WireJson));
    assert!(
        "avro"
            .parse::<Profile>()
            .unwrap_err()
            .to_string()
            .contains("wire_json")
    );
}

#[test]
fn an_incompatible_update_does_not_replace_the_one_in_force() {
    use arqon_schema::{MappingConfig, MemoryStore, RegistryConfig, channel};
    let mapping = MappingConfig::new("in.t.*.a", "v1.a");
    let (registry, writer) = channel(RegistryConfig {
        mappings: vec![mapping],
        ..RegistryConfig::default()
    })
    .unwrap();
    writer.require_compatibility(Compatibility::Backward, Profile::WireJson);
    let store = MemoryStore::new();
    store.load(&writer).unwrap();
    let put =
        |fields: &str| store.put_source("v1.a", &format!("syntax = \"proto3\"; message A {{ {fields} }}"));
    assert_eq!(put("string id = 1;").unwrap(), 1);
    let error = put("int32 id = 1;").unwrap_err().to_string();
    assert!(
        error.contains("A.id changed from string to int32: FIELD_WIRE_JSON_COMPATIBLE_TYPE"),
        "{error}"
    );
    assert_eq!(registry.schemas()[0].revision, 1);
    assert_eq!(put("string id = 1; int32 n = 2;").unwrap(), 2);
}

#[test]
fn the_confluent_profile_has_the_published_verdicts() {
    // Its rules one by one: before, after, what it calls the difference. tests/confluent.rs has its own examples.
    let base = "string id = 1; int32 n = 2; string s = 3; bytes b = 4; oneof o { int32 x = 5; string y = 6; } repeated int32 r = 7;";
    let with = |from: &str, to: &str| base.replace(from, to);
    let cases = [
        (with("int32 n = 2;", ""), vec![]),
        (format!("{base} string more = 20;"), vec![]),
        (with("int32 n = 2;", "int32 renamed = 2;"), vec![]),
        (with("int32 n = 2;", "uint64 n = 2;"), vec![]),
        (with("int32 n = 2;", "bool n = 2;"), vec![]),
        (
            with("int32 n = 2;", "sint32 n = 2;"),
            vec!["FIELD_SCALAR_KIND_CHANGED"],
        ),
        (
            with("int32 n = 2;", "fixed32 n = 2;"),
            vec!["FIELD_SCALAR_KIND_CHANGED"],
        ),
        (with("int32 n = 2;", "A n = 2;"), vec!["FIELD_KIND_CHANGED"]),
        (
            with("int32 n = 2;", "map<string, int32> n = 2;"),
            vec!["FIELD_KIND_CHANGED"],
        ),
        (with("string s = 3;", "bytes s = 3;"), vec![]),
        (with("string s = 3;", "repeated string s = 3;"), vec![]),
        (
            with("int32 n = 2;", "repeated int32 n = 2;"),
            vec!["FIELD_NUMERIC_LABEL_CHANGED"],
        ),
        (
            with("repeated int32 r", "int32 r"),
            vec!["FIELD_NUMERIC_LABEL_CHANGED"],
        ),
        (with("int32 x = 5; ", ""), vec!["ONEOF_FIELD_REMOVED"]),
        (with("oneof o { int32 x = 5; string y = 6; }", ""), vec![]),
        (
            with(
                "oneof o { int32 x = 5; string y = 6; }",
                "int32 x = 5; string y = 6;",
            ),
            vec![],
        ),
        (with("int32 x = 5;", "int32 x = 5; int32 z = 21;"), vec![]),
        (with("string s = 3;", "oneof p { string s = 3; }"), vec![]),
        (
            with(
                "string s = 3; bytes b = 4;",
                "oneof p { string s = 3; bytes b = 4; }",
            ),
            vec!["MULTIPLE_FIELDS_MOVED_TO_ONEOF"],
        ),
        (
            base.replace("string s = 3; ", "")
                .replace("string y = 6;", "string y = 6; string s = 3;"),
            vec!["FIELD_MOVED_TO_EXISTING_ONEOF"],
        ),
    ];
    let old = message(base);
    for (fields, expected) in cases {
        assert_eq!(
            rules(compare(Profile::Confluent, &old, &message(&fields))),
            expected,
            "{fields}"
        );
    }
    let two = |text: &str| load(&format!("syntax = \"proto2\"; {text}"));
    let old = two(
        "package a; message A { optional int32 n = 1; } message B { required int32 n = 1; optional A a = 2; } enum E { X = 0; Y = 1; }",
    );
    for (text, expected) in [
        (
            "package b; message A { optional int32 n = 1; }",
            vec!["MESSAGE_REMOVED", "PACKAGE_CHANGED"],
        ),
        (
            "package a; message B { required int32 n = 1; optional B a = 2; } enum E { Z = 0; }",
            vec!["FIELD_NAMED_TYPE_CHANGED", "MESSAGE_REMOVED"],
        ),
        (
            "package a; message A { required int32 n = 2; } message B { optional A a = 2; }",
            vec!["REQUIRED_FIELD_ADDED", "REQUIRED_FIELD_REMOVED"],
        ),
        (
            "package a; message B { required int32 n = 1; optional A a = 2; message C {} } enum E { Q = 0; } message A { optional int32 n = 1; }",
            vec![],
        ),
    ] {
        assert_eq!(
            rules(compare(Profile::Confluent, &old, &two(text))),
            expected,
            "{text}"
        );
    }
}
