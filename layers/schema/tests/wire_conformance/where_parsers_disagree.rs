//! Section 7 of the notes: where parsers disagree, ours is the stricter reading.

use super::*;

fn first(level: Level, payload: &[u8]) -> Option<String> {
    let validator = support::validator(&support::set("proto2"), level, &[]);
    validator
        .validate_wire(payload)
        .err()
        .map(|found| found.as_slice()[0].rule.to_string())
}

#[test]
fn a_tag_of_more_than_five_bytes_is_refused() {
    assert_eq!(
        first(Level::Wire, b"\x88\x80\x80\x80\x80\x00\x01").as_deref(),
        Some(rule::WIRE_TAG)
    );
}

#[test]
fn a_length_of_more_than_five_bytes_is_refused() {
    assert_eq!(
        first(Level::Wire, b"\x72\x81\x80\x80\x80\x80\x00a").as_deref(),
        Some(rule::WIRE_LENGTH)
    );
}

#[test]
fn a_tenth_varint_byte_above_one_is_refused() {
    let payload = b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02";
    assert_eq!(first(Level::Wire, payload).as_deref(), Some(rule::WIRE_VARINT));
}

#[test]
fn a_known_field_of_a_wrong_wire_type_is_refused() {
    for payload in [
        &b"\x09\x00\x00\x00\x00\x00\x00\x00\x00"[..],
        b"\x70\x01",
        b"\x90\x01\x01",
    ] {
        assert_eq!(
            first(Level::Wire, payload).as_deref(),
            Some(rule::WIRE_TYPE),
            "{payload:x?}"
        );
    }
}

#[test]
fn a_map_of_a_wrong_wire_type_is_refused() {
    assert_eq!(
        first(Level::Wire, b"\xc0\x03\x04\x08\x01\x10\x01").as_deref(),
        Some(rule::WIRE_TYPE)
    );
}

#[test]
fn a_proto2_string_must_be_utf8() {
    assert_eq!(
        first(Level::Wire, b"\x72\x01\xff").as_deref(),
        Some(rule::WIRE_UTF8)
    );
}

#[test]
fn an_unknown_number_of_a_closed_enum_is_an_unknown_field() {
    let payload = b"\xa8\x01\x07";
    assert_eq!(first(Level::Wire, payload), None);
    assert_eq!(first(Level::Strict, payload).as_deref(), Some(rule::CLOSED_ENUM));
    for payload in [&b"\x9a\x03\x01\x07"[..], b"\x9a\x03\x02\x01\x07", b"\x98\x03\x07"] {
        assert_eq!(first(Level::Wire, payload), None, "in a list, packed or not");
        assert_eq!(
            first(Level::Strict, payload).as_deref(),
            Some(rule::CLOSED_ENUM),
            "{payload:x?}"
        );
    }
    let needs = support::validator(&support::set("proto2"), Level::Wire, &["f_enum"]);
    assert_eq!(
        needs.validate_wire(payload).unwrap_err().to_string(),
        "field 'f_enum' missing"
    );
    assert!(
        needs.validate_wire(b"\xa8\x01\x01\xa8\x01\x07").is_ok(),
        "it does not replace a known one"
    );
    let open = support::validator(&support::set("proto3"), Level::Strict, &[]);
    assert!(open.validate_wire(payload).is_ok());
}

#[test]
fn a_proto2_field_that_is_required_and_missing_is_refused() {
    let source = "syntax = \"proto2\"; package r; message R { required int32 n = 1; optional R child = 2; }";
    let schema = arqon_schema::Descriptors::from_source("r.proto", source).unwrap();
    let required = schema.validator(None, Level::Required, &[]).unwrap();
    let missing = |payload: &[u8]| required.validate_wire(payload).unwrap_err().to_string();
    assert_eq!(missing(b""), "field 'n' missing");
    assert_eq!(missing(b"\x08\x01\x12\x00"), "field 'child.n' missing");
    assert!(required.validate_wire(b"\x08\x00\x12\x02\x08\x00").is_ok());
}

#[test]
fn the_hundredth_level_passes_and_the_next_does_not() {
    let nested = |levels: usize| (0..levels).fold(Vec::new(), |inner, _| field(27, 2, &framed(&inner)));
    assert_eq!(first(Level::Wire, &nested(100)), None);
    assert_eq!(
        first(Level::Wire, &nested(101)).as_deref(),
        Some(rule::WIRE_DEPTH)
    );
}

fn first_of_json(level: Level, text: &str) -> Option<String> {
    let found = support::validator(&support::set("proto3"), level, &[]).validate_json(text.as_bytes());
    found.err().map(|found| found.as_slice()[0].rule.to_string())
}

#[test]
fn a_json_name_or_map_key_that_comes_twice_is_refused_at_every_level() {
    for level in [Level::Wire, Level::Strict] {
        for text in [
            r#"{"fInt32":1,"fInt32":1}"#,
            r#"{"fInt32":1,"\u0066Int32":1}"#,
            r#"{"mString":{"a":"1","a":"1"}}"#,
            r#"{"mInt32":{"1":1,"1":1}}"#,
            r#"{"rMessage":[{"a":1,"a":1}]}"#,
        ] {
            assert_eq!(
                first_of_json(level, text).as_deref(),
                Some(rule::JSON_DUPLICATE),
                "{text}"
            );
        }
    }
}

#[test]
fn both_spellings_of_one_json_field_are_refused() {
    let text = r#"{"fInt32":1,"f_int32":1}"#;
    assert_eq!(
        first_of_json(Level::Wire, text).as_deref(),
        Some(rule::JSON_DUPLICATE)
    );
    for one in [r#"{"fInt32":1}"#, r#"{"f_int32":1}"#] {
        assert_eq!(first_of_json(Level::Wire, one), None);
    }
}

#[test]
fn a_hundred_levels_of_json_pass_and_one_more_does_not() {
    let nested = |levels: usize| format!("{}{{}}{}", "{\"fSelf\":".repeat(levels), "}".repeat(levels));
    assert_eq!(first_of_json(Level::Wire, &nested(100)), None);
    assert_eq!(
        first_of_json(Level::Wire, &nested(101)).as_deref(),
        Some(rule::JSON_DEPTH)
    );
}

#[test]
fn a_timestamp_of_ten_fraction_digits_is_refused() {
    let source = "syntax = \"proto3\"; import \"google/protobuf/timestamp.proto\"; message T { google.protobuf.Timestamp at = 1; }";
    let schema = arqon_schema::Descriptors::from_source("t.proto", source).unwrap();
    let validator = schema.validator(Some("T"), Level::Wire, &[]).unwrap();
    let at = |fraction: &str| {
        let text = format!("{{\"at\":\"2026-01-01T00:00:00.{fraction}Z\"}}");
        validator.validate_json(text.as_bytes()).is_ok()
    };
    assert!(at("123456789") && at("5"));
    assert!(!at("1234567890") && !at("0000000000") && !at(""));
}

#[test]
fn an_integer_written_as_a_double_must_be_one() {
    for (text, rule) in [
        (r#"{"fInt64":9007199254740992.0}"#, None),
        (r#"{"fInt64":9007199254740993}"#, None),
        (r#"{"fInt64":9007199254740993.0}"#, Some(rule::JSON_RANGE)),
        (r#"{"fUint64":1.8446744073709551615e19}"#, Some(rule::JSON_RANGE)),
        (r#"{"fInt32":2147483647.0}"#, None),
    ] {
        assert_eq!(first_of_json(Level::Wire, text).as_deref(), rule, "{text}");
    }
}
