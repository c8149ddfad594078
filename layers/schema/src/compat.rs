//! Whether one revision of a schema can follow another: what a change breaks, by the rule names of `buf breaking`.
//!
//! A consumer that was built with one revision must read what was written with the other. [`Profile`] says what counts as
//! reading; [`Compatibility`] says which way, and how far back.

mod confluent;
mod declared;
mod rules;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use self::{declared::Declared, rules::Judge};
use crate::{config::UnknownName, descriptors::Descriptors};

/// What a change must leave readable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Profile {
    /// The binary format: buf's category `WIRE`.
    Wire,
    /// The binary format and JSON: buf's category `WIRE_JSON`.
    #[default]
    WireJson,
    /// Nothing declared is removed, renamed or retyped: what generated code of both revisions agrees on.
    Strict,
    /// What Confluent's Schema Registry lets pass: fields may go and come without a word, messages may not. Rules are its names
    /// of differences.
    Confluent,
}

/// Which older revisions a new one is compared with, and in which direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Compatibility {
    /// Nothing is compared.
    None,
    /// A reader with the new revision reads what the last one wrote.
    #[default]
    Backward,
    /// As `Backward`, for every older revision.
    BackwardTransitive,
    /// A reader with the last revision reads what the new one writes.
    Forward,
    /// As `Forward`, for every older revision.
    ForwardTransitive,
    /// Both directions.
    Full,
    /// Both directions, for every older revision.
    FullTransitive,
}

/// One thing a change breaks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Break {
    /// The rule, as buf names it: `FIELD_WIRE_COMPATIBLE_TYPE`.
    pub rule: &'static str,
    /// The element of the older revision: `events.v1.UserCreated.user_id`.
    pub element: String,
    /// What happened to it.
    pub message: String,
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.element, self.message, self.rule)
    }
}

/// What changing `old` into `new` breaks for a reader of `new` that is given what `old` wrote; sorted.
#[must_use]
pub fn compare(profile: Profile, old: &Descriptors, new: &Descriptors) -> Vec<Break> {
    judge(profile, old, new, true)
}

fn judge(profile: Profile, old: &Descriptors, new: &Descriptors, removals: bool) -> Vec<Break> {
    let (old, new) = (Declared::new(&old.set), Declared::new(&new.set));
    let mut found = if profile == Profile::Confluent {
        confluent::judge(&old, &new)
    } else {
        let mut judge = Judge::new(profile, &old, &new, removals);
        judge.run();
        judge.found
    };
    found.sort();
    found.dedup();
    found
}

impl Compatibility {
    const ALL: [Self; 7] = [
        Self::None,
        Self::Backward,
        Self::BackwardTransitive,
        Self::Forward,
        Self::ForwardTransitive,
        Self::Full,
        Self::FullTransitive,
    ];

    /// `NONE`, `BACKWARD`, `BACKWARD_TRANSITIVE` and so on.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Backward => "BACKWARD",
            Self::BackwardTransitive => "BACKWARD_TRANSITIVE",
            Self::Forward => "FORWARD",
            Self::ForwardTransitive => "FORWARD_TRANSITIVE",
            Self::Full => "FULL",
            Self::FullTransitive => "FULL_TRANSITIVE",
        }
    }

    /// What `new` breaks, given the older revisions, the oldest first.
    ///
    /// Backwards, a removed field must leave its number (and name, where JSON is read) reserved. Forwards, what is new in
    /// `new` is unknown to the old reader, which skips it: additions are fine, changes are judged the other way round.
    #[must_use]
    pub fn check<'a>(
        self,
        profile: Profile,
        older: impl DoubleEndedIterator<Item = &'a Descriptors>,
        new: &Descriptors,
    ) -> Vec<Break> {
        let (backward, forward, transitive) = match self {
            Self::None => return Vec::new(),
            Self::Backward => (true, false, false),
            Self::BackwardTransitive => (true, false, true),
            Self::Forward => (false, true, false),
            Self::ForwardTransitive => (false, true, true),
            Self::Full => (true, true, false),
            Self::FullTransitive => (true, true, true),
        };
        let mut found = Vec::new();
        for old in older.rev().take(if transitive { usize::MAX } else { 1 }) {
            if backward {
                found.extend(judge(profile, old, new, true));
            }
            if forward {
                found.extend(judge(profile, new, old, false));
            }
        }
        found.sort();
        found.dedup();
        found
    }
}

impl FromStr for Compatibility {
    type Err = UnknownName;

    /// Case does not matter, and `-` stands for `_`.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let name = name.replace('-', "_");
        let found = Self::ALL
            .into_iter()
            .find(|mode| mode.as_str().eq_ignore_ascii_case(&name));
        found.ok_or(UnknownName(
            "NONE, BACKWARD, FORWARD or FULL, the last three also with _TRANSITIVE",
        ))
    }
}

impl fmt::Display for Compatibility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Profile {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "wire" => Ok(Self::Wire),
            "wire_json" => Ok(Self::WireJson),
            "strict" => Ok(Self::Strict),
            "confluent" => Ok(Self::Confluent),
            _ => Err(UnknownName("wire, wire_json, strict or confluent")),
        }
    }
}
