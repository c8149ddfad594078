//! Shadow copies to NATS: core publish to `shadow.<subject>`.

use std::{
    future::{Future, poll_fn, ready},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use async_nats::{Client, client::PublishErrorKind, connection::State};
use bytes::Bytes;
use tokio::time::{error::Elapsed, timeout};

use arqon_shadow::{Delivery, ShadowCopy, Sink, SinkError};

/// The most bytes that the client holds for the mirror before they have to be on their way.
const UNFLUSHED_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How long one publish may wait for a place in the client's own queue, unless set otherwise.
pub const SINK_TIMEOUT: Duration = Duration::from_millis(800);

/// Publishes each copy to its `shadow.` subject, at most once, in order, without an acknowledgement.
///
/// Give it a client of its own: the client's queue of commands is shared by everything that publishes through it, so a
/// mirror on the primary's client would make the primary wait behind it. A copy is counted as mirrored when the client
/// took it; what the client holds when its connection breaks is lost, as core NATS is.
///
/// - While the client is not connected a copy is dropped as `disconnected`, at once: async-nats would keep it, and once
///   its queue of 2,048 is full `publish` waits for ever.
/// - A body above the server's `max_payload` is dropped before it is queued, one that is above it with its headers when
///   its turn comes: `max_payload`.
/// - After every 4 MiB the client is flushed before more is given to it: its queue is bounded in messages only, and with
///   64 KiB each it would hold 128 MiB for a server that has stopped reading. Such a server makes flushing fail: `timeout`.
#[derive(Clone, Debug)]
pub struct NatsSink {
    client: Client,
    timeout: Duration,
    /// Bytes given to the client since it was flushed last.
    unflushed: Arc<AtomicUsize>,
}

/// A copy on its way.
struct Message {
    subject: async_nats::Subject,
    headers: async_nats::HeaderMap,
    body: Bytes,
    /// Of body and headers on the wire, in bytes; and the most that the server takes.
    size: usize,
    limit: usize,
}

impl NatsSink {
    /// Publishes through `client`.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self {
            client,
            timeout: SINK_TIMEOUT,
            unflushed: Arc::default(),
        }
    }

    /// Another deadline for one publish. The mirror's own `timeout_ms` holds besides.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// The copy as a message, if there is a server that takes it.
    fn message(&self, copy: ShadowCopy) -> Result<Message, SinkError> {
        if !self.is_connected() {
            return Err(SinkError::Disconnected);
        }
        let (headers, header_bytes) = to_nats(&copy.headers);
        let (size, limit) = (copy.body.len() + header_bytes, self.client.max_payload());
        if size > limit {
            return Err(SinkError::MaxPayload { size, limit });
        }
        Ok(Message {
            subject: copy.subject.as_str().into(),
            headers,
            body: copy.body,
            size,
            limit,
        })
    }

    async fn publish(&self, message: Message) -> Result<(), SinkError> {
        let Message {
            subject,
            headers,
            body,
            size,
            limit,
        } = message;
        if self.unflushed.load(Ordering::Relaxed) + size > UNFLUSHED_BYTES_MAX {
            self.flush_client().await?;
        }
        // A timer only while the client's queue is full: without one its `publish` could wait for ever.
        let publishing = self.client.publish_with_headers(subject, headers, body);
        match within(self.timeout, publishing).await {
            Ok(Ok(())) => {
                self.unflushed.fetch_add(size, Ordering::Relaxed);
                Ok(())
            }
            Ok(Err(error)) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                Err(SinkError::MaxPayload { size, limit })
            }
            Ok(Err(error)) if error.kind() == PublishErrorKind::Send => Err(SinkError::Disconnected),
            Ok(Err(error)) => Err(SinkError::publish(error)),
            Err(_) => Err(self.late()),
        }
    }

    /// Waits until the client has written what it holds.
    async fn flush_client(&self) -> Result<(), SinkError> {
        match timeout(self.timeout, self.client.flush()).await {
            Ok(Ok(())) => {
                self.unflushed.store(0, Ordering::Relaxed);
                Ok(())
            }
            Ok(Err(error)) => Err(SinkError::publish(error)),
            Err(_) => Err(self.late()),
        }
    }

    fn late(&self) -> SinkError {
        if self.is_connected() {
            SinkError::Timeout
        } else {
            SinkError::Disconnected
        }
    }
}

