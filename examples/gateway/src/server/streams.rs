//! What of an HTTP/2 connection is under way: HTTP/1 closes a connection that asks for nothing, HTTP/2 does not by itself.

use std::{
    future::poll_fn,
    sync::atomic::{AtomicUsize, Ordering},
    task::Poll,
    time::{Duration, Instant},
};

/// The streams of one connection.
#[derive(Default)]
pub(super) struct Streams {
    begun: AtomicUsize,
    open: AtomicUsize,
}

/// A request that is being answered.
pub(super) struct Open<'a>(&'a Streams);

impl Streams {
    pub(super) fn begin(&self) -> Open<'_> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        Open(self)
    }

    /// Whether HTTP/2 was spoken and nothing is under way.
    pub(super) fn rest(&self) -> bool {
        self.begun.load(Ordering::Relaxed) > 0 && self.open.load(Ordering::Relaxed) == 0
    }

    /// Ends once nothing was under way for as long as `idle`. It sets no clock of its own: a connection wakes its task with each
    /// ping, which have to be sent more often than that.
    pub(super) async fn idle(&self, idle: Duration) {
        let mut since = None;
        poll_fn(|_| {
            if !self.rest() {
                since = None;
                return Poll::Pending;
            }
            let begun = self.begun.load(Ordering::Relaxed);
            let now = Instant::now();
            match since {
                Some((seen, at)) if seen == begun => {
                    if now.saturating_duration_since(at) >= idle {
                        return Poll::Ready(());
                    }
                }
                _ => since = Some((begun, now)),
            }
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
