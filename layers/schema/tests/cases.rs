//! Cases of the contract's own list that no other file has (`docs/specs/schema-cases.md` says which is where): numbers of
//! fields at the borders of a tag, oneofs that change back, one field required twice, documents that only some parsers read.
#![expect(clippy::unwrap_used, reason = "helpers of tests panic like tests")]

use std::time::{Duration, Instant};

use arqon_schema::{Descriptors, Level, Validator, Violations, rule};

fn validator(source: &str, message: &str, level: Level, required: &[&str]) -> Validator {
    let required: Vec<String> = required.iter().map(|&path| path.to_owned()).collect();
    let schema = Descriptors::from_source("case.proto", source).unwrap();
    schema.validator(Some(message), level, &required).unwrap()
}

/// `path rule` of each violation.
fn verdict(result: Result<(), Violations>) -> Vec<String> {
    let found = result.err().map_or_else(Vec::new, Violations::into_vec);
    found
        .into_iter()
        .map(|one| format!("{} {}", one.path, one.rule))
        .collect()
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A varint field of that number.
fn numbered(number: u64) -> Vec<u8> {
    let mut out = Vec::new();
    varint(number << 3, &mut out);
    out.push(1);
    out
}

#[test]
fn field_numbers_at_the_borders_of_a_tags_length_are_told_apart() {
    const NUMBERS: [u64; 10] = [
        1,
        15,
        16,
        2_047,
        2_048,
        262_143,
        262_144,
        33_554_431,
        33_554_432,
        536_870_911,
    ];
    let fields: String = NUMBERS
        .map(|number| format!("int32 f{number} = {number}; "))
        .concat();
    let source = format!("syntax = \"proto3\"; package c; message M {{ {fields} }}");
    let strict = validator(&source, "c.M", Level::Strict, &[]);
    let wire = validator(&source, "c.M", Level::Wire, &[]);
    for number in NUMBERS {
        assert_eq!(
            verdict(strict.validate_wire(&numbered(number))),
            [""; 0],
            "{number}"
        );
        let required = validator(&source, "c.M", Level::Wire, &[&format!("f{number}")]);
        assert!(required.validate_wire(&numbered(number)).is_ok(), "{number}");
        for other in [number.saturating_sub(1), number + 1] {
            if other == 0 || other > 536_870_911 {
                for one in [&wire, &strict] {
                    assert_eq!(
                        verdict(one.validate_wire(&numbered(other))),
                        [". wire.tag"],
                        "{other}"
                    );
                }
            } else if !NUMBERS.contains(&other) {
                let expected = format!("{other} {}", rule::UNKNOWN_FIELD);
                assert_eq!(verdict(strict.validate_wire(&numbered(other))), [expected]);
                assert!(wire.validate_wire(&numbered(other)).is_ok(), "{other}");
                assert!(required.validate_wire(&numbered(other)).is_err(), "{other}");
            }
        }
    }
}

const GIFTS: &str = r#"syntax = "proto3"; package c;
    message M { oneof contact { string email = 1; string phone = 2; Gift gift = 3; } repeated Gift gifts = 4; }
    message Gift { string sku = 1; }"#;

#[test]
fn a_oneof_that_changes_back_begins_anew() {
    let (gift, empty, email, phone) = (b"\x1a\x03\x0a\x01s", b"\x1a\x00", b"\x0a\x01e", b"\x12\x01p");
    let needs = |required: &[&str]| validator(GIFTS, "c.M", Level::Strict, required);
    let aba = [&email[..], phone, email].concat();
    assert!(needs(&["email"]).validate_wire(&aba).is_ok());
    assert_eq!(verdict(needs(&["phone"]).validate_wire(&aba)), ["phone required"]);
    let sku = needs(&["gift.sku"]);
    assert!(
        sku.validate_wire(&[&gift[..], empty].concat()).is_ok(),
        "the same member merges"
    );
    let left = [&gift[..], email, empty].concat();
    assert_eq!(
        verdict(sku.validate_wire(&left)),
        ["gift.sku required"],
        "what another member cleared does not come back"
    );
    let again = [&empty[..], email, gift].concat();
    assert!(sku.validate_wire(&again).is_ok());
}

#[test]
fn the_element_that_lacks_a_field_is_named_by_its_number() {
    let needs = validator(GIFTS, "c.M", Level::Strict, &["gifts[].sku"]);
    let payload = [
        &b"\x22\x03\x0a\x01s".repeat(3)[..],
        b"\x22\x00",
        b"\x22\x03\x0a\x01s",
    ]
    .concat();
    assert_eq!(verdict(needs.validate_wire(&payload)), ["gifts[3].sku required"]);
    let text = br#"{"gifts":[{"sku":"s"},{"sku":"s"},{"sku":"s"},{"sku":""},{"sku":"s"}]}"#;
    assert_eq!(verdict(needs.validate_json(text)), ["gifts[3].sku required"]);
}

#[test]
fn a_field_required_by_its_options_and_by_the_mapping_is_missing_once() {
    let source = r#"syntax = "proto3"; package c; import "buf/validate/validate.proto";
        message M { string id = 1 [(buf.validate.field).required = true]; string name = 2;
                    string off = 3 [(buf.validate.field).required = true, (buf.validate.field).ignore = IGNORE_ALWAYS]; }"#;
    for level in [Level::Required, Level::Rules] {
        let both = validator(source, "c.M", level, &["id", "name", "off"]);
        for found in [both.validate_wire(b""), both.validate_json(b"{}")] {
            let texts: Vec<String> = found
                .unwrap_err()
                .into_vec()
                .into_iter()
                .map(|one| one.message)
                .collect();
            assert_eq!(
                texts,
                [
                    "field 'id' missing",
                    "field 'name' missing",
                    "field 'off' missing"
                ],
                "{level:?}"
            );
        }
        // Without the mapping's word, what is ignored is not missing.
        let options = validator(source, "c.M", level, &[]);
        assert_eq!(verdict(options.validate_wire(b"")), ["id required"], "{level:?}");
    }
    let strict = validator(source, "c.M", Level::Strict, &["id"]);
    assert_eq!(verdict(strict.validate_wire(b"")), ["id required"]);
}

const DOCUMENT: &str = r#"syntax = "proto3"; package c; import "google/protobuf/struct.proto";
    message M { string s = 1; int64 l = 2; double d = 3; uint64 u = 4; map<string, string> m = 5;
                google.protobuf.Value v = 6; repeated M list = 7; E e = 8; }
    enum E { ZERO = 0; ONE = 1; }"#;

#[test]
fn documents_that_only_some_parsers_read_are_refused() {
    let document = validator(DOCUMENT, "c.M", Level::Wire, &[]);
    let cases: [(&[u8], &str); 27] = [
        (b"\xef\xbb\xbf{}", "a byte order mark"),
        (b"{\"s\":\"x\"}\xef\xbb\xbf", "one at the end"),
        (b"\xff\xfe{\0}\0", "UTF-16"),
        (b"{}\0", "a zero byte at the end"),
        (b"{}{}", "two documents"),
        (b"{}\n{}", "two lines"),
        (b"{} // done", "a comment"),
        (b"/* */{}", "a comment before"),
        (br#"{"s":"\ud800"}"#, "half a pair"),
        (br#"{"s":"\udc00"}"#, "the other half"),
        (br#"{"s":"\ud800\ud800"}"#, "two first halves"),
        (br#"{"s":"\ud800x\udc00"}"#, "a torn pair"),
        (br#"{"m":{"\ud800":"x"}}"#, "half a pair in a key"),
        (br#"{"\ud800":1}"#, "half a pair in a name"),
        (b"{\"s\":\"\xed\xa0\x80\"}", "a surrogate as UTF-8"),
        (b"{\"s\":\"\xc0\x80\"}", "an over-long zero"),
        (br#"{"d":NaN}"#, "a bare NaN"),
        (br#"{"d":Infinity}"#, "a bare infinity"),
        (br#"{"d":1e400}"#, "more than a double"),
        (br#"{"d":-1e400}"#, "less than a double"),
        (br#"{"v":1e400}"#, "more than a double in a value"),
        (br#"{"e":"one"}"#, "an enum in lower case"),
        (br#"{"list":[null]}"#, "null in a list"),
        (br#"{"list":null,"list":[]}"#, "a name twice, once null"),
        (br#"{"v":{"a":1,"a":1}}"#, "a name twice where any is allowed"),
        (
            br#"{"l":9007199254740993.0}"#,
            "an integer that is no double, with a point",
        ),
        (
            br#"{"u":"18446744073709551615e0"}"#,
            "the same in quotes, with an exponent",
        ),
    ];
    for (text, name) in cases {
        assert!(document.validate_json(text).is_err(), "{name}");
        assert!(document.transcode(text).is_err(), "{name}");
    }
    for text in [
        &br#"{"l":9007199254740993,"u":18446744073709551615,"d":"NaN"}"#[..],
        br#"{"s":"\ud83d\ude00","m":{"\ud83d\ude00":"\u0000"}}"#,
        br#"{"l":"9007199254740993","u":"1e3","d":1e-400,"e":"ONE","list":null}"#,
    ] {
        assert_eq!(
            verdict(document.validate_json(text)),
            [""; 0],
            "{}",
            String::from_utf8_lossy(text)
        );
    }
}

#[test]
fn a_number_of_a_mebibyte_is_refused_or_read_and_holds_nobody_up() {
    let document = validator(DOCUMENT, "c.M", Level::Wire, &[]);
    let digits = "9".repeat(1 << 20);
    let zeros = "0".repeat(1 << 20);
    let cases = [
        (format!("{{\"l\":{digits}}}"), false),
        (format!("{{\"l\":\"{digits}\"}}"), false),
        (format!("{{\"u\":-{digits}}}"), false),
        (format!("{{\"l\":1e{digits}}}"), false),
        (format!("{{\"l\":1e-{digits}}}"), false),
        (format!("{{\"l\":0.{zeros}1e1048577}}"), true),
        (format!("{{\"l\":1.{zeros}}}"), true),
        (format!("{{\"d\":{digits}}}"), false),
        (format!("{{\"d\":0.{digits}}}"), true),
        (format!("{{\"d\":1e{digits}}}"), false),
        (format!("{{\"v\":{digits}}}"), false),
        (format!("{{\"e\":{digits}}}"), false),
        (format!("{{\"nope\":{digits}}}"), false),
    ];
    for (text, accepted) in cases {
        let start = Instant::now();
        let shown = &text[..20];
        assert_eq!(
            document.validate_json(text.as_bytes()).is_ok(),
            accepted,
            "{shown}"
        );
        // Minutes where the work grows with the square of the length.
        assert!(start.elapsed() < Duration::from_secs(30), "{shown}");
    }
}

#[test]
fn five_thousand_nested_arrays_are_too_deep_wherever_they_stand() {
    let document = validator(DOCUMENT, "c.M", Level::Wire, &[]);
    let nested = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
    let open = "[".repeat(5_000);
    for place in ["nope", "v", "list", "s", "m"] {
        for arrays in [&nested, &open] {
            let text = format!("{{\"{place}\":{arrays}}}");
            let found = verdict(document.validate_json(text.as_bytes()));
            assert!(!found.is_empty(), "{place}");
            if ["nope", "v"].contains(&place) {
                assert!(
                    found.iter().any(|one| one.ends_with(rule::JSON_DEPTH)),
                    "{place}: {found:?}"
                );
            }
        }
    }
    assert!(document.validate_json(nested.as_bytes()).is_err());
}

#[test]
fn sources_that_nest_without_end_are_refused_and_end_no_process() {
    let options = |depth: usize| {
        format!(
            "syntax = \"proto3\"; import \"google/protobuf/descriptor.proto\"; message M {{ M a = 1; int32 n = 2; }}
             extend google.protobuf.FileOptions {{ M opt = 50000; }} option (opt) = {}{{n:1}}{};",
            "{a:".repeat(depth),
            "}".repeat(depth)
        )
    };
    assert!(Descriptors::from_source("deep.proto", &options(150)).is_ok());
    for depth in [250, 1_000, 100_000] {
        let error = Descriptors::from_source("deep.proto", &options(depth)).unwrap_err();
        assert!(error.to_string().contains("nested deeper than 200"), "{error}");
    }
    let nested = format!(
        "syntax = \"proto3\"; {} {}",
        "message M {".repeat(20_000),
        "}".repeat(20_000)
    );
    assert!(Descriptors::from_source("deep.proto", &nested).is_err());
}

#[test]
fn imports_that_lead_on_and_on_are_followed_to_a_bound_and_never_out_of_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    for at in 0..=2_000 {
        let next = at + 1;
        write(
            &format!("f{at}.proto"),
            &format!(
                "syntax = \"proto3\"; import public \"f{next}.proto\"; message N{at} {{ string id = 1; }}"
            ),
        );
    }
    let load = |at: usize| Descriptors::load(folder.path().join(format!("f{at}.proto")));
    write("f2001.proto", "syntax = \"proto3\";");
    assert!(load(2).is_ok(), "two thousand files");
    let error = load(1).unwrap_err();
    assert!(error.to_string().contains("more than 2000 files"), "{error}");
    write("f2001.proto", "syntax = \"proto3\"; import \"f1999.proto\";");
    assert!(load(1_990).unwrap_err().to_string().contains("cycle"));

    write("good.proto", "syntax = \"proto3\";");
    let below = folder.path().join("below");
    std::fs::create_dir(&below).unwrap();
    let importing = |at: &std::path::Path, import: &str| {
        let text = format!("syntax = \"proto3\"; import \"{import}\"; message M {{}}");
        std::fs::write(at.join("m.proto"), text).unwrap();
        Descriptors::load(at.join("m.proto"))
    };
    assert!(importing(folder.path(), "good.proto").is_ok());
    let absolute = folder.path().join("good.proto").display().to_string();
    for import in ["../good.proto", &*absolute, "nowhere.proto"] {
        assert!(importing(&below, import).is_err(), "{import}");
    }
    let large = format!("syntax = \"proto3\"; message M {{}} // {}", "x".repeat(4 << 20));
    write("large.proto", &large);
    let error = Descriptors::load(folder.path().join("large.proto")).unwrap_err();
    assert!(error.to_string().contains("more than 4194304 bytes"), "{error}");
}

#[test]
fn anys_in_one_another_are_read_once_if_their_type_stands_first_and_never_often() {
    let source = "syntax = \"proto3\"; package c; import \"google/protobuf/any.proto\";
        message A { google.protobuf.Any any = 1; repeated int32 n = 2; }";
    let any = validator(source, "c.A", Level::Strict, &[]);
    let inner = |type_first: bool| {
        let numbers = format!("\"n\":[{}1]", "1,".repeat(20_000));
        let own = "\"@type\":\"t/c.A\"";
        if type_first {
            format!("{{{own},{numbers}}}")
        } else {
            format!("{{{numbers},{own}}}")
        }
    };
    let nested = |levels: usize, type_first: bool| {
        let own = "\"@type\":\"t/google.protobuf.Any\"";
        let within = (0..levels).fold(inner(type_first), |inner, _| {
            if type_first {
                format!("{{{own},\"value\":{inner}}}")
            } else {
                format!("{{\"value\":{inner},{own}}}")
            }
        });
        format!("{{\"any\":{within}}}")
    };
    for (levels, type_first, accepted) in [
        (0, false, true),
        (1, false, true),
        (40, true, true),
        (40, false, false),
    ] {
        let text = nested(levels, type_first);
        assert_eq!(
            any.validate_json(text.as_bytes()).is_ok(),
            accepted,
            "{levels} {type_first}"
        );
        assert_eq!(
            any.transcode(text.as_bytes()).is_ok(),
            accepted,
            "{levels} {type_first}"
        );
    }
    let found = any.validate_json(nested(40, false).as_bytes()).unwrap_err();
    assert!(found.to_string().contains("has to stand first"), "{found}");
    // What follows the type is read all the same.
    for (text, expected) in [
        (
            r#"{"any":{"@type":"t/c.A","@type":"t/c.A"}}"#,
            "any.@type json.duplicate",
        ),
        (
            r#"{"any":{"@type":"t/c.A","n":[1],"@type":1}}"#,
            "any.@type json.duplicate",
        ),
        (
            r#"{"any":{"@type":"t/c.A","n":["x"]},"n":[1]}"#,
            "any.n[0] json.format",
        ),
        (
            r#"{"any":{"@type":"t/c.Nope","n":[1]},"n":[true]}"#,
            "any.@type json.format",
        ),
        (r#"{"any":{"@type":"t/c.A""#, "any json.syntax"),
        (r#"{"any":{"@type":"t/c.Nope","n":[}}"#, "any json.syntax"),
        (r#"{"any":{"n":[1]},"n":[true]}"#, "any json.format"),
    ] {
        assert_eq!(
            verdict(any.validate_json(text.as_bytes()))
                .first()
                .map(String::as_str),
            Some(expected),
            "{text}"
        );
    }
    let both = verdict(any.validate_json(br#"{"any":{"@type":"t/c.Nope","n":[1]},"n":[true]}"#));
    assert_eq!(
        both,
        ["any.@type json.format", "n[0] json.type"],
        "the rest of the document is judged too"
    );
}
