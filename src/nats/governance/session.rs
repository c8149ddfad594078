//! One following of the control log's stream, as far as it came.

use arqon_rollout::{Batch, Uptime};
use async_nats::jetstream::consumer::pull;

/// It ends with its first error; the next read begins another one.
pub(super) struct Session {
    /// The server's time when it began, for its first batch: a node that comes back may have no quiet moment for long.
    pub(super) told_us: Option<u64>,
    pub(super) messages: pull::Stream,
    /// When the leader was last asked where the log ends, and what it said: what came here later may have waited in a buffer while
    /// this process stood still.
    pub(super) known: (Uptime, u64),
    /// The position the reader believes to stand at.
    pub(super) asked: u64,
    /// The position of the last entry that was yielded or is lost.
    pub(super) at: u64,
    pub(super) gap: bool,
    /// Whether nothing has come yet: what is missing before the first entry is gone, not late.
    pub(super) fresh: bool,
    /// Whether something is missing before what came last: the next read begins anew.
    pub(super) lost: bool,
}

/// What an opened log gives.
pub(super) enum Opened {
    Session(Box<Session>),
    /// One record, and the next read opens it again.
    Read(Batch),
}

impl std::fmt::Debug for Session {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Session")
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}
