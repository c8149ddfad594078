//! Where live tests get a real nats-server from: never a mock, never silently skipped.
//!
//! ```no_run
//! # async fn a_live_test() -> Result<(), Box<dyn std::error::Error>> {
//! let server = arqon_test_support::NatsServer::start().await?;
//! let client = server.client().await?;
//! client.publish(format!("in.t.{}.x", server.unique()), "hello".into()).await?;
//! # Ok(()) }
//! ```
//!
//! The order, first hit wins (issue 2, item 6):
//!
//! 1. `TEST_NATS_URL`: that server; it must answer, be 2.10 or newer and have JetStream.
//! 2. testcontainers, when a Docker engine answers (`DOCKER_HOST` or the usual sockets): the image named by
//!    `TEST_NATS_IMAGE`, which `tests/run.sh` sets; else the official image if it can be pulled; else an image built on the
//!    spot `FROM scratch` from the binary of step 3.
//! 3. A nats-server binary: `TEST_NATS_SERVER`, else the one `tests/run.sh` installs under `target/tools`, else `PATH`.
//! 4. Nothing: [`NatsError::Nothing`], with the one command that mends it.
//!
//! A server older than 2.10 is refused in words: Debian's 2.9.10 cannot create KV buckets for async-nats 0.51.
//! The source is written to stderr once per process, and to the file `TEST_NATS_SOURCES` if that is set, so that
//! `tests/run.sh` can say (and check) where every server came from. To make the suite use the binary although Docker
//! runs, point `DOCKER_HOST` at a socket that does not exist.
//!
//! # Isolation
//!
//! [`NatsServer::start`] gives each caller a server of its own, with its own store, except under `TEST_NATS_URL`: there
//! all tests share one, so names that tests make up carry [`NatsServer::unique`]. A test that stops, kills or pauses
//! its server asks for [`NatsServer::start_own`], which passes step 1 over.
//!
//! # Cleaning up
//!
//! Dropping the handle kills the server and removes its store or container. A small `sh` process waits on a pipe from
//! the test process and does the same when that process dies without dropping anything; for containers it needs the
//! `docker` command, and `tests/run.sh` removes whatever carries the run's label at its end.

mod announce;
mod binary;
mod cluster;
mod docker;
mod error;
mod guarded;
mod guardian;
mod places;
mod port;
mod server;
mod version;

pub use announce::Source;
pub use cluster::NatsCluster;
pub use error::NatsError;
pub use guarded::GuardedServer;
pub use places::{Engine, Places};
pub use server::NatsServer;
pub use version::Version;
