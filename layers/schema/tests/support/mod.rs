//! What the oracle tests share: a schema with every kind of field, and payloads made from a seed.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![expect(clippy::unwrap_used, reason = "helpers of tests panic like tests")]

use arqon_schema::{Descriptors, Level, Validator};
use prost::Message;
use prost_reflect::{Cardinality, DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};

/// The fields of the official conformance messages, shortened: every scalar singular, repeated and packed, maps,
/// oneofs, enums, recursion.
const BODY: &str = r#"
    {LABEL} int32 f_int32 = 1; {LABEL} int64 f_int64 = 2; {LABEL} uint32 f_uint32 = 3; {LABEL} uint64 f_uint64 = 4;
    {LABEL} sint32 f_sint32 = 5; {LABEL} sint64 f_sint64 = 6; {LABEL} fixed32 f_fixed32 = 7;
    {LABEL} fixed64 f_fixed64 = 8; {LABEL} sfixed32 f_sfixed32 = 9; {LABEL} sfixed64 f_sfixed64 = 10;
    {LABEL} float f_float = 11; {LABEL} double f_double = 12; {LABEL} bool f_bool = 13; {LABEL} string f_string = 14;
    {LABEL} bytes f_bytes = 15; {LABEL} Nested f_message = 18; {LABEL} Colour f_enum = 21; {LABEL} All f_self = 27;
    repeated int32 r_int32 = 31; repeated int64 r_int64 = 32; repeated uint32 r_uint32 = 33;
    repeated uint64 r_uint64 = 34; repeated sint32 r_sint32 = 35; repeated sint64 r_sint64 = 36;
    repeated fixed32 r_fixed32 = 37; repeated fixed64 r_fixed64 = 38; repeated sfixed32 r_sfixed32 = 39;
    repeated sfixed64 r_sfixed64 = 40; repeated float r_float = 41; repeated double r_double = 42;
    repeated bool r_bool = 43; repeated string r_string = 44; repeated bytes r_bytes = 45;
    repeated Nested r_message = 48; repeated Colour r_enum = 51;
    map<int32, int32> m_int32 = 56; map<string, string> m_string = 69; map<string, Nested> m_message = 71;
    map<bool, bool> m_bool = 68; map<string, Colour> m_enum = 73; map<sint64, double> m_sint64 = 61;
    oneof choice { uint32 o_uint32 = 111; Nested o_message = 112; string o_string = 113; }
    {EXTRA}
"#;

pub const NAME: &str = "arqon.test.All";

/// The source of the schema: `proto2` or `proto3`.
pub fn source(syntax: &str) -> String {
    let (label, extra) = match syntax {
        "proto2" => (
            "optional",
            "optional group Data = 201 { optional int32 g_int32 = 202; optional All g_self = 203; }",
        ),
        _ => ("", "optional string p_string = 120;"),
    };
    let body = BODY.replace("{LABEL}", label).replace("{EXTRA}", extra);
    let nested = format!(
        "message Nested {{ {label} int32 a = 1; {label} All corecursive = 2; {label} string id = 3; }}"
    );
    format!(
        "syntax = \"{syntax}\"; package arqon.test; message All {{ {body} }} {nested}
         enum Colour {{ RED = 0; GREEN = 1; BLUE = 2; NEGATIVE = -1; }}"
    )
}

/// The schema as a descriptor set.
pub fn set(syntax: &str) -> Vec<u8> {
    struct One(String);
    impl protox::file::FileResolver for One {
        fn open_file(&self, name: &str) -> Result<protox::file::File, protox::Error> {
            protox::file::File::from_source(name, &self.0)
        }
    }
    let mut compiler = protox::Compiler::with_file_resolver(One(source(syntax)));
    compiler.include_imports(true).open_file("all.proto").unwrap();
    compiler.encode_file_descriptor_set()
}

/// The proto3 schema as edition 2023 (presence is explicit there).
pub fn edition_set() -> Vec<u8> {
    let mut set = prost_types::FileDescriptorSet::decode(set("proto3").as_slice()).unwrap();
    let mut file = set.file.remove(0);
    file.syntax = Some("editions".to_owned());
    for message in &mut file.message_type {
        for field in &mut message.field {
            if field.proto3_optional.take().is_some() {
                field.oneof_index = None;
            }
        }
        message.oneof_decl.retain(|oneof| !oneof.name().starts_with('_'));
    }
    let mut bytes = file.encode_to_vec();
    bytes.extend([14 << 3, 0xe8, 0x07]);
    let mut framed = vec![0x0a];
    prost::encoding::encode_varint(bytes.len() as u64, &mut framed);
    framed.extend(bytes);
    framed
}

