//! The official wire cases, re-expressed: every `ParseError` class of the Protobuf conformance suite for proto2, proto3
//! and edition 2023, bare and nested one and three levels deep, inside a map value and inside a group; and what must be
//! accepted. Names are those of the suite.

#[path = "../support/mod.rs"]
mod support;
mod where_parsers_disagree;

use arqon_schema::{Level, Validator, rule};
use support::{framed, tag, varint};

/// Wire type, singular, repeated and unknown field of each of the 17 types.
const TYPES: [(&str, u32, u32, u32); 17] = [
    ("int32", 0, 1, 31),
    ("int64", 0, 2, 32),
    ("uint32", 0, 3, 33),
    ("uint64", 0, 4, 34),
    ("sint32", 0, 5, 35),
    ("sint64", 0, 6, 36),
    ("fixed32", 5, 7, 37),
    ("fixed64", 1, 8, 38),
    ("sfixed32", 5, 9, 39),
    ("sfixed64", 1, 10, 40),
    ("float", 5, 11, 41),
    ("double", 1, 12, 42),
    ("bool", 0, 13, 43),
    ("string", 2, 14, 44),
    ("bytes", 2, 15, 45),
    ("message", 2, 18, 48),
    ("enum", 0, 21, 51),
];
const UNKNOWN: u32 = 666;
/// No other case uses this number for a group.
const GROUP: u32 = 777;

fn field(number: u32, wire: u32, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    tag(number, wire, &mut out);
    out.extend(value);
    out
}

/// The beginning of a value of that wire type.
fn incomplete(wire: u32) -> &'static [u8] {
    match wire {
        0 => b"\x80",
        1 => b"\x01\x02\x03\x04\x05\x06\x07",
        2 => b"\x80",
        _ => b"\x01\x02\x03",
    }
}

fn parse_errors() -> Vec<(String, Vec<u8>)> {
    let mut cases = Vec::new();
    let mut add = |name: String, bytes: Vec<u8>| cases.push((name, bytes));
    for (name, wire, single, repeated) in TYPES {
        for (place, number) in [
            ("KnownNonRepeated", single),
            ("KnownRepeated", repeated),
            ("Unknown", UNKNOWN),
        ] {
            add(
                format!("PrematureEofBefore{place}Value.{name}"),
                field(number, wire, b""),
            );
            add(
                format!("PrematureEofInside{place}Value.{name}"),
                field(number, wire, incomplete(wire)),
            );
            if wire == 2 {
                add(
                    format!("PrematureEofInDelimitedDataFor{place}Value.{name}"),
                    field(number, wire, b"\x01"),
                );
            }
        }
        if wire != 2 {
            add(
                format!("PrematureEofInPackedFieldValue.{name}"),
                field(repeated, 2, &framed(incomplete(wire))),
            );
            add(
                format!("PrematureEofInPackedField.{name}"),
                field(repeated, 2, b"\x08"),
            );
        }
    }
    add(
        "PrematureEofInSubmessageValue.message".into(),
        field(18, 2, &framed(&field(1, 0, b"\x80"))),
    );
    for case in 0..4_u8 {
        let value: &[u8] = [&b"\x01\x00"[..], b"\x02\x01\x01", b"\x03\x04", b"\x05"][usize::from(case)];
        add(format!("IllegalZeroFieldNum_Case_{case}"), value.to_vec());
    }
    add(
        "BadTag_FieldNumberTooHigh".into(),
        b"\x98\x86\x80\x80\x80\x00".to_vec(),
    );
    add(
        "BadTag_FieldNumberSlightlyTooHigh".into(),
        b"\x98\x80\x80\x80\x10\x00".to_vec(),
    );
    add(
        "BadTag_OverlongVarint".into(),
        b"\x88\x80\x80\x80\x80\x00\x00".to_vec(),
    );
    add(
        "BadTag_VarintMoreThanTenBytes".into(),
        [&[0x88], &[0x80; 10][..], b"\x00\x00"].concat(),
    );
    for (name, number) in [("", 201), ("Unknown", UNKNOWN), ("WrongType", 1)] {
        add(format!("UnmatchedEndGroup{name}"), field(number, 4, b""));
        add(
            format!("UnmatchedEndGroup{name}NestedLen"),
            field(18, 2, &framed(&field(number, 4, b""))),
        );
        add(
            format!("UnmatchedEndGroup{name}WithData"),
            [field(1, 0, b"\x01"), field(number, 4, b"")].concat(),
        );
        add(format!("UnmatchedStartGroup{name}"), field(number, 3, b""));
        add(
            format!("UnmatchedStartGroup{name}NestedLen"),
            field(18, 2, &framed(&field(number, 3, b""))),
        );
        add(
            format!("UnmatchedStartGroup{name}WithData"),
            [field(number, 3, b""), field(1, 0, b"\x01")].concat(),
        );
    }
    add(
        "UnmatchedEndGroupNested".into(),
        [field(201, 3, b""), field(202, 4, b""), field(201, 4, b"")].concat(),
    );
    add(
        "UnmatchedStartGroupNested".into(),
        [field(201, 3, b""), field(202, 3, b""), field(201, 4, b"")].concat(),
    );
    add(
        "MismatchedGroupTags".into(),
        [field(201, 3, b""), field(202, 4, b"")].concat(),
    );
    let inner = [field(UNKNOWN, 3, b""), field(668, 4, b"")].concat();
    add(
        "MismatchedNestedGroupTags".into(),
        [field(667, 3, b""), inner, field(667, 4, b"")].concat(),
    );
    for wire in [6, 7] {
        for number in [1, 15, 16, UNKNOWN] {
            for (at, value) in [&b"\x00"[..], b"\x08", b"\x00\x00\x00\x00", b""]
                .into_iter()
                .enumerate()
            {
                add(
                    format!("UnknownWireType{wire}_Field{number}_{at}"),
                    field(number, wire, value),
                );
            }
        }
    }
    let bad = framed(b"\xff");
    let entry = |value: Vec<u8>| framed(&value);
    add("RejectInvalidUtf8.String.Singular".into(), field(14, 2, &bad));
    add("RejectInvalidUtf8.String.Repeated".into(), field(44, 2, &bad));
    add("RejectInvalidUtf8.String.Oneof".into(), field(113, 2, &bad));
    add(
        "RejectInvalidUtf8.String.MapKey".into(),
        field(69, 2, &entry(field(1, 2, &bad))),
    );
    add(
        "RejectInvalidUtf8.String.MapValue".into(),
        field(69, 2, &entry(field(2, 2, &bad))),
    );
    cases
}

