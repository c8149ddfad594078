//! Where schemas come from: a [`SchemaStore`] pushes what it has, and every change of it, into a [`RegistryWriter`].

mod copies;
mod dir;
mod files;
mod memory;

use std::future::Future;

pub use self::{
    copies::{Copies, Restored},
    dir::DirStore,
    files::{compile_folder, read_schema, schema_files, schema_id},
    memory::MemoryStore,
};
use crate::{error::StoreError, handle::RegistryWriter};

/// A source of schemas.
///
/// `run` reads everything once ([`Change::Reset`](crate::Change::Reset), which makes the registry ready), then pushes each change. It
/// resyncs with a full read after every error, reports contact with
/// [`contact`](RegistryWriter::contact), and ends only when it cannot go on.
///
/// # Cancellation
///
/// Dropping the future stops the store; the schemas in force stay so.
pub trait SchemaStore {
    /// Feeds the registry until it is dropped.
    ///
    /// # Errors
    ///
    /// The store cannot go on. What was in force stays in force, up to its age.
    fn run(self, writer: RegistryWriter) -> impl Future<Output = Result<(), StoreError>> + Send;
}
