//! Why a descriptor set, a mapping or a configuration is refused.

use std::{fmt, io, path::PathBuf};

use crate::compat::Break;

/// A descriptor set that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file could not be read.
    #[error("cannot read {}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The gzip stream is broken, or something follows it.
    #[error("not one whole gzip stream: {0}")]
    Gzip(String),
    /// A cap is exceeded.
    #[error("too large: more than {limit} {what}")]
    TooLarge {
        /// What is counted.
        what: &'static str,
        /// The most there may be.
        limit: usize,
    },
    /// The bytes are not a `FileDescriptorSet`.
    #[error("{0}")]
    Decode(String),
    /// A syntax or an edition this version does not know.
    #[error("{file}: {syntax:?} is not supported: use proto2, proto3, edition 2023 or 2024")]
    Syntax {
        /// The file inside the set.
        file: String,
        /// What it declares.
        syntax: String,
    },
    /// An element of the set that no Protobuf compiler would have written.
    #[error("{element} {problem}")]
    Invalid {
        /// The file, message, field or enum.
        element: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A `.proto` source does not compile.
    #[error("{0}")]
    Compile(String),
    /// No `message` was named, and the last file has none or several.
    #[error("name the message: the set's last file has {}", listed(.candidates))]
    NoRoot {
        /// The top-level messages of the last file.
        candidates: Vec<String>,
    },
    /// The message is not in the set.
    #[error("the set has no message {message:?}; it has {}", listed(.known))]
    NoMessage {
        /// The name that was asked for.
        message: String,
        /// Names that are in the set, the first few.
        known: Vec<String>,
    },
    /// A `required` path that does not exist in the message.
    #[error("required path {path:?}: {problem}")]
    Required {
        /// The path.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A `buf.validate` rule that cannot be checked: CEL, a bad pattern, a rule of another type.
    #[error("level \"rules\": {element} {problem}")]
    Rule {
        /// The message or field.
        element: String,
        /// What is wrong with its rules.
        problem: String,
    },
    /// A library panicked while it read the set.
    #[error("the set broke the loader; it is refused")]
    Panicked,
}

/// The first few, and how many follow.
fn listed(items: &[impl fmt::Display]) -> String {
    let shown: Vec<String> = items.iter().take(20).map(ToString::to_string).collect();
    match items.len() {
        0 => "none".to_owned(),
        1..=20 => shown.join(", "),
        all => format!("{} and {} more", shown.join(", "), all - shown.len()),
    }
}

/// One thing wrong with the configuration: the key, the value and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where, below `[platform.registry]`: `mappings[2].level`.
    pub key: String,
    /// The value found there.
    pub value: String,
    /// What is wrong and what to write instead.
    pub fix: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {:?}: {}", self.key, self.value, self.fix)
    }
}

/// Everything wrong with a configuration, at once.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct ConfigError(pub Vec<Finding>);

/// Why a change of the registry changed nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The schema id is not a legal one.
    #[error("{0:?} is not a schema id: use tokens of A-Z a-z 0-9 _ - joined by dots")]
    Id(String),
    /// The set cannot be loaded.
    #[error("schema {id} revision {revision}: {cause}")]
    Load {
        /// The schema id.
        id: String,
        /// The refused revision.
        revision: u64,
        /// Why.
        cause: LoadError,
    },
    /// The set loads, but a mapping does not fit it.
    #[error("schema {id} revision {revision} does not fit mapping {subject}: {cause}")]
    Mapping {
        /// The schema id.
        id: String,
        /// The refused revision.
        revision: u64,
        /// The subject pattern of the mapping.
        subject: String,
        /// Why.
        cause: LoadError,
    },
    /// The update breaks who reads with, or wrote with, the revision in use.
    #[error("schema {id}: revision {revision} is not compatible with revision {in_force} in use: {}", listed(.breaks))]
    Incompatible {
        /// The schema id.
        id: String,
        /// The refused revision.
        revision: u64,
        /// The revision in use.
        in_force: u64,
        /// What it breaks.
        breaks: Vec<Break>,
    },
    /// The revision is below the one in use.
    #[error(
        "schema {id}: revision {revision} is not above revision {current} in use, and says something else; nothing is changed"
    )]
    Regression {
        /// The schema id.
        id: String,
        /// The refused revision.
        revision: u64,
        /// The revision in use.
        current: u64,
    },
    /// A full listing lacks schemas that are in use, and tells no deletion; they stay.
    #[error("the store has lost {kept} schemas that are in use; they stay")]
    Emptied {
        /// How many schemas stay.
        kept: usize,
    },
    /// More schemas than [`SCHEMAS_MAX`](crate::SCHEMAS_MAX).
    #[error("more than {0} schemas")]
    TooMany(usize),
    /// More schemas of one tenant than [`TENANT_SCHEMAS_MAX`](crate::TENANT_SCHEMAS_MAX).
    #[error("more than {0} schemas of one tenant")]
    TooManyOfTenant(usize),
    /// The store has not kept the pinned revision.
    #[error("schema {id}: the store has no revision {revision}, which is pinned")]
    PinNotThere {
        /// The schema id.
        id: String,
        /// The pinned revision.
        revision: u64,
    },
    /// The background worker went away.
    #[error("the compiler task was cancelled")]
    Cancelled,
}

/// Why a store stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A folder or file could not be read.
    #[error("cannot read {}: {cause}", path.display())]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// A file of copies that is none, or is damaged.
    #[error("{} is no file of schema copies, or is damaged: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Some schemas are refused; the others are in use.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Refused(Vec<ApplyError>),
}
