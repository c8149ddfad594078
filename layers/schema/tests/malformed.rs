//! Malformed payloads, by hand: the cases the sources name.
#![expect(clippy::unwrap_used, reason = "helpers of tests panic like tests")]

use arqon_schema::{Descriptors, Level, Validator, rule};

const SOURCE: &str = r#"
    syntax = "proto3";
    package events.v1;
    message UserCreated {
        string user_id = 1;
        int32 age = 2;
        User user = 3;
        repeated Item items = 4;
        map<string, string> labels = 5;
        map<string, Item> stock = 6;
        repeated int32 scores = 7;
        oneof contact { string email = 8; string phone = 9; Item gift = 10; }
        optional string nickname = 11;
    }
    message User { string email = 1; UserCreated creator = 2; }
    message Item { string sku = 1; int32 count = 2; }
"#;

fn validator(level: Level, required: &[&str]) -> Validator {
    let required: Vec<String> = required.iter().map(|&path| path.to_owned()).collect();
    let schema = Descriptors::from_source("users.proto", SOURCE).unwrap();
    schema
        .validator(Some("events.v1.UserCreated"), level, &required)
        .unwrap()
}

/// `path rule` of each violation.
fn verdict(result: Result<(), arqon_schema::Violations>) -> Vec<String> {
    let violations = result
        .err()
        .map_or_else(Vec::new, arqon_schema::Violations::into_vec);
    violations
        .into_iter()
        .map(|violation| format!("{} {}", violation.path, violation.rule))
        .collect()
}

#[test]
fn test_malformed() {
    let validator = validator(Level::Strict, &["user_id"]);
    let valid = b"\x0a\x02u1\x10\x05";
    assert!(validator.validate_wire(valid).is_ok());
    for end in [1, 2, 3, 5] {
        let violations = validator.validate_wire(&valid[..end]).unwrap_err();
        assert_eq!(
            violations.as_slice()[0].rule,
            rule::WIRE_TRUNCATED,
            "cut at {end}"
        );
    }
    let violations = validator.validate_wire(b"\x0a\x09u1").unwrap_err();
    assert_eq!(violations.as_slice()[0].path, "user_id");
}

