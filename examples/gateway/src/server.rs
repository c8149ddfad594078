//! The accept loop: hyper-util with the limits that `axum::serve` does not set.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use arqon::{ConnectionId, RemoteAddr};
use axum::{Router, body::Body};
use http::{Request, Response, header::EXPECT};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::body::EdgeBody;

/// What one listener allows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) max_connections: usize,
    pub(crate) header_timeout: Duration,
    pub(crate) body_idle_timeout: Duration,
    /// How much of a refused body is read, in bytes, so that the answer arrives.
    pub(crate) drain_bytes: usize,
    /// How long open requests may take once the listener stops.
    pub(crate) drain_timeout: Duration,
}

/// How many streams one HTTP/2 connection may have open.
const H2_STREAMS_MAX: u32 = 256;
/// The largest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How long to wait after the system refused a connection, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves `app` until `stop`, then lets open requests end, at most `drain_timeout`.
pub(crate) async fn serve(listener: TcpListener, app: Router, limits: Limits, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(limits.max_connections));
    let graceful = GracefulShutdown::new();
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
                let connection = connection(stream, remote, app.clone(), limits);
                let watched = graceful.watcher();
                tokio::spawn(async move {
                    connection(watched).await;
                    drop(place);
                });
            }
            Err(error) => {
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

fn connection(
    stream: TcpStream,
    remote: SocketAddr,
    app: Router,
    limits: Limits,
) -> impl FnOnce(hyper_util::server::graceful::Watcher) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>>
{
    move |watcher| {
        Box::pin(async move {
            let mut builder = Builder::new(TokioExecutor::new());
            builder
                .http1()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.header_timeout)
                .max_buf_size(HEAD_BYTES_MAX)
                .http2()
                .timer(TokioTimer::new())
                .max_concurrent_streams(H2_STREAMS_MAX)
                .max_header_list_size(HEAD_BYTES_MAX as u32)
                .keep_alive_interval(Some(Duration::from_secs(30)));
            let id = ConnectionId::mint();
            let service =
                hyper::service::service_fn(move |request| handle(app.clone(), request, id, remote, limits));
            let serving = builder
                .serve_connection_with_upgrades(TokioIo::new(stream), service)
                .into_owned();
            if let Err(error) = watcher.watch(serving).await {
                tracing::debug!(component = "edge", error = %error, "a connection ended early");
            }
        })
    }
}

/// Serves one request; before its answer goes out, what is left of its body is read, within bounds: a server that closes
/// on unread bytes resets the connection, and the client never sees the answer.
async fn handle(
    mut app: Router,
    mut request: Request<Incoming>,
    id: ConnectionId,
    remote: SocketAddr,
    limits: Limits,
) -> Result<Response<Body>, Infallible> {
    request.extensions_mut().insert(id);
    request.extensions_mut().insert(RemoteAddr(remote));
    if hyper::body::Body::is_end_stream(request.body()) {
        return app.call(request.map(Body::new)).await;
    }
    let waits_for_continue = request.headers().contains_key(EXPECT);
    let (parts, body) = request.into_parts();
    let (body, rest) = EdgeBody::new(body, limits.body_idle_timeout);
    let response = app.call(Request::from_parts(parts, Body::new(body))).await?;
    rest.drain(limits.drain_bytes, waits_for_continue).await;
    Ok(response)
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
