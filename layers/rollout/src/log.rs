//! The ordered log that every node folds, and its embedded form in memory.

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::watch;

use crate::{
    clock::{Clock, SystemClock, Uptime},
    record::{Channel, Record},
    wire::UpstreamMessage,
};

/// Most entries of a [`MemoryLog`].
pub const MAX_MEMORY_RECORDS: usize = 65_536;

/// How long [`MemoryLog::read`] waits before it answers that nothing is new.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// What the methods of a [`ControlLog`] yield.
pub type LogFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, LogError>> + Send + 'a>>;

/// Why the log did not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// It cannot be reached, or did not answer in time.
    #[error("the control log is away: {0}")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It takes no more.
    #[error("the control log is full")]
    Full,
}

/// Where an envelope was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Its position.
    pub seq: u64,
}

/// Entries of the log, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// What follows the position that was asked for; empty says that nothing does.
    pub records: Vec<Record>,
    /// Whether entries between that position and the first record are lost.
    pub gap: bool,
    /// Whether more is known to follow at once: the end of the log, and so contact, is not reached yet.
    pub more: bool,
    /// What time it was where the log is kept after the read had begun, microseconds since the Unix epoch, if it says so: a node
    /// whose clock is far ahead of that holds its shares.
    pub log_time_us: Option<u64>,
    /// When that was asked whose answer shows where the log ends, or a moment before it: the log ended no earlier than there then,
    /// and a stop may have come since. A node that stood still finds such answers in its buffers. None is this moment: for a log
    /// in this process.
    pub asked: Option<Uptime>,
}

/// An ordered, durable log of envelopes: JetStream in the umbrella, memory when embedded.
///
/// Dropping a future of its methods loses nothing: an append happened or did not, a read has no effect.
pub trait ControlLog: Send + Sync + 'static {
    /// Stores an envelope and answers where.
    fn append(&self, channel: Channel, envelope: Bytes) -> LogFuture<'_, Appended>;

    /// The entries after position `after`. Waits for one at most about a second: an empty batch is the
    /// idle heartbeat that tells a node it still has contact.
    fn read(&self, after: u64) -> LogFuture<'_, Batch>;

    /// Whether what it stored outlives this process.
    fn is_durable(&self) -> bool {
        false
    }

    /// Sends telemetry or an alert, which the log does not keep.
    fn report(&self, from: Channel, message: UpstreamMessage) -> LogFuture<'_, ()>;
}

/// The control log of a program that is its own control plane. It ends with the program.
#[derive(Clone)]
pub struct MemoryLog {
    shared: Arc<Shared>,
}

struct Shared {
    records: Mutex<Vec<Record>>,
    reports: Mutex<VecDeque<UpstreamMessage>>,
    newest: watch::Sender<u64>,
    clock: Arc<dyn Clock>,
}

/// Most reports a [`MemoryLog`] keeps for its reader; the oldest go first.
const MAX_REPORTS: usize = 1_024;

impl MemoryLog {
    /// An empty log on the system's clock.
    pub fn new() -> Self {
        Self::with_clock(SystemClock::new())
    }

    /// An empty log that stamps its records by `clock`.
    pub fn with_clock(clock: impl Clock) -> Self {
        let shared = Shared {
            records: Mutex::new(Vec::new()),
            reports: Mutex::new(VecDeque::new()),
            newest: watch::Sender::new(0),
            clock: Arc::new(clock),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Goes on after `records`, such as those of an audit trail.
    #[must_use]
    pub fn with_records<R: Into<Record>>(self, records: impl IntoIterator<Item = R>) -> Self {
        let mut stored = self.shared.records.lock().unwrap_or_else(PoisonError::into_inner);
        stored.extend(records.into_iter().map(Into::into));
        stored.sort_by_key(|record| record.seq);
        let newest = stored.last().map_or(0, |record| record.seq);
        drop(stored);
        self.shared.newest.send_replace(newest);
        self
    }

    /// Everything that was stored.
    pub fn records(&self) -> Vec<Record> {
        self.shared
            .records
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The telemetry and alerts since the last call, at most 1,024.
    pub fn take_reports(&self) -> Vec<UpstreamMessage> {
        Vec::from(std::mem::take(
            &mut *self.shared.reports.lock().unwrap_or_else(PoisonError::into_inner),
        ))
    }

    fn store(&self, channel: Channel, envelope: Bytes) -> Result<Appended, LogError> {
        let mut records = self.shared.records.lock().unwrap_or_else(PoisonError::into_inner);
        if records.len() >= MAX_MEMORY_RECORDS {
            return Err(LogError::Full);
        }
        let seq = records.last().map_or(0, |record| record.seq) + 1;
        let received_at_us = self.shared.clock.now_us();
        records.push(Record {
            seq,
            received_at_us,
            channel,
            envelope,
            catalog: None,
        });
        drop(records);
        self.shared.newest.send_replace(seq);
        Ok(Appended { seq })
    }

    fn after(&self, after: u64) -> Vec<Record> {
        let records = self.shared.records.lock().unwrap_or_else(PoisonError::into_inner);
        let known = records.partition_point(|record| record.seq <= after);
        records.get(known..).unwrap_or_default().to_vec()
    }
}

impl Default for MemoryLog {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryLog {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let newest = *self.shared.newest.borrow();
        formatter
            .debug_struct("MemoryLog")
            .field("newest", &newest)
            .finish_non_exhaustive()
    }
}

impl ControlLog for MemoryLog {
    fn append(&self, channel: Channel, envelope: Bytes) -> LogFuture<'_, Appended> {
        Box::pin(async move { self.store(channel, envelope) })
    }

    fn read(&self, after: u64) -> LogFuture<'_, Batch> {
        Box::pin(async move {
            let mut newest = self.shared.newest.subscribe();
            let _ = tokio::time::timeout(HEARTBEAT, newest.wait_for(|seq| *seq > after)).await;
            Ok(Batch {
                records: self.after(after),
                ..Batch::default()
            })
        })
    }

    fn report(&self, _from: Channel, message: UpstreamMessage) -> LogFuture<'_, ()> {
        Box::pin(async move {
            let mut reports = self.shared.reports.lock().unwrap_or_else(PoisonError::into_inner);
            if reports.len() >= MAX_REPORTS {
                reports.pop_front();
            }
            reports.push_back(message);
            Ok(())
        })
    }
}
