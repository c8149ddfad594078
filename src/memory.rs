//! The embedded engine: publish and subscribe inside one process, for programs and demos without NATS.
//!
//! It keeps nothing: a message goes to whoever subscribes at that moment. Each subscription has a bounded queue; a
//! subscriber that is too slow loses messages, counted, and the publisher never waits.

use std::{
    cell::LazyCell,
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Request;
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::sync::mpsc;
use tower_service::Service;

use arqon_message::{BoxError, MAX_BODY_BYTES, Subject, SubjectPattern};
use arqon_shadow::{Delivery, ShadowCopy};

use crate::publish::{self, Answer, Message, Published, Take};

/// How many messages may wait in one subscription.
pub const SUBSCRIPTION_MESSAGES_MAX: usize = 1_024;
/// How many subscriptions one broker serves.
pub const SUBSCRIPTIONS_MAX: usize = 65_536;

/// A broker inside the process. Cloning it is a reference count.
#[derive(Clone, Default)]
pub struct Broker {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    subscribers: Mutex<Vec<Subscriber>>,
    lost: AtomicU64,
}

struct Subscriber {
    pattern: SubjectPattern,
    queue: mpsc::Sender<Message>,
    /// The first message that has no room ends the subscription.
    lossless: bool,
}

impl Broker {
    /// A broker that nobody subscribes to yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Messages from now on whose subject the pattern covers; dropping the receiver unsubscribes.
    ///
    /// # Errors
    /// When [`SUBSCRIPTIONS_MAX`] subscriptions live.
    pub fn subscribe(
        &self,
        pattern: SubjectPattern,
    ) -> Result<mpsc::Receiver<Message>, TooManySubscriptions> {
        self.add(pattern, false)
    }

    /// As [`subscribe`](Self::subscribe), but the first message that has no room ends the subscription: whoever reads it to
    /// its end has missed nothing before.
    ///
    /// # Errors
    /// When [`SUBSCRIPTIONS_MAX`] subscriptions live.
    pub fn subscribe_lossless(
        &self,
        pattern: SubjectPattern,
    ) -> Result<mpsc::Receiver<Message>, TooManySubscriptions> {
        self.add(pattern, true)
    }

    fn add(
        &self,
        pattern: SubjectPattern,
        lossless: bool,
    ) -> Result<mpsc::Receiver<Message>, TooManySubscriptions> {
        let mut subscribers = self
            .shared
            .subscribers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        subscribers.retain(|subscriber| !subscriber.queue.is_closed());
        if subscribers.len() >= SUBSCRIPTIONS_MAX {
            return Err(TooManySubscriptions);
        }
        let (queue, messages) = mpsc::channel(SUBSCRIPTION_MESSAGES_MAX);
        subscribers.push(Subscriber {
            pattern,
            queue,
            lossless,
        });
        Ok(messages)
    }

    /// Hands a message to every subscriber; a full queue loses it, and ends a lossless subscription.
    pub fn publish(&self, message: &Message) {
        self.publish_with(&message.subject, || message.clone());
    }

    /// As [`publish`](Self::publish), for a message that is made once somebody gets it.
    pub fn publish_with(&self, subject: &Subject, message: impl FnOnce() -> Message) {
        let message = LazyCell::new(message);
        let mut subscribers = self
            .shared
            .subscribers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        subscribers.retain(|subscriber| {
            if !subscriber.pattern.matches(subject) {
                return true;
            }
            let full = matches!(
                subscriber.queue.try_send(LazyCell::force(&message).clone()),
                Err(mpsc::error::TrySendError::Full(_))
            );
            if full {
                self.shared.lost.fetch_add(1, Ordering::Relaxed);
            }
            !(full && subscriber.lossless)
        });
    }

    /// How many deliveries slow subscribers lost so far.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }
}

/// A broker that serves as many subscriptions as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{SUBSCRIPTIONS_MAX} subscriptions live already")]
pub struct TooManySubscriptions;

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subscribers = self
            .shared
            .subscribers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len();
        f.debug_struct("Broker")
            .field("subscribers", &subscribers)
            .field("lost", &self.lost())
            .finish()
    }
}

/// The bottom of a message stack without NATS: it publishes to a [`Broker`] and answers 202.
#[derive(Clone, Debug)]
pub struct Publish {
    broker: Broker,
    max_body_bytes: usize,
}

impl Publish {
    /// Publishes to `broker`; bodies may have [`MAX_BODY_BYTES`].
    #[must_use]
    pub const fn new(broker: Broker) -> Self {
        Self {
            broker,
            max_body_bytes: MAX_BODY_BYTES,
        }
    }

    /// Another cap on bodies, in bytes.
    #[must_use]
    pub const fn max_body_bytes(mut self, max: usize) -> Self {
        self.max_body_bytes = max;
        self
    }
}

