//! The rules, one function each where they need more than a line.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Break, Profile,
    declared::{Declared, DeclaredEnum, DeclaredField, DeclaredMessage, GROUP, MESSAGE},
};
use crate::descriptor::{FieldProto, RangeProto};

/// Compares two sets and gathers what breaks.
pub(super) struct Judge<'a> {
    profile: Profile,
    old: &'a Declared<'a>,
    new: &'a Declared<'a>,
    /// Whether what is gone counts. Looking forwards it does not: the older reader just knows less.
    removals: bool,
    pub(super) found: Vec<Break>,
}

impl<'a> Judge<'a> {
    pub(super) const fn new(
        profile: Profile,
        old: &'a Declared<'a>,
        new: &'a Declared<'a>,
        removals: bool,
    ) -> Self {
        Self {
            profile,
            old,
            new,
            removals,
            found: Vec::new(),
        }
    }

    fn report(&mut self, rule: &'static str, element: impl Into<String>, message: impl Into<String>) {
        self.found.push(Break {
            rule,
            element: element.into(),
            message: message.into(),
        });
    }

    fn json(&self) -> bool {
        self.profile != Profile::Wire
    }

    fn strict(&self) -> bool {
        self.profile == Profile::Strict
    }

    pub(super) fn run(&mut self) {
        let (old, new) = (self.old, self.new);
        for (name, (package, syntax)) in &old.files {
            let Some((new_package, new_syntax)) = new.files.get(name) else {
                continue;
            };
            if package != new_package {
                self.report(
                    "FILE_SAME_PACKAGE",
                    *name,
                    format!("moved from package {package:?} to {new_package:?}"),
                );
            }
            if self.strict() && syntax != new_syntax {
                self.report(
                    "FILE_SAME_SYNTAX",
                    *name,
                    format!("changed from {syntax} to {new_syntax}"),
                );
            }
        }
        for (name, message) in &old.messages {
            match new.messages.get(name) {
                Some(next) => self.message(name, message, next),
                None if self.strict() && self.removals => self.report("MESSAGE_NO_DELETE", name, "is gone"),
                None => {}
            }
        }
        for (name, declared) in &old.enums {
            match new.enums.get(name) {
                Some(next) => self.enumeration(name, declared, next),
                None if self.strict() && self.removals => self.report("ENUM_NO_DELETE", name, "is gone"),
                None => {}
            }
        }
        for (place, (name, field)) in &old.extensions {
            match new.extensions.get(place) {
                Some((now, next)) => {
                    self.field(name, *field, *next);
                    // JSON calls an extension by its full name.
                    if self.json() && name != now {
                        self.report("FIELD_SAME_NAME", name, format!("is now called {now}"));
                    }
                }
                None if self.strict() && self.removals => self.report("EXTENSION_NO_DELETE", name, "is gone"),
                None => {}
            }
        }
    }

