//! The distributed engine: everything that speaks NATS.

pub mod catalogs;
pub mod connect;
pub mod governance;
pub mod heads;
pub mod publish;
pub mod schemas;
pub mod sink;

pub use self::{
    catalogs::KvCatalogs,
    connect::{ConnectError, connect},
    governance::NatsControlLog,
    publish::Publish,
};

/// The connections of a program. All that publishes through one client waits in the same queue, so what must not wait
/// for the rest has its own.
#[derive(Clone, Debug)]
pub struct Clients {
    /// Messages of the primary path, schemas, catalogs.
    pub primary: async_nats::Client,
    /// Copies.
    pub mirror: async_nats::Client,
    /// The control log: a stop never waits behind messages.
    pub control: async_nats::Client,
    /// How many servers keep a copy of what is made: 1, or 3 or 5 on a cluster.
    pub replicas: usize,
}
