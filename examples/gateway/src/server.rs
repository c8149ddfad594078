//! The accept loop: hyper-util with the limits that `axum::serve` does not set.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arqon::{Code, ConnectionId, Problem, RemoteAddr, edge::peers::FromTrustedPeer};
use axum::{Router, body::Body};
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, Version,
    header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, TRANSFER_ENCODING},
};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto::Builder,
        graceful::{GracefulShutdown, Watcher},
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::{body::EdgeBody, edge::Edge, routes};

/// What one listener allows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Its name in metrics.
    pub(crate) listener: &'static str,
    pub(crate) max_connections: usize,
    pub(crate) max_streams: u32,
    pub(crate) header_timeout: Duration,
    pub(crate) body_idle_timeout: Duration,
    /// How much of a refused body is read, in bytes, so that the answer arrives.
    pub(crate) drain_bytes: usize,
    /// How long open requests may take once the listener stops.
    pub(crate) drain_timeout: Duration,
}

/// The largest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How much of a stream, and of a whole HTTP/2 connection, may be on its way unread, in bytes.
const H2_STREAM_WINDOW: u32 = 64 * 1024;
const H2_CONNECTION_WINDOW: u32 = 1024 * 1024;
/// How long to wait after the system refused a connection, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Headers that mean one thing: two of them are two readings of one request.
const SINGLE: [HeaderName; 3] = [HOST, CONTENT_TYPE, HeaderName::from_static("x-request-id")];

