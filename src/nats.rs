//! The distributed engine: everything that speaks NATS.

pub mod catalogs;
pub mod connect;
mod connection;
pub mod governance;
pub mod heads;
pub mod publish;
pub mod schemas;
pub mod serve;
pub mod sink;
mod stored;

pub use self::{
    catalogs::KvCatalogs,
    connect::{ConnectError, Identity, connect, connect_as},
    connection::Connection,
    governance::NatsControlLog,
    publish::Publish,
    serve::serve,
    sink::is_shadow,
};

/// The connections of a program. All that publishes through one client waits in the same queue, so what must not wait
/// for the rest has its own.
#[derive(Clone, Debug)]
pub struct Clients {
    /// Messages of the primary path, schemas, catalogs.
    pub primary: Connection,
    /// Copies. It subscribes to nothing.
    pub mirror: Connection,
    /// The control log: a stop never waits behind messages.
    pub control: Connection,
    /// What this program decides goes into the control log by this one, as the same user: what the other one hears can end it.
    pub decisions: Connection,
    /// How many servers keep a copy of what is made: 1, or 3 or 5 on a cluster.
    pub replicas: usize,
}

impl Clients {
    /// Sends what the clients hold and closes them, each within `limit`: the last step of a drain.
    pub async fn drain(&self, limit: std::time::Duration) {
        let closing = [&self.primary, &self.mirror, &self.control, &self.decisions].map(|nats| async move {
            let client = nats.client();
            // One that never reached a server holds nothing that a server could be given in time.
            if !connect::was_reached(&client) {
                return;
            }
            let close = async {
                // Flushed first: draining alone tells nobody when it is done.
                let _ = client.flush().await;
                let _ = client.drain().await;
            };
            if tokio::time::timeout(limit, close).await.is_err() {
                tracing::warn!(component = "nats", "a connection was not flushed in time");
            }
        });
        futures_util::future::join_all(closing).await;
    }
}
