//! Shadow copies to NATS: core publish to `shadow.<subject>`.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use async_nats::{
    Client, HeaderMap, HeaderName, HeaderValue,
    client::{PublishError, PublishErrorKind},
    connection::State,
    message::OutboundMessage,
};
use bytes::Bytes;
use futures_util::Sink as _;
use tokio::time::{Instant, timeout, timeout_at};

use arqon_message::Subject;
use arqon_shadow::{Delivery, ShadowCopy, Sink, SinkError};

use super::{Connection, connection::Life};

/// How often a stalled server is looked at again.
const READY_LOOK: Duration = Duration::from_millis(200);

/// The most bytes that the client holds for the mirror before they have to be on their way.
const UNFLUSHED_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How long one publish may wait for a place in the client's own queue, unless set otherwise.
pub const SINK_TIMEOUT: Duration = Duration::from_millis(800);

/// How long after it was made a sink waits for its first connection, unless set otherwise: a program that starts is ready once its primary's
/// client is connected, and this one may be a moment later.
const FIRST_CONNECTION: Duration = Duration::from_secs(2);

/// Whether a NATS message is a shadow copy, by its headers: [`arqon_shadow::is_shadow`] for a consumer.
///
/// ```
/// let mut headers = async_nats::HeaderMap::new();
/// assert!(!arqon::nats::is_shadow(&headers));
/// headers.insert("X_Arqon.Shadow", "true");
/// assert!(arqon::nats::is_shadow(&headers));
/// ```
#[must_use]
pub fn is_shadow(headers: &HeaderMap) -> bool {
    headers.iter().any(|(name, values)| {
        values
            .iter()
            .any(|value| arqon_shadow::is_shadow_field(name.as_ref(), value.as_str().as_bytes()))
    })
}

/// Publishes each copy to its `shadow.` subject, at most once, in order, without an acknowledgement.
///
/// Give it a client of its own: the client's queue of commands is shared by everything that publishes through it, so a
/// mirror on the primary's client would make the primary wait behind it. A copy is counted as mirrored when the client
/// took it; what the client holds when its connection breaks is lost, as core NATS is.
///
/// - While the client is not connected a copy is dropped as `disconnected`, at once: async-nats would keep it, and once
///   its queue of 2,048 is full `publish` waits for ever. Only for the first connection copies wait: two seconds from the
///   start, or what [`first_connection`](Self::first_connection) says, whatever the other deadlines are.
/// - What is above the server's `max_payload`, headers included, is dropped before it is queued: `max_payload`.
/// - A server that stalls costs one copy (`timeout`): the others stay in the mirror's queue until it goes on.
/// - The client gets bodies of their own, never a server's read buffer.
/// - After every 4 MiB the client is flushed before more is given to it: its queue is bounded in messages only, and with
///   64 KiB each it would hold 128 MiB for a server that has stopped reading. Such a server makes flushing fail: `timeout`.
#[derive(Clone)]
pub struct NatsSink {
    nats: Connection,
    timeout: Duration,
    /// Bytes given to the client since it was flushed last.
    unflushed: Arc<AtomicUsize>,
    /// Until then a first connection is waited for.
    starting_until: Instant,
    /// Only the drain task asks for it.
    line: Arc<Mutex<Line>>,
}

/// The client's queue as something that says at once whether it has room, and the subject of the latest copy.
struct Line {
    life: Arc<Life>,
    client: Client,
    latest: Option<(Subject, async_nats::Subject)>,
}

impl NatsSink {
    /// Publishes through `nats`. Through a [`Connection`] it goes on with the next client when one has died.
    #[must_use]
    pub fn new(nats: impl Into<Connection>) -> Self {
        let nats = nats.into();
        let line = Line::of(nats.life());
        Self {
            nats,
            timeout: SINK_TIMEOUT,
            unflushed: Arc::default(),
            starting_until: Instant::now() + FIRST_CONNECTION,
            line: Arc::new(Mutex::new(line)),
        }
    }

    /// Another deadline for one publish. The mirror's own `timeout_ms` holds besides.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long from now on copies wait for the client's first connection.
    #[must_use]
    pub fn first_connection(mut self, patience: Duration) -> Self {
        let now = Instant::now();
        self.starting_until = now.checked_add(patience).unwrap_or(now + FIRST_CONNECTION);
        self
    }

    /// Whether the first connection is being made, and may be waited for.
    fn is_starting(&self) -> bool {
        self.nats.client().connection_state() == State::Pending && Instant::now() < self.starting_until
    }