pub fn validator(set: &[u8], level: Level, required: &[&str]) -> Validator {
    let required: Vec<String> = required.iter().map(|&path| path.to_owned()).collect();
    Descriptors::decode(set)
        .unwrap()
        .validator(Some(NAME), level, &required)
        .unwrap()
}

/// The oracle's descriptor.
pub fn oracle(set: &[u8]) -> MessageDescriptor {
    DescriptorPool::decode(set)
        .unwrap()
        .get_message_by_name(NAME)
        .unwrap()
}

/// SplitMix64: one seed, one payload.
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }
}

pub fn tag(number: u32, wire: u32, out: &mut Vec<u8>) {
    prost::encoding::encode_varint(u64::from(number << 3 | wire), out);
}

pub fn varint(value: u64, out: &mut Vec<u8>) {
    prost::encoding::encode_varint(value, out);
}

pub fn framed(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint(bytes.len() as u64, &mut out);
    out.extend(bytes);
    out
}

/// A random message with fields in random order, singular ones sometimes twice: well-formed unless it is mutated.
pub fn payload(message: &MessageDescriptor, rng: &mut Rng, depth: u32) -> Vec<u8> {
    let fields: Vec<FieldDescriptor> = message.fields().collect();
    let mut out = Vec::new();
    for _ in 0..rng.below(if depth == 0 { 8 } else { 4 }) {
        let field = &fields[rng.below(fields.len())];
        let packable = !matches!(field.kind(), Kind::String | Kind::Bytes | Kind::Message(_));
        if field.cardinality() == Cardinality::Repeated && packable && rng.below(2) == 0 {
            let mut packed = Vec::new();
            for _ in 0..rng.below(4) {
                scalar(&field.kind(), rng, &mut packed);
            }
            tag(field.number(), 2, &mut out);
            out.extend(framed(&packed));
            continue;
        }
        match field.kind() {
            Kind::Message(child) if field.is_group() => {
                tag(field.number(), 3, &mut out);
                if depth < 4 {
                    out.extend(payload(&child, rng, depth + 1));
                }
                tag(field.number(), 4, &mut out);
            }
            Kind::Message(child) => {
                tag(field.number(), 2, &mut out);
                let inner = if depth < 4 {
                    payload(&child, rng, depth + 1)
                } else {
                    Vec::new()
                };
                out.extend(framed(&inner));
            }
            kind => {
                tag(field.number(), wire_type(&kind), &mut out);
                scalar(&kind, rng, &mut out);
            }
        }
    }
    out
}

pub fn wire_type(kind: &Kind) -> u32 {
    match kind {
        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => 1,
        Kind::String | Kind::Bytes | Kind::Message(_) => 2,
        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => 5,
        _ => 0,
    }
}

fn scalar(kind: &Kind, rng: &mut Rng, out: &mut Vec<u8>) {
    match wire_type(kind) {
        0 => {
            let value = match (kind, rng.below(4)) {
                (Kind::Enum(_), 0..3) => rng.below(4) as u64,
                (_, 0) => 0,
                (_, 1) => rng.next(),
                _ => rng.below(300) as u64,
            };
            varint(value, out);
        }
        1 => out.extend(if rng.below(3) == 0 {
            [0; 8]
        } else {
            rng.next().to_le_bytes()
        }),
        5 => out.extend(if rng.below(3) == 0 {
            [0; 4]
        } else {
            (rng.next() as u32).to_le_bytes()
        }),
        _ => {
            let texts = [
                "",
                "a",
                "eu",
                "grün",
                "0123456789abcdef0123456789abcdef0123456789abcdef012ü",
            ];
            out.extend(framed(texts[rng.below(texts.len())].as_bytes()));
        }
    }
}

/// Flips, cuts, inserts and repeats bytes.
pub fn mutate(bytes: &mut Vec<u8>, rng: &mut Rng) {
    for _ in 0..1 + rng.below(3) {
        if bytes.is_empty() {
            bytes.push(rng.next() as u8);
            continue;
        }
        let at = rng.below(bytes.len());
        match rng.below(6) {
            0 => bytes[at] ^= 1 << rng.below(8),
            1 => bytes[at] = [0x00, 0xff, 0x80, 0x7f, 0x0b, 0x0c][rng.below(6)],
            2 => bytes.truncate(at),
            3 => bytes.insert(at, rng.next() as u8),
            4 => {
                bytes.remove(at);
            }
            _ => {
                let end = (at + 1 + rng.below(8)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
}
