//! The profile `confluent`: the differences that Confluent's Schema Registry holds for incompatible, under its names.
//!
//! Its registry compares the new schema with the old one for BACKWARD and the old one with the new one for FORWARD, by the
//! same rules; so does [`Compatibility::check`](super::Compatibility::check). A schema is the files that no other imports,
//! its messages are known by their names without the package, and what is imported is compared where a field uses it.
//! `tests/confluent.rs` has the 54 pairs that it publishes.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Break,
    declared::{Declared, DeclaredMessage, GROUP, MESSAGE},
};
use crate::descriptor::FieldProto;

/// What changing `old` into `new` breaks.
pub(super) fn judge(old: &Declared<'_>, new: &Declared<'_>) -> Vec<Break> {
    let mut judge = Judge {
        old,
        new,
        single: old.roots.len() == 1 && new.roots.len() == 1,
        begun: BTreeSet::new(),
        found: Vec::new(),
    };
    for name in &old.roots {
        // A schema of one file is that file, whatever it is called.
        let next = if judge.single {
            new.roots.first()
        } else {
            new.roots.get(name)
        };
        let packages = (old.files.get(name), next.and_then(|next| new.files.get(next)));
        if let (Some((was, _)), Some((is, _))) = packages
            && was != is
        {
            let text = format!("moved from package {was:?} to {is:?}");
            judge.report("PACKAGE_CHANGED", *name, text);
        }
    }
    let own = old
        .messages
        .iter()
        .filter(|(_, message)| old.roots.contains(message.file));
    for (name, message) in own {
        let now = judge.now(name, message.package);
        judge.declared(name, message, &now);
    }
    judge.found
}

/// The name without its package.
fn local<'n>(name: &'n str, package: &str) -> &'n str {
    let rest = name.strip_prefix(package).and_then(|rest| rest.strip_prefix('.'));
    rest.unwrap_or(name)
}