#[test]
fn json_text_and_empty_bodies_are_not_binary() {
    let validator = validator(Level::Strict, &["user_id"]);
    assert!(validator.validate_wire(br#"{"user_id":"u1"}"#).is_err());
    assert_eq!(
        validator.validate_wire(b"").unwrap_err().to_string(),
        "field 'user_id' missing"
    );
    assert!(validator.validate_wire(b"100000000").is_err());
    assert_eq!(verdict(validator.validate_json(b"")), [". json.syntax"]);
}

#[test]
fn paths_name_the_place() {
    let strict = validator(Level::Strict, &[]);
    let cases: [(&[u8], &str); 9] = [
        (b"\x98\x06\x01", "99 strict.unknown_field"),
        (
            b"\x22\x02\x0a\x00\x22\x03\x98\x06\x01",
            "items[1].99 strict.unknown_field",
        ),
        (b"\x1a\x03\x0a\x01\xff", "user.email wire.utf8"),
        (b"\x2a\x07\x0a\x02eu\x12\x01\xff", "labels[\"eu\"] wire.utf8"),
        (
            b"\x32\x09\x0a\x02eu\x12\x03\x98\x06\x01",
            "stock[\"eu\"].99 strict.unknown_field",
        ),
        (b"\x3a\x02\x01\x80", "scores[1] wire.packed"),
        (b"\x0d\x00\x00\x00\x00", "user_id wire.type"),
        (b"\x00", ". wire.tag"),
        (b"\x0c", ". wire.group"),
    ];
    for (payload, expected) in cases {
        assert_eq!(verdict(strict.validate_wire(payload)), [expected], "{payload:x?}");
    }
}

#[test]
fn every_violation_is_named_up_to_sixteen() {
    let strict = validator(Level::Strict, &["user_id"]);
    assert_eq!(
        verdict(strict.validate_wire(b"\x98\x06\x01\x42\x01\xff")),
        ["99 strict.unknown_field", "email wire.utf8", "user_id required"]
    );
    assert_eq!(
        strict
            .validate_wire(&b"\x98\x06\x01".repeat(100))
            .unwrap_err()
            .as_slice()
            .len(),
        16
    );
}

#[test]
fn required_paths_are_checked_at_every_level() {
    for level in [Level::Wire, Level::Strict, Level::Required] {
        let validator = validator(level, &["user_id", "user.email", "items[].sku", "stock[].sku"]);
        assert_eq!(
            validator.validate_wire(b"\x10\x05").unwrap_err().to_string(),
            "field 'user_id' missing"
        );
        assert_eq!(
            validator.validate_json(b"{}").unwrap_err().to_string(),
            "field 'user_id' missing"
        );
        // An absent parent misses nothing; a present one does.
        assert!(validator.validate_wire(b"\x0a\x01u").is_ok());
        assert_eq!(
            verdict(validator.validate_wire(b"\x0a\x01u\x1a\x00")),
            ["user.email required"]
        );
        assert_eq!(
            verdict(validator.validate_wire(b"\x0a\x01u\x22\x03\x0a\x01s\x22\x00")),
            ["items[1].sku required"]
        );
        assert_eq!(
            verdict(validator.validate_json(br#"{"userId":"u","items":[{"sku":"s"},{}],"stock":{"eu":{}}}"#)),
            ["items[1].sku required", "stock[\"eu\"].sku required"]
        );
        // A map value that is not there is the empty message.
        assert_eq!(
            verdict(validator.validate_wire(b"\x0a\x01u\x32\x04\x0a\x02eu")),
            ["stock[\"eu\"].sku required"]
        );
        // Required below the root's `user` only, not below `user.creator.user`.
        assert!(
            validator
                .validate_wire(b"\x0a\x01u\x1a\x07\x0a\x01e\x12\x02\x1a\x00")
                .is_ok()
        );
    }
}

#[test]
fn presence_is_judged_on_the_merged_message() {
    let one = validator(Level::Strict, &["user_id"]);
    assert!(one.validate_wire(b"\x0a\x00\x0a\x01x").is_ok(), "the last wins");
    assert!(one.validate_wire(b"\x0a\x01x\x0a\x00").is_err(), "zero is absent");
    let age = validator(Level::Strict, &["age"]);
    assert!(
        age.validate_wire(b"\x10\x80\x80\x80\x80\x10").is_err(),
        "an int32 keeps its low 32 bits"
    );
    let nested = validator(Level::Strict, &["user.email", "user.creator"]);
    assert!(
        nested.validate_wire(b"\x1a\x03\x0a\x01e\x1a\x02\x12\x00").is_ok(),
        "halves merge"
    );
    assert_eq!(
        verdict(nested.validate_wire(b"\x1a\x03\x0a\x01e\x1a\x00")),
        ["user.creator required"]
    );
    let map = validator(Level::Strict, &["stock[].sku"]);
    let (bad, good) = (
        b"\x32\x06\x0a\x02eu\x12\x00",
        b"\x32\x09\x0a\x02eu\x12\x03\x0a\x01s",
    );
    assert!(
        map.validate_wire(&[&bad[..], good].concat()).is_ok(),
        "the last entry of a key wins"
    );
    assert!(map.validate_wire(&[&good[..], bad].concat()).is_err());
    let oneof = validator(Level::Strict, &["email", "gift.sku"]);
    assert!(
        oneof.validate_wire(b"\x42\x00").is_ok(),
        "a oneof member has explicit presence"
    );
    assert!(
        oneof.validate_wire(b"\x42\x01e\x4a\x01p").is_err(),
        "the other member cleared it"
    );
    assert!(
        oneof.validate_wire(b"\x52\x00\x42\x01e").is_ok(),
        "a cleared member misses nothing"
    );
    assert_eq!(
        verdict(validator(Level::Strict, &["contact"]).validate_wire(b"\x0a\x01u")),
        ["contact required"]
    );
    let optional = validator(Level::Strict, &["nickname"]);
    assert!(
        optional.validate_wire(b"\x5a\x00").is_ok(),
        "explicit presence takes zero"
    );
}

#[test]
fn required_paths_that_do_not_exist_are_refused() {
    let schema = Descriptors::from_source("users.proto", SOURCE).unwrap();
    let refuse = |path: &str| {
        let result = schema.validator(Some("events.v1.UserCreated"), Level::Strict, &[path.to_owned()]);
        result.unwrap_err().to_string()
    };
    assert!(refuse("nope").contains("no field 'nope'"));
    assert!(refuse("userId").contains("write 'user_id'"));
    assert!(refuse("items.sku").contains("write 'items[]'"));
    assert!(refuse("user[].email").contains("write 'user'"));
    assert!(refuse("items[]").contains("name the list itself"));
    assert!(refuse("age.x").contains("holds no messages"));
    let several = schema.validator(None, Level::Strict, &[]).unwrap_err();
    assert!(
        several
            .to_string()
            .contains("events.v1.UserCreated, events.v1.User, events.v1.Item"),
        "{several}"
    );
}

#[test]
fn json_is_checked_by_the_same_contract() {
    let validator = validator(Level::Wire, &["user_id"]);
    let accept = [
        r#"{"userId":"u"}"#,
        r#" {"user_id" : "u", "age": "5", "items": [], "labels": {"a":"b"}, "scores":[1,2e1,"3"], "nickname":null} "#,
        r#"{"\u0075serId":"\ud83d\ude00"}"#,
    ];
    for text in accept {
        assert_eq!(
            verdict(validator.validate_json(text.as_bytes())),
            [""; 0],
            "{text}"
        );
    }
    let reject = [
        (r#"{"userId":"u","nope":1}"#, "nope strict.unknown_field"),
        (r#"{"userId":"u","userId":"v"}"#, "user_id json.duplicate"),
        (r#"{"userId":"u","user_id":"v"}"#, "user_id json.duplicate"),
        (
            r#"{"userId":"u","labels":{"a":"1","\u0061":"2"}}"#,
            "labels[\"a\"] json.duplicate",
        ),
        (
            r#"{"userId":"u","email":"e","phone":"p"}"#,
            "phone json.duplicate",
        ),
        (r#"{"userId":"u","age":1.5}"#, "age json.range"),
        (r#"{"userId":"u","age":true}"#, "age json.type"),
        (r#"{"userId":"u","age":"x"}"#, "age json.format"),
        (r#"{"userId":"u","scores":[1,null]}"#, "scores[1] json.type"),
        (
            r#"{"userId":"u","user":{"creator":{"items":[{"sku":1}]}}}"#,
            "user.creator.items[0].sku json.type",
        ),
        (r#"{"userId":""}"#, "user_id required"),
        (r#"{"userId":null}"#, "user_id required"),
        (r#"{"userId":"u"} {}"#, ". json.syntax"),
        (r#"{"userId":"\ud800"}"#, "user_id json.syntax"),
        ("\u{feff}{}", ". json.syntax"),
        ("[]", ". json.type"),
        ("null", ". json.type"),
    ];
    for (text, expected) in reject {
        let got = verdict(validator.validate_json(text.as_bytes()));
        assert_eq!(got.first().map(String::as_str), Some(expected), "{text}: {got:?}");
    }
}

#[test]
fn no_payload_byte_is_in_the_text_of_a_violation() {
    let validator = validator(Level::Strict, &[]);
    let text = br#"{"age":"secret","userId":17171717,"items":"secret","contact":"secret","user":{"email":{"s":"secret"}}}"#;
    for violation in validator.validate_json(text).unwrap_err().into_vec() {
        assert!(
            !violation.message.contains("secret") && !violation.message.contains("17171717"),
            "{violation:?}"
        );
    }
}
