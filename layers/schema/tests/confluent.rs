//! The profile `confluent` on the 54 pairs that Confluent publishes with its registry (28 compatible, 26 not): what each
//! changes, said anew, and which of its differences is incompatible.
#![expect(clippy::unwrap_used, reason = "helpers of tests panic like tests")]

use std::collections::BTreeSet;

use arqon_schema::{Descriptors, Profile, compare};

/// Files by name; the last is the schema, the others are what it imports.
type Files<'a> = &'a [(&'a str, &'a str)];

struct Several(Vec<(String, String)>);

impl protox::file::FileResolver for Several {
    fn open_file(&self, name: &str) -> Result<protox::file::File, protox::Error> {
        match self.0.iter().find(|(file, _)| file == name) {
            Some((_, source)) => protox::file::File::from_source(name, source),
            None => Err(protox::Error::file_not_found(name)),
        }
    }
}

fn load(files: Files<'_>) -> Descriptors {
    let owned = files
        .iter()
        .map(|(name, source)| ((*name).to_owned(), (*source).to_owned()));
    let mut compiler = protox::Compiler::with_file_resolver(Several(owned.collect()));
    let (root, source) = files.last().unwrap();
    let opened = compiler.include_imports(true).open_file(root).map(drop);
    opened.unwrap_or_else(|error| panic!("{source}: {error}"));
    Descriptors::decode(&compiler.encode_file_descriptor_set()).unwrap()
}

fn breaks(old: Files<'_>, new: Files<'_>) -> BTreeSet<&'static str> {
    let found = compare(Profile::Confluent, &load(old), &load(new));
    found.into_iter().map(|one| one.rule).collect()
}

