//! One id per connection.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use http::Request;
use tower_service::Service;

/// 128 bits that name one connection: minted at accept, one per TCP connection (HTTP/2 too), one per WebSocket session.
///
/// It is never derived from an address: addresses are shared behind NAT and reused. Shown as 32 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId(u128);

impl ConnectionId {
    /// Makes a new id: two keyed hashes of a counter, with keys that the operating system chose at the first call, so
    /// ids do not repeat within a process, nor in practice between processes, and cannot be guessed from each other.
    #[must_use]
    pub fn mint() -> Self {
        static KEYS: OnceLock<(RandomState, RandomState)> = OnceLock::new();
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (high, low) = KEYS.get_or_init(Default::default);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        Self((u128::from(high.hash_one(n)) << 64) | u128::from(low.hash_one(n)))
    }

    /// An id whose value is given, for replay and tests.
    #[must_use]
    pub const fn from_u128(value: u128) -> Self {
        Self(value)
    }

    /// The id of the connection that a request came in by, wherever the server put it.
    #[must_use]
    pub fn of(extensions: &http::Extensions) -> Option<Self> {
        let id = extensions.get::<Self>().copied();
        #[cfg(feature = "axum")]
        let id = id.or_else(|| {
            extensions
                .get::<axum::extract::ConnectInfo<Self>>()
                .map(|info| info.0)
        });
        id
    }

    /// The id as a number.
    #[must_use]
    pub const fn as_u128(self) -> u128 {
        self.0
    }

    /// Its 32 lower-case hex digits.
    #[must_use]
    pub const fn hex(self) -> [u8; 32] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let bytes = self.0.to_be_bytes();
        let mut hex = [0; 32];
        let mut at = 0;
        while at < bytes.len() {
            hex[2 * at] = DIGITS[(bytes[at] >> 4) as usize];
            hex[2 * at + 1] = DIGITS[(bytes[at] & 15) as usize];
            at += 1;
        }
        hex
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.hex()).expect("hex digits are ASCII"))
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectionId({self})")
    }
}

/// The service of one connection on a bare hyper or hyper-util server: it puts the connection's id into every request.
///
/// Make one per accepted connection, around the service that serves it:
///
/// ```
/// use arqon_message::PerConnection;
/// # use tower::service_fn;
/// # let app = service_fn(|_: http::Request<()>| async { Ok::<_, std::convert::Infallible>(http::Response::new(())) });
/// // for each accepted `stream`:
/// let service = PerConnection::mint(app.clone());
/// // hyper_util::service::TowerToHyperService::new(service) then serves `stream`
/// # let _ = service;
/// ```
#[derive(Clone, Debug)]
pub struct PerConnection<S> {
    inner: S,
    id: ConnectionId,
}

impl<S> PerConnection<S> {
    /// Wraps `inner` with a newly minted id.
    pub fn mint(inner: S) -> Self {
        Self {
            inner,
            id: ConnectionId::mint(),
        }
    }

    /// The id that every request gets.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.id
    }
}

impl<S, B> Service<Request<B>> for PerConnection<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        request.extensions_mut().insert(self.id);
        self.inner.call(request)
    }
}

/// axum mints one per connection: `app.into_make_service_with_connect_info::<ConnectionId>()`. The id then sits in the
/// extension `ConnectInfo<ConnectionId>`, where [`TraceKey`](crate::TraceKey) finds it.
#[cfg(feature = "axum")]
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
impl axum::extract::connect_info::Connected<axum::serve::IncomingStream<'_, tokio::net::TcpListener>>
    for ConnectionId
{
    fn connect_info(_: axum::serve::IncomingStream<'_, tokio::net::TcpListener>) -> Self {
        Self::mint()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_do_not_repeat() {
        let ids: HashSet<_> = (0..100_000).map(|_| ConnectionId::mint()).collect();
        assert_eq!(ids.len(), 100_000);
    }

    #[test]
    fn an_id_is_shown_as_32_hex_digits() {
        assert_eq!(
            ConnectionId::from_u128(0xab).to_string(),
            format!("{:0>32}", "ab")
        );
    }

    #[tokio::test]
    async fn every_request_of_a_connection_carries_its_id() {
        let mut service = PerConnection::mint(tower::service_fn(|request: Request<()>| async move {
            Ok::<_, std::convert::Infallible>(request.extensions().get::<ConnectionId>().copied())
        }));
        let id = service.id();
        for _ in 0..2 {
            assert_eq!(service.call(Request::new(())).await, Ok(Some(id)));
        }
    }
}
