//! A loaded schema: from bytes, a file or `.proto` source to something a [`Validator`] is made from.

use std::{
    fs,
    io::Read,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use flate2::bufread::GzDecoder;
use prost::Message as _;

use crate::{
    config::Level,
    descriptor::FileSet,
    error::LoadError,
    plan::Plan,
    table::{self, Table},
    validator::Validator,
};

/// Largest descriptor set, in bytes after inflating: 1 MiB.
pub const DESCRIPTOR_BYTES_MAX: usize = 1_048_576;

/// A descriptor set, compiled. Cheap to clone.
///
/// ```
/// use arqon_schema::{Descriptors, Level};
///
/// let schema = Descriptors::from_source(
///     "users.proto",
///     r#"syntax = "proto3"; package events.v1; message UserCreated { string user_id = 1; int32 age = 2; }"#,
/// )?;
/// let validator = schema.validator(Some("events.v1.UserCreated"), Level::Strict, &["user_id".to_owned()])?;
/// assert!(validator.validate_wire(b"\x0a\x02u1").is_ok());
/// assert!(validator.validate_json(br#"{"userId": "u1", "age": 5}"#).is_ok());
///
/// let missing = validator.validate_wire(b"\x10\x05").unwrap_err();
/// assert_eq!(missing.to_string(), "field 'user_id' missing");
/// # Ok::<(), arqon_schema::LoadError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Descriptors {
    table: Arc<Table>,
    /// As declared: reserved ranges and JSON names matter to the next revision, not to a payload.
    pub(crate) set: Arc<FileSet>,
}

impl Descriptors {
    /// Loads a `FileDescriptorSet`, plain or as one gzip member.
    ///
    /// # Errors
    ///
    /// [`LoadError`] when the bytes are not a set, exceed a cap ([`DESCRIPTOR_BYTES_MAX`], 5,000 messages, 20,000
    /// fields), or declare what no Protobuf compiler would have written. Never panics, whatever the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, LoadError> {
        let bytes = inflate(bytes)?;
        table::scan(&bytes)?;
        contained(|| {
            let set = FileSet::decode(bytes.as_slice())
                .map_err(|error| LoadError::Decode(format!("not a FileDescriptorSet: {error}")))?;
            if set.file.is_empty() {
                return Err(LoadError::Decode("the FileDescriptorSet has no file".to_owned()));
            }
            Ok(Self {
                table: Arc::new(table::build(&set)?),
                set: Arc::new(set),
            })
        })
    }

    /// Loads a file: `.proto` source (imports are looked up beside it) or a descriptor set, gzipped or plain.
    ///
    /// # Errors
    ///
    /// As [`decode`](Self::decode), and when the file cannot be read or does not compile.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, LoadError> {
        Self::decode(&read_set(path.as_ref())?)
    }

    /// Compiles `.proto` source text that imports nothing but `google/protobuf/*.proto`.
    ///
    /// # Errors
    ///
    /// The source does not compile, or see [`decode`](Self::decode).
    pub fn from_source(name: &str, source: &str) -> Result<Self, LoadError> {
        Self::decode(&crate::source::compile_text(name, source)?)
    }

    /// The full name of every message, in no particular order; map entries included.
    pub fn messages(&self) -> impl Iterator<Item = &str> {
        self.table.messages.iter().map(|message| &*message.name)
    }

    /// The message that is meant when none is named: the only top-level one of the last file.
    ///
    /// # Errors
    ///
    /// [`LoadError::NoRoot`] when there is none, or more than one.
    pub fn root(&self) -> Result<&str, LoadError> {
        let name = |&at: &u32| &*self.table.messages[at as usize].name;
        match self.table.roots.as_slice() {
            [only] => Ok(name(only)),
            many => Err(LoadError::NoRoot {
                candidates: many.iter().take(20).map(|at| name(at).to_owned()).collect(),
            }),
        }
    }

    /// Prepares the check of one message; `None` means [`root`](Self::root).
    ///
    /// # Errors
    ///
    /// The message or a required path is not there, or the level is [`Level::Rules`].
    pub fn validator(
        &self,
        message: Option<&str>,
        level: Level,
        required: &[String],
    ) -> Result<Validator, LoadError> {
        let name = match message {
            Some(name) => name,
            None => self.root()?,
        };
        let root = self.table.message(name).ok_or_else(|| LoadError::NoMessage {
            message: name.to_owned(),
            known: self
                .table
                .messages
                .iter()
                .rev()
                .take(20)
                .map(|message| message.name.to_string())
                .collect(),
        })?;
        contained(|| {
            Ok(Validator::new(Plan::new(
                Arc::clone(&self.table),
                root,
                level,
                required,
            )?))
        })
    }
}

/// Runs foreign code on foreign bytes; a panic is an error.
pub(crate) fn contained<T>(work: impl FnOnce() -> Result<T, LoadError>) -> Result<T, LoadError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(LoadError::Panicked))
}

/// The bytes of the descriptor set that a file holds or compiles to.
pub(crate) fn read_set(path: &Path) -> Result<Vec<u8>, LoadError> {
    if path.extension().is_some_and(|extension| extension == "proto") {
        return crate::source::compile_file(path);
    }
    let unreadable = |cause| LoadError::Io {
        path: path.to_owned(),
        cause,
    };
    let file = fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(DESCRIPTOR_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() > DESCRIPTOR_BYTES_MAX {
        return Err(LoadError::TooLarge {
            what: "bytes",
            limit: DESCRIPTOR_BYTES_MAX,
        });
    }
    Ok(bytes)
}

/// Inflates one gzip member, with its checksum, and nothing after it; other bytes stay as they are.
fn inflate(bytes: &[u8]) -> Result<Vec<u8>, LoadError> {
    let too_large = LoadError::TooLarge {
        what: "bytes",
        limit: DESCRIPTOR_BYTES_MAX,
    };
    if bytes.len() > DESCRIPTOR_BYTES_MAX {
        return Err(too_large);
    }
    // A set starts with the tag of its first file, 0x0a.
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes.to_vec());
    }
    let mut decoder = GzDecoder::new(bytes);
    let mut inflated = Vec::new();
    (&mut decoder)
        .take(DESCRIPTOR_BYTES_MAX as u64 + 1)
        .read_to_end(&mut inflated)
        .map_err(|error| LoadError::Gzip(error.to_string()))?;
    if inflated.len() > DESCRIPTOR_BYTES_MAX {
        return Err(too_large);
    }
    if decoder.into_inner().is_empty() {
        Ok(inflated)
    } else {
        Err(LoadError::Gzip("bytes follow it".to_owned()))
    }
}
