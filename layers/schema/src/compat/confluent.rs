//! The profile `confluent`: the differences that Confluent's Schema Registry holds for incompatible, under its names.
//!
//! Its registry compares the new schema with the old one for BACKWARD and the old one with the new one for FORWARD, by the
//! same rules; so does [`Compatibility::check`](super::Compatibility::check).

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Break,
    declared::{Declared, DeclaredMessage},
};
use crate::descriptor::FieldProto;

const MESSAGE: i32 = 11;
const GROUP: i32 = 10;

/// What changing `old` into `new` breaks.
pub(super) fn judge(old: &Declared<'_>, new: &Declared<'_>) -> Vec<Break> {
    let mut judge = Judge {
        old,
        new,
        found: Vec::new(),
    };
    for (name, (package, _)) in &old.files {
        if let Some((other, _)) = new.files.get(name).filter(|(other, _)| other != package) {
            judge.report(
                "PACKAGE_CHANGED",
                *name,
                format!("moved from package {package:?} to {other:?}"),
            );
        }
    }
    for (name, message) in &old.messages {
        match new.messages.get(name) {
            // The entries of a map are compared where the map is.
            _ if is_entry(message) => {}
            Some(next) => judge.message(name, message, next),
            None => judge.report("MESSAGE_REMOVED", name, "is gone".to_owned()),
        }
    }
    judge.found
}

struct Judge<'a> {
    old: &'a Declared<'a>,
    new: &'a Declared<'a>,
    found: Vec<Break>,
}

/// Wire types that read each other's bytes are one kind.
#[derive(PartialEq, Eq)]
enum Kind<'a> {
    Number,
    Signed,
    Fixed32,
    Fixed64,
    Float,
    Double,
    Text,
    Message(&'a str),
    Map,
}

impl Judge<'_> {
    fn report(&mut self, rule: &'static str, element: impl Into<String>, message: String) {
        self.found.push(Break {
            rule,
            element: element.into(),
            message,
        });
    }

    fn message(&mut self, name: &str, old: &DeclaredMessage<'_>, new: &DeclaredMessage<'_>) {
        for (number, field) in &old.fields {
            let element = format!("{name}.{}", field.name.as_deref().unwrap_or_default());
            match new.fields.get(number) {
                Some(next) => self.field(&element, field, next),
                None if old.is_required(field) => {
                    self.report(
                        "REQUIRED_FIELD_REMOVED",
                        element,
                        "is gone, and was required".to_owned(),
                    );
                }
                None => {
                    // A choice that goes with its whole oneof may go; one of several may not.
                    if let Some(oneof) = old.oneof(field)
                        && new.fields.values().any(|next| new.oneof(next) == Some(oneof))
                    {
                        self.report(
                            "ONEOF_FIELD_REMOVED",
                            element,
                            format!("is gone from oneof {oneof}"),
                        );
                    }
                }
            }
        }
        let added = new
            .fields
            .iter()
            .filter(|(number, _)| !old.fields.contains_key(number));
        for (_, field) in added.filter(|(_, field)| new.is_required(field)) {
            let element = format!("{name}.{}", field.name.as_deref().unwrap_or_default());
            self.report("REQUIRED_FIELD_ADDED", element, "is new and required".to_owned());
        }
        self.oneofs(name, old, new);
    }

    /// Fields that were free may become choices of a new oneof, one at a time.
    fn oneofs(&mut self, name: &str, old: &DeclaredMessage<'_>, new: &DeclaredMessage<'_>) {
        let mut members: BTreeMap<&str, BTreeSet<i32>> = BTreeMap::new();
        for (number, field) in &new.fields {
            if let Some(oneof) = new.oneof(field) {
                members.entry(oneof).or_default().insert(*number);
            }
        }
        for (oneof, members) in members {
            let known = members
                .iter()
                .filter_map(|number| old.fields.get(number).copied());
            let (chosen, free): (Vec<_>, Vec<_>) =
                known.partition(|field: &&FieldProto| old.oneof(field).is_some());
            let element = format!("{name}.{oneof}");
            if free.len() > 1 {
                let text = format!("takes in {} fields that could be set together", free.len());
                self.report("MULTIPLE_FIELDS_MOVED_TO_ONEOF", element, text);
            } else if free.len() == 1 && !chosen.is_empty() {
                let text = "takes in a field that could be set beside its others".to_owned();
                self.report("FIELD_MOVED_TO_EXISTING_ONEOF", element, text);
            }
        }
    }

    fn field(&mut self, element: &str, old: &FieldProto, new: &FieldProto) {
        self.types(element, old, new);
        let number = |field: &FieldProto| !matches!(field.r#type, Some(9 | 12 | MESSAGE | GROUP));
        if (old.label == Some(3)) != (new.label == Some(3)) && number(old) && number(new) {
            let text = "changed between one number and many".to_owned();
            self.report("FIELD_NUMERIC_LABEL_CHANGED", element, text);
        }
    }

    fn types(&mut self, element: &str, old: &FieldProto, new: &FieldProto) {
        let (was, is) = (kind(self.old, old), kind(self.new, new));
        let rule = match (&was, &is) {
            (Kind::Map, Kind::Map) => {
                for number in [1, 2] {
                    let (was, is) = (
                        entry_field(self.old, old, number),
                        entry_field(self.new, new, number),
                    );
                    if let (Some(was), Some(is)) = (was, is) {
                        self.types(element, was, is);
                    }
                }
                return;
            }
            _ if was == is => return,
            (Kind::Message(_), Kind::Message(_)) => "FIELD_NAMED_TYPE_CHANGED",
            (Kind::Message(_) | Kind::Map, _) | (_, Kind::Message(_) | Kind::Map) => "FIELD_KIND_CHANGED",
            _ => "FIELD_SCALAR_KIND_CHANGED",
        };
        self.report(rule, element, "changed to a type of another kind".to_owned());
    }
}

fn kind<'a>(set: &Declared<'_>, field: &'a FieldProto) -> Kind<'a> {
    match field.r#type.unwrap_or_default() {
        1 => Kind::Double,
        2 => Kind::Float,
        9 | 12 => Kind::Text,
        MESSAGE | GROUP if set.is_map(field) => Kind::Map,
        MESSAGE | GROUP => Kind::Message(field.type_name.as_deref().unwrap_or_default()),
        7 | 15 => Kind::Fixed32,
        6 | 16 => Kind::Fixed64,
        17 | 18 => Kind::Signed,
        // int32, int64, uint32, uint64, bool and enums.
        _ => Kind::Number,
    }
}

fn entry_field<'a>(set: &Declared<'a>, field: &FieldProto, number: i32) -> Option<&'a FieldProto> {
    let entry = set.messages.get(field.type_name.as_deref()?.strip_prefix('.')?)?;
    entry.fields.get(&number).copied()
}

fn is_entry(message: &DeclaredMessage<'_>) -> bool {
    let options = message.proto.options.as_ref();
    options.and_then(|options| options.map_entry).unwrap_or(false)
}
