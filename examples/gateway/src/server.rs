//! Connections: hyper-util with the limits that `axum::serve` does not set. They come in by a [`Door`].

mod door;
mod framing;
mod signal;
mod streams;

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Poll, ready},
    time::Duration,
};

use arqon::{
    ConnectionId, Problem, RemoteAddr,
    edge::{peers::FromTrustedPeer, single},
};
use axum::body::Body;
use http::{
    Extensions, HeaderMap, HeaderValue, Request, Response, Version,
    header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING, UPGRADE},
};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::OwnedSemaphorePermit,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::Service;

pub(crate) use self::door::Door;
use self::{signal::Signal, streams::Streams};
use crate::{
    body::{Arrived, EdgeBody, Times, arrived},
    buffers::{HEAD_BYTES_MAX, Meter, Metered, listed},
    edge::Edge,
    guard::Late,
    head_timer::HeadTimer,
    routes::{self, Refused},
};

/// What one listener allows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Its name in metrics.
    pub(crate) listener: &'static str,
    pub(crate) max_connections: usize,
    pub(crate) max_streams: u32,
    pub(crate) header_timeout: Duration,
    /// How long a body may take.
    pub(crate) body: Times,
    /// How much of a refused body is read, in bytes, so that the answer arrives.
    pub(crate) drain_bytes: usize,
    /// How long an HTTP/2 connection may ask for nothing; it is pinged twice as often.
    pub(crate) h2_idle: Duration,
    /// How long open requests may take once the listener stops.
    pub(crate) drain_timeout: Duration,
}

/// How much of a stream, and of a whole HTTP/2 connection, may be on its way unread, in bytes.
const H2_STREAM_WINDOW: u32 = 64 * 1024;
const H2_CONNECTION_WINDOW: u32 = 1024 * 1024;
/// How long a connection that has asked for nothing yet may still ask when the listener is closed: its request may be on its way.
const LAST_WORD: Duration = Duration::from_millis(500);
/// How long the last answers of an HTTP/2 connection may take to be taken once all are there.
const LAST_ANSWER: Duration = Duration::from_secs(3);

/// What a listener hands requests to. Each connection has one of its own, so that no request pays for a clone.
pub(crate) trait App:
    Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone + Send + 'static
{
}

impl<A> App for A where
    A: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static
{
}

/// What a connection has as long as it lives, or the session that it has become: its place among `max_connections`.
#[derive(Clone)]
pub(crate) struct Held {
    meter: Arc<Meter>,
    _place: Arc<(Raised, OwnedSemaphorePermit)>,
}

impl Held {
    /// Where its reads are counted.
    pub(crate) fn meter(&self) -> &Meter {
        &self.meter
    }
}

/// A gauge that is one higher as long as this lives.
pub(crate) struct Raised(metrics::Gauge);

impl Raised {
    pub(crate) fn of(gauge: &metrics::Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge.clone())
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// One client's connection, and what all its requests share.
struct Connection<A> {
    /// Locked to hand it a request, never while it answers.
    app: Mutex<A>,
    edge: Option<Edge>,
    remote: SocketAddr,
    /// What each request is told.
    told: Extensions,
    limits: Limits,
    /// Whether a request has come.
    asked: AtomicBool,
    streams: Streams,
    stop: CancellationToken,
    closed: Signal,
    held: Held,
}

impl<A: App> Connection<A> {
    async fn serve(self: Arc<Self>, stream: TcpStream) {
        let Some(tls) = self.edge.as_ref().and_then(|edge| edge.tls.clone()) else {
            return self.speak(stream).await;
        };
        // The handshake has the time of a head, and none once the listener is closed.
        let stream = Metered::handshake(stream, Arc::clone(&self.held.meter));
        let handshake = timeout(self.limits.header_timeout, tls.acceptor().accept(stream));
        let stream = tokio::select! {
            () = self.closed.wait() => return,
            stream = handshake => stream,
        };
        match stream {
            Ok(Ok(mut stream)) => {
                stream.get_mut().0.done();
                self.speak(stream).await;
            }
            Ok(Err(error)) => tracing::debug!(component = "edge", error = %error, "no TLS"),
            Err(_) => tracing::debug!(component = "edge", "no TLS in time"),
        }
    }