impl<B> Service<Request<B>> for Publish
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Answer;
    type Error = Infallible;
    type Future = PublishFuture<B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        PublishFuture {
            taking: publish::take(request, self.max_body_bytes),
            broker: self.broker.clone(),
        }
    }
}

pin_project! {
    /// The future of [`Publish`]. Dropping it before it is ready publishes nothing.
    #[derive(Debug)]
    pub struct PublishFuture<B> {
        #[pin]
        taking: Take<B>,
        broker: Broker,
    }
}

impl<B> Future for PublishFuture<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = Result<Answer, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let taken = match ready!(this.taking.poll(cx)) {
            Ok(taken) => taken,
            Err(refused) => {
                let (problem, parts) = *refused;
                return Poll::Ready(Ok(publish::refuse(problem, &parts)));
            }
        };
        // Where nobody subscribes, no headers are copied.
        this.broker.publish_with(&taken.subject, || taken.message());
        let published = Published {
            subject: taken.subject,
            stream: None,
            sequence: None,
            duplicate: false,
        };
        Poll::Ready(Ok(published.into_response_in(taken.parts.headers)))
    }
}

/// Publishes the copies that a [`ShadowLayer`](arqon_shadow::ShadowLayer) makes to a [`Broker`], under
/// `shadow.<subject>`.
#[derive(Clone, Debug)]
pub struct Sink {
    broker: Broker,
}

impl Sink {
    /// Publishes to `broker`.
    #[must_use]
    pub const fn new(broker: Broker) -> Self {
        Self { broker }
    }
}

impl arqon_shadow::Sink for Sink {
    fn send(&self, copy: ShadowCopy) -> Delivery<'_> {
        self.broker.publish_with(&copy.subject, || Message {
            headers: copy.headers(),
            subject: copy.subject.clone(),
            payload: copy.body.clone(),
        });
        Box::pin(std::future::ready(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use arqon_message::Subject;
    use http::HeaderMap;
    use http_body_util::Full;
    use tower::ServiceExt;

    use super::*;

    fn message(subject: &str) -> Message {
        Message {
            subject: Subject::parse(subject).expect("subject"),
            headers: HeaderMap::new(),
            payload: Bytes::from_static(b"x"),
        }
    }

    fn pattern(text: &str) -> SubjectPattern {
        SubjectPattern::parse(text).expect("pattern")
    }

    #[tokio::test]
    async fn a_subscriber_gets_what_its_pattern_covers() {
        let broker = Broker::new();
        let mut own = broker.subscribe(pattern("in.t.a.*")).expect("room");
        broker.publish(&message("in.t.b.x"));
        broker.publish(&message("in.t.a.x"));
        assert_eq!(own.recv().await.expect("one").subject.as_str(), "in.t.a.x");
        assert!(own.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_message_is_made_once_and_only_for_subscribers() {
        let broker = Broker::new();
        let made = std::cell::Cell::new(0);
        let publish = || {
            let message = message("in.t.a.x");
            broker.publish_with(&message.subject.clone(), || {
                made.set(made.get() + 1);
                message
            });
            made.get()
        };
        assert_eq!(publish(), 0);
        let _other = broker.subscribe(pattern("in.t.b.*")).expect("room");
        assert_eq!(publish(), 0);
        let mut both = [">", "in.t.a.*"].map(|text| broker.subscribe(pattern(text)).expect("room"));
        assert_eq!(publish(), 1);
        for one in &mut both {
            assert_eq!(one.recv().await.expect("one").subject.as_str(), "in.t.a.x");
        }
    }

    #[tokio::test]
    async fn a_slow_subscriber_loses_counted_messages_and_holds_nobody() {
        let broker = Broker::new();
        let mut slow = broker.subscribe(pattern(">")).expect("room");
        for _ in 0..=SUBSCRIPTION_MESSAGES_MAX {
            broker.publish(&message("a"));
        }
        assert_eq!(broker.lost(), 1);
        let mut got = 0;
        while slow.try_recv().is_ok() {
            got += 1;
        }
        assert_eq!(got, SUBSCRIPTION_MESSAGES_MAX);
    }

    #[tokio::test]
    async fn publishing_answers_202_with_the_subject() {
        let broker = Broker::new();
        let mut all = broker.subscribe(pattern(">")).expect("room");
        let mut request = Request::new(Full::new(Bytes::from_static(b"abc")));
        request
            .extensions_mut()
            .insert(Subject::parse("in.t.a.x").expect("subject"));
        let response = Publish::new(broker).oneshot(request).await.expect("infallible");
        assert_eq!(response.status(), 202);
        let body = arqon_message::collect(response.into_body(), 1_000)
            .await
            .expect("whole")
            .bytes;
        assert_eq!(
            body,
            r#"{"subject":"in.t.a.x","stream":null,"sequence":null,"duplicate":false}"#
        );
        assert_eq!(all.recv().await.expect("one").payload, "abc");
    }
}
