//! The bottom of a message stack with NATS: publish to JetStream, answer 202 when the stream has acknowledged.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use async_nats::{
    Client,
    jetstream::{
        self, ErrorCode,
        context::{CreateStreamError, CreateStreamErrorKind, PublishError, PublishErrorKind},
        stream,
    },
};
use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body::Body;
use tokio::{
    runtime::Handle,
    sync::{Notify, Semaphore},
    time::timeout,
};
use tower_service::Service;

use arqon_message::{BoxError, Code, MAX_BODY_BYTES, Problem};

use super::Connection;
use crate::publish::{self, Answer, Message, Published};

/// How many publishes may wait for their acknowledgement at once, unless set otherwise.
pub const IN_FLIGHT_MAX: usize = 4_096;
/// How long a publish may take, unless set otherwise.
pub const PUBLISH_TIMEOUT: Duration = Duration::from_millis(800);

/// How many bytes of messages that were given up may lie in the client, which a server that stands still does not take;
/// unless it takes them, nothing more is given to it.
pub const UNSENT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Publishes each request's message to JetStream and answers 202 with stream and sequence once it is acknowledged.
///
/// When NATS is known to be away the answer is 503 `publish.unavailable` with `Retry-After` at once, else within the
/// timeout; a message over the server's `max_payload`, or that JetStream refuses for its size, is 413 `publish.too_large`.
/// Dropping the future gives up waiting: the message may still arrive, so a client that must not send twice sets `Nats-Msg-Id`.
#[derive(Clone, Debug)]
pub struct Publish {
    nats: Connection,
    in_flight: Arc<Semaphore>,
    unsent: Arc<Unsent>,
    /// Told when a message found no stream.
    found_none: Arc<Notify>,
    timeout: Duration,
    max_body_bytes: usize,
    replicas: usize,
}

/// Messages that nobody waits for any more and that may not be on their way yet.
#[derive(Debug, Default)]
struct Unsent {
    bytes: AtomicUsize,
    /// Whether somebody waits until they are.
    settling: AtomicBool,
}

impl Unsent {
    /// `bytes` more, given up.
    fn add(self: &Arc<Self>, bytes: usize, client: &Client) {
        // Without a runtime there is no connection either.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if !self.settling.swap(true, Ordering::AcqRel) {
            runtime.spawn(Arc::clone(self).settle(client.clone()));
        }
    }

    /// Waits until all of it is on its way: what is flushed is behind whatever was given to the client before.
    async fn settle(self: Arc<Self>, client: Client) {
        loop {
            let bytes = self.bytes.load(Ordering::Relaxed);
            // An error is a client that is gone, and what it held with it.
            let _ = client.flush().await;
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.settling.store(false, Ordering::Release);
            if self.bytes.load(Ordering::Relaxed) == 0 || self.settling.swap(true, Ordering::AcqRel) {
                return;
            }
        }
    }
}

/// One message that was given to the client. Dropped before it is answered, it is given up.
struct Given<'a> {
    to: &'a Publish,
    client: &'a Client,
    bytes: usize,
    answered: bool,
}

impl Drop for Given<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.to.unsent.add(self.bytes, self.client);
        }
    }
}

impl Publish {
    /// Publishes through `nats`.
    #[must_use]
    pub fn new(nats: impl Into<Connection>) -> Self {
        Self {
            nats: nats.into(),
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT_MAX)),
            unsent: Arc::default(),
            found_none: Arc::default(),
            timeout: PUBLISH_TIMEOUT,
            max_body_bytes: MAX_BODY_BYTES,
            replicas: 1,
        }
    }

    /// How many servers keep the stream that [`create_stream`](Self::create_stream) makes.
    #[must_use]
    pub const fn replicas(mut self, replicas: usize) -> Self {
        self.replicas = replicas;
        self
    }

    /// Another deadline for the acknowledgement.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Another cap on bodies, in bytes.
    #[must_use]
    pub const fn max_body_bytes(mut self, max: usize) -> Self {
        self.max_body_bytes = max;
        self
    }

    /// Makes the stream that takes the messages of all tenants (`in.t.>`), unless it is there.
    ///
    /// # Errors
    /// When NATS is away or refuses.
    pub async fn create_stream(&self, name: &str) -> Result<(), PublishSetupError> {
        let config = stream::Config {
            name: name.to_owned(),
            subjects: vec!["in.t.>".to_owned()],
            num_replicas: self.replicas,
            ..stream::Config::default()
        };
        match self.nats.life().jetstream.get_or_create_stream(config).await {
            Ok(_) => Ok(()),
            Err(source) => Err(PublishSetupError {
                stream: name.to_owned(),
                source,
            }),
        }
    }

    /// Waits until a message has found no stream that takes it, or one did since this was waited for last: the stream may be gone.
    pub async fn found_no_stream(&self) {
        self.found_none.notified().await;
    }

    async fn publish(&self, message: Message) -> Result<Published, Problem> {
        let nats = self.nats.life();
        if !nats.is_connected() {
            return Err(unavailable("NATS is away"));
        }
        let Ok(_place) = self.in_flight.try_acquire() else {
            return Err(unavailable("too many messages wait for NATS"));
        };
        if self.unsent.bytes.load(Ordering::Relaxed) >= UNSENT_BYTES_MAX {
            return Err(unavailable("NATS takes nothing, and as much waits for it as may"));
        }
        let max_payload = nats.max_payload();
        let size = message.payload.len() + header_bytes(&message.headers);
        if size > max_payload {
            let detail = format!(
                "the message has {size} bytes with its headers; the server takes at most {max_payload}"
            );
            return Err(Problem::new(Code::PublishTooLarge, detail));
        }
        let headers = to_nats(&message.headers)?;
        let publish = async {
            let subject = message.subject.as_str().to_owned();
            nats.jetstream
                .publish_with_headers(subject, headers, message.payload)
                .await?
                .await
        };
        let mut given = Given {
            to: self,
            client: &nats.client,
            bytes: size,
            answered: false,
        };
        let published = timeout(self.timeout, publish).await;
        given.answered = published.is_ok();
        match published {
            Ok(Ok(ack)) => Ok(Published {
                subject: message.subject,
                stream: Some(ack.stream),
                sequence: Some(ack.sequence),
                duplicate: ack.duplicate,
            }),
            Ok(Err(error)) => {
                if error.kind() == PublishErrorKind::StreamNotFound {
                    self.found_none.notify_one();
                }
                Err(refused(&error))
            }
            Err(_) => Err(unavailable("NATS did not acknowledge in time")),
        }
    }
}

