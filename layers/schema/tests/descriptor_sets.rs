//! Descriptor sets no compiler would have written, and those that are too much.
#![expect(clippy::unwrap_used, reason = "helpers of tests panic like tests")]

use std::io::Write;

use arqon_schema::{Descriptors, Level, LoadError};
use flate2::{Compression, write::GzEncoder};
use prost::Message;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto,
    FileDescriptorProto, FileDescriptorSet, MessageOptions,
    field_descriptor_proto::{Label, Type},
};

fn field(name: &str, number: i32, kind: Type) -> FieldDescriptorProto {
    FieldDescriptorProto {
        name: Some(name.to_owned()),
        number: Some(number),
        label: Some(Label::Optional.into()),
        r#type: Some(kind.into()),
        ..Default::default()
    }
}

fn message(name: &str, fields: Vec<FieldDescriptorProto>) -> DescriptorProto {
    DescriptorProto {
        name: Some(name.to_owned()),
        field: fields,
        ..Default::default()
    }
}

fn file(name: &str, messages: Vec<DescriptorProto>) -> FileDescriptorProto {
    FileDescriptorProto {
        name: Some(name.to_owned()),
        package: Some("p".to_owned()),
        message_type: messages,
        syntax: Some("proto3".to_owned()),
        ..Default::default()
    }
}