    fn message(&mut self, name: &str, old: &DeclaredMessage<'a>, new: &DeclaredMessage<'a>) {
        if self.json() && old.features.json_allowed && !new.features.json_allowed {
            self.report("MESSAGE_SAME_JSON_FORMAT", name, "no longer promises a JSON form");
        }
        let required = |message: &DeclaredMessage<'a>| -> BTreeSet<i32> {
            let fields = message
                .fields
                .iter()
                .filter(|(_, field)| message.is_required(field));
            fields.map(|(number, _)| *number).collect()
        };
        let (was, is) = (required(old), required(new));
        for number in was.symmetric_difference(&is) {
            let text = if is.contains(number) {
                "has the new required field"
            } else {
                "no longer requires field"
            };
            self.report("MESSAGE_SAME_REQUIRED_FIELDS", name, format!("{text} {number}"));
        }
        if self.removals {
            let ranges = |proto: &[RangeProto]| ranges(proto, 0);
            let (was, is) = (
                ranges(&old.proto.reserved_range),
                ranges(&new.proto.reserved_range),
            );
            self.reserved(
                "RESERVED_MESSAGE_NO_DELETE",
                name,
                &was,
                &is,
                &old.proto.reserved_name,
                &new.proto.reserved_name,
            );
        }
        for (number, field) in &old.fields {
            let element = format!("{name}.{}", field.name.as_deref().unwrap_or_default());
            match new.fields.get(number) {
                Some(next) => self.field(&element, old.field(field), new.field(next)),
                None if self.removals => self.removed(&element, *number, field, new),
                None => {}
            }
        }
        if self.strict() && self.removals {
            let real = |message: &DeclaredMessage<'_>| -> BTreeSet<String> {
                message
                    .fields
                    .values()
                    .filter_map(|field| message.oneof(field))
                    .map(str::to_owned)
                    .collect()
            };
            for gone in real(old).difference(&real(new)) {
                self.report("ONEOF_NO_DELETE", format!("{name}.{gone}"), "is gone");
            }
        }
    }

    fn removed(&mut self, element: &str, number: i32, field: &FieldProto, new: &DeclaredMessage<'_>) {
        if self.strict() {
            self.report("FIELD_NO_DELETE", element, "is gone");
            return;
        }
        if !covers(&ranges(&new.proto.reserved_range, 0), (number, number)) {
            let text = format!("is gone and its number {number} is not reserved");
            self.report("FIELD_NO_DELETE_UNLESS_NUMBER_RESERVED", element, text);
        }
        let name = field.name.as_deref().unwrap_or_default();
        if self.json() && !new.proto.reserved_name.iter().any(|reserved| reserved == name) {
            let text = "is gone and its name is not reserved";
            self.report("FIELD_NO_DELETE_UNLESS_NAME_RESERVED", element, text);
        }
    }

    fn field(&mut self, element: &str, was: DeclaredField<'a>, is: DeclaredField<'a>) {
        let (old, new) = (was.proto, is.proto);
        let (type_rule, cardinality_rule) = match self.profile {
            Profile::Wire => ("FIELD_WIRE_COMPATIBLE_TYPE", "FIELD_WIRE_COMPATIBLE_CARDINALITY"),
            Profile::WireJson => (
                "FIELD_WIRE_JSON_COMPATIBLE_TYPE",
                "FIELD_WIRE_JSON_COMPATIBLE_CARDINALITY",
            ),
            // `confluent` has rules of its own.
            Profile::Strict | Profile::Confluent => ("FIELD_SAME_TYPE", "FIELD_SAME_CARDINALITY"),
        };
        if !self.types_fit(was, is) {
            self.report(
                type_rule,
                element,
                format!("changed from {} to {}", type_name(old), type_name(new)),
            );
        }
        let (often, now) = (self.cardinality(self.old, was), self.cardinality(self.new, is));
        if often != now {
            self.report(
                cardinality_rule,
                element,
                format!("changed from {often} to {now}"),
            );
        }
        if was.oneof != is.oneof {
            let place =
                |oneof: Option<&str>| oneof.map_or("no oneof".to_owned(), |name| format!("oneof {name}"));
            let text = format!("moved from {} to {}", place(was.oneof), place(is.oneof));
            self.report("FIELD_SAME_ONEOF", element, text);
        }
        if let (Some(was), Some(is)) = (Absent::of(self.old, old), Absent::of(self.new, new))
            && was != is
            && !(was.is_zero() && is.is_zero())
        {
            self.report("FIELD_SAME_DEFAULT", element, "has another default");
        }
        if self.json() && old.extendee.is_none() {
            if old.name != new.name {
                let text = format!("is now called {}", new.name.as_deref().unwrap_or_default());
                self.report("FIELD_SAME_NAME", element, text);
            }
            if old.json_name != new.json_name {
                let text = format!(
                    "is now {:?} in JSON",
                    new.json_name.as_deref().unwrap_or_default()
                );
                self.report("FIELD_SAME_JSON_NAME", element, text);
            }
        }
    }

    /// How often, as far as the profile tells apart.
    fn cardinality(&self, set: &Declared<'_>, declared: DeclaredField<'_>) -> &'static str {
        if declared.is_required() {
            return "required";
        }
        let field = declared.proto;
        match field.label {
            Some(3) if self.json() && set.is_map(field) => "map",
            Some(3) => "repeated",
            _ if self.strict() && field.proto3_optional == Some(true) => "explicitly optional",
            _ => "optional",
        }
    }

    fn types_fit(&self, was: DeclaredField<'a>, is: DeclaredField<'a>) -> bool {
        let (old, new) = (was.proto, is.proto);
        let (was, is) = (was.kind(self.old), is.kind(self.new));
        match (was, is) {
            (14, 14) if self.strict() => old.type_name == new.type_name,
            (14, 14) => self.enums_fit(old, new),
            (GROUP, GROUP) | (MESSAGE, MESSAGE) => old.type_name == new.type_name,
            _ if was == is => true,
            _ => match self.profile {
                Profile::Strict | Profile::Confluent => false,
                Profile::WireJson => {
                    family(was, &JSON_FAMILIES).is_some_and(|one| family(is, &JSON_FAMILIES) == Some(one))
                }
                // A string is bytes; bytes need not be a string.
                Profile::Wire => {
                    (was, is) == (9, 12)
                        || family(was, &WIRE_FAMILIES)
                            .is_some_and(|one| family(is, &WIRE_FAMILIES) == Some(one))
                }
            },
        }
    }

    /// Another enum will do if it has the same short name and every value of the old one.
    fn enums_fit(&self, old: &FieldProto, new: &FieldProto) -> bool {
        if old.type_name == new.type_name {
            return true;
        }
        let find = |set: &'a Declared<'a>, field: &FieldProto| {
            field
                .type_name
                .as_deref()
                .and_then(|name| set.enums.get(name.strip_prefix('.')?))
        };
        let (Some(was), Some(is)) = (find(self.old, old), find(self.new, new)) else {
            return false;
        };
        let pairs = |declared: &DeclaredEnum<'a>| -> BTreeSet<(i32, &'a str)> {
            let values = declared.values.iter();
            values
                .flat_map(|(number, names)| names.iter().map(move |name| (*number, *name)))
                .collect()
        };
        was.proto.name == is.proto.name && pairs(was).is_subset(&pairs(is))
    }

    fn enumeration(&mut self, name: &str, old: &DeclaredEnum<'_>, new: &DeclaredEnum<'_>) {
        if self.json() && old.features.json_allowed && !new.features.json_allowed {
            self.report("ENUM_SAME_JSON_FORMAT", name, "no longer promises a JSON form");
        }
        if self.strict() && old.features.closed_enum != new.features.closed_enum {
            self.report("ENUM_SAME_TYPE", name, "changed between open and closed");
        }
        let reserved = ranges(&new.proto.reserved_range, 1);
        if self.removals {
            let was = ranges(&old.proto.reserved_range, 1);
            let (names, next) = (&old.proto.reserved_name, &new.proto.reserved_name);
            self.reserved("RESERVED_ENUM_NO_DELETE", name, &was, &reserved, names, next);
        }
        for (number, names) in &old.values {
            let element = format!("{name}.{}", names.join("/"));
            match new.values.get(number) {
                Some(next) if self.json() && !names.iter().all(|name| next.contains(name)) => {
                    self.report(
                        "ENUM_VALUE_SAME_NAME",
                        element,
                        format!("is now called {}", next.join("/")),
                    );
                }
                None if self.strict() && self.removals => {
                    self.report("ENUM_VALUE_NO_DELETE", element, "is gone")
                }
                None if self.removals => {
                    if !covers(&reserved, (*number, *number)) {
                        let text = format!("is gone and its number {number} is not reserved");
                        self.report(
                            "ENUM_VALUE_NO_DELETE_UNLESS_NUMBER_RESERVED",
                            element.clone(),
                            text,
                        );
                    }
                    let kept = |name: &&str| new.proto.reserved_name.iter().any(|reserved| reserved == name);
                    if self.json() && !names.iter().all(kept) {
                        let text = "is gone and its name is not reserved";
                        self.report("ENUM_VALUE_NO_DELETE_UNLESS_NAME_RESERVED", element, text);
                    }
                }
                Some(_) | None => {}
            }
        }
    }

    /// What was reserved stays so.
    fn reserved(
        &mut self,
        rule: &'static str,
        element: &str,
        was: &BTreeMap<i32, i32>,
        is: &BTreeMap<i32, i32>,
        names: &[String],
        new_names: &[String],
    ) {
        for (&start, &end) in was.iter().filter(|(start, end)| !covers(is, (**start, **end))) {
            self.report(rule, element, format!("no longer reserves {start} to {end}"));
        }
        for name in names.iter().filter(|name| !new_names.contains(name)) {
            self.report(rule, element, format!("no longer reserves the name {name}"));
        }
    }
}