fn unavailable(detail: &'static str) -> Problem {
    Problem::new(Code::PublishUnavailable, detail)
}

fn refused(error: &PublishError) -> Problem {
    tracing::warn!(component = "nats", error = %error, "publish refused");
    match error.kind() {
        PublishErrorKind::StreamNotFound => unavailable("no JetStream stream takes the subject"),
        PublishErrorKind::MaxPayloadExceeded => Problem::new(
            Code::PublishTooLarge,
            "the message is larger than the server takes",
        ),
        PublishErrorKind::TimedOut => unavailable("NATS did not acknowledge in time"),
        // Another try would be refused as this one.
        _ => match answer(error) {
            Some(ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM) => Problem::new(
                Code::PublishTooLarge,
                "the message's headers are larger than JetStream takes (64 KiB)",
            ),
            Some(ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM) => Problem::new(
                Code::PublishTooLarge,
                "the message is larger than the stream takes (`max_msg_size`)",
            ),
            _ => unavailable("NATS refused the message"),
        },
    }
}

/// What JetStream answered, where it did.
fn answer(error: &PublishError) -> Option<ErrorCode> {
    let source = std::error::Error::source(error)?;
    Some(source.downcast_ref::<jetstream::Error>()?.error_code())
}

/// An upper bound of what the headers take on the wire.
pub(super) fn header_bytes(headers: &HeaderMap) -> usize {
    const PREAMBLE: usize = "NATS/1.0\r\n\r\n".len();
    const PER_HEADER: usize = ": \r\n".len();
    let lines = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + PER_HEADER);
    lines.sum::<usize>() + if headers.is_empty() { 0 } else { PREAMBLE }
}

/// HTTP headers as NATS headers, checked: nothing a client sends can end a line.
///
/// # Errors
/// A problem naming the header that NATS cannot carry.
pub(super) fn to_nats(headers: &HeaderMap) -> Result<async_nats::HeaderMap, Problem> {
    let mut nats = async_nats::HeaderMap::new();
    for (name, value) in headers {
        let refused = || {
            Problem::new(
                Code::FrameInvalid,
                format!("header {name} cannot be published: use visible ASCII"),
            )
        };
        // NATS header names are case-sensitive; its own are known in this spelling.
        let name = if name == "nats-msg-id" {
            "Nats-Msg-Id"
        } else {
            name.as_str()
        };
        let name: async_nats::HeaderName = name.parse().map_err(|_| refused())?;
        let value = value.to_str().map_err(|_| refused())?;
        let value: async_nats::HeaderValue = value.parse().map_err(|_| refused())?;
        nats.append(name, value);
    }
    Ok(nats)
}

/// The stream could not be made.
#[derive(Debug, thiserror::Error)]
#[error("stream {stream:?} could not be found or made")]
pub struct PublishSetupError {
    stream: String,
    #[source]
    source: CreateStreamError,
}

impl PublishSetupError {
    /// Whether the server has answered: there is none and none can be made, or no JetStream. Otherwise NATS may be away, and the
    /// stream there all the same.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        !matches!(
            self.source.kind(),
            CreateStreamErrorKind::TimedOut | CreateStreamErrorKind::Response
        )
    }
}

impl<B> Service<Request<B>> for Publish
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Answer;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let taken = match publish::take(request, this.max_body_bytes).await {
                Ok(taken) => taken,
                Err(refused) => return Ok(publish::refuse(refused.0, &refused.1)),
            };
            Ok(match this.publish(taken.message()).await {
                Ok(published) => published.into_response_in(taken.parts.headers),
                Err(problem) => publish::refuse(problem, &taken.parts),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn values_that_nats_cannot_carry_are_refused_by_name() {
        let headers = HeaderMap::from_iter([(
            HeaderName::from_static("x-a"),
            HeaderValue::from_bytes(b"\xff").expect("opaque bytes are a header value"),
        )]);
        let problem = to_nats(&headers).expect_err("refused");
        assert_eq!(problem.code, Code::FrameInvalid);
        assert!(problem.detail.contains("x-a"), "{}", problem.detail);
    }

    #[test]
    fn the_message_id_has_the_servers_spelling() {
        let headers = HeaderMap::from_iter([(
            HeaderName::from_static("nats-msg-id"),
            HeaderValue::from_static("t:1"),
        )]);
        assert_eq!(
            to_nats(&headers)
                .expect("fits")
                .get("Nats-Msg-Id")
                .map(|v| v.as_str()),
            Some("t:1")
        );
    }
}