fn load(files: Vec<FileDescriptorProto>) -> Result<Descriptors, LoadError> {
    Descriptors::decode(&FileDescriptorSet { file: files }.encode_to_vec())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn good() -> FileDescriptorProto {
    file("a.proto", vec![message("A", vec![field("id", 1, Type::String)])])
}

#[test]
fn plain_and_gzipped_sets_load() {
    let set = FileDescriptorSet { file: vec![good()] }.encode_to_vec();
    for bytes in [set.clone(), gzip(&set)] {
        assert_eq!(Descriptors::decode(&bytes).unwrap().root().unwrap(), "p.A");
    }
}

#[test]
fn broken_gzip_is_refused() {
    let whole = gzip(&FileDescriptorSet { file: vec![good()] }.encode_to_vec());
    let mut crc = whole.clone();
    let at = crc.len() - 6;
    crc[at] ^= 1;
    let cases = [
        whole[..whole.len() - 3].to_vec(),
        whole[..12].to_vec(),
        crc,
        [whole.clone(), whole.clone()].concat(),
        [whole.clone(), vec![0]].concat(),
    ];
    for bytes in cases {
        assert!(matches!(Descriptors::decode(&bytes), Err(LoadError::Gzip(_))));
    }
    let bomb = gzip(&vec![0; 16 * 1024 * 1024]);
    assert!(bomb.len() < 20_000);
    assert!(matches!(
        Descriptors::decode(&bomb),
        Err(LoadError::TooLarge { what: "bytes", .. })
    ));
}

#[test]
fn what_no_compiler_writes_is_refused_by_name() {
    let one = |change: &dyn Fn(&mut FileDescriptorProto)| {
        let mut file = good();
        change(&mut file);
        load(vec![file])
    };
    let with_field = |new: FieldDescriptorProto| one(&|file| file.message_type[0].field.push(new.clone()));
    let typed = |name: &str| FieldDescriptorProto {
        type_name: Some(name.to_owned()),
        ..field("x", 2, Type::Message)
    };
    let mut imports = good();
    imports.dependency.push("missing.proto".to_owned());
    let circle = |name: &str, other: &str| {
        let mut file = file(name, Vec::new());
        file.dependency.push(other.to_owned());
        file
    };
    let cases: Vec<(&str, Result<Descriptors, LoadError>)> = vec![
        ("no file", Descriptors::decode(b"")),
        ("garbage", Descriptors::decode(b"\x0a\xff")),
        ("syntax", one(&|file| file.syntax = Some("proto4".to_owned()))),
        (
            "editions without an edition",
            one(&|file| file.syntax = Some("editions".to_owned())),
        ),
        ("missing import", load(vec![imports])),
        (
            "import cycle",
            load(vec![circle("a.proto", "b.proto"), circle("b.proto", "a.proto")]),
        ),
        ("the same file twice", load(vec![good(), good()])),
        ("no file name", one(&|file| file.name = None)),
        ("no message name", one(&|file| file.message_type[0].name = None)),
        (
            "illegal message name",
            one(&|file| file.message_type[0].name = Some("a\r\nb".to_owned())),
        ),
        (
            "illegal package",
            one(&|file| file.package = Some("a..b".to_owned())),
        ),
        (
            "message twice",
            one(&|file| file.message_type.push(message("A", Vec::new()))),
        ),
        ("field number 0", with_field(field("x", 0, Type::Int32))),
        ("field number -1", with_field(field("x", -1, Type::Int32))),
        ("field number 19000", with_field(field("x", 19_000, Type::Int32))),
        ("field number 2^29", with_field(field("x", 1 << 29, Type::Int32))),
        ("number twice", with_field(field("x", 1, Type::Int32))),
        ("name twice", with_field(field("id", 2, Type::Int32))),
        ("undefined type", with_field(typed(".p.Nope"))),
        ("relative type", with_field(typed("A"))),
        (
            "an enum that is a message",
            with_field(FieldDescriptorProto {
                r#type: Some(14),
                ..typed(".p.A")
            }),
        ),
        (
            "oneof that is not there",
            with_field(FieldDescriptorProto {
                oneof_index: Some(3),
                ..field("x", 2, Type::Int32)
            }),
        ),
        (
            "negative oneof",
            with_field(FieldDescriptorProto {
                oneof_index: Some(-1),
                ..field("x", 2, Type::Int32)
            }),
        ),
        (
            "unknown type",
            with_field(FieldDescriptorProto {
                r#type: Some(99),
                ..field("x", 2, Type::Int32)
            }),
        ),
        (
            "no type",
            with_field(FieldDescriptorProto {
                r#type: None,
                ..field("x", 2, Type::Int32)
            }),
        ),
        (
            "enum without values",
            one(&|file| {
                file.enum_type.push(EnumDescriptorProto {
                    name: Some("E".to_owned()),
                    ..Default::default()
                });
            }),
        ),
        (
            "a map entry without a key",
            one(&|file| {
                let options = Some(MessageOptions {
                    map_entry: Some(true),
                    ..Default::default()
                });
                file.message_type.push(DescriptorProto {
                    options,
                    ..message("Entry", Vec::new())
                });
            }),
        ),
    ];
    for (name, result) in cases {
        let error = result.err().unwrap_or_else(|| panic!("{name} was accepted"));
        assert!(!error.to_string().contains(['\r', '\n']), "{name}: {error}");
        assert!(!matches!(error, LoadError::Panicked), "{name}");
    }
}

#[test]
fn caps_hold_before_anything_is_built() {
    let many = |count: usize| {
        (0..count)
            .map(|at| message(&format!("M{at}"), Vec::new()))
            .collect::<Vec<_>>()
    };
    assert!(load(vec![file("a.proto", many(5_000))]).is_ok());
    assert!(matches!(
        load(vec![file("a.proto", many(5_001))]),
        Err(LoadError::TooLarge { what: "messages", .. })
    ));
    let fields = |count: i32| {
        (1..=count)
            .map(|at| field(&format!("f{at}"), at + 20_000, Type::Int32))
            .collect()
    };
    assert!(load(vec![file("a.proto", vec![message("A", fields(20_000))])]).is_ok());
    let over = load(vec![file("a.proto", vec![message("A", fields(20_001))])]);
    assert!(matches!(over, Err(LoadError::TooLarge { what: "fields", .. })));
    // Half a million empty messages in a mebibyte.
    let bomb = [0x0a, 0xfe, 0xff, 0x3f]
        .into_iter()
        .chain([0x22, 0x00].into_iter().cycle().take(1_048_574))
        .collect::<Vec<u8>>();
    assert!(matches!(
        Descriptors::decode(&bomb[..1_048_576]),
        Err(LoadError::TooLarge { .. } | LoadError::Decode(_))
    ));
    let deep = (0..3_000).fold(message("D", Vec::new()), |inner, _| DescriptorProto {
        nested_type: vec![inner],
        ..message("D", Vec::new())
    });
    assert!(load(vec![file("a.proto", vec![deep])]).is_err());
}

#[test]
fn each_cap_takes_what_is_at_it_and_nothing_above() {
    let nested = |levels: usize| {
        let inner = (1..levels).fold(message("D", Vec::new()), |inner, _| DescriptorProto {
            nested_type: vec![inner],
            ..message("D", Vec::new())
        });
        load(vec![file("a.proto", vec![inner])])
    };
    assert!(nested(64).is_ok());
    assert!(matches!(nested(65), Err(LoadError::TooLarge { limit: 64, .. })));

    let files = |count: usize| {
        let one = |at: usize| FileDescriptorProto {
            name: Some(format!("{at}.proto")),
            ..Default::default()
        };
        load((0..count).map(one).collect())
    };
    assert!(files(2_000).is_ok());
    assert!(matches!(
        files(2_001),
        Err(LoadError::TooLarge { what: "files", .. })
    ));

    let values = |count: i32| {
        let value = |number| EnumValueDescriptorProto {
            name: Some(format!("V{number}")),
            number: Some(number),
            options: None,
        };
        let mut with = good();
        with.enum_type.push(EnumDescriptorProto {
            name: Some("E".to_owned()),
            value: (0..count).map(value).collect(),
            ..Default::default()
        });
        load(vec![with])
    };
    // The type itself counts too.
    assert!(values(49_999).is_ok());
    assert!(matches!(values(50_000), Err(LoadError::TooLarge { .. })));

    // Filled up with a field that no reader knows.
    let filled = |size: usize| {
        let mut set = FileDescriptorSet { file: vec![good()] }.encode_to_vec();
        let rest = size - set.len() - 4;
        set.extend([
            0x7a,
            rest as u8 | 0x80,
            (rest >> 7) as u8 | 0x80,
            (rest >> 14) as u8,
        ]);
        set.resize(size, b'x');
        set
    };
    for gzipped in [false, true] {
        let decode = |set: Vec<u8>| Descriptors::decode(&if gzipped { gzip(&set) } else { set });
        assert!(decode(filled(1 << 20)).is_ok());
        assert!(matches!(
            decode(filled((1 << 20) + 1)),
            Err(LoadError::TooLarge { what: "bytes", .. })
        ));
    }
}

#[test]
fn the_highest_field_number_costs_what_the_lowest_does_and_recursion_is_fine() {
    let to = |name: &str, number: i32, target: usize| FieldDescriptorProto {
        type_name: Some(format!(".p.M{target}")),
        ..field(name, number, Type::Message)
    };
    let messages = (0..500)
        .map(|at| {
            message(
                &format!("M{at}"),
                vec![
                    to("next", 536_870_911, (at + 1) % 500),
                    to("prev", 1, (at + 499) % 500),
                ],
            )
        })
        .collect();
    let schema = load(vec![file("a.proto", messages)]).unwrap();
    let validator = schema.validator(Some("p.M0"), Level::Strict, &[]).unwrap();
    assert!(
        validator
            .validate_wire(b"\xfa\xff\xff\xff\x0f\x02\x0a\x00")
            .is_ok()
    );
}

#[test]
fn the_message_is_the_last_files_only_one_and_never_the_first_of_the_first() {
    let imported = file("import.proto", vec![message("Imported", Vec::new())]);
    let mut root = file("root.proto", vec![message("Root", Vec::new())]);
    root.dependency.push("import.proto".to_owned());
    let schema = load(vec![imported.clone(), root.clone()]).unwrap();
    assert_eq!(schema.root().unwrap(), "p.Root");
    root.message_type.push(message("Other", Vec::new()));
    let error = load(vec![imported, root])
        .unwrap()
        .validator(None, Level::Strict, &[])
        .unwrap_err()
        .to_string();
    assert!(error.contains("p.Root, p.Other"), "{error}");
}

#[test]
fn proto2_required_and_the_enums_own_file_are_what_counts() {
    let source = r#"syntax = "proto2"; package p;
        message A { required string id = 1; optional B b = 2; repeated group G = 3 { required int32 n = 4; } }
        message B { required int32 zero = 1; optional E e = 2; } enum E { X = 0; }"#;
    let schema = Descriptors::from_source("a.proto", source).unwrap();
    let validator = |level| schema.validator(Some("p.A"), level, &[]).unwrap();
    assert!(
        validator(Level::Strict).validate_wire(b"").is_ok(),
        "proto2 required is the next level"
    );
    let found = validator(Level::Required)
        .validate_wire(b"\x12\x00\x1b\x1c\x1b\x20\x00\x1c")
        .unwrap_err()
        .into_vec();
    let texts: Vec<String> = found.into_iter().map(|violation| violation.message).collect();
    assert_eq!(
        texts,
        [
            "field 'id' missing",
            "field 'b.zero' missing",
            "field 'g[0].n' missing"
        ]
    );
    assert!(
        validator(Level::Required)
            .validate_wire(b"\x0a\x00\x12\x02\x08\x00")
            .is_ok(),
        "zero is a value"
    );

    // A proto3 message may use... a closed enum stays closed there.
    let closed = EnumDescriptorProto {
        name: Some("Closed".to_owned()),
        value: vec![EnumValueDescriptorProto {
            name: Some("ZERO".to_owned()),
            number: Some(0),
            options: None,
        }],
        ..Default::default()
    };
    let mut two = file("two.proto", Vec::new());
    (two.syntax, two.enum_type) = (None, vec![closed]);
    let user = FieldDescriptorProto {
        type_name: Some(".p.Closed".to_owned()),
        ..field("e", 1, Type::Enum)
    };
    let mut three = file("three.proto", vec![message("A", vec![user])]);
    three.dependency.push("two.proto".to_owned());
    let schema = load(vec![two, three]).unwrap();
    let strict = schema.validator(None, Level::Strict, &[]).unwrap();
    assert!(strict.validate_wire(b"\x08\x00").is_ok() && strict.validate_wire(b"\x08\x01").is_err());
}

#[test]
fn buf_validate_required_is_read_from_the_options() {
    // `(buf.validate.field).required` = 1159: {25: true}; `ignore` = 27: 3 switches it off.
    let annotate = |set: &FileDescriptorSet, options: &[u8]| {
        let mut field = set.file[0].message_type[0].field[0].encode_to_vec();
        field.extend([0x42, u8::try_from(options.len()).unwrap()]);
        field.extend(options);
        let framed = |tag: u8, bytes: &[u8]| [&[tag, u8::try_from(bytes.len()).unwrap()], bytes].concat();
        let message = [framed(0x0a, b"A"), framed(0x12, &field)].concat();
        let file = [
            framed(0x0a, b"a.proto"),
            framed(0x12, b"p"),
            framed(0x22, &message),
            framed(0x62, b"proto3"),
        ];
        framed(0x0a, &file.concat())
    };
    let set = FileDescriptorSet { file: vec![good()] };
    let check = |options: &[u8], level| {
        let schema = Descriptors::decode(&annotate(&set, options)).unwrap();
        schema
            .validator(None, level, &[])
            .unwrap()
            .validate_wire(b"")
            .map_err(|found| found.to_string())
    };
    assert_eq!(
        check(b"\xba\x48\x03\xc8\x01\x01", Level::Required),
        Err("field 'id' missing".to_owned())
    );
    assert_eq!(check(b"\xba\x48\x03\xc8\x01\x01", Level::Strict), Ok(()));
    assert_eq!(
        check(b"\xba\x48\x06\xc8\x01\x01\xd8\x01\x03", Level::Required),
        Ok(())
    );
    // Two occurrences of the extension are one message.
    assert_eq!(
        check(
            b"\xba\x48\x03\xc8\x01\x01\xba\x48\x03\xd8\x01\x03",
            Level::Required
        ),
        Ok(())
    );
}
