//! Deliveries of a session: bounded, and none is left out. A session that cannot keep up is ended instead.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use arqon::publish::Message;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::buffers::{Account, Share};

/// How many deliveries may wait for one session.
const DELIVERIES_MAX: usize = 16_384;
/// How much they may hold, in bytes; one that is larger may wait alone.
const DELIVERY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What a delivery holds besides its payload and headers.
const DELIVERY_BYTES: usize = 256;

/// Why no more deliveries come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gap {
    /// The session had no more room.
    Slow,
    /// Some were lost before they came here.
    Missed,
}

/// What subscriptions hand to their session.
pub(crate) struct Deliveries {
    ours: Deliver,
    waiting: mpsc::Receiver<(Message, usize)>,
}

/// One subscription's end of it.
#[derive(Clone)]
pub(crate) struct Deliver {
    queue: mpsc::Sender<(Message, usize)>,
    held: Arc<Account>,
    /// Cancelled once a delivery was lost.
    lost: CancellationToken,
    /// Whether it was lost before it came here.
    missed: Arc<AtomicBool>,
}

impl Deliveries {
    pub(crate) fn new(share: &Share) -> Self {
        let (queue, waiting) = mpsc::channel(DELIVERIES_MAX);
        let ours = Deliver {
            queue,
            held: Arc::new(share.account(DELIVERY_BYTES_MAX)),
            lost: CancellationToken::new(),
            missed: Arc::default(),
        };
        Self { ours, waiting }
    }

    pub(crate) fn end(&self) -> Deliver {
        self.ours.clone()
    }

    /// The next delivery; why not, once one was lost.
    pub(crate) async fn next(&mut self) -> Result<Message, Gap> {
        let (message, bytes) = tokio::select! {
            biased;
            () = self.ours.lost.cancelled() => {
                let missed = self.ours.missed.load(Ordering::Relaxed);
                return Err(if missed { Gap::Missed } else { Gap::Slow });
            }
            delivery = self.waiting.recv() => delivery.expect("we have a sender ourselves"),
        };
        self.ours.held.give(bytes);
        Ok(message)
    }
}

impl Deliver {
    /// Hands a message on, at once: whoever delivers must not wait, or what it reads from would lose messages for it. False
    /// where the session has no more room, or is gone.
    pub(crate) fn hand(&self, message: Message) -> bool {
        let headers = message.headers.iter();
        let bytes = headers.fold(DELIVERY_BYTES + message.payload.len(), |sum, (name, value)| {
            sum + name.as_str().len() + value.len()
        });
        if self.held.take(bytes) {
            if self.queue.try_send((message, bytes)).is_ok() {
                return true;
            }
            self.held.give(bytes);
        }
        self.lost.cancel();
        false
    }

    /// A delivery was lost before it came here.
    pub(crate) fn lose(&self) {
        self.missed.store(true, Ordering::Relaxed);
        self.lost.cancel();
    }
}

#[cfg(test)]
mod tests {
    use arqon::{Subject, TenantId};
    use bytes::Bytes;
    use http::HeaderMap;

    use super::*;
    use crate::buffers::Buffers;

    fn share(max: usize) -> Share {
        Buffers::new(max, max).share(&TenantId::new("default").expect("a tenant"))
    }

    fn message(bytes: usize) -> Message {
        Message {
            subject: Subject::parse("in.t.default.a").expect("a subject"),
            headers: HeaderMap::new(),
            payload: Bytes::from(vec![0; bytes]),
        }
    }

    #[tokio::test]
    async fn as_many_as_may_wait_are_delivered_and_one_more_ends_the_session() {
        let buffers = share(usize::MAX / 2);
        let mut deliveries = Deliveries::new(&buffers);
        let deliver = deliveries.end();
        for _ in 0..DELIVERIES_MAX {
            assert!(deliver.hand(message(0)));
        }
        assert!(deliveries.next().await.is_ok());
        assert!(deliver.hand(message(0)), "one has gone");
        assert!(!deliver.hand(message(0)), "one too many");
        assert_eq!(
            deliveries.next().await.err(),
            Some(Gap::Slow),
            "nothing comes after a gap"
        );
    }

    #[tokio::test]
    async fn bytes_have_a_border_too_and_a_large_message_may_wait_alone() {
        let buffers = share(usize::MAX / 2);
        let mut deliveries = Deliveries::new(&buffers);
        let deliver = deliveries.end();
        assert!(deliver.hand(message(2 * DELIVERY_BYTES_MAX)));
        assert!(deliveries.next().await.is_ok());
        let half = DELIVERY_BYTES_MAX / 2 - DELIVERY_BYTES;
        assert!(deliver.hand(message(half)) && deliver.hand(message(half)));
        assert!(deliveries.next().await.is_ok());
        assert!(!deliver.hand(message(half + 1)), "a byte too many");
        assert_eq!(deliveries.next().await.err(), Some(Gap::Slow));
    }

    #[tokio::test]
    async fn what_all_sessions_hold_ends_the_one_that_holds_much() {
        let buffers = share(1024 * 1024);
        let (hoarder, mut modest) = (Deliveries::new(&buffers), Deliveries::new(&buffers));
        let hoards = hoarder.end();
        while hoards.hand(message(10_000)) {}
        assert!(modest.end().hand(message(10_000)) && modest.next().await.is_ok());
        drop(hoarder);
    }

    #[tokio::test]
    async fn what_was_lost_before_is_not_the_sessions_fault() {
        let buffers = share(usize::MAX / 2);
        let mut deliveries = Deliveries::new(&buffers);
        deliveries.end().lose();
        assert_eq!(deliveries.next().await.err(), Some(Gap::Missed));
    }
}