impl Sink for NatsSink {
    fn send(&self, copy: ShadowCopy) -> Delivery<'_> {
        // Made here: what is boxed is a third of the size.
        match self.message(copy) {
            Ok(message) => Box::pin(self.publish(message)),
            Err(error) => Box::pin(ready(Err(error))),
        }
    }

    fn flush(&self) -> Delivery<'_> {
        Box::pin(async {
            if !self.is_connected() {
                return Err(SinkError::Disconnected);
            }
            self.flush_client().await
        })
    }

    fn body_bytes_max(&self) -> usize {
        // Without a server there is no limit to speak of: the copy is then dropped for the better reason.
        if self.is_connected() {
            self.client.max_payload()
        } else {
            usize::MAX
        }
    }
}

/// As tokio's `timeout`, but without a timer for what is ready at once.
async fn within<F: Future>(limit: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    match poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await {
        Poll::Ready(output) => Ok(output),
        Poll::Pending => timeout(limit, future).await,
    }
}

/// A copy's headers for NATS, and their size on the wire. What NATS cannot carry (bytes that are not UTF-8) and what means
/// nothing without HTTP (`host`, `accept*`) is left out; the mark always passes.
fn to_nats(headers: &http::HeaderMap) -> (async_nats::HeaderMap, usize) {
    let mut nats = async_nats::HeaderMap::new();
    let mut bytes = "NATS/1.0\r\n\r\n".len();
    let mut before = None;
    for (name, value) in headers {
        // All values of a name stand together, so only a repeated one has to be looked for.
        let repeated = before.replace(name) == Some(name);
        let name = name.as_str();
        if name == "host" || name.starts_with("accept") {
            continue;
        }
        // Checked conversions only: async-nats' own `From` panics on what it cannot carry.
        let parsed = (
            name.parse::<async_nats::HeaderName>(),
            std::str::from_utf8(value.as_bytes()).map(str::parse),
        );
        if let (Ok(key), Ok(Ok(value))) = parsed {
            let value: async_nats::HeaderValue = value;
            bytes += name.len() + value.as_str().len() + ": \r\n".len();
            if repeated {
                nats.append(key, value);
            } else {
                nats.insert(key, value);
            }
        }
    }
    (nats, bytes)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn headers_are_carried_or_left_out_but_never_panic() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-arqon-shadow", &b"true"[..]),
            ("host", b"example"),
            ("accept-encoding", b"gzip"),
            ("x-latin", b"caf\xe9"),
            ("x-utf8", "caf\u{e9}".as_bytes()),
            ("x-twice", b"1"),
            ("x-twice", b"\xe9"),
            ("x-latin", b"plain"),
            ("x-twice", b"2"),
        ] {
            headers
                .try_append(
                    HeaderName::from_static(name),
                    HeaderValue::from_bytes(value).expect("value"),
                )
                .expect("room");
        }
        let (nats, bytes) = to_nats(&headers);
        assert_eq!(nats.len(), 4);
        let twice: Vec<_> = nats
            .get_all("x-twice")
            .map(async_nats::HeaderValue::as_str)
            .collect();
        assert_eq!(twice, ["1", "2"]);
        assert_eq!(
            nats.get("x-arqon-shadow").map(async_nats::HeaderValue::as_str),
            Some("true")
        );
        assert_eq!(
            bytes,
            "NATS/1.0\r\nx-arqon-shadow: true\r\nx-utf8: café\r\nx-latin: plain\r\nx-twice: 1\r\nx-twice: 2\r\n\r\n".len()
        );
    }
}
