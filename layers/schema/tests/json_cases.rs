//! The Protobuf JSON mapping, case by case: well-known types, numbers, bytes, enums, `Any`.
#![expect(clippy::unwrap_used, reason = "helpers of tests panic like tests")]

use arqon_schema::{Descriptors, Level, Validator};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};

const SOURCE: &str = r#"
    syntax = "proto3"; package k;
    import "google/protobuf/any.proto"; import "google/protobuf/duration.proto";
    import "google/protobuf/field_mask.proto"; import "google/protobuf/struct.proto";
    import "google/protobuf/timestamp.proto"; import "google/protobuf/wrappers.proto";
    import "google/protobuf/empty.proto";
    message K {
        google.protobuf.Any any = 1; google.protobuf.Duration duration = 2; google.protobuf.FieldMask mask = 3;
        google.protobuf.Struct struct = 4; google.protobuf.Value value = 5; google.protobuf.ListValue list = 6;
        google.protobuf.Timestamp at = 7; google.protobuf.Int32Value boxed = 8; google.protobuf.Empty empty = 9;
        google.protobuf.NullValue nothing = 10; repeated google.protobuf.Value values = 11;
        map<int32, string> numbered = 12; map<bool, string> flags = 13; double d = 14; float f = 15; int64 l = 16;
        uint32 u = 17; bytes b = 18; E e = 19; repeated E es = 20; string s = 21; oneof o { string a = 22; int32 c = 23; }
        string custom = 24 [json_name = "@custom"]; map<uint64, K> tree = 25; google.protobuf.BytesValue boxed_bytes = 26;
        repeated google.protobuf.Int32Value boxes = 27; google.protobuf.NullValue null_in = 28;
    }
    enum E { ZERO = 0; ONE = 1; ALSO_ZERO_NOT = 5; }
"#;

fn validator() -> Validator {
    Descriptors::from_source("k.proto", SOURCE)
        .unwrap()
        .validator(Some("k.K"), Level::Strict, &[])
        .unwrap()
}

/// The oracle's.
fn descriptor() -> MessageDescriptor {
    struct One;
    impl protox::file::FileResolver for One {
        fn open_file(&self, name: &str) -> Result<protox::file::File, protox::Error> {
            match name {
                "k.proto" => protox::file::File::from_source(name, SOURCE),
                google => protox::file::GoogleFileResolver::new().open_file(google),
            }
        }
    }
    let mut compiler = protox::Compiler::with_file_resolver(One);
    compiler.include_imports(true).open_file("k.proto").unwrap();
    let pool = DescriptorPool::decode(compiler.encode_file_descriptor_set().as_slice()).unwrap();
    pool.get_message_by_name("k.K").unwrap()
}

#[test]
fn what_the_mapping_allows_is_accepted() {
    let validator = validator();
    let descriptor = descriptor();
    for text in [
        "{}",
        " \t\r\n{ }\n",
        r#"{"any":{}}"#,
        r#"{"any":{"@type":"type.googleapis.com/k.K","s":"x"}}"#,
        r#"{"any":{"s":"x","@type":"example.org/some/path/k.K"}}"#,
        r#"{"any":{"@type":"t/google.protobuf.Duration","value":"1s"}}"#,
        r#"{"any":{"@type":"t/google.protobuf.Any","value":{"@type":"t/k.K","d":1}}}"#,
        r#"{"any":{"@type":"t/google.protobuf.Empty"}}"#,
        r#"{"duration":"-1.5s","mask":"a,bC.d","at":"1970-01-01T00:00:00Z","boxed":5,"empty":{}}"#,
        r#"{"boxed":null,"any":null,"struct":null,"list":null,"at":null,"d":null,"tree":null,"es":null,"a":null,"c":1}"#,
        r#"{"struct":{"a":[1,{"b":null}],"c":"d"},"value":null,"values":[null,1,"x",[],{}],"list":[[[]],null]}"#,
        r#"{"nothing":null,"nullIn":"NULL_VALUE"}"#,
        r#"{"numbered":{"-1":"x","0":"y"},"flags":{"true":"","false":""},"tree":{"18446744073709551615":{"tree":{}}}}"#,
        r#"{"d":1e308,"f":"NaN"}"#,
        r#"{"d":"-Infinity","f":1.5,"l":"9223372036854775807","u":4294967295}"#,
        r#"{"l":9007199254740993,"u":1e3,"b":"-_-_","e":"ONE","es":[0,1,99,"ZERO"]}"#,
        r#"{"@custom":"x"}"#,
        r#"{"custom":"x","boxedBytes":"YQ=="}"#,
    ] {
        assert_eq!(
            validator
                .validate_json(text.as_bytes())
                .map_err(|found| found.into_vec()),
            Ok(()),
            "{text}"
        );
        let bytes = validator.transcode(text.as_bytes()).unwrap();
        assert!(validator.validate_wire(&bytes).is_ok(), "{text}");
        let ours = DynamicMessage::decode(descriptor.clone(), bytes.as_slice()).unwrap();
        assert_eq!(bytes.len(), ours.encoded_len(), "{text}");
        let mut reader = serde_json::Deserializer::from_str(text);
        // prost-reflect refuses an empty Any.
        if let Ok(theirs) = DynamicMessage::deserialize(descriptor.clone(), &mut reader) {
            // As values: maps have no order, and NaN is not equal to itself.
            let value = |message: &DynamicMessage| serde_json::to_value(message).unwrap();
            assert_eq!(value(&ours), value(&theirs), "{text}");
        }
    }
}