/// Types that read each other's bytes: int32, int64, uint32, uint64, bool; sint; fixed32; fixed64.
const WIRE_FAMILIES: [&[i32]; 4] = [&[3, 4, 5, 8, 13], &[17, 18], &[7, 15], &[6, 16]];
/// Types that read each other's bytes and JSON.
const JSON_FAMILIES: [&[i32]; 4] = [&[5, 13], &[3, 4], &[7, 15], &[6, 16]];

fn family(kind: i32, families: &[&[i32]]) -> Option<usize> {
    families.iter().position(|family| family.contains(&kind))
}

/// Reserved ranges as first to last, overlapping and adjacent ones joined. `inclusive`: 1 when the end belongs to it.
fn ranges(protos: &[RangeProto], inclusive: i32) -> BTreeMap<i32, i32> {
    let ends = protos.iter().map(|range| {
        let end = range.end.unwrap_or_default().saturating_sub(1 - inclusive);
        (range.start.unwrap_or_default(), end)
    });
    let mut sorted: Vec<(i32, i32)> = ends.collect();
    sorted.sort_unstable();
    let mut joined: BTreeMap<i32, i32> = BTreeMap::new();
    for (start, end) in sorted {
        match joined.last_entry() {
            Some(mut last) if start <= last.get().saturating_add(1) => {
                let end = end.max(*last.get());
                last.insert(end);
            }
            _ => {
                joined.insert(start, end);
            }
        }
    }
    joined
}