    async fn speak<S>(self: Arc<Self>, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limits = self.limits;
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(HeadTimer::default())
            .header_read_timeout(limits.header_timeout)
            .max_buf_size(HEAD_BYTES_MAX)
            // Answers are small: one buffer and one `send` cost less than two in a `writev`.
            .writev(false)
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.max_streams)
            .initial_stream_window_size(H2_STREAM_WINDOW)
            .initial_connection_window_size(H2_CONNECTION_WINDOW)
            .max_header_list_size(HEAD_BYTES_MAX as u32)
            .keep_alive_interval(Some(limits.h2_idle / 2));
        let service = hyper::service::service_fn({
            let this = Arc::clone(&self);
            move |request| Arc::clone(&this).handle(request)
        });
        let stream = Metered::new(stream, Arc::clone(&self.held.meter));
        let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        tokio::pin!(serving);
        // hyper's own timer starts with the protocol: whoever says nothing, or opens no stream, would be held for ever.
        let mut clock = pin!(sleep(limits.header_timeout));
        let silent = poll_fn(|cx| match self.asked.load(Ordering::Relaxed) {
            true => Poll::Pending,
            false => clock.as_mut().poll(cx),
        });
        let leave = async {
            self.closed.wait().await;
            if !self.asked.load(Ordering::Relaxed) && self.edge.is_some() {
                sleep(LAST_WORD).await;
            }
        };
        tokio::select! {
            biased;
            served = &mut serving => return told(served),
            () = silent => return tracing::debug!(component = "edge", "a connection asked for nothing in time"),
            () = leave => {}
            // An operator's event stream is answered for as long as it is read.
            () = self.streams.idle(limits.h2_idle), if self.edge.is_some() => {}
        }
        serving.as_mut().graceful_shutdown();
        loop {
            let asked = || self.asked.load(Ordering::Relaxed);
            let patience = if asked() { LAST_ANSWER } else { LAST_WORD };
            match timeout(patience, &mut serving).await {
                Ok(served) => return told(served),
                // Nothing is under way, and the peer does not say that it is gone. Who asked meanwhile is answered.
                Err(_) if !asked() || (self.edge.is_some() && self.streams.rest()) => return,
                Err(_) => {}
            }
        }
    }

    /// Serves one request; before its answer goes out, what is left of its body is read, within bounds: a server that closes
    /// on unread bytes resets the connection, and the client never sees the answer.
    async fn handle(self: Arc<Self>, mut request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let limits = &self.limits;
        self.asked.store(true, Ordering::Relaxed);
        let _answering = self.held.meter.answer(request.version());
        let _open = (request.version() == Version::HTTP_2).then(|| self.streams.begin());
        let told = Told::of(request.headers());
        // Nothing may be read behind such a request: two lengths are two readings of where it ends, and hyper, which goes by
        // the chunks and forgets the other, tells nobody that there was one (RFC 9112, 6.1).
        let mut closes = request.version() <= Version::HTTP_11 && told.encodes_transfer;
        let (upgrades, expects) = (told.upgrades, told.expects);
        let client = self.edge.as_ref().map_or(self.remote, |edge| {
            edge.peers.client(self.remote, request.headers())
        });
        let admitted = admit(self.edge.as_ref(), &told, &request);
        let extensions = request.extensions_mut();
        extensions.extend(self.told.clone());
        if client != self.remote {
            extensions.insert(RemoteAddr(client));
        }
        if upgrades {
            extensions.insert(self.held.clone());
        }
        let place = match admitted {
            Ok(place) => place,
            Err(problem) if self.edge.is_some() => {
                // What sends such a request, or sends while there is no room, gets no second turn on this connection.
                closes = true;
                request.extensions_mut().insert(Refused(problem));
                None
            }
            Err(problem) => return Ok(turn_away(problem, request, *limits).await),
        };
        closes = closes || self.edge.as_ref().is_some_and(|edge| edge.load.is_high());
        let mut response = if hyper::body::Body::is_end_stream(request.body()) {
            let response = self.ask(&mut Some(request.map(Body::new))).await?;
            drop(place);
            response
        } else {
            let (parts, body) = request.into_parts();
            // Who waits for 100-continue is told so once the body is asked for, and not before.
            let arrived = match expects {
                true => Arrived::Begun(None, body),
                false => arrived(body).await,
            };
            match arrived {
                Arrived::Whole(data) => {
                    let response = self
                        .ask(&mut Some(Request::from_parts(parts, Body::from(data))))
                        .await?;
                    drop(place);
                    response
                }
                Arrived::Begun(first, body) => {
                    let (body, rest) = EdgeBody::new(first, body, limits.body);
                    let response = self
                        .ask(&mut Some(Request::from_parts(parts, Body::new(body))))
                        .await?;
                    // What is read from here on lies nowhere: a client that sends slowly what nobody wants takes no place from others.
                    drop(place);
                    // Whose time is up is not waited for any more.
                    if response.extensions().get::<Late>().is_none() {
                        rest.drain(limits.drain_bytes, expects).await;
                    }
                    response
                }
            }
        };
        if closes || self.stop.is_cancelled() {
            close_after(&mut response);
        }
        Ok(response)
    }

    /// Hands a request to the application once it is ready for one. It is taken from where it lies, and what answers it stays
    /// where it is made: moved once more, each is copied.
    async fn ask(&self, request: &mut Option<Request<Body>>) -> Result<Response<Body>, Infallible> {
        let mut answering = pin!(None);
        poll_fn(|cx| {
            if answering.is_none() {
                let mut app = self.app.lock().unwrap_or_else(PoisonError::into_inner);
                ready!(app.poll_ready(cx))?;
                let request = request.take().expect("a future is not polled after it is ready");
                answering.set(Some(app.call(request)));
            }
            let answering = answering.as_mut().as_pin_mut();
            answering.expect("it was made just now").poll(cx)
        })
        .await
    }
}