#[test]
fn what_it_does_not_allow_is_refused() {
    let validator = validator();
    for text in [
        "",
        " ",
        "{",
        "{}{}",
        "[]",
        "null",
        "\"\"",
        "1",
        "{} //",
        "/**/{}",
        "{'s':1}",
        "{s:1}",
        r#"{"s":"x",}"#,
        r#"{,}"#,
        r#"{"s" "x"}"#,
        r#"{"es":[1,]}"#,
        r#"{"es":[,1]}"#,
        r#"{"es":1}"#,
        r#"{"es":[null]}"#,
        r#"{"es":["nope"]}"#,
        r#"{"e":"one"}"#,
        r#"{"e":1.5}"#,
        r#"{"e":true}"#,
        r#"{"e":2147483648}"#,
        r#"{"s":1}"#,
        r#"{"s":"\ud800"}"#,
        r#"{"s":"\udc00\ud800"}"#,
        r#"{"s":"\x41"}"#,
        "{\"s\":\"\t\"}",
        r#"{"d":"1e400"}"#,
        r#"{"d":1e400}"#,
        r#"{"d":NaN}"#,
        r#"{"d":"nan"}"#,
        r#"{"d":" 1"}"#,
        r#"{"d":"1 "}"#,
        r#"{"d":"+1"}"#,
        r#"{"d":"0x1"}"#,
        r#"{"d":""}"#,
        r#"{"d":01}"#,
        r#"{"d":.5}"#,
        r#"{"d":5.}"#,
        r#"{"f":3.5e38}"#,
        r#"{"l":9223372036854775808}"#,
        r#"{"l":"1.5"}"#,
        r#"{"l":1e19}"#,
        r#"{"u":-1}"#,
        r#"{"b":"a"}"#,
        r#"{"b":"YQ=\n"}"#,
        r#"{"b":"-/=="}"#,
        r#"{"b":[1]}"#,
        r#"{"numbered":{"x":"y"}}"#,
        r#"{"numbered":{"01":"y"}}"#,
        r#"{"numbered":{"1":"x","1":"y"}}"#,
        r#"{"numbered":{"0":"x","-0":"y"}}"#,
        r#"{"numbered":{"1":null}}"#,
        r#"{"numbered":{"1.0":"x"}}"#,
        r#"{"numbered":[]}"#,
        r#"{"flags":{"True":"x"}}"#,
        r#"{"flags":{"1":"x"}}"#,
        r#"{"a":"x","c":1}"#,
        r#"{"any":{"s":"x"}}"#,
        r#"{"any":{"@type":"k.K"}}"#,
        r#"{"any":{"@type":"t/k.Nope"}}"#,
        r#"{"any":{"@type":"t/k.K","@type":"t/k.K"}}"#,
        r#"{"any":{"@type":"t/k.K","nope":1}}"#,
        r#"{"any":{"@type":1}}"#,
        r#"{"any":{"@type":"t/google.protobuf.Duration","value":"1"}}"#,
        r#"{"any":{"@type":"t/google.protobuf.Duration"}}"#,
        r#"{"any":{"@type":"t/google.protobuf.Duration","value":"1s","x":1}}"#,
        r#"{"any":[]}"#,
        r#"{"duration":"1"}"#,
        r#"{"duration":1}"#,
        r#"{"duration":"315576000001s"}"#,
        r#"{"at":"1970-01-01T00:00:00z"}"#,
        r#"{"at":"1970-01-01T00:00:00.0000000001Z"}"#,
        r#"{"at":{"seconds":1}}"#,
        r#"{"mask":"foo_bar"}"#,
        r#"{"mask":["a"]}"#,
        r#"{"boxed":{"value":1}}"#,
        r#"{"boxed":1.5}"#,
        r#"{"boxes":[null]}"#,
        r#"{"empty":{"x":1}}"#,
        r#"{"empty":[]}"#,
        r#"{"struct":[]}"#,
        r#"{"struct":{"a":1,"a":2}}"#,
        r#"{"list":{}}"#,
        r#"{"value":1e400}"#,
        r#"{"value":{"a":{"b":1,"b":1}}}"#,
        r#"{"nothing":1.5}"#,
        r#"{"nope":null}"#,
        r#"{"@custom":"x","custom":"y"}"#,
        r#"{"tree":{"1":{"s":1}}}"#,
    ] {
        assert!(validator.validate_json(text.as_bytes()).is_err(), "{text}");
    }
    let digits = format!("{{\"l\":{}}}", "9".repeat(1_048_576));
    assert!(validator.validate_json(digits.as_bytes()).is_err());
    assert!(validator.validate_json(b"{\"s\":\"\xff\"}").is_err());
    let deep = format!("{{\"value\":{}{}}}", "[".repeat(60), "]".repeat(60));
    assert!(
        validator.validate_json(deep.as_bytes()).is_err(),
        "on the wire this is deeper than 100"
    );
}

#[test]
fn every_cut_of_a_document_is_refused() {
    let validator = validator();
    let text = r#"{"any":{"@type":"t/k.K","s":"\u00e4"},"struct":{"a":[1,{"b":null}]},"es":["ONE",1],"d":-1.5e3,"tree":{"1":{}}}"#;
    assert!(validator.validate_json(text.as_bytes()).is_ok());
    for end in 0..text.len() {
        assert!(
            validator.validate_json(&text.as_bytes()[..end]).is_err(),
            "{}",
            &text[..end]
        );
    }
}
