//! The subject of a message.

pub(crate) mod layer;
pub(crate) mod pattern;
pub(crate) mod trie;

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize, Serializer};

use crate::{Code, Problem, TenantId};

/// The longest subject, in bytes.
pub const SUBJECT_BYTES_MAX: usize = 1_024;

/// A subject up to here is put together on the stack.
const SHORT_BYTES: usize = 128;

/// Where a tenant's messages live: `in.t.<tenant>.<suffix>`.
const TENANT_PREFIX: &str = "in.t.";
/// Where mirrored messages live: `shadow.<subject>`.
const SHADOW_PREFIX: &str = "shadow.";

/// A valid NATS subject without wildcards; canonically `in.t.<tenant>.<suffix>` (DESIGN 4).
///
/// It is the only way to a subject: no code formats one by hand, so none can leave its tenant. Cloning is a reference
/// count.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Subject(Arc<str>);

impl Subject {
    /// Takes a whole subject: tokens of visible characters joined by `.`, without `*` and `>`.
    ///
    /// # Errors
    /// When it is empty or longer than [`SUBJECT_BYTES_MAX`], has an empty token, or a character that a subject cannot
    /// have (white space, control characters, wildcards).
    pub fn parse(text: impl AsRef<str>) -> Result<Self, InvalidSubject> {
        let text = text.as_ref();
        check(text, |c| c == '*' || c == '>')?;
        Ok(Self(text.into()))
    }

    /// The subject `in.t.<tenant>.<suffix>`. Different tenants or suffixes always give different subjects, and none
    /// matches a filter that is bound to another tenant.
    ///
    /// # Errors
    /// As [`Subject::parse`], for the suffix.
    pub fn for_tenant(tenant: &TenantId, suffix: impl AsRef<str>) -> Result<Self, InvalidSubject> {
        let suffix = suffix.as_ref();
        if suffix.is_empty() {
            return Err(InvalidSubject::new("", Fault::Empty));
        }
        let parts = [TENANT_PREFIX, tenant.as_str(), ".", suffix];
        let length = parts.iter().map(|part| part.len()).sum();
        let mut short = [0; SHORT_BYTES];
        let Some(text) = short.get_mut(..length) else {
            return Self::parse(parts.concat());
        };
        let mut at = 0;
        for part in parts {
            text[at..at + part.len()].copy_from_slice(part.as_bytes());
            at += part.len();
        }
        Self::parse(std::str::from_utf8(text).expect("what is made of texts is text"))
    }

    /// The whole subject.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its tokens, from the left.
    pub fn tokens(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }

    /// The tenant in a canonical subject.
    #[must_use]
    pub fn tenant(&self) -> Option<&str> {
        self.canonical().map(|(tenant, _)| tenant)
    }

    /// What follows the tenant in a canonical subject.
    #[must_use]
    pub fn suffix(&self) -> Option<&str> {
        self.canonical().map(|(_, suffix)| suffix)
    }

    fn canonical(&self) -> Option<(&str, &str)> {
        self.0.strip_prefix(TENANT_PREFIX)?.split_once('.')
    }

    /// Whether this is the subject of a mirrored message.
    #[must_use]
    pub fn is_shadow(&self) -> bool {
        self.0.starts_with(SHADOW_PREFIX)
    }

    /// The subject of this one's mirrored messages: `shadow.<subject>`. A shadow subject stays as it is.
    #[must_use]
    pub fn shadow(&self) -> Self {
        if self.is_shadow() {
            self.clone()
        } else {
            Self([SHADOW_PREFIX, &self.0].concat().into())
        }
    }
}

/// Checks what subjects and patterns have in common.
fn check(text: &str, refused: impl Fn(char) -> bool) -> Result<(), InvalidSubject> {
    if text.is_empty() {
        return Err(InvalidSubject::new(text, Fault::Empty));
    }
    if text.len() > SUBJECT_BYTES_MAX {
        return Err(InvalidSubject::new(text, Fault::Long));
    }
    if text.starts_with('.') || text.ends_with('.') || text.contains("..") {
        return Err(InvalidSubject::new(text, Fault::EmptyToken));
    }
    // What most subjects are made of; `*` and `>` are none of it.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if text.bytes().all(plain) {
        return Ok(());
    }
    match text
        .chars()
        .find(|&c| c.is_whitespace() || c.is_control() || is_invisible(c) || refused(c))
    {
        Some(c) => Err(InvalidSubject::new(text, Fault::Character(c))),
        None => Ok(()),
    }
}

/// Zero-width and bidirectional characters, which make two subjects look like one.
const fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Text that cannot be a subject.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("subject {text:?} {fault}")]
pub struct InvalidSubject {
    text: String,
    fault: Fault,
}

impl InvalidSubject {
    fn new(text: &str, fault: Fault) -> Self {
        Self {
            text: text.chars().take(80).collect(),
            fault,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Fault {
    #[error("is empty")]
    Empty,
    #[error("is longer than {SUBJECT_BYTES_MAX} bytes")]
    Long,
    #[error("has an empty token: tokens are joined by single dots")]
    EmptyToken,
    #[error("has the character {0:?}, which a subject cannot have")]
    Character(char),
}

impl From<InvalidSubject> for Problem {
    fn from(error: InvalidSubject) -> Self {
        Self::new(Code::SubjectInvalid, error.to_string())
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// As its text.
impl Serialize for Subject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl FromStr for Subject {
    type Err = InvalidSubject;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Subject {
    type Error = InvalidSubject;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(text)
    }
}

impl From<Subject> for String {
    fn from(subject: Subject) -> Self {
        subject.0.as_ref().into()
    }
}

#[cfg(test)]
mod tests;
