//! Deliveries of a session: bounded, and none is left out. A session that cannot keep up is ended instead.

use std::time::Duration;

use arqon::publish::Message;
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

/// How many deliveries may wait for one session.
const DELIVERIES_MAX: usize = 256;

/// What subscriptions hand to their session.
pub(crate) struct Deliveries {
    queue: mpsc::Sender<Message>,
    waiting: mpsc::Receiver<Message>,
    /// Cancelled once a delivery was lost.
    lost: CancellationToken,
    patience: Duration,
}

/// One subscription's end of it.
pub(crate) struct Deliver {
    queue: mpsc::Sender<Message>,
    lost: CancellationToken,
    patience: Duration,
}

impl Deliveries {
    pub(crate) fn new(patience: Duration) -> Self {
        let (queue, waiting) = mpsc::channel(DELIVERIES_MAX);
        Self {
            queue,
            waiting,
            lost: CancellationToken::new(),
            patience,
        }
    }

    pub(crate) fn end(&self) -> Deliver {
        Deliver {
            queue: self.queue.clone(),
            lost: self.lost.clone(),
            patience: self.patience,
        }
    }

    /// The next delivery; `None` once one was lost.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        tokio::select! {
            biased;
            () = self.lost.cancelled() => None,
            message = self.waiting.recv() => message,
        }
    }
}

impl Deliver {
    /// Hands a message on; false when the session takes no more.
    pub(crate) async fn hand(&self, message: Message) -> bool {
        match timeout(self.patience, self.queue.send(message)).await {
            Ok(sent) => sent.is_ok(),
            Err(_) => {
                self.lose();
                false
            }
        }
    }

    /// A delivery was lost before it came here.
    pub(crate) fn lose(&self) {
        self.lost.cancel();
    }
}
