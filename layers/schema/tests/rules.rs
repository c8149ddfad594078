//! Level `rules`: protovalidate (PyPI, its native engine) is the witness. `vectors/rules.py` makes payloads of the
//! messages in `vectors/rules.proto`, which have every standard rule, and records path, rule id and message of every
//! violation; `TEST_RULES_VECTORS=<file>` runs a longer file of that script.
#![expect(clippy::unwrap_used, reason = "helpers of tests panic like tests")]

use std::{collections::BTreeMap, path::Path};

use arqon_schema::{Descriptors, Level, LoadError, VIOLATIONS_MAX, Validator, Violations};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::Value;

type Found = Vec<(String, String, String)>;

fn vectors(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/vectors")
        .join(name)
}

fn found(result: Result<(), Violations>) -> Found {
    let violations = result.err().map_or_else(Vec::new, Violations::into_vec);
    let mut found: Found = violations
        .into_iter()
        .map(|one| (one.path, one.rule.into_owned(), one.message))
        .collect();
    found.sort();
    found
}

/// The witness' violations, the words of `required` being ours.
fn expected(case: &Value) -> Option<Found> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let all = case.as_array()?.iter().map(|one| {
        let (path, rule) = (text(&one[0]), text(&one[1]));
        let message = match (&*rule, one[2].as_str().unwrap()) {
            ("required", said) if said.contains("oneof") => format!("oneof '{path}' missing"),
            ("required", _) => format!("field '{path}' missing"),
            (_, message) => message.to_owned(),
        };
        (path, rule, message)
    });
    let mut all: Found = all.collect();
    all.sort();
    Some(all)
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
        .collect()
}

#[test]
fn violations_are_those_of_protovalidate_path_rule_and_message() {
    let schema = Descriptors::load(vectors("rules.proto")).unwrap();
    let file = std::env::var_os("TEST_RULES_VECTORS").map_or_else(|| vectors("rules.json"), Into::into);
    let cases: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let mut validators: BTreeMap<String, Validator> = BTreeMap::new();
    let (mut accepted, mut refused, mut wrong) = (0, 0, Vec::new());
    for case in cases.as_array().unwrap() {
        let name = case[0].as_str().unwrap();
        let validator = validators.entry(name.to_owned()).or_insert_with(|| {
            let full = format!("rules.v1.{name}");
            schema.validator(Some(&full), Level::Rules, &[]).unwrap()
        });
        let payload = unhex(case[1].as_str().unwrap());
        let ours = found(validator.validate_wire(&payload));
        let same = match expected(&case[2]) {
            // More than an answer names: those it names are among them.
            Some(theirs) if theirs.len() > VIOLATIONS_MAX => {
                ours.len() == VIOLATIONS_MAX && ours.iter().all(|one| theirs.contains(one))
            }
            Some(theirs) => ours == theirs,
            // The witness gave up: bytes that are no text, and a pattern.
            None => ours.iter().any(|(_, rule, _)| rule == "bytes.pattern"),
        };
        if !same {
            wrong.push(format!("{case}\n  ours: {ours:?}"));
        }
        *(if ours.is_empty() {
            &mut accepted
        } else {
            &mut refused
        }) += 1;
    }
    assert!(
        wrong.is_empty(),
        "{} differ, first:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(20)].join("\n")
    );
    assert!(accepted > 50 && refused > 500, "{accepted} {refused}");
}

#[test]
fn json_has_the_same_violations() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut compiler = protox::Compiler::new([root.join("tests/vectors"), root.join("proto")]).unwrap();
    compiler.include_imports(true).open_file("rules.proto").unwrap();
    let set = compiler.encode_file_descriptor_set();
    let pool = DescriptorPool::decode(set.as_slice()).unwrap();
    let schema = Descriptors::decode(&set).unwrap();
    let cases: Value = serde_json::from_slice(&std::fs::read(vectors("rules.json")).unwrap()).unwrap();
    let mut compared = 0;
    for case in cases.as_array().unwrap() {
        let name = format!("rules.v1.{}", case[0].as_str().unwrap());
        let payload = unhex(case[1].as_str().unwrap());
        let message =
            DynamicMessage::decode(pool.get_message_by_name(&name).unwrap(), payload.as_slice()).unwrap();
        // What prost-reflect holds for zero it writes nowhere (minus zero). What has no JSON form: moments out of range, masks that are no camel case, an Any of no known type.
        let Ok(text) = serde_json::to_string(&message) else {
            continue;
        };
        // NaN in a wrapper, which prost-reflect writes as null.
        if text.contains(":null") {
            continue;
        }
        let validator = schema.validator(Some(&name), Level::Rules, &[]).unwrap();
        let (json, wire) = (
            validator.validate_json(text.as_bytes()),
            validator.validate_wire(&message.encode_to_vec()),
        );
        let (json, wire) = (found(json), found(wire));
        if wire.len() < VIOLATIONS_MAX {
            assert_eq!(json, wire, "{text}");
            compared += 1;
        }
    }
    assert!(compared > 500, "{compared}");
}

