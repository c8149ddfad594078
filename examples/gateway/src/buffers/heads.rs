//! What connections hold in memory of heads that are not whole yet. All of a listener share one budget, so that memory ends for
//! those that never finish a head, and not for everybody.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::Version;
use metrics::{Counter, counter};
use tokio::time::Instant;

use super::frames::{Flood, Frames, PREFACE};

/// The largest head of a request, in bytes.
pub(crate) const HEAD_BYTES_MAX: usize = 64 * 1024;
/// What a connection may hold of an unfinished head whatever the others do, in bytes: the buffer that each reads into has as
/// much, so that no memory is saved below it.
pub(super) const FREE_BYTES: usize = 8 * 1024;
/// More headers than HTTP/1 may have in one request are counted with so many bytes each.
const HEADERS_MAX: usize = 100;
const HEADER_BYTES: usize = 128;
/// The most that is read at once over HTTP/1, in bytes: what stands behind a whole head in the same read may be the body or the
/// next head, and is not counted. hyper doubles its buffer when a read fills it: one byte less than 16 KiB leaves it at that.
pub(super) const READ_BYTES_MAX: u64 = 16 * 1024 - 1;
/// The least that a budget may have, in bytes: sixteen of the largest heads.
const BUDGET_BYTES_MIN: usize = 16 * HEAD_BYTES_MAX;
/// In [`Head::unfinished`]: a request is being answered, and what is read is its body.
const ANSWERING: usize = 1 << (usize::BITS - 1);

/// The budget of a listener. Cloning it is a reference count.
#[derive(Clone)]
pub(crate) struct Heads(Arc<Budget>);

struct Budget {
    max: usize,
    /// How long a head may take over HTTP/2; over HTTP/1 hyper looks to it.
    head_time: Duration,
    held: AtomicUsize,
    shed: Counter,
    flooded: Counter,
}

impl Heads {
    /// A quarter of what bodies may have goes to heads besides; each is whole within `head_time`.
    pub(crate) fn new(requests_bytes_max: usize, head_time: Duration) -> Self {
        let shed = |what: &'static str| {
            let counter = counter!("shield_edge_shed_total", "what" => what);
            counter.increment(0);
            counter
        };
        Self(Arc::new(Budget {
            max: (requests_bytes_max / 4).max(BUDGET_BYTES_MIN),
            head_time,
            held: AtomicUsize::new(0),
            shed: shed("heads"),
            flooded: shed("frames"),
        }))
    }
}

/// What so many headers of a whole head, with so many bytes of names and values, take besides its body, where that is worth
/// counting: what a connection's buffer has room for is not, and over HTTP/2 a byte may name a header.
pub(crate) const fn listed(headers: usize, bytes: usize) -> usize {
    let list = match headers {
        0..=HEADERS_MAX => 0,
        count => count * HEADER_BYTES,
    };
    list + bytes.saturating_sub(FREE_BYTES)
}

/// What one connection holds. Over HTTP/1 it is written by the connection's task alone, and over HTTP/2 by that which reads;
/// that the numbers are atomic makes them shared, and orders nothing.
pub(super) struct Head {
    budget: Arc<Budget>,
    /// HTTP/1: the bytes that came since the last whole head, or [`ANSWERING`].
    unfinished: AtomicUsize,
    /// What was taken of the budget.
    taken: AtomicUsize,
}

/// A request of HTTP/1 from its whole head to its answer.
pub(crate) struct Answering<'a>(&'a Head);

impl Head {
    pub(super) fn new(heads: &Heads) -> Self {
        Self {
            budget: Arc::clone(&heads.0),
            unfinished: AtomicUsize::new(0),
            taken: AtomicUsize::new(0),
        }
    }

