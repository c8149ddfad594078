//! A sink that remembers.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::{Delivery, ShadowCopy, Sink};

/// Keeps the latest copies in memory: for tests, demonstrations and the embedded gateway. Cloning shares them.
#[derive(Clone, Debug)]
pub struct RecordingSink {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    copies: Mutex<VecDeque<ShadowCopy>>,
    capacity: usize,
    total: watch::Sender<u64>,
}

impl RecordingSink {
    /// A sink that keeps the latest `capacity` copies.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let copies = Mutex::new(VecDeque::new());
        Self {
            shared: Arc::new(Shared {
                copies,
                capacity,
                total: watch::Sender::new(0),
            }),
        }
    }

    /// The copies kept, the oldest first.
    #[must_use]
    pub fn copies(&self) -> Vec<ShadowCopy> {
        self.kept().iter().cloned().collect()
    }

    /// Takes the copies kept, the oldest first.
    #[must_use]
    pub fn take(&self) -> Vec<ShadowCopy> {
        self.kept().drain(..).collect()
    }

    /// How many copies ever came.
    #[must_use]
    pub fn total(&self) -> u64 {
        *self.shared.total.borrow()
    }

    /// Waits until at least `total` copies have come.
    pub async fn recorded(&self, total: u64) {
        // The sender is in `self`, so the channel is open.
        let _ = self
            .shared
            .total
            .subscribe()
            .wait_for(|&seen| seen >= total)
            .await;
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<ShadowCopy>> {
        self.shared.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for RecordingSink {
    fn send(&self, mut copy: ShadowCopy) -> Delivery<'_> {
        if self.shared.capacity > 0 {
            let mut kept = self.kept();
            if kept.len() == self.shared.capacity {
                kept.pop_front();
            }
            copy.keep_body();
            kept.push_back(copy);
        }
        self.shared.total.send_modify(|total| *total += 1);
        Box::pin(std::future::ready(Ok(())))
    }
}
