//! Why there is no server, in words a person can act on.

use std::{fmt, path::PathBuf};

use crate::Version;

/// The one command that gives a machine without Docker its nats-server.
pub(crate) const MEND: &str = "./tests/run.sh tools";

/// Why a live test got no nats-server, or could not do to it what it wanted.
///
/// `Debug` prints the sentence of `Display`, because a failing test shows an error through `Debug`.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum NatsError {
    /// `TEST_NATS_URL` names a server that does not answer or cannot be used.
    #[error("TEST_NATS_URL={url}: {why}; start that server (nats-server -js) or unset TEST_NATS_URL")]
    Url {
        /// The address, without user and password.
        url: String,
        /// What went wrong.
        why: String,
    },
    /// The server found is too old for async-nats' KV buckets.
    #[error(
        "nats-server {version} from {origin} is older than {}: it cannot create the KV buckets async-nats asks for \
         (Debian's 2.9.10 is such a one); mend it with: {MEND}",
        Version::OLDEST
    )]
    TooOld {
        /// What it said it is.
        version: Version,
        /// Where it was found.
        origin: String,
    },
    /// No source had a server.
    #[error("no nats-server for the live tests ({}); mend it with: {MEND}", tried.join("; "))]
    Nothing {
        /// Every place looked at, and what was there.
        tried: Vec<String>,
    },
    /// A binary was found but it would not run.
    #[error("{} did not start: {why}", program.display())]
    Binary {
        /// The program.
        program: PathBuf,
        /// What went wrong, with the end of its log.
        why: String,
    },
    /// A Docker engine answers, but no container came of it.
    #[error("testcontainers, image {image}: {why}")]
    Container {
        /// The image asked for.
        image: String,
        /// What went wrong.
        why: String,
    },
    /// The server did not become ready, or was lost.
    #[error("the nats-server at {url} did not answer within {seconds} s: {why}")]
    NotReady {
        /// The address.
        url: String,
        /// How long was waited.
        seconds: u64,
        /// The last thing that went wrong.
        why: String,
    },
    /// The server is not ours to stop, kill or pause.
    #[error("the server named by TEST_NATS_URL is not ours to {action}: ask for NatsServer::start_own()")]
    NotOurs {
        /// What was asked.
        action: &'static str,
    },
    /// A signal or an engine call failed.
    #[error("could not {action} the nats-server: {why}")]
    Control {
        /// What was asked.
        action: &'static str,
        /// What went wrong.
        why: String,
    },
}

impl fmt::Debug for NatsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