struct Judge<'a> {
    old: &'a Declared<'a>,
    new: &'a Declared<'a>,
    /// Both are one file and what it imports.
    single: bool,
    /// Messages that are compared already, or just now.
    begun: BTreeSet<(String, String)>,
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

    /// What a message of the old schema is called in the new one, whose package may be another.
    fn now(&self, name: &str, package: &str) -> String {
        let root = self.new.roots.first().filter(|_| self.single);
        match root.and_then(|root| self.new.files.get(root)) {
            Some((now, _)) if !now.is_empty() => format!("{now}.{}", local(name, package)),
            Some(_) => local(name, package).to_owned(),
            None => name.to_owned(),
        }
    }

    /// A message that the old schema declares, and what it is called in the new one.
    fn declared(&mut self, name: &str, old: &DeclaredMessage<'_>, now: &str) {
        // The entries of a map are compared where the map is.
        if is_entry(old) || !self.begun.insert((name.to_owned(), now.to_owned())) {
            return;
        }
        match self.new.messages.get(now) {
            Some(new) => self.message(name, old, new),
            None => self.report("MESSAGE_REMOVED", name, "is gone".to_owned()),
        }
    }

    fn message(&mut self, name: &str, old: &DeclaredMessage<'_>, new: &DeclaredMessage<'_>) {
        for (number, field) in &old.fields {
            let element = format!("{name}.{}", field.name.as_deref().unwrap_or_default());
            match new.fields.get(number) {
                Some(next) => {
                    // A number that has to be there, or no longer, has another label; so it is with text, which may.
                    let label = old.is_required(field) != new.is_required(next);
                    self.field(&element, field, next, label);
                }
                None if old.is_required(field) => {
                    self.report(
                        "REQUIRED_FIELD_REMOVED",
                        element,
                        "is gone, and was required".to_owned(),
                    );
                }
                None => {
                    // A choice may go with its whole oneof; not while another of its choices stays, wherever that is.
                    if let Some(oneof) = old.oneof(field)
                        && !is_gone(oneof, old, new)
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

    /// Fields that could be set together may not become choices of one oneof. New fields do not count: old data has none.
    fn oneofs(&mut self, name: &str, old: &DeclaredMessage<'_>, new: &DeclaredMessage<'_>) {
        let mut members: BTreeMap<&str, Vec<&FieldProto>> = BTreeMap::new();
        for (number, field) in &new.fields {
            if let (Some(oneof), Some(known)) = (new.oneof(field), old.fields.get(number)) {
                members.entry(oneof).or_default().push(known);
            }
        }
        for (oneof, members) in members {
            let free = members.iter().filter(|field| old.oneof(field).is_none()).count();
            let chosen: BTreeSet<&str> = members.iter().filter_map(|field| old.oneof(field)).collect();
            if free + chosen.len() < 2 {
                continue;
            }
            let element = format!("{name}.{oneof}");
            if free > 1 {
                let text = format!("takes in {free} fields that could be set together");
                self.report("MULTIPLE_FIELDS_MOVED_TO_ONEOF", element, text);
            } else {
                let text = "takes in a field that could be set beside its others".to_owned();
                self.report("FIELD_MOVED_TO_EXISTING_ONEOF", element, text);
            }
        }
    }

    /// A message type of one name in both. What a schema declares itself is compared by itself; what it imports, here.
    fn imported(&mut self, element: &str, was: &str, is: &str) {
        let (old, new) = (self.old.messages.get(was), self.new.messages.get(is));
        let same = match (old, new) {
            (Some(old), Some(new)) => local(was, old.package) == local(is, new.package),
            _ => was == is,
        };
        let text = "changed to a message that is not the same";
        if !same {
            self.report("FIELD_NAMED_TYPE_CHANGED", element, text.to_owned());
            return;
        }
        let (Some(old), Some(new)) = (old, new) else {
            return;
        };
        if self.old.roots.contains(old.file) && self.new.roots.contains(new.file) {
            return;
        }
        let above = std::mem::take(&mut self.found);
        self.declared(was, old, is);
        let inside = format!("{was}.");
        for (name, nested) in self.old.messages.range(inside.clone()..) {
            let Some(rest) = name.strip_prefix(&inside) else {
                break;
            };
            self.declared(name, nested, &format!("{is}.{rest}"));
        }
        let below = std::mem::replace(&mut self.found, above);
        if !below.is_empty() {
            self.report("FIELD_NAMED_TYPE_CHANGED", element, text.to_owned());
            self.found.extend(below);
        }
    }

    fn field(&mut self, element: &str, old: &FieldProto, new: &FieldProto, label: bool) {
        self.types(element, old, new);
        let number = |field: &FieldProto| !matches!(field.r#type, Some(9 | 12 | MESSAGE | GROUP));
        // A field without a label counts as one, although the registry lets it become many.
        let label = label || (old.label == Some(3)) != (new.label == Some(3));
        if label && number(old) && number(new) && kind(self.old, old) == kind(self.new, new) {
            let text = "is a number with another label".to_owned();
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
            (Kind::Message(was), Kind::Message(is)) => {
                let (was, is) = (was.trim_start_matches('.'), is.trim_start_matches('.'));
                self.imported(element, was, is);
                return;
            }
            _ if was == is => return,
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

/// Whether a oneof is no more, and none of its fields is left.
fn is_gone(oneof: &str, old: &DeclaredMessage<'_>, new: &DeclaredMessage<'_>) -> bool {
    let stays = new.fields.values().any(|field| new.oneof(field) == Some(oneof));
    let mut fields = old.fields.iter();
    !stays
        && !fields.any(|(number, field)| old.oneof(field) == Some(oneof) && new.fields.contains_key(number))
}

fn is_entry(message: &DeclaredMessage<'_>) -> bool {
    let options = message.proto.options.as_ref();
    options.and_then(|options| options.map_entry).unwrap_or(false)
}