/// Serves `app` until `stop`, then lets open requests end, at most `drain_timeout`. Operators' listeners have no `edge`:
/// nothing is shed there.
pub(crate) async fn serve(
    listener: TcpListener,
    app: Router,
    limits: Limits,
    edge: Option<Edge>,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(limits.max_connections));
    let graceful = GracefulShutdown::new();
    let listening = limits.listener;
    let accepted_total = metrics::counter!("shield_gateway_connections_total", "listener" => listening);
    let open = metrics::gauge!("shield_gateway_connections", "listener" => listening);
    loop {
        let accept = async {
            let place = Arc::clone(&places)
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept => accepted,
        };
        match accepted {
            Ok((stream, remote)) => {
                let _ = stream.set_nodelay(true);
                let connection = Connection {
                    app: app.clone(),
                    edge: edge.clone(),
                    id: ConnectionId::mint(),
                    remote,
                    limits,
                };
                let (watched, stop) = (graceful.watcher(), stop.clone());
                accepted_total.increment(1);
                let open = Raised::of(&open);
                tokio::spawn(async move {
                    connection.serve(stream, watched, stop).await;
                    drop((open, place));
                });
            }
            Err(error) => {
                metrics::counter!("shield_gateway_accept_errors_total").increment(1);
                tracing::warn!(component = "edge", error = %error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    if timeout(limits.drain_timeout, graceful.shutdown()).await.is_err() {
        tracing::warn!(
            component = "edge",
            "requests were still open when the drain's time was up"
        );
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
#[derive(Clone)]
struct Connection {
    app: Router,
    edge: Option<Edge>,
    id: ConnectionId,
    remote: SocketAddr,
    limits: Limits,
}

impl Connection {
    async fn serve(self, stream: TcpStream, watcher: Watcher, stop: CancellationToken) {
        let Some(tls) = self.edge.as_ref().and_then(|edge| edge.tls.clone()) else {
            return self.speak(stream, watcher).await;
        };
        // The handshake has the time of a head, and none once the gateway drains.
        let handshake = timeout(self.limits.header_timeout, tls.acceptor().accept(stream));
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            stream = handshake => stream,
        };
        match stream {
            Ok(Ok(stream)) => self.speak(stream, watcher).await,
            Ok(Err(error)) => tracing::debug!(component = "edge", error = %error, "no TLS"),
            Err(_) => tracing::debug!(component = "edge", "no TLS in time"),
        }
    }

    async fn speak<S>(self, stream: S, watcher: Watcher)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limits = self.limits;
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            .max_buf_size(HEAD_BYTES_MAX)
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.max_streams)
            .initial_stream_window_size(H2_STREAM_WINDOW)
            .initial_connection_window_size(H2_CONNECTION_WINDOW)
            .max_header_list_size(HEAD_BYTES_MAX as u32)
            .keep_alive_interval(Some(Duration::from_secs(30)));
        let asked = Arc::new(AtomicBool::new(false));
        let service = hyper::service::service_fn({
            let asked = Arc::clone(&asked);
            move |request| {
                asked.store(true, Ordering::Relaxed);
                handle(self.clone(), request)
            }
        });
        let serving = builder
            .serve_connection_with_upgrades(TokioIo::new(stream), service)
            .into_owned();
        let serving = watcher.watch(serving);
        tokio::pin!(serving);
        // hyper's own timer starts with the protocol: whoever says nothing, or opens no stream, would be held for ever.
        let silent = async {
            sleep(limits.header_timeout).await;
            if asked.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            served = &mut serving => if let Err(error) = served {
                tracing::debug!(component = "edge", error = %error, "a connection ended early");
            },
            () = silent => tracing::debug!(component = "edge", "a connection asked for nothing in time"),
        }
    }
}

/// Serves one request; before its answer goes out, what is left of its body is read, within bounds: a server that closes
/// on unread bytes resets the connection, and the client never sees the answer.
async fn handle(
    connection: Connection,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let Connection {
        mut app,
        edge,
        id,
        remote,
        limits,
    } = connection;
    let closes = must_close(&request);
    let client = edge
        .as_ref()
        .map_or(remote, |edge| edge.peers.client(remote, request.headers()));
    let extensions = request.extensions_mut();
    extensions.insert(id);
    extensions.insert(RemoteAddr(client));
    if edge.as_ref().is_some_and(|edge| edge.peers.contains(remote.ip())) {
        extensions.insert(FromTrustedPeer);
    }
    let place = match admit(edge.as_ref(), &request) {
        Ok(place) => place,
        Err(problem) => return Ok(turn_away(problem, request, limits).await),
    };
    let closes = closes || edge.is_some_and(|edge| edge.load.is_high());
    let mut response = if hyper::body::Body::is_end_stream(request.body()) {
        app.call(request.map(Body::new)).await?
    } else {
        let waits_for_continue = request.headers().contains_key(EXPECT);
        let (parts, body) = request.into_parts();
        let (body, rest) = EdgeBody::new(body, limits.body_idle_timeout);
        let response = app.call(Request::from_parts(parts, Body::new(body))).await?;
        rest.drain(limits.drain_bytes, waits_for_continue).await;
        response
    };
    drop(place);
    if closes {
        close_after(&mut response);
    }
    Ok(response)
}

/// Whether nothing may be read behind this request: two lengths are two readings of where it ends, and hyper, which goes by
/// the chunks and forgets the other, tells nobody that there was one (RFC 9112, 6.1).
fn must_close(request: &Request<Incoming>) -> bool {
    request.version() <= Version::HTTP_11 && request.headers().contains_key(TRANSFER_ENCODING)
}

/// A switch of protocols keeps its connection.
fn close_after(response: &mut Response<Body>) {
    if response.version() <= Version::HTTP_11 && response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

fn admit(edge: Option<&Edge>, request: &Request<Incoming>) -> Result<Option<crate::edge::Place>, Problem> {
    let headers = request.headers();
    if let Some(name) = SINGLE
        .into_iter()
        .find(|name| headers.get_all(name).iter().nth(1).is_some())
    {
        return Err(Problem::new(
            Code::FrameInvalid,
            format!("the header {name} may stand only once"),
        ));
    }
    if request.version() == Version::HTTP_11 && !headers.contains_key(HOST) {
        return Err(Problem::new(Code::FrameInvalid, "HTTP/1.1 needs the header host"));
    }
    match edge {
        Some(edge) => edge
            .load
            .enter(announced(headers, request.body(), edge.max_body_bytes))
            .map(Some),
        None => Ok(None),
    }
}

/// How much of a body may come to lie in memory: what it announces, at most the largest that is taken.
fn announced(headers: &HeaderMap, body: &Incoming, max: usize) -> usize {
    if hyper::body::Body::is_end_stream(body) {
        return 0;
    }
    let length = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse().ok());
    length.unwrap_or(max).min(max)
}

/// Answers without the application, and closes: what sends such a request, or sends while there is no room, gets no second
/// turn on this connection.
async fn turn_away(problem: Problem, request: Request<Incoming>, limits: Limits) -> Response<Body> {
    let waits_for_continue = request.headers().contains_key(EXPECT);
    let (parts, body) = request.into_parts();
    let mut response = routes::refuse(problem, &parts);
    *response.version_mut() = parts.version;
    if !hyper::body::Body::is_end_stream(&body) {
        let (unread, rest) = EdgeBody::new(body, limits.body_idle_timeout);
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