fn covers(ranges: &BTreeMap<i32, i32>, (start, end): (i32, i32)) -> bool {
    ranges
        .range(..=start)
        .next_back()
        .is_some_and(|(_, last)| end <= *last)
}

/// What an absent field stands for. A boolean and an enum count as their numbers.
#[derive(Debug)]
enum Absent<'a> {
    Whole(i128),
    Real(f64),
    Text(&'a str),
}

impl<'a> Absent<'a> {
    /// `None` where nothing stands for an absent field: of lists and messages.
    fn of(set: &Declared<'_>, field: &'a FieldProto) -> Option<Self> {
        let given = field.default_value.as_deref();
        let kind = field.r#type.unwrap_or_default();
        if field.label == Some(3) {
            return None;
        }
        Some(match kind {
            GROUP | MESSAGE => return None,
            1 | 2 => Self::Real(given.unwrap_or("0").parse().unwrap_or(f64::NAN)),
            8 => Self::Whole(i128::from(given == Some("true"))),
            9 | 12 => Self::Text(given.unwrap_or_default()),
            14 => {
                let name = field.type_name.as_deref().unwrap_or_default();
                let declared = set.enums.get(name.trim_start_matches('.'))?;
                let mut values = declared.proto.value.iter();
                let value = match given {
                    Some(given) => values.find(|value| value.name.as_deref() == Some(given)),
                    None => values.next(),
                };
                Self::Whole(value?.number.unwrap_or_default().into())
            }
            _ => Self::Whole(given.unwrap_or("0").parse().ok()?),
        })
    }

    fn is_zero(&self) -> bool {
        match *self {
            Self::Whole(number) => number == 0,
            Self::Real(number) => number == 0.0,
            Self::Text(text) => text.is_empty(),
        }
    }
}

impl PartialEq for Absent<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Whole(a), Self::Whole(b)) => a == b,
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Real(a), Self::Real(b)) => a == b || a.is_nan() && b.is_nan(),
            (Self::Whole(whole), Self::Real(real)) | (Self::Real(real), Self::Whole(whole)) => {
                *real == *whole as f64
            }
            (Self::Text(_), _) | (_, Self::Text(_)) => false,
        }
    }
}

fn type_name(field: &FieldProto) -> String {
    const NAMES: [&str; 19] = [
        "?", "double", "float", "int64", "uint64", "int32", "fixed64", "fixed32", "bool", "string", "group",
        "message", "bytes", "uint32", "enum", "sfixed32", "sfixed64", "sint32", "sint64",
    ];
    let name = usize::try_from(field.r#type.unwrap_or_default())
        .ok()
        .and_then(|kind| NAMES.get(kind));
    match field.type_name.as_deref() {
        Some(named) => named.trim_start_matches('.').to_owned(),
        None => (*name.unwrap_or(&"?")).to_owned(),
    }
}