fn refusal(fields: &str) -> String {
    let source = format!(
        "syntax = \"proto3\"; package p; import \"buf/validate/validate.proto\"; message A {{ {fields} }}"
    );
    let schema = Descriptors::from_source("a.proto", &source).unwrap();
    // The levels below do not care.
    schema.validator(None, Level::Required, &[]).unwrap();
    match schema.validator(None, Level::Rules, &[]) {
        Err(error @ LoadError::Rule { .. }) => error.to_string(),
        other => panic!("{fields}: {other:?}"),
    }
}

#[test]
fn what_cannot_be_checked_is_refused_at_load_in_words() {
    let rule = |rule: &str| format!("string id = 1 [(buf.validate.field){rule}];");
    for (fields, says) in [
        (
            rule(".cel = {id: \"a\", expression: \"this != ''\"}"),
            "p.A.id has a rule in CEL",
        ),
        (rule(".cel_expression = \"this != ''\""), "in CEL"),
        (
            "option (buf.validate.message).cel_expression = \"true\";".to_owned(),
            "p.A has a rule in CEL",
        ),
        (rule(".string.pattern = \"(\""), "unclosed group"),
        (
            rule(".string.pattern = \"(a{1000}){1000}\""),
            "compiles to more than",
        ),
        (
            rule(&format!(".string.pattern = \"{}\"", "a".repeat(5_000))),
            "at most 4096",
        ),
        (rule(".int32.gt = 5"), "int32 rules, which its type cannot keep"),
        (rule(".repeated.min_items = 5"), "repeated rules"),
        (
            "repeated string id = 1 [(buf.validate.field).string.min_len = 5];".to_owned(),
            "string rules",
        ),
        (
            "repeated A a = 1 [(buf.validate.field).repeated.unique = true];".to_owned(),
            "only scalars and enums",
        ),
        (
            "option (buf.validate.message).oneof = {fields: [\"no\"]}; string id = 1;".to_owned(),
            "which is no field",
        ),
        (
            "option (buf.validate.message).oneof = {fields: [\"id\", \"id\"]}; string id = 1;".to_owned(),
            "twice",
        ),
    ] {
        let error = refusal(&fields);
        assert!(
            error.contains("level \"rules\"") && error.contains(says),
            "{fields}: {error}"
        );
    }
    let many: String = (1..300)
        .map(|at| format!("string s{at} = {at} [(buf.validate.field).string.pattern = \"^{at}$\"];"))
        .collect();
    assert!(refusal(&many).contains("at most 256"));
}

#[test]
fn a_predefined_rule_is_not_skipped() {
    let source = r#"syntax = "proto2"; package p; import "buf/validate/validate.proto";
        extend buf.validate.StringRules { optional bool shiny = 1161 [(buf.validate.predefined).cel = {
            id: "shiny" expression: "true" }]; }
        message A { optional string id = 1 [(buf.validate.field).string.(shiny) = true]; }"#;
    let schema = Descriptors::from_source("a.proto", source).unwrap();
    let error = schema
        .validator(Some("p.A"), Level::Rules, &[])
        .unwrap_err()
        .to_string();
    assert!(error.contains("predefined rule (field 1161)"), "{error}");
}

#[test]
fn a_pattern_takes_linear_time_and_rules_are_cumulative() {
    let source = r#"syntax = "proto3"; import "buf/validate/validate.proto";
        message A { string id = 1 [(buf.validate.field).string.pattern = "^(a+)+$"]; }"#;
    let schema = Descriptors::from_source("a.proto", source).unwrap();
    let validator = schema.validator(None, Level::Rules, &["id".to_owned()]).unwrap();
    let mut payload = vec![0x0a, 0x81, 0x80, 0x04];
    payload.extend([b'a'; 65_536]);
    payload.push(b'!');
    // Backtracking would need longer than the sun will shine.
    assert_eq!(found(validator.validate_wire(&payload))[0].1, "string.pattern");
    assert_eq!(
        found(validator.validate_wire(b"\x0a\x01b\x10\x01")).len(),
        2,
        "unknown field and pattern"
    );
    assert_eq!(
        found(validator.validate_wire(b"")),
        [("id".into(), "required".into(), "field 'id' missing".into())]
    );
}
