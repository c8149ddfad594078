//! Edition features, resolved: what `syntax` or `edition` and the options on the way down say about one element.

use crate::{
    descriptor::{FeatureProto, FileProto},
    error::LoadError,
};

/// The resolved features of one element. Children start from their parent's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Features {
    pub(crate) presence: Presence,
    /// Unknown numbers of a closed enum count as unknown fields.
    pub(crate) closed_enum: bool,
    pub(crate) packed: bool,
    pub(crate) utf8: bool,
    /// Messages are encoded as groups.
    pub(crate) delimited: bool,
    pub(crate) json_allowed: bool,
}

/// `FeatureSet.FieldPresence`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    Explicit,
    Implicit,
    LegacyRequired,
}

const PROTO2: Features = Features {
    presence: Presence::Explicit,
    closed_enum: true,
    packed: false,
    utf8: false,
    delimited: false,
    json_allowed: false,
};
const PROTO3: Features = Features {
    presence: Presence::Implicit,
    closed_enum: false,
    packed: true,
    utf8: true,
    delimited: false,
    json_allowed: true,
};
const EDITION: Features = Features {
    presence: Presence::Explicit,
    ..PROTO3
};

impl Features {
    /// The features of a file.
    ///
    /// # Errors
    ///
    /// The file's syntax or edition is not one of proto2, proto3, 2023 and 2024. This check comes before anything else
    /// looks at the set: prost-reflect 0.16 panics on such a file.
    pub(crate) fn of_file(file: &FileProto) -> Result<Self, LoadError> {
        let name = file.name.as_deref().unwrap_or_default();
        let base = match (file.syntax.as_deref().unwrap_or_default(), file.edition) {
            ("" | "proto2", None | Some(0 | 998)) => PROTO2,
            ("proto3", None | Some(0 | 999)) => PROTO3,
            ("editions", Some(1000 | 1001)) => EDITION,
            ("editions", edition) => {
                return Err(LoadError::Syntax {
                    file: name.to_owned(),
                    syntax: format!("edition {}", edition.unwrap_or_default()),
                });
            }
            (other, _) => {
                return Err(LoadError::Syntax {
                    file: name.to_owned(),
                    syntax: other.to_owned(),
                });
            }
        };
        Ok(base.with(
            file.options
                .as_ref()
                .and_then(|options| options.features.as_ref()),
        ))
    }

    /// These features with an element's own on top; values this crate does not know leave the inherited one.
    pub(crate) fn with(mut self, own: Option<&FeatureProto>) -> Self {
        let Some(own) = own else { return self };
        match own.field_presence {
            Some(1) => self.presence = Presence::Explicit,
            Some(2) => self.presence = Presence::Implicit,
            Some(3) => self.presence = Presence::LegacyRequired,
            _ => {}
        }
        set(&mut self.closed_enum, own.enum_type, 2, 1);
        set(&mut self.packed, own.repeated_field_encoding, 1, 2);
        set(&mut self.utf8, own.utf8_validation, 2, 3);
        set(&mut self.delimited, own.message_encoding, 2, 1);
        set(&mut self.json_allowed, own.json_format, 1, 2);
        self
    }
}

fn set(feature: &mut bool, value: Option<i32>, yes: i32, no: i32) {
    if value == Some(yes) {
        *feature = true;
    } else if value == Some(no) {
        *feature = false;
    }
}
