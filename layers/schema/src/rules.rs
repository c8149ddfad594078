//! The standard rules of buf.validate, compiled once and checked natively.
//!
//! Rule ids, field paths and messages are protovalidate's (v1.2): `string.min_len`, `must be at least 3 characters`. A
//! [`Rule`] judges one value; how many values there are, whether they differ and which fields exclude each other is
//! [`FieldRules`] and [`Group`]. What is written in CEL is refused when a mapping is loaded, never skipped (ADR 0033).

mod compile;
mod format;
mod known;
mod pattern;
mod range;
mod read;
mod text;
mod types;
mod uri;

use std::borrow::Cow;

pub(crate) use self::{
    compile::{Compiled, Compiler},
    known::scalar,
    read::element,
};
use self::{
    known::{Mask, Moment, Urls},
    range::Range,
    text::{BytesRules, TextRules},
};
use crate::table::{Enum, Kind, Table};

/// What a value must keep.
#[derive(Debug)]
pub(crate) struct Rule {
    /// The type's zero keeps every rule.
    pub(crate) ignore_zero: bool,
    pub(crate) check: Check,
}

/// The rules of one type.
#[derive(Debug)]
pub(crate) enum Check {
    Integer(&'static str, Box<Range<i128>>),
    Float(&'static str, Box<Range<f64>>, bool),
    Bool(Option<bool>),
    Text(Box<TextRules>),
    Bytes(Box<BytesRules>),
    Enum(Box<Range<i128>>, Option<u32>),
    Any(Box<Urls>),
    Duration(Box<Range<i128>>),
    Timestamp(Box<Moment>),
    Mask(Box<Mask>),
    /// A wrapper such as `StringValue`: the rules of its value.
    Wrapped(Kind, Box<Check>),
}

/// The rules of one field besides those of its values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FieldRules {
    /// The rule of each value: of the field, or of its elements. An index into the plan's rules, or `NONE`.
    pub(crate) value: u32,
    /// How many elements or entries there may be.
    pub(crate) least: u64,
    pub(crate) most: u64,
    pub(crate) unique: bool,
    /// No elements at all are fine whatever `least` is.
    pub(crate) ignore_empty: bool,
    /// A field that does not track presence is judged by its zero when it is not there.
    pub(crate) zero_counts: bool,
    /// Whether its zero keeps the rules.
    pub(crate) zero_keeps: bool,
}

/// Fields of which at most one may be set.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) fields: Vec<u32>,
    /// Exactly one.
    pub(crate) required: bool,
    pub(crate) names: String,
}

/// Where broken rules go.
pub(crate) trait Report {
    /// One is broken; whether the others matter.
    fn broken(&mut self, rule: impl Into<Cow<'static, str>>, message: impl FnOnce() -> String) -> bool;
}

/// Only whether a rule is broken.
#[derive(Debug, Default)]
pub(crate) struct Verdict(pub(crate) bool);

impl Report for Verdict {
    #[inline]
    fn broken(&mut self, _: impl Into<Cow<'static, str>>, _: impl FnOnce() -> String) -> bool {
        self.0 = true;
        false
    }
}

/// One value, as far as rules see it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'a> {
    Integer(i128),
    Float(f64),
    Bool(bool),
    /// The content of a string or of bytes.
    Bytes(&'a [u8]),
    /// The slices that a message merges from.
    Message(&'a [&'a [u8]]),
}

impl Value<'_> {
    /// The zero of a scalar kind; `None`: a message has none.
    pub(crate) fn zero(kind: Kind) -> Option<Self> {
        Some(match kind {
            Kind::Double | Kind::Float => Self::Float(0.0),
            Kind::Bool => Self::Bool(false),
            Kind::String | Kind::Bytes => Self::Bytes(b""),
            Kind::Message(_) | Kind::Group(_) => return None,
            _ => Self::Integer(0),
        })
    }

    fn is_zero(&self) -> bool {
        match self {
            Self::Integer(value) => *value == 0,
            Self::Float(value) => value.to_bits() == 0,
            Self::Bool(value) => !*value,
            Self::Bytes(bytes) => bytes.is_empty(),
            Self::Message(_) => false,
        }
    }
}

impl Rule {
    /// Checks the value; stops early when the report says so.
    pub(crate) fn check(&self, table: &Table, value: Value<'_>, report: &mut impl Report) {
        if !(self.ignore_zero && value.is_zero()) {
            self.check.value(table, value, report);
        }
    }

    /// Whether the value keeps every rule.
    #[inline]
    pub(crate) fn keeps(&self, table: &Table, value: Value<'_>) -> bool {
        let mut verdict = Verdict::default();
        self.check(table, value, &mut verdict);
        !verdict.0
    }
}

impl Check {
    fn value(&self, table: &Table, value: Value<'_>, report: &mut impl Report) {
        match (self, value) {
            (Self::Integer(name, range), Value::Integer(value)) => range.check(name, value, report),
            (Self::Float(name, range, finite), Value::Float(value)) => {
                range.check(name, value, report);
                if *finite && !value.is_finite() {
                    report.broken(format!("{name}.finite"), || "must be finite".to_owned());
                }
            }
            (Self::Bool(Some(wanted)), Value::Bool(value)) if value != *wanted => {
                report.broken("bool.const", || format!("must equal {wanted}"));
            }
            (Self::Text(rules), Value::Bytes(text)) => rules.check(text, report),
            (Self::Bytes(rules), Value::Bytes(bytes)) => rules.check(bytes, report),
            (Self::Enum(range, declared), Value::Integer(value)) => {
                let known = declared.is_none_or(|at| knows(&table.enums[at as usize], value));
                if !known
                    && !report.broken("enum.defined_only", || {
                        "value must be one of the defined enum values".to_owned()
                    })
                {
                    return;
                }
                range.check("enum", value, report);
            }
            (Self::Any(urls), Value::Message(slices)) => urls.check(slices, report),
            (Self::Duration(range), Value::Message(slices)) => {
                range.check("duration", known::nanoseconds(slices), report);
            }
            (Self::Timestamp(moment), Value::Message(slices)) => moment.check(slices, report),
            (Self::Mask(mask), Value::Message(slices)) => mask.check(slices, report),
            (Self::Wrapped(kind, check), Value::Message(slices)) => {
                if let Some(value) = known::wrapped(*kind, slices) {
                    check.value(table, value, report);
                }
            }
            // The compiler matches rules to types.
            _ => {}
        }
    }
}

fn knows(declared: &Enum, value: i128) -> bool {
    i32::try_from(value).is_ok_and(|value| declared.knows(value))
}