    /// A head is whole. Frames say so themselves.
    pub(super) fn answer(&self, version: Version) -> Option<Answering<'_>> {
        (version <= Version::HTTP_11).then(|| {
            self.hold(0);
            self.unfinished.store(ANSWERING, Ordering::Relaxed);
            Answering(self)
        })
    }

    /// What was counted is gone, and the next head begins.
    pub(super) fn reset(&self) {
        self.hold(0);
        self.unfinished.store(0, Ordering::Relaxed);
    }

    /// Sets what is held of an unfinished head; false where there is no room for more, and nothing is taken.
    fn hold(&self, bytes: usize) -> bool {
        let wanted = bytes.saturating_sub(FREE_BYTES);
        let taken = self.taken.load(Ordering::Relaxed);
        if wanted == taken {
            return true;
        }
        let budget = &self.budget;
        if wanted > taken {
            let more = wanted - taken;
            if budget.held.fetch_add(more, Ordering::Relaxed) + more > budget.max {
                budget.held.fetch_sub(more, Ordering::Relaxed);
                budget.shed.increment(1);
                return false;
            }
        } else {
            budget.held.fetch_sub(taken - wanted, Ordering::Relaxed);
        }
        self.taken.store(wanted, Ordering::Relaxed);
        true
    }
}

impl Drop for Head {
    fn drop(&mut self) {
        self.hold(0);
    }
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        self.0.unfinished.store(0, Ordering::Relaxed);
    }
}

/// What a connection speaks, as far as it can be told from what it has said.
pub(super) enum Spoken {
    /// So many bytes of the preface of HTTP/2, and no other.
    Preface(usize),
    Http1,
    Http2(Frames),
}

impl Spoken {
    /// The most that may be read at once.
    pub(super) const fn read_max(&self) -> u64 {
        match self {
            // Its frames say how much of an unfinished head there is.
            Self::Http2(_) => u64::MAX,
            Self::Preface(_) | Self::Http1 => READ_BYTES_MAX,
        }
    }

    /// Whether more may be read, by what has been read: a head that came in one piece is whole by now.
    pub(super) fn may_read(&self, head: &Head) -> io::Result<()> {
        let unfinished = match self {
            Self::Http2(frames) => frames.unfinished(),
            _ => match head.unfinished.load(Ordering::Relaxed) {
                ANSWERING => 0,
                // No head is larger; whose body is still read by others after its answer may have sent more.
                bytes => bytes.min(HEAD_BYTES_MAX),
            },
        };
        match head.hold(unfinished) {
            true => Ok(()),
            false => Err(io::Error::other(
                "connections hold as much of unfinished heads as they may; see gateway.max_requests_bytes",
            )),
        }
    }

    /// Counts what was read.
    pub(super) fn read(&mut self, bytes: &[u8], head: &Head) -> io::Result<()> {
        let mut frames = bytes;
        if let Self::Preface(had) = *self {
            let (came, rest) = bytes.split_at(bytes.len().min(PREFACE.len() - had));
            frames = rest;
            *self = match had + came.len() {
                _ if !PREFACE[had..].starts_with(came) => Self::Http1,
                whole if whole == PREFACE.len() => Self::Http2(Frames::new()),
                part => Self::Preface(part),
            };
        }
        match self {
            Self::Http2(read) => read.read(frames).map_err(|Flood| {
                head.budget.flooded.increment(1);
                io::Error::other("frames that ask for nothing came too fast")
            }),
            _ => {
                let had = head.unfinished.load(Ordering::Relaxed);
                if had != ANSWERING {
                    head.unfinished.store(had + bytes.len(), Ordering::Relaxed);
                }
                Ok(())
            }
        }
    }

    /// When the connection ends unless what is held of a head is whole by then. Of HTTP/1, hyper knows.
    pub(super) fn ends(&self, head: &Head) -> Option<Instant> {
        match self {
            Self::Http2(frames) => Some(frames.begun()? + head.budget.head_time),
            Self::Preface(_) | Self::Http1 => None,
        }
    }

    /// Counts what was written.
    pub(super) const fn wrote(&mut self, bytes: usize) {
        if let Self::Http2(frames) = self {
            frames.wrote(bytes);
        }
    }
}

#[cfg(test)]
mod tests;