/// Within one file: before, after, the incompatible differences.
const ONE_FILE: [(&str, &str, &[&str]); 47] = [
    // Fields and packages.
    (
        "package p; message M { string a = 1; .p.M.In b = 2; message In { string a = 1; } }",
        "package p; message M { string a = 1; .p.M.In b = 2; float c = 3; message In { string a = 1; } }",
        &[],
    ),
    (
        "package p; message M { string a = 1; .p.M.In b = 2; message In { string a = 1; } }",
        "package q; message M { string a = 1; .q.M.In b = 2; message In { string a = 1; } }",
        &["PACKAGE_CHANGED"],
    ),
    (
        "message M { In b = 2; message In { string a = 1; } }",
        "message M { .M.In b = 2; message In { string a = 1; } }",
        &[],
    ),
    (
        "package p; message M { In b = 2; message In { string a = 1; } }",
        "package p; message M { .p.M.In b = 2; message In { string a = 1; } }",
        &[],
    ),
    (
        "message M { string a = 1; }",
        "message M { string a = 1; string b = 2; }",
        &[],
    ),
    (
        "proto2 message M { optional string a = 1; }",
        "proto2 message M { optional string a = 1; required string b = 2; }",
        &["REQUIRED_FIELD_ADDED"],
    ),
    (
        "message M { int32 n = 1; message In { string a = 1; } }",
        "message M { int32 n = 1; message In { string a = 1; string b = 2; } }",
        &[],
    ),
    (
        "message M { string a = 1; string b = 2; }",
        "message M { string a = 1; }",
        &[],
    ),
    (
        "proto2 message M { optional string a = 1; required string b = 2; }",
        "proto2 message M { optional string a = 1; }",
        &["REQUIRED_FIELD_REMOVED"],
    ),
    ("message M { string a = 1; }", "message M { string a = 2; }", &[]),
    // Types.
    ("message M { int32 n = 2; }", "message M { int64 n = 2; }", &[]),
    ("message M { string a = 2; }", "message M { bytes a = 2; }", &[]),
    (
        "message M { int32 n = 2; }",
        "message M { E n = 2; } enum E { OFF = 0; ON = 1; }",
        &[],
    ),
    (
        "message M { E n = 2; } enum E { OFF = 0; ON = 1; }",
        "message M { int32 n = 2; }",
        &[],
    ),
    (
        "message M { int32 n = 2; }",
        "message M { .M.Same n = 2; message Same { string a = 1; } } enum Same { OFF = 0; ON = 1; }",
        &["FIELD_KIND_CHANGED"],
    ),
    (
        "message M { .M.Same n = 2; message Same { string a = 1; } } enum Same { OFF = 0; ON = 1; }",
        "message M { int32 n = 2; }",
        &["FIELD_KIND_CHANGED", "MESSAGE_REMOVED"],
    ),
    (
        "message M { E n = 2; } enum E { OFF = 0; ON = 1; }",
        "message M { E n = 2; } enum E { OFF = 0; RUNNING = 1; }",
        &[],
    ),
    // Into oneofs and out of them.
    (
        "message M { string a = 1; string b = 2; }",
        "message M { string a = 1; oneof o { string b = 2; int32 c = 3; } }",
        &[],
    ),
    (
        "message M { string a = 1; string b = 2; }",
        "message M { oneof o { string a = 1; string b = 2; int32 c = 3; } }",
        &["MULTIPLE_FIELDS_MOVED_TO_ONEOF"],
    ),
    (
        "message M { oneof o { string a = 1; string b = 2; } }",
        "message M { oneof o { string a = 1; string b = 2; int32 c = 3; } }",
        &[],
    ),
    (
        "message M { oneof o { string a = 1; string b = 2; int32 c = 3; } }",
        "message M { oneof o { string a = 1; string b = 2; } }",
        &["ONEOF_FIELD_REMOVED"],
    ),
    (
        "message M { string a = 1; string b = 2; }",
        "message M { string a = 1; oneof o { string b = 2; } }",
        &[],
    ),
    (
        "message M { string a = 1; oneof o { string b = 2; string c = 3; } }",
        "message M { oneof o { string a = 1; string b = 2; string c = 3; } }",
        &["FIELD_MOVED_TO_EXISTING_ONEOF"],
    ),
    (
        "message M { string a = 1; oneof o { string b = 2; string c = 3; } }",
        "message M { oneof other { string a = 1; string b = 2; string c = 3; } }",
        &["FIELD_MOVED_TO_EXISTING_ONEOF"],
    ),
    // Types that do not read each other.
    (
        "message M { int32 n = 2; }",
        "message M { N n = 2; } message N { string a = 1; }",
        &["FIELD_KIND_CHANGED"],
    ),
    (
        "message M { int32 n = 2; }",
        "message M { string s = 2; }",
        &["FIELD_SCALAR_KIND_CHANGED"],
    ),
    (
        "message M { N n = 2; } message N { string a = 1; }",
        "message M { O n = 2; } message O { string a = 1; }",
        &["FIELD_NAMED_TYPE_CHANGED", "MESSAGE_REMOVED"],
    ),
    (
        "message M { map<string, int32> n = 2; }",
        "message M { map<string, string> s = 2; }",
        &["FIELD_SCALAR_KIND_CHANGED"],
    ),
    (
        "message M { map<string, In> n = 2; message In { string a = 1; } }",
        "message M { map<string, M.In> n = 2; message In { string a = 1; } }",
        &[],
    ),
    // Labels.
    (
        "message M { optional In n = 2; message In { string a = 1; } }",
        "message M { repeated In n = 2; message In { string a = 1; } }",
        &[],
    ),
    (
        "message M { optional string a = 1; }",
        "message M { repeated string a = 1; }",
        &[],
    ),
    (
        "message M { optional bytes a = 1; }",
        "message M { repeated bytes a = 1; }",
        &[],
    ),
    (
        "message M { optional int32 n = 1; }",
        "message M { repeated int32 n = 1; }",
        &["FIELD_NUMERIC_LABEL_CHANGED"],
    ),
    // Messages that come, and their order.
    (
        "message M { string a = 1; }",
        "message M { string a = 1; } message N { string a = 1; }",
        &[],
    ),
    (
        "message M { string a = 1; }",
        "message N { string a = 1; } message M { string a = 1; }",
        &[],
    ),
    (
        "message M { string a = 1; } message N { string a = 1; }",
        "message N { string a = 1; } message M { string a = 1; }",
        &[],
    ),
    // What changes beside a oneof is seen all the same.
    (
        "message M { oneof o { float a = 1; int32 n = 2; } }",
        "message M { oneof other { float a = 1; string n = 2; } }",
        &["FIELD_SCALAR_KIND_CHANGED"],
    ),
    (
        "message M { oneof o { float a = 1; int32 n = 2; } }",
        "message M { float a = 1; sint64 n = 2; }",
        &["FIELD_SCALAR_KIND_CHANGED"],
    ),
    (
        "message M { float a = 1; int32 n = 2; }",
        "message M { float a = 1; oneof o { sint64 n = 2; } }",
        &["FIELD_SCALAR_KIND_CHANGED"],
    ),
    (
        "message M { oneof o { float a = 1; int32 n = 2; } }",
        "message M { oneof other { float a = 1; int32 n = 2; } }",
        &[],
    ),
    // Between oneofs.
    (
        "message M { oneof o { int32 a = 1; int32 b = 2; } oneof p { int32 c = 3; } }",
        "message M { oneof o { int32 a = 1; } oneof p { int32 c = 3; int32 b = 2; } }",
        &["FIELD_MOVED_TO_EXISTING_ONEOF"],
    ),
    (
        "message M { oneof o { int32 a = 1; } oneof p { int32 c = 3; } }",
        "message M { oneof p { int32 c = 3; int32 a = 1; } }",
        &["FIELD_MOVED_TO_EXISTING_ONEOF"],
    ),
    (
        "message M { oneof o { int32 a = 1; } oneof p { int32 b = 2; } }",
        "message M { oneof q { int32 a = 1; int32 b = 2; } }",
        &["FIELD_MOVED_TO_EXISTING_ONEOF"],
    ),
    (
        "message M { oneof o { int32 a = 1; int32 b = 2; } }",
        "message M { oneof o { int32 b = 2; } oneof p { int32 a = 1; } }",
        &[],
    ),
    (
        "message M { oneof o { int32 a = 1; int32 b = 2; } }",
        "message M { oneof other { int32 a = 1; } }",
        &["ONEOF_FIELD_REMOVED"],
    ),
    (
        "message M { oneof o { int32 a = 1; int32 b = 2; } }",
        "message M { oneof o { int32 a = 1; } int32 b = 2; }",
        &[],
    ),
    (
        "message M { oneof o { int32 a = 1; int32 b = 2; } }",
        "message M { oneof o { int32 a = 1; } string b = 2; }",
        &["FIELD_SCALAR_KIND_CHANGED"],
    ),
];

