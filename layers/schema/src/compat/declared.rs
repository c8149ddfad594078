//! A descriptor set by full names, features resolved: what two revisions are compared by.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    descriptor::{EnumProto, FieldProto, FileSet, MessageProto},
    table::{Features, features::Presence},
};

pub(super) const GROUP: i32 = 10;
pub(super) const MESSAGE: i32 = 11;

/// Everything a set declares.
pub(super) struct Declared<'a> {
    /// File name to package and syntax.
    pub(super) files: BTreeMap<&'a str, (&'a str, &'a str)>,
    /// The files that no other file of the set imports: what was written is theirs, the rest is what it uses.
    pub(super) roots: BTreeSet<&'a str>,
    pub(super) messages: BTreeMap<String, DeclaredMessage<'a>>,
    pub(super) enums: BTreeMap<String, DeclaredEnum<'a>>,
    /// By what they extend and their number there; with their full names.
    pub(super) extensions: BTreeMap<(&'a str, i32), (String, DeclaredField<'a>)>,
}

/// A field with what is said about it elsewhere.
#[derive(Clone, Copy)]
pub(super) struct DeclaredField<'a> {
    pub(super) proto: &'a FieldProto,
    /// Its own.
    features: Features,
    /// The oneof that offers it as a choice.
    pub(super) oneof: Option<&'a str>,
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
            extensions: BTreeMap::new(),
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
            declared.extend(package, &file.extension, features);
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
        self.extend(&name, &proto.extension, features);
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

    fn extend(&mut self, scope: &str, extensions: &'a [FieldProto], above: Features) {
        for proto in extensions {
            let extendee = proto.extendee.as_deref().unwrap_or_default();
            let field = DeclaredField::new(proto, above, None);
            self.extensions.insert(
                (extendee, proto.number.unwrap_or_default()),
                (qualified(scope, proto.name.as_deref()), field),
            );
        }
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

impl<'a> DeclaredField<'a> {
    fn new(proto: &'a FieldProto, above: Features, oneof: Option<&'a str>) -> Self {
        let own = proto
            .options
            .as_ref()
            .and_then(|options| options.features.as_ref());
        Self {
            proto,
            features: above.with(own),
            oneof,
        }
    }

    /// Whether a message without this field is refused by its own syntax.
    pub(super) fn is_required(&self) -> bool {
        let legacy = self.features.presence == Presence::LegacyRequired;
        self.proto.label == Some(2) || legacy && self.proto.label != Some(3)
    }

    /// The type as it is on the wire: a delimited message is a group.
    pub(super) fn kind(&self, set: &Declared<'_>) -> i32 {
        match self.proto.r#type.unwrap_or_default() {
            MESSAGE if self.features.delimited && !set.is_map(self.proto) => GROUP,
            kind => kind,
        }
    }
}

impl<'a> DeclaredMessage<'a> {
    /// One of its fields.
    pub(super) fn field(&self, proto: &'a FieldProto) -> DeclaredField<'a> {
        let mut field = DeclaredField::new(proto, self.features, self.oneof(proto));
        let options = self.proto.options.as_ref();
        // The values of a map have their length before them.
        field.features.delimited &= !options.and_then(|options| options.map_entry).unwrap_or(false);
        field
    }

    /// Whether a message without this field is refused by its own syntax.
    pub(super) fn is_required(&self, field: &'a FieldProto) -> bool {
        self.field(field).is_required()
    }

    /// The name of the oneof that offers the field as a choice.
    pub(super) fn oneof(&self, field: &FieldProto) -> Option<&'a str> {
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
