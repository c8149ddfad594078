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