    /// The queue of this client; what another one held is gone with it.
    fn line(&self, life: &Arc<Life>) -> MutexGuard<'_, Line> {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&line.life, life) {
            *line = Line::of(Arc::clone(life));
            self.unflushed.store(0, Ordering::Relaxed);
        }
        line
    }

    /// Publishes if the client has room for it now.
    fn publish(&self, copy: &ShadowCopy) -> Option<Result<(), SinkError>> {
        let life = self.nats.life();
        if !life.is_connected() {
            return (!self.is_starting()).then_some(Err(SinkError::Disconnected));
        }
        let (headers, header_bytes) = to_nats(copy);
        let (size, limit) = (copy.body.len() + header_bytes, life.max_payload());
        if size > limit {
            return Some(Err(SinkError::MaxPayload { size, limit }));
        }
        let mut line = self.line(&life);
        if self.unflushed.load(Ordering::Relaxed) + size > UNFLUSHED_BYTES_MAX {
            return None;
        }
        let published = line.publish(&copy.subject, headers, copy.own_body())?;
        Some(match published {
            Ok(()) => {
                self.unflushed.fetch_add(size, Ordering::Relaxed);
                Ok(())
            }
            Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                Err(SinkError::MaxPayload { size, limit })
            }
            Err(error) if error.kind() == PublishErrorKind::Send => Err(SinkError::Disconnected),
            Err(error) => Err(SinkError::publish(error)),
        })
    }

    /// Publishes once there is room.
    async fn publish_later(&self, copy: ShadowCopy) -> Result<(), SinkError> {
        if self.is_starting() {
            // It ends with the first connection.
            let client = self.nats.client();
            let connected = timeout_at(self.starting_until, client.flush()).await;
            connected
                .map_err(|_| SinkError::Disconnected)?
                .map_err(SinkError::publish)?;
        } else if self.unflushed.load(Ordering::Relaxed) + copy.size() > UNFLUSHED_BYTES_MAX {
            self.flush_client().await?;
        } else {
            let life = self.nats.life();
            let room = poll_fn(|cx| Pin::new(&mut self.line(&life).client).poll_ready(cx));
            match timeout(self.timeout, room).await {
                Ok(room) => room.map_err(|_| SinkError::Disconnected)?,
                Err(_) => return Err(self.late()),
            }
        }
        self.publish(&copy).unwrap_or_else(|| Err(self.late()))
    }

    /// Waits until the client has written what it holds.
    async fn flush_client(&self) -> Result<(), SinkError> {
        let client = self.nats.client();
        match timeout(self.timeout, client.flush()).await {
            Ok(Ok(())) => {
                self.unflushed.store(0, Ordering::Relaxed);
                Ok(())
            }
            Ok(Err(error)) => Err(SinkError::publish(error)),
            Err(_) => Err(self.late()),
        }
    }

    fn late(&self) -> SinkError {
        if self.nats.is_connected() {
            SinkError::Timeout
        } else {
            SinkError::Disconnected
        }
    }
}

impl Line {
    fn of(life: Arc<Life>) -> Self {
        Self {
            client: life.client.clone(),
            life,
            latest: None,
        }
    }

    /// `None`: the client's queue is full.
    fn publish(
        &mut self,
        subject: &Subject,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Option<Result<(), PublishError>> {
        // Nobody has to be woken: whoever is told that there is no room asks again, and waits.
        let mut context = Context::from_waker(Waker::noop());
        let mut client = Pin::new(&mut self.client);
        match client.as_mut().poll_ready(&mut context) {
            Poll::Pending => return None,
            Poll::Ready(Err(error)) => return Some(Err(error)),
            Poll::Ready(Ok(())) => {}
        }
        let subject = match &self.latest {
            Some((latest, written)) if latest == subject => written.clone(),
            _ => {
                let written = async_nats::Subject::from(subject.as_str());
                self.latest = Some((subject.clone(), written.clone()));
                written
            }
        };
        Some(client.start_send(OutboundMessage {
            subject,
            reply: None,
            payload,
            headers: Some(headers),
        }))
    }
}

impl Sink for NatsSink {
    fn offer(&self, copy: &ShadowCopy) -> Option<Result<(), SinkError>> {
        self.publish(copy)
    }

    fn send(&self, copy: ShadowCopy) -> Delivery<'_> {
        Box::pin(self.publish_later(copy))
    }

    fn flush(&self) -> Delivery<'_> {
        Box::pin(async {
            if !self.nats.is_connected() {
                return Err(SinkError::Disconnected);
            }
            self.flush_client().await
        })
    }

    fn copy_bytes_max(&self) -> usize {
        // Without a server there is no limit to speak of: the copy is then dropped for the better reason.
        let life = self.nats.life();
        if life.is_connected() {
            life.max_payload().saturating_sub(VERSION_LINE.len())
        } else {
            usize::MAX
        }
    }

    fn header_bytes(&self, name: &str, value: &[u8]) -> usize {
        let is_carried = to_value(name, value).is_some() && name.parse::<HeaderName>().is_ok();
        if is_carried { line_bytes(name, value) } else { 0 }
    }

    fn is_down(&self) -> bool {
        !self.nats.is_connected() && !self.is_starting()
    }

    fn ready(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            let life = self.nats.life();
            let mut flushed = pin!(life.client.flush());
            // A connection that breaks meanwhile ends it too.
            while life.is_connected() {
                if let Ok(flushed) = timeout(READY_LOOK, flushed.as_mut()).await {
                    if flushed.is_ok() {
                        self.unflushed.store(0, Ordering::Relaxed);
                    }
                    return;
                }
            }
        })
    }

    fn grace(&self) -> Duration {
        if self.is_starting() {
            self.starting_until.saturating_duration_since(Instant::now())
        } else {
            Duration::ZERO
        }
    }
}

