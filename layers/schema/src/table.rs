//! The descriptor table: a `FileDescriptorSet` compiled once into what the walkers need, and nothing else.
//!
//! Types are numbers, names are looked up once, features are resolved (proto2, proto3 and editions look alike from
//! here on), extensions are fields of their extendee. Nothing is dense by field number: a field numbered 536870911
//! costs as much as one numbered 1.

mod build;
pub(crate) mod features;
mod imports;
mod names;
mod scan;

use std::{collections::HashMap, sync::Arc};

pub(crate) use self::{
    build::{IGNORE_ALWAYS, build},
    features::Features,
    scan::{FILES_MAX, scan},
};

/// Every message and enum of one descriptor set.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) messages: Vec<Message>,
    pub(crate) enums: Vec<Enum>,
    pub(crate) by_name: HashMap<Arc<str>, TypeRef>,
    /// The top-level messages of the last file. protoc and protox write imports first, so the last file is the one
    /// that was asked for.
    pub(crate) roots: Vec<u32>,
}

/// What a fully qualified name (without the leading dot) stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TypeRef {
    Message(u32),
    Enum(u32),
}

/// One message type.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) name: Arc<str>,
    /// Sorted by number, extensions included.
    pub(crate) fields: Vec<Field>,
    /// Real oneofs only; the synthetic ones of proto3 `optional` are presence, not choice.
    pub(crate) oneofs: Vec<Oneof>,
    /// Every accepted JSON spelling to the index in `fields`.
    pub(crate) json: HashMap<Box<str>, u32>,
    pub(crate) map_entry: bool,
    pub(crate) message_set: bool,
    pub(crate) well_known: Option<WellKnown>,
    /// `(buf.validate.message)`, not read yet.
    pub(crate) rules: Box<[u8]>,
}

/// One field of a message.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) number: u32,
    pub(crate) name: Box<str>,
    pub(crate) json_name: Box<str>,
    /// No other field claims the JSON name.
    pub(crate) json_name_is_own: bool,
    pub(crate) kind: Kind,
    pub(crate) shape: Shape,
    pub(crate) presence: Presence,
    /// Index into the message's `oneofs`.
    pub(crate) oneof: Option<u32>,
    /// `(buf.validate.field).required`, unless `ignore = IGNORE_ALWAYS`.
    pub(crate) validate_required: bool,
    /// Written packed when it is repeated.
    pub(crate) packed: bool,
    /// `(buf.validate.field)`, not read yet.
    pub(crate) rules: Box<[u8]>,
}

/// How often a field may occur.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Singular,
    Repeated,
    /// A repeated map entry; `kind` is the entry message.
    Map,
}

/// When a singular field counts as set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// Set when it occurred; zero is a value.
    Explicit,
    /// Set when it is not zero.
    Implicit,
    /// Explicit, and proto2 `required` (or `LEGACY_REQUIRED`).
    Required,
}

/// The type of a field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Double,
    Float,
    Int64,
    Uint64,
    Int32,
    Fixed64,
    Fixed32,
    Bool,
    String,
    Bytes,
    Uint32,
    Sfixed32,
    Sfixed64,
    Sint32,
    Sint64,
    Enum(u32),
    Message(u32),
    /// A message in the group encoding: proto2 `group`, or `DELIMITED`.
    Group(u32),
}

impl Kind {
    /// The message type of a message or group.
    pub(crate) fn message(self) -> Option<u32> {
        match self {
            Self::Message(index) | Self::Group(index) => Some(index),
            _ => None,
        }
    }

    /// May be packed when repeated.
    pub(crate) fn packable(self) -> bool {
        !matches!(
            self,
            Self::String | Self::Bytes | Self::Message(_) | Self::Group(_)
        )
    }
}

/// A oneof that offers a choice.
#[derive(Debug)]
pub(crate) struct Oneof {
    pub(crate) name: Box<str>,
    /// `(buf.validate.oneof).required`.
    pub(crate) validate_required: bool,
}

/// One enum type.
#[derive(Debug)]
pub(crate) struct Enum {
    pub(crate) name: Arc<str>,
    pub(crate) closed: bool,
    /// Sorted, without duplicates.
    pub(crate) numbers: Vec<i32>,
    pub(crate) names: HashMap<Box<str>, i32>,
}

impl Enum {
    /// Whether the number is declared.
    pub(crate) fn knows(&self, number: i32) -> bool {
        // Most enums count up from zero or one.
        match usize::try_from(number)
            .ok()
            .and_then(|index| self.numbers.get(index))
        {
            Some(&at) if at == number => true,
            _ => self.numbers.binary_search(&number).is_ok(),
        }
    }
}

/// Messages with a JSON form of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WellKnown {
    Any,
    Timestamp,
    Duration,
    FieldMask,
    Struct,
    Value,
    ListValue,
    /// A wrapper such as `Int32Value`: its JSON is the JSON of field 1.
    Wrapper,
}

impl WellKnown {
    pub(crate) fn of(name: &str) -> Option<Self> {
        Some(match name.strip_prefix("google.protobuf.")? {
            "Any" => Self::Any,
            "Timestamp" => Self::Timestamp,
            "Duration" => Self::Duration,
            "FieldMask" => Self::FieldMask,
            "Struct" => Self::Struct,
            "Value" => Self::Value,
            "ListValue" => Self::ListValue,
            "DoubleValue" | "FloatValue" | "Int64Value" | "UInt64Value" | "Int32Value" | "UInt32Value"
            | "BoolValue" | "StringValue" | "BytesValue" => Self::Wrapper,
            _ => return None,
        })
    }
}

impl Table {
    /// The message of that fully qualified name.
    pub(crate) fn message(&self, name: &str) -> Option<u32> {
        match self.by_name.get(name.strip_prefix('.').unwrap_or(name)) {
            Some(&TypeRef::Message(index)) => Some(index),
            _ => None,
        }
    }
}

impl Message {
    /// The index of the field with that JSON spelling. Fields mostly come in order, some left out: those from `guess` on are
    /// tried first.
    #[inline]
    pub(crate) fn by_spelling(&self, name: &str, guess: u32) -> Option<u32> {
        let is = |field: &Field| *field.name == *name || field.json_name_is_own && *field.json_name == *name;
        let next = self.fields.get(guess as usize..).unwrap_or_default();
        match (guess..).zip(next.iter().take(4)).find(|(_, field)| is(field)) {
            Some((at, _)) => Some(at),
            None => self.json.get(name).copied(),
        }
    }

    /// The index of the field with that number.
    pub(crate) fn by_number(&self, number: u32) -> Option<usize> {
        self.fields
            .binary_search_by_key(&number, |field| field.number)
            .ok()
    }
}
