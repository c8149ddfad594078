//! What a payload did wrong, and the names of the rules.

use std::{borrow::Cow, fmt};

use arqon_message::Violation;

use crate::path::Path;

/// Most violations one answer names.
pub const VIOLATIONS_MAX: usize = 16;

/// The rule names, as they stand in a [`Violation`]. They do not change; new ones may come.
pub mod rule {
    /// The bytes end inside a tag, a value or a length.
    pub const WIRE_TRUNCATED: &str = "wire.truncated";
    /// A varint of more than ten bytes or 64 bits.
    pub const WIRE_VARINT: &str = "wire.varint";
    /// A tag of more than five bytes, an illegal field number, or wire type 6 or 7.
    pub const WIRE_TAG: &str = "wire.tag";
    /// A length of more than five bytes.
    pub const WIRE_LENGTH: &str = "wire.length";
    /// An end-group tag without its start, of another group, or a group without its end.
    pub const WIRE_GROUP: &str = "wire.group";
    /// More than 100 levels of nesting.
    pub const WIRE_DEPTH: &str = "wire.depth";
    /// A known field in a wire type that its declared type does not have.
    pub const WIRE_TYPE: &str = "wire.type";
    /// A string that is not UTF-8.
    pub const WIRE_UTF8: &str = "wire.utf8";
    /// A packed field whose last element is cut off.
    pub const WIRE_PACKED: &str = "wire.packed";
    /// A field the message does not declare (level `strict`; in JSON at every level).
    pub const UNKNOWN_FIELD: &str = "strict.unknown_field";
    /// A number that a closed enum does not declare (level `strict`).
    pub const CLOSED_ENUM: &str = "strict.closed_enum";
    /// A required field or oneof is missing.
    pub const REQUIRED: &str = "required";
    /// Not JSON.
    pub const JSON_SYNTAX: &str = "json.syntax";
    /// More than 100 levels of nesting.
    pub const JSON_DEPTH: &str = "json.depth";
    /// A value of another JSON type than the field takes.
    pub const JSON_TYPE: &str = "json.type";
    /// A number outside its type's range, or a fraction where an integer belongs.
    pub const JSON_RANGE: &str = "json.range";
    /// A value that is not in the form its type has in JSON: base64, a timestamp, an enum name and so on.
    pub const JSON_FORMAT: &str = "json.format";
    /// A name, a map key, or a field in both its spellings, twice in one object; or two members of one oneof.
    pub const JSON_DUPLICATE: &str = "json.duplicate";
}

/// All violations of one payload, at most [`VIOLATIONS_MAX`], in the order they were met; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violations(Vec<Violation>);

impl Violations {
    pub(crate) fn new(found: Vec<Violation>) -> Self {
        debug_assert!(!found.is_empty(), "no violations is an accepted payload");
        Self(found)
    }

    /// The violations.
    #[must_use]
    pub fn as_slice(&self) -> &[Violation] {
        &self.0
    }

    /// The violations, to be put into a `Problem`.
    #[must_use]
    pub fn into_vec(self) -> Vec<Violation> {
        self.0
    }
}

impl fmt::Display for Violations {
    /// The first violation's text, and how many follow.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.0.first() else {
            return Ok(());
        };
        f.write_str(&first.message)?;
        match self.0.len() {
            1 => Ok(()),
            many => write!(f, " (and {} more)", many - 1),
        }
    }
}

impl std::error::Error for Violations {}

/// Gathers violations up to the cap.
#[derive(Debug, Default)]
pub(crate) struct Findings(Vec<Violation>);

impl Findings {
    pub(crate) fn push(
        &mut self,
        path: &Path<'_>,
        rule: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) {
        if !self.full() {
            let message = message.into().into_owned();
            self.0.push(Violation {
                path: path.to_string(),
                rule: rule.into(),
                message,
            });
        }
    }

    /// A required field is missing: the source's words (S3-18).
    pub(crate) fn missing(&mut self, path: &Path<'_>, what: &str) {
        if !self.full() {
            let message = format!("{what} '{path}' missing");
            self.push(path, rule::REQUIRED, message);
        }
    }

    /// Whether nothing but that rule is broken.
    pub(crate) fn only(&self, rule: &str) -> bool {
        self.0.iter().all(|one| one.rule == rule)
    }

    /// Adds those that are not known yet.
    pub(crate) fn merge(&mut self, others: Self) {
        for one in others.0 {
            if !self.full() && !self.0.contains(&one) {
                self.0.push(one);
            }
        }
    }

    pub(crate) fn full(&self) -> bool {
        self.0.len() >= VIOLATIONS_MAX
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn into_result(self) -> Result<(), Violations> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Violations::new(self.0))
        }
    }
}