impl fmt::Debug for NatsSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsSink")
            .field("timeout", &self.timeout)
            .field("unflushed", &self.unflushed)
            .finish_non_exhaustive()
    }
}

/// A copy's headers for NATS, and their size on the wire. What NATS cannot carry (bytes that are not UTF-8) and what means
/// nothing without HTTP (`host`, `accept*`) is left out; the mark always passes.
fn to_nats(copy: &ShadowCopy) -> (HeaderMap, usize) {
    let mut headers = Headers::default();
    copy.each_header(|name, value| headers.add(name, value));
    (headers.map, headers.bytes + VERSION_LINE.len())
}

/// What stands around headers, with the empty line behind them.
const VERSION_LINE: &str = "NATS/1.0\r\n\r\n";

/// A header's value, if NATS can carry it and it means anything there. Checked conversions only: async-nats' own `From`
/// panics on what it cannot carry.
fn to_value(name: &str, value: &[u8]) -> Option<HeaderValue> {
    if name == "host" || name.starts_with("accept") {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// A header on the wire.
const fn line_bytes(name: &str, value: &[u8]) -> usize {
    name.len() + value.len() + ": \r\n".len()
}

/// Headers for NATS, being written.
#[derive(Default)]
struct Headers {
    map: HeaderMap,
    bytes: usize,
    before: Option<HeaderName>,
}

impl Headers {
    fn add(&mut self, name: &str, value: &[u8]) {
        let Some(written) = to_value(name, value) else {
            return;
        };
        // All values of a name stand together, so only a repeated one has to be looked for.
        let repeated = self
            .before
            .take()
            .filter(|before| AsRef::<str>::as_ref(before) == name);
        let again = repeated.is_some();
        let Some(key) = repeated.or_else(|| common(name)).or_else(|| name.parse().ok()) else {
            return;
        };
        self.bytes += line_bytes(name, value);
        self.before = Some(key.clone());
        if again {
            self.map.append(key, written);
        } else {
            self.map.insert(key, written);
        }
    }
}

/// Names that most copies carry: without an allocation.
fn common(name: &str) -> Option<HeaderName> {
    const SHADOW: HeaderName = HeaderName::from_static("x-arqon-shadow");
    const SHADOW_OF: HeaderName = HeaderName::from_static("x-arqon-shadow-of");
    const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
    const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
    const CONTENT_TYPE: HeaderName = HeaderName::from_static("content-type");
    const USER_AGENT: HeaderName = HeaderName::from_static("user-agent");
    const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
    const SCHEMA: HeaderName = HeaderName::from_static("x-arqon-schema");
    const VARIANT: HeaderName = HeaderName::from_static("x-arqon-variant");
    Some(match name {
        "x-arqon-shadow" => SHADOW,
        "x-arqon-shadow-of" => SHADOW_OF,
        "traceparent" => TRACEPARENT,
        "tracestate" => TRACESTATE,
        "content-type" => CONTENT_TYPE,
        "user-agent" => USER_AGENT,
        "x-request-id" => REQUEST_ID,
        "x-arqon-schema" => SCHEMA,
        "x-arqon-variant" => VARIANT,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_carried_or_left_out_but_never_panic() {
        let mut headers = Headers::default();
        // As a copy gives them: all values of a name together.
        for (name, value) in [
            ("x-arqon-shadow", &b"true"[..]),
            ("host", b"example"),
            ("accept-encoding", b"gzip"),
            ("x-latin", b"caf\xe9"),
            ("x-latin", b"plain"),
            ("x-utf8", "caf\u{e9}".as_bytes()),
            ("x-twice", b"1"),
            ("x-twice", b"\xe9"),
            ("x-twice", b"2"),
            ("x-break", b"a\r\nb"),
            ("content-type", b"a"),
            ("content-type", b"b"),
        ] {
            headers.add(name, value);
        }
        let nats = &headers.map;
        assert_eq!(nats.len(), 5);
        let all = |name: &str| -> Vec<_> { nats.get_all(name).map(HeaderValue::as_str).collect() };
        assert_eq!(all("x-twice"), ["1", "2"]);
        assert_eq!(all("x-latin"), ["plain"]);
        assert_eq!(all("content-type"), ["a", "b"]);
        assert_eq!(all("x-arqon-shadow"), ["true"]);
        let lines = "x-arqon-shadow: true\r\nx-utf8: café\r\nx-latin: plain\r\nx-twice: 1\r\nx-twice: 2\r\n";
        assert_eq!(
            headers.bytes,
            lines.len() + "content-type: a\r\ncontent-type: b\r\n".len()
        );
    }
}
