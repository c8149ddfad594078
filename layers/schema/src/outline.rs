//! What a schema declares, a line for each element: what a person compares.

use std::collections::BTreeSet;

use crate::{
    descriptor::{EnumProto, FieldProto, MessageProto},
    descriptors::Descriptors,
};

const LABELS: [&str; 4] = ["", "optional ", "required ", "repeated "];
const TYPES: [&str; 19] = [
    "", "double", "float", "int64", "uint64", "int32", "fixed64", "fixed32", "bool", "string", "group",
    "message", "bytes", "uint32", "enum", "sfixed32", "sfixed64", "sint32", "sint64",
];

impl Descriptors {
    /// Whether both declare the same, options and the order of things included.
    #[must_use]
    pub fn declares_the_same(&self, other: &Self) -> bool {
        self.set == other.set
    }

    /// Every message, field, oneof, enum and enum value, and what is reserved, a line for each, such as
    /// `field events.v1.UserCreated.user_id = 1 optional string`. Lines differ where the declarations do.
    ///
    /// ```
    /// let schema = arqon_schema::Descriptors::from_source(
    ///     "a.proto",
    ///     r#"syntax = "proto3"; package a; message A { string id = 1; reserved 7; }"#,
    /// )?;
    /// let outline = schema.outline().into_iter().collect::<Vec<_>>();
    /// assert_eq!(outline, ["field a.A.id = 1 optional string", "message a.A", "reserved a.A 7"]);
    /// # Ok::<(), arqon_schema::LoadError>(())
    /// ```
    #[must_use]
    pub fn outline(&self) -> BTreeSet<String> {
        let mut lines = BTreeSet::new();
        for file in &self.set.file {
            let package = file.package.as_deref().unwrap_or_default();
            for declared in &file.message_type {
                message(&within(package, declared.name.as_deref()), declared, &mut lines);
            }
            for declared in &file.enum_type {
                enumeration(&within(package, declared.name.as_deref()), declared, &mut lines);
            }
            for extension in &file.extension {
                field("extension", package, extension, None, &mut lines);
            }
        }
        lines
    }
}

fn within(scope: &str, name: Option<&str>) -> String {
    let name = name.unwrap_or_default();
    if scope.is_empty() {
        name.to_owned()
    } else {
        format!("{scope}.{name}")
    }
}

fn message(name: &str, declared: &MessageProto, lines: &mut BTreeSet<String>) {
    lines.insert(format!("message {name}"));
    for one in &declared.field {
        let oneof = one
            .oneof_index
            .and_then(|at| declared.oneof_decl.get(usize::try_from(at).ok()?))
            .and_then(|oneof| oneof.name.as_deref())
            .filter(|_| one.proto3_optional != Some(true));
        field("field", name, one, oneof, lines);
    }
    for nested in &declared.nested_type {
        message(&within(name, nested.name.as_deref()), nested, lines);
    }
    for nested in &declared.enum_type {
        enumeration(&within(name, nested.name.as_deref()), nested, lines);
    }
    for extension in &declared.extension {
        field("extension", name, extension, None, lines);
    }
    for range in &declared.reserved_range {
        // The end of a message's range is exclusive.
        let (start, end) = (range.start.unwrap_or_default(), range.end.unwrap_or_default() - 1);
        lines.insert(if start == end {
            format!("reserved {name} {start}")
        } else {
            format!("reserved {name} {start} to {end}")
        });
    }
    for reserved in &declared.reserved_name {
        lines.insert(format!("reserved {name} {reserved:?}"));
    }
}

fn field(kind: &str, scope: &str, one: &FieldProto, oneof: Option<&str>, lines: &mut BTreeSet<String>) {
    let name = within(scope, one.name.as_deref());
    let of = |names: &[&'static str], at: Option<i32>| {
        let at = at.and_then(|at| usize::try_from(at).ok()).unwrap_or_default();
        names.get(at).copied().unwrap_or_default()
    };
    let label = of(&LABELS, one.label);
    let label = if one.proto3_optional == Some(true) {
        "explicit "
    } else {
        label
    };
    let of_type = match one.type_name.as_deref() {
        Some(named) => named.trim_start_matches('.'),
        None => of(&TYPES, one.r#type),
    };
    let oneof = oneof.map_or_else(String::new, |oneof| format!(" in {oneof}"));
    let number = one.number.unwrap_or_default();
    lines.insert(format!("{kind} {name} = {number} {label}{of_type}{oneof}"));
}

fn enumeration(name: &str, declared: &EnumProto, lines: &mut BTreeSet<String>) {
    lines.insert(format!("enum {name}"));
    for value in &declared.value {
        let (value, number) = (value.name.as_deref().unwrap_or_default(), value.number);
        lines.insert(format!("value {name}.{value} = {}", number.unwrap_or_default()));
    }
}