/// A place for a message inside the root.
type Place = (&'static str, fn(&[u8]) -> Vec<u8>);

const PLACES: [Place; 5] = [
    ("at the root", <[u8]>::to_vec),
    ("one level deep", one),
    ("three levels deep", |bytes| one(&one(&one(bytes)))),
    ("in a map value", |bytes| {
        let corecursive = field(2, 2, &framed(bytes));
        field(71, 2, &framed(&field(2, 2, &framed(&corecursive))))
    }),
    ("in a group", |bytes| {
        [field(GROUP, 3, b""), bytes.to_vec(), field(GROUP, 4, b"")].concat()
    }),
];

fn one(bytes: &[u8]) -> Vec<u8> {
    field(27, 2, &framed(bytes))
}

fn validators(level: Level) -> Vec<(&'static str, Validator)> {
    vec![
        ("proto2", support::validator(&support::set("proto2"), level, &[])),
        ("proto3", support::validator(&support::set("proto3"), level, &[])),
        (
            "edition 2023",
            support::validator(&support::edition_set(), level, &[]),
        ),
    ]
}

#[test]
fn every_parse_error_class_is_refused_wherever_it_is() {
    let cases = parse_errors();
    assert!(cases.len() > 190, "{}", cases.len());
    for (syntax, validator) in validators(Level::Wire) {
        for (name, bytes) in &cases {
            for (place, wrap) in PLACES {
                let known_only = ["Utf8", "PackedFieldValue", "SubmessageValue", "NestedLen"];
                if place == "in a group" && known_only.iter().any(|part| name.contains(part)) {
                    // What is wrong only with a known field is fine in an unknown group; the next test has a known one.
                    continue;
                }
                let payload = wrap(bytes);
                assert!(
                    validator.validate_wire(&payload).is_err(),
                    "{syntax} {name} {place}: {payload:02x?}"
                );
            }
        }
    }
}

#[test]
fn a_known_group_is_checked_like_a_message() {
    let validator = support::validator(&support::set("proto2"), Level::Strict, &[]);
    let group = |inner: &[u8]| [field(201, 3, b""), inner.to_vec(), field(201, 4, b"")].concat();
    assert!(validator.validate_wire(&group(&field(202, 0, b"\x01"))).is_ok());
    for (name, bytes) in parse_errors() {
        // `g_self` is an `All`.
        let payload = group(&field(203, 2, &framed(&bytes)));
        assert!(validator.validate_wire(&payload).is_err(), "{name}");
    }
    let unknown = validator
        .validate_wire(&group(&field(999, 0, b"\x01")))
        .unwrap_err();
    assert_eq!(unknown.as_slice()[0].path, "data.999");
}

#[test]
fn what_must_be_accepted_is() {
    let mut cases: Vec<(String, Vec<u8>)> = Vec::new();
    for (name, wire, single, repeated) in TYPES {
        let value: &[u8] = match wire {
            0 => b"\x01",
            1 => b"\x01\x00\x00\x00\x00\x00\x00\x00",
            2 => b"\x00",
            _ => b"\x01\x00\x00\x00",
        };
        cases.push((
            format!("ValidDataScalar.{name}"),
            [field(single, wire, value), field(single, wire, value)].concat(),
        ));
        cases.push((
            format!("ValidDataRepeated.{name}"),
            field(repeated, wire, value).repeat(3),
        ));
        if wire != 2 {
            let packed = field(repeated, 2, &framed(&value.repeat(3)));
            cases.push((format!("ValidDataRepeated.{name}.Packed"), packed.clone()));
            let mixed = [packed, field(repeated, wire, value)].concat();
            cases.push((format!("ValidDataRepeated.{name}.Mixed"), mixed));
            cases.push((
                format!("ValidDataRepeated.{name}.Empty"),
                field(repeated, 2, b"\x00"),
            ));
        }
    }
    let long = b"\x81\x80\x80\x80\x80\x80\x80\x80\x80\x00";
    for number in [1, 2, 3, 4, 5, 6, 13] {
        cases.push((
            format!("over-long value varint in field {number}"),
            field(number, 0, long),
        ));
        let most = b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
        cases.push((format!("64 bits in field {number}"), field(number, 0, most)));
    }
    let entry = |bytes: &[u8]| field(56, 2, &framed(bytes));
    for (name, bytes) in [
        ("empty", &b""[..]),
        ("key only", b"\x08\x01"),
        ("value only", b"\x10\x01"),
        ("reordered", b"\x10\x01\x08\x01"),
        ("duplicated", b"\x08\x01\x08\x02\x10\x01\x10\x02"),
        ("unknown part", b"\x08\x01\x18\x01\x10\x01"),
    ] {
        cases.push((format!("map entry: {name}"), entry(bytes)));
    }
    cases.push(("AcceptInvalidUtf8.Bytes".into(), field(15, 2, &framed(b"\xff"))));
    cases.push((
        "oneof overwritten".into(),
        [field(111, 0, b"\x01"), field(113, 2, b"\x01a")].concat(),
    ));
    let group = [field(900, 3, b""), field(1, 2, b"\x01a"), field(900, 4, b"")].concat();
    cases.push(("unknown group".into(), group));
    for number in [15, 16, 2047, 2048, 19_500, 536_870_911] {
        cases.push((
            format!("unknown field {number}"),
            field(number.max(1000), 5, b"\x00\x00\x00\x00"),
        ));
    }
    for (syntax, validator) in validators(Level::Wire) {
        for (name, bytes) in &cases {
            for (place, wrap) in PLACES {
                let result = validator.validate_wire(&wrap(bytes));
                assert!(
                    result.is_ok(),
                    "{syntax} {name} {place}: {:?}",
                    result.unwrap_err()
                );
            }
        }
    }
}

#[test]
fn a_hundred_levels_pass_and_one_more_does_not() {
    // Half a mebibyte of stack is what a careful server gives a thread.
    let check = || {
        for (syntax, validator) in validators(Level::Wire) {
            type Nest = fn(&[u8]) -> Vec<u8>;
            let nests: [(&str, u32, Nest); 3] = [
                ("message", 1, one),
                ("map", 3, |bytes| PLACES[3].1(bytes)),
                ("unknown group", 1, |bytes| PLACES[4].1(bytes)),
            ];
            for (name, levels, nest) in nests {
                let deep = |count: u32| (0..count).fold(Vec::new(), |inner, _| nest(&inner));
                let most = 100 / levels;
                assert!(
                    validator.validate_wire(&deep(most)).is_ok(),
                    "{syntax} {name} {most}"
                );
                let found = validator.validate_wire(&deep(most + 1)).unwrap_err();
                assert_eq!(found.as_slice()[0].rule, rule::WIRE_DEPTH, "{syntax} {name}");
            }
            let bottomless = field(900, 3, b"").repeat(20_000);
            assert!(validator.validate_wire(&bottomless).is_err());
            let json = |open: &str, close: &str, count: usize| {
                format!("{}{{}}{}", open.repeat(count), close.repeat(count))
            };
            assert!(
                validator
                    .validate_json(json("{\"fSelf\":", "}", 100).as_bytes())
                    .is_ok()
            );
            for count in [101, 5_000] {
                let found = validator
                    .validate_json(json("{\"fSelf\":", "}", count).as_bytes())
                    .unwrap_err();
                assert_eq!(found.as_slice()[0].rule, rule::JSON_DEPTH);
            }
            let ignored = format!("{{\"nope\":{}{}}}", "[".repeat(5_000), "]".repeat(5_000));
            assert_eq!(
                validator
                    .validate_json(ignored.as_bytes())
                    .unwrap_err()
                    .as_slice()[0]
                    .rule,
                rule::JSON_DEPTH
            );
        }
    };
    std::thread::Builder::new()
        .stack_size(512 * 1024)
        .spawn(check)
        .unwrap()
        .join()
        .unwrap();
}

#[test]
fn strings_are_checked_to_their_last_byte() {
    let validator = support::validator(&support::set("proto3"), Level::Strict, &[]);
    for length in [1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 1000] {
        let string = |bytes: &[u8]| field(14, 2, &framed(bytes));
        let good = vec![b'a'; length];
        assert!(validator.validate_wire(&string(&good)).is_ok(), "{length}");
        for at in 0..length {
            let mut bad = good.clone();
            bad[at] = 0xff;
            assert!(
                validator.validate_wire(&string(&bad)).is_err(),
                "{length} at {at}"
            );
        }
    }
    for text in [
        &b"\xed\xa0\x80"[..],
        b"\xc0\x80",
        b"\xf4\x90\x80\x80",
        b"\xe2\x82",
    ] {
        assert!(
            validator.validate_wire(&field(14, 2, &framed(text))).is_err(),
            "{text:x?}"
        );
    }
}

#[test]
fn hostile_lengths_and_long_packed_fields_are_handled() {
    let validator = support::validator(&support::set("proto3"), Level::Strict, &[]);
    for length in [1_u64 << 31, 1 << 32, 1 << 63, u64::MAX] {
        let mut payload = vec![0x72];
        varint(length, &mut payload);
        assert!(validator.validate_wire(&payload).is_err(), "{length}");
    }
    let packed = field(31, 2, &framed(&vec![1; 1 << 20]));
    assert!(validator.validate_wire(&packed).is_ok());
    let cut = field(31, 2, &framed(&[vec![1; 1 << 20], vec![0x80]].concat()));
    assert_eq!(
        validator.validate_wire(&cut).unwrap_err().as_slice()[0].path,
        "r_int32[1048576]"
    );
}

#[test]
fn packed_fixed_values_are_whole_and_of_their_own_width() {
    for (syntax, validator) in validators(Level::Strict) {
        for (name, wire, _, repeated) in TYPES {
            let width = match wire {
                1 => 8,
                5 => 4,
                _ => continue,
            };
            for length in 0..=40 {
                let packed = field(repeated, 2, &framed(&vec![1; length]));
                let is_whole = length % width == 0;
                assert_eq!(
                    validator.validate_wire(&packed).is_ok(),
                    is_whole,
                    "{syntax} {name} {length}"
                );
            }
        }
    }
}

#[test]
fn packed_varints_end_where_they_must_wherever_they_begin() {
    let validator = support::validator(&support::set("proto3"), Level::Strict, &[]);
    let check = |parts: &[&[u8]]| {
        let packed = field(32, 2, &framed(&parts.concat()));
        validator.validate_wire(&packed).is_ok()
    };
    // Of one byte each, so that what follows begins at every place of a word.
    for before in 0..20 {
        for after in [0, 1, 9] {
            let (before, after) = (vec![1; before], vec![1; after]);
            for length in 1..=10 {
                let whole = [vec![0x80; length - 1], vec![1]].concat();
                assert!(
                    check(&[&before, &whole, &after]),
                    "{length} after {}",
                    before.len()
                );
            }
            for length in 11..=20 {
                let long = [vec![0x80; length - 1], vec![1]].concat();
                assert!(
                    !check(&[&before, &long, &after]),
                    "{length} after {}",
                    before.len()
                );
            }
            let large = [vec![0xff; 9], vec![2]].concat();
            assert!(
                !check(&[&before, &large, &after]),
                "65 bits after {}",
                before.len()
            );
        }
        assert!(!check(&[&vec![1; before], &[0x80]]), "cut off after {before}");
    }
}