/// What each request of a connection is told, with room for what the layers add: a map that grows on its way is made three
/// times, and a clone has the room of what it was cloned of.
fn extensions(remote: SocketAddr, trusted: bool) -> Extensions {
    let mut extensions = Extensions::new();
    extensions.insert(ConnectionId::mint());
    extensions.insert(RemoteAddr(remote));
    // Eight are one more than the smaller map holds.
    extensions.insert([(); 0]);
    extensions.insert([(); 1]);
    extensions.insert([(); 2]);
    extensions.insert([(); 3]);
    extensions.insert([(); 4]);
    extensions.insert([(); 5]);
    extensions.remove::<[(); 0]>();
    extensions.remove::<[(); 1]>();
    extensions.remove::<[(); 2]>();
    extensions.remove::<[(); 3]>();
    extensions.remove::<[(); 4]>();
    extensions.remove::<[(); 5]>();
    if trusted {
        extensions.insert(FromTrustedPeer);
    }
    extensions
}

fn told(served: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = served {
        tracing::debug!(component = "edge", error = %error, "a connection ended early");
    }
}

/// What a head says that the edge goes by, read in one go: to look each name up by its hash takes longer.
#[derive(Default)]
struct Told<'a> {
    /// Of all names and values.
    bytes: usize,
    length: Option<&'a HeaderValue>,
    /// The last one, and how many there are.
    host: Option<&'a HeaderValue>,
    hosts: usize,
    encodes_transfer: bool,
    expects: bool,
    upgrades: bool,
    names_message: bool,
}

impl<'a> Told<'a> {
    fn of(headers: &'a HeaderMap) -> Self {
        let mut told = Self::default();
        for (name, value) in headers {
            told.bytes += name.as_str().len() + value.len();
            if *name == CONTENT_LENGTH {
                told.length = told.length.or(Some(value));
            } else if *name == HOST {
                told.host = Some(value);
                told.hosts += 1;
            } else if *name == TRANSFER_ENCODING {
                told.encodes_transfer = true;
            } else if *name == EXPECT {
                told.expects = true;
            } else if *name == UPGRADE {
                told.upgrades = true;
            } else if *name == single::NATS_MSG_ID {
                told.names_message = true;
            }
        }
        told
    }

    /// Whether the head says where the request ends and whom it is for once and plainly. Most do, and need no name looked up.
    fn check(&self, version: Version, headers: &HeaderMap) -> Result<(), Problem> {
        let host = match self.host {
            Some(host) => self.hosts == 1 && framing::is_host(host.as_bytes()),
            None => version != Version::HTTP_11,
        };
        if !host || self.encodes_transfer {
            framing::check(version, headers)?;
        }
        if self.names_message || headers.len() > headers.keys_len() {
            single::check(headers)?;
        }
        Ok(())
    }
}

/// A switch of protocols keeps its connection.
fn close_after(response: &mut Response<Body>) {
    if response.version() <= Version::HTTP_11 && response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

fn admit(
    edge: Option<&Edge>,
    told: &Told<'_>,
    request: &Request<Incoming>,
) -> Result<Option<crate::edge::Place>, Problem> {
    told.check(request.version(), request.headers())?;
    match edge {
        Some(edge) => edge
            .load
            .enter(
                announced(told, request.body(), edge.max_body_bytes)
                    + listed(request.headers().len(), told.bytes),
            )
            .map(Some),
        None => Ok(None),
    }
}

/// How much of a body may come to lie in memory: what it announces, at most the largest that is taken.
fn announced(told: &Told<'_>, body: &Incoming, max: usize) -> usize {
    if hyper::body::Body::is_end_stream(body) {
        return 0;
    }
    let length = told.length.and_then(|length| length.to_str().ok()?.parse().ok());
    length.unwrap_or(max).min(max)
}

/// Answers without the application, and closes.
async fn turn_away(problem: Problem, request: Request<Incoming>, limits: Limits) -> Response<Body> {
    let waits_for_continue = request.headers().contains_key(EXPECT);
    let (parts, body) = request.into_parts();
    let mut response = routes::refuse(problem, &parts);
    *response.version_mut() = parts.version;
    if !hyper::body::Body::is_end_stream(&body) {
        let (unread, rest) = EdgeBody::new(None, body, limits.body);
        drop(unread);
        rest.drain(limits.drain_bytes, waits_for_continue).await;
    }
    close_after(&mut response);
    response
}

/// Binds `address`.
///
/// # Errors
/// One sentence that names the key and the address.
pub(crate) async fn bind(key: &str, address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address)
        .await
        .map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => {
                format!("{key}: {address} is in use: stop the other program or choose another port")
            }
            _ => format!("{key}: {address} cannot be listened on: {error}"),
        })
}

#[cfg(test)]
mod tests;
