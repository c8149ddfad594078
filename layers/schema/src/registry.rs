//! What changes a [`Registry`](crate::Registry), and what it says of a subject.

mod snapshot;

use std::{fmt, ops::Deref, sync::Arc};

use bytes::Bytes;
use http::HeaderValue;

pub(crate) use self::snapshot::{Outcome, Snapshot, Terms};
use crate::{common::Common, config::Encoding, validator::Validator};

/// One change of the store.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Change {
    /// A schema was written.
    Put(Entry),
    /// A schema was deleted or purged: its subjects are refused with 503 from now on.
    Delete {
        /// The store key.
        id: String,
        /// The revision of the deletion; 0 where the store counts none.
        revision: u64,
    },
    /// The whole content of a store whose absence of a schema is a deletion. What is not in it is unloaded, unless it is
    /// empty while schemas are in force: then nothing is. Makes the registry ready.
    Reset {
        /// Every schema there is.
        entries: Vec<Entry>,
    },
    /// Several changes at once; what it does not name stays as it is.
    Merge {
        /// What was written.
        entries: Vec<Entry>,
        /// What was deleted, and the revision of the deletion.
        gone: Vec<(String, u64)>,
    },
    /// The whole content of a store that remembers what was deleted, so that absence is a loss: what is in force stays,
    /// and what of it is not named is told as lost. Makes the registry ready.
    Listing {
        /// Every schema that could be read.
        entries: Vec<Entry>,
        /// What was deleted, and the revision of the deletion.
        gone: Vec<(String, u64)>,
        /// What is there but could not be read.
        unread: Vec<String>,
    },
}

/// One revision of a schema.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The store key: a schema id, or `t.<tenant>.<schema id>`.
    pub id: String,
    /// The store's revision; must not fall.
    pub revision: u64,
    /// A `FileDescriptorSet`, plain or gzipped.
    pub bytes: Bytes,
    /// Whoever wrote it said that it may break compatibility.
    pub breaking: bool,
}

impl Entry {
    /// A revision that has to be compatible with the one before it.
    pub fn new(id: impl Into<String>, revision: u64, bytes: impl Into<Bytes>) -> Self {
        Self {
            id: id.into(),
            revision,
            bytes: bytes.into(),
            breaking: false,
        }
    }

    /// Says whether the break is meant.
    #[must_use]
    pub const fn breaking(mut self, breaking: bool) -> Self {
        self.breaking = breaking;
        self
    }
}

/// A mapping bound to one revision of its schema.
#[derive(Debug)]
pub struct Binding {
    pub(crate) common: Arc<Common>,
    pub(crate) mapping: usize,
    pub(crate) encoding: Option<Encoding>,
    pub(crate) validator: Validator,
    pub(crate) header: HeaderValue,
    pub(crate) contract: Contract,
}

impl Binding {
    /// Which contract it is: what a request that passes is told.
    #[must_use]
    pub const fn contract(&self) -> &Contract {
        &self.contract
    }

    /// The check.
    #[must_use]
    pub const fn validator(&self) -> &Validator {
        &self.validator
    }

    /// The encoding the mapping fixes.
    #[must_use]
    pub const fn encoding(&self) -> Option<Encoding> {
        self.encoding
    }
}

/// Request extension: the contract the payload was checked against. Handlers read it; nobody else inserts it. Reads as the
/// [`Contract`] it holds: `by.schema_id`, `by.revision`, `by.message`.
#[derive(Clone)]
pub struct ValidatedBy(Arc<Binding>);

/// One revision of a schema, and the message of it that a payload is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contract {
    /// The store key: the schema id, or `t.<tenant>.<schema id>` for a tenant's own.
    pub schema_id: Arc<str>,
    /// The revision of the schema.
    pub revision: u64,
    /// The full name of the message.
    pub message: Arc<str>,
}

impl ValidatedBy {
    /// The binding that a request has kept all along: telling it costs nothing more.
    pub(crate) const fn new(binding: Arc<Binding>) -> Self {
        Self(binding)
    }
}

impl Deref for ValidatedBy {
    type Target = Contract;

    fn deref(&self) -> &Contract {
        &self.0.contract
    }
}

impl PartialEq for ValidatedBy {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for ValidatedBy {}

impl fmt::Debug for ValidatedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ValidatedBy").field(&**self).finish()
    }
}
