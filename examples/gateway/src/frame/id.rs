//! What a client calls its frame by.

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// The id of a frame as it was written, so that the answer has the same: a number has no border then.
#[derive(Clone, Debug, Default)]
pub(crate) enum FrameId {
    /// There is none, or the frame could not be read.
    #[default]
    None,
    /// A string or a number, as its JSON text.
    Json(Box<RawValue>),
    /// A string.
    Text(String),
}

impl FrameId {
    /// What stands at `id` in a frame of JSON.
    ///
    /// # Errors
    /// When it is neither a string nor a number.
    pub(super) fn of_json(text: Option<&RawValue>) -> Result<Self, &'static str> {
        let Some(text) = text else { return Ok(Self::None) };
        match text.get().as_bytes().first() {
            Some(b'"' | b'-' | b'0'..=b'9') => Ok(Self::Json(text.to_owned())),
            _ => Err("`id` has to be a string or a number"),
        }
    }

    /// What an answer in binary is given.
    pub(super) fn into_text(self) -> Option<String> {
        match self {
            Self::None => None,
            Self::Json(text) => Some(text.get().to_owned()),
            Self::Text(text) => Some(text),
        }
    }
}

impl Serialize for FrameId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => serializer.serialize_unit(),
            Self::Json(text) => text.serialize(serializer),
            Self::Text(text) => serializer.serialize_str(text),
        }
    }
}
