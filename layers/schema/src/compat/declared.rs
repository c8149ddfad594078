//! A descriptor set by full names, features resolved: what two revisions are compared by.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    descriptor::{EnumProto, FieldProto, FileSet, MessageProto},
    table::{Features, features},
};

/// Everything a set declares.
pub(super) struct Declared<'a> {
    /// File name to package and syntax.
    pub(super) files: BTreeMap<&'a str, (&'a str, &'a str)>,
    /// The files that no other file of the set imports: what was written is theirs, the rest is what it uses.
    pub(super) roots: BTreeSet<&'a str>,
    pub(super) messages: BTreeMap<String, DeclaredMessage<'a>>,
    pub(super) enums: BTreeMap<String, DeclaredEnum<'a>>,
}

pub(super) struct DeclaredMessage<'a> {
    pub(super) file: &'a str,
    pub(super) package: &'a str,
    pub(super) proto: &'a MessageProto,
    pub(super) features: Features,
    /// By number.
    pub(super) fields: BTreeMap<i32, &'a FieldProto>,
}

pub(super) struct DeclaredEnum<'a> {
    pub(super) proto: &'a EnumProto,
    pub(super) features: Features,
    /// Names by number, sorted.
    pub(super) values: BTreeMap<i32, Vec<&'a str>>,
}

impl<'a> Declared<'a> {
    /// The set was loaded, so its files' syntax is known.
    pub(super) fn new(set: &'a FileSet) -> Self {
        let mut declared = Self {
            files: BTreeMap::new(),
            roots: BTreeSet::new(),
            messages: BTreeMap::new(),
            enums: BTreeMap::new(),
        };
        for file in &set.file {
            let name = file.name.as_deref().unwrap_or_default();
            // What comes with Protobuf is not the schema's to change.
            if name.starts_with("google/protobuf/") {
                continue;
            }
            let Ok(features) = Features::of_file(file) else {
                continue;
            };
            let package = file.package.as_deref().unwrap_or_default();
            let syntax = file
                .syntax
                .as_deref()
                .filter(|syntax| !syntax.is_empty())
                .unwrap_or("proto2");
            declared.files.insert(name, (package, syntax));
            declared.roots.insert(name);
            file.message_type
                .iter()
                .for_each(|proto| declared.message((name, package), package, proto, features));
            file.enum_type
                .iter()
                .for_each(|proto| declared.enumeration(package, proto, features));
        }
        for import in set.file.iter().flat_map(|file| &file.dependency) {
            declared.roots.remove(import.as_str());
        }
        declared
    }

    fn message(
        &mut self,
        (file, package): (&'a str, &'a str),
        scope: &str,
        proto: &'a MessageProto,
        above: Features,
    ) {
        let name = qualified(scope, proto.name.as_deref());
        let features = above.with(
            proto
                .options
                .as_ref()
                .and_then(|options| options.features.as_ref()),
        );
        proto
            .nested_type
            .iter()
            .for_each(|nested| self.message((file, package), &name, nested, features));
        proto
            .enum_type
            .iter()
            .for_each(|nested| self.enumeration(&name, nested, features));
        let fields = proto
            .field
            .iter()
            .map(|field| (field.number.unwrap_or_default(), field))
            .collect();
        self.messages.insert(
            name,
            DeclaredMessage {
                file,
                package,
                proto,
                features,
                fields,
            },
        );
    }

    fn enumeration(&mut self, scope: &str, proto: &'a EnumProto, above: Features) {
        let features = above.with(
            proto
                .options
                .as_ref()
                .and_then(|options| options.features.as_ref()),
        );
        let mut values: BTreeMap<i32, Vec<&str>> = BTreeMap::new();
        for value in &proto.value {
            let names = values.entry(value.number.unwrap_or_default()).or_default();
            names.push(value.name.as_deref().unwrap_or_default());
            names.sort_unstable();
        }
        self.enums.insert(
            qualified(scope, proto.name.as_deref()),
            DeclaredEnum {
                proto,
                features,
                values,
            },
        );
    }

    /// Whether the field is a map.
    pub(super) fn is_map(&self, field: &FieldProto) -> bool {
        let entry = field
            .type_name
            .as_deref()
            .and_then(|name| self.messages.get(name.strip_prefix('.')?));
        let options = entry.and_then(|entry| entry.proto.options.as_ref());
        field.label == Some(3) && options.and_then(|options| options.map_entry).unwrap_or(false)
    }
}

impl DeclaredMessage<'_> {
    /// Whether a message without this field is refused by its own syntax.
    pub(super) fn is_required(&self, field: &FieldProto) -> bool {
        let own = field
            .options
            .as_ref()
            .and_then(|options| options.features.as_ref());
        let legacy = self.features.with(own).presence == features::Presence::LegacyRequired;
        field.label == Some(2) || legacy && field.label != Some(3)
    }

    /// The name of the oneof that offers the field as a choice.
    pub(super) fn oneof(&self, field: &FieldProto) -> Option<&str> {
        if field.proto3_optional == Some(true) {
            return None;
        }
        let index = usize::try_from(field.oneof_index?).ok()?;
        self.proto.oneof_decl.get(index)?.name.as_deref()
    }
}

fn qualified(scope: &str, name: Option<&str>) -> String {
    let name = name.unwrap_or_default();
    if scope.is_empty() {
        name.to_owned()
    } else {
        format!("{scope}.{name}")
    }
}