const USES: &str = "syntax = \"proto3\"; import \"IMPORT\"; message M { .NAME a = 1; }";

/// A schema that uses `name` from `file`, which says `declares`.
fn uses(file: &str, name: &str, declares: &str) -> [(String, String); 2] {
    let schema = USES.replace("IMPORT", file).replace("NAME", name);
    let declares = format!("syntax = \"proto3\"; {declares}");
    [(file.to_owned(), declares), ("m.proto".to_owned(), schema)]
}

fn of(files: &[(String, String); 2]) -> [(&str, &str); 2] {
    files
        .each_ref()
        .map(|(name, source)| (name.as_str(), source.as_str()))
}

#[test]
fn its_fifty_four_pairs_have_its_verdicts() {
    let mut verdicts = Vec::new();
    for (old, new, expected) in ONE_FILE {
        let source = |text: &str| match text.strip_prefix("proto2 ") {
            Some(rest) => format!("syntax = \"proto2\"; {rest}"),
            None => format!("syntax = \"proto3\"; {text}"),
        };
        let found = breaks(&[("m.proto", &source(old))], &[("m.proto", &source(new))]);
        assert!(found.iter().eq(expected), "{old}\n{new}\n{found:?}");
        verdicts.push(found.is_empty());
    }

    // What is imported.
    let thing = "message Thing { int32 id = 1; bool on = 2; }";
    let other = "message Thing { string id = 1; bool on = 2; }";
    let nested = |thing: &str| format!("message Outer {{ {thing} }}");
    let with = |package: &str, text: &str| format!("package {package}; {text}");
    let first = uses("a.proto", "x.y.Thing", &with("x.y", thing));
    let within = uses("a.proto", "x.y.Outer.Thing", &with("x.y", &nested(thing)));
    let local = format!("syntax = \"proto3\"; message M {{ Thing a = 1; }} {thing}");
    let local = [("m.proto", local.as_str())];
    let changed = &["FIELD_NAMED_TYPE_CHANGED", "FIELD_SCALAR_KIND_CHANGED"][..];
    let next = [
        (uses("b.proto", "x.y.Thing", &with("x.y", other)), &first, changed),
        (uses("b.proto", "x.z.Thing", &with("x.z", thing)), &first, &[]),
        (
            uses("b.proto", "x.z.Outer.Thing", &with("x.z", &nested(thing))),
            &within,
            &[],
        ),
        (
            uses("b.proto", "x.z.Outer.Thing", &with("x.z", &nested(other))),
            &within,
            changed,
        ),
        // The file keeps its name and becomes another version.
        (
            uses("a.proto", "x.z.Outer.Thing", &with("x.z", &nested(other))),
            &within,
            changed,
        ),
    ];
    for (new, old, expected) in next {
        let found = breaks(&of(old), &of(&new));
        assert!(found.iter().eq(expected), "{new:?}\n{found:?}");
        verdicts.push(found.is_empty());
    }
    let to_import = breaks(&local, &of(&first));
    assert!(to_import.iter().eq(["MESSAGE_REMOVED"].iter()), "{to_import:?}");
    let from_import = breaks(&of(&first), &local);
    assert!(from_import.is_empty(), "{from_import:?}");
    verdicts.extend([to_import.is_empty(), from_import.is_empty()]);

    assert_eq!(verdicts.len(), 54);
    assert_eq!(verdicts.iter().filter(|compatible| **compatible).count(), 28);
}

#[test]
fn imports_that_lead_back_to_themselves_are_compared_once() {
    let tree = |kind: &str| {
        let declares = format!(
            "package x; message Tree {{ Tree left = 1; Leaf leaf = 2; }} message Leaf {{ {kind} n = 1; Tree up = 2; }}"
        );
        uses("a.proto", "x.Tree", &declares)
    };
    let found = breaks(&of(&tree("int32")), &of(&tree("double")));
    let expected = ["FIELD_NAMED_TYPE_CHANGED", "FIELD_SCALAR_KIND_CHANGED"];
    assert!(found.iter().eq(expected.iter()), "{found:?}");
    assert!(breaks(&of(&tree("int32")), &of(&tree("uint64"))).is_empty());
}

#[test]
fn a_number_that_has_to_be_there_has_another_label_and_text_may_have_one() {
    let with = |fields: &str| format!("syntax = \"proto2\"; message M {{ {fields} }}");
    let old = with("optional int32 n = 1; optional string s = 2;");
    let found = breaks(
        &[("m.proto", &old)],
        &[("m.proto", &with("required int32 n = 1; required string s = 2;"))],
    );
    assert!(
        found.iter().eq(["FIELD_NUMERIC_LABEL_CHANGED"].iter()),
        "{found:?}"
    );
}
