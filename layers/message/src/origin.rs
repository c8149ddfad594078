//! How a request came in.

use std::{fmt, net::SocketAddr};

use http::{Version, request::Parts};

/// The client's address as the edge judged it (behind trusted proxies only). An extension of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RemoteAddr(pub SocketAddr);

impl fmt::Display for RemoteAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The protocol a message came in by. An extension of the request; without one it is read off the HTTP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// HTTP/1.1 or older.
    Http1,
    /// HTTP/2 or newer.
    H2,
    /// A frame of a WebSocket session.
    Ws,
    /// A NATS message.
    Nats,
}

impl Protocol {
    /// The protocol of a request.
    #[must_use]
    pub fn of(parts: &Parts) -> Self {
        parts
            .extensions
            .get()
            .copied()
            .unwrap_or(if parts.version >= Version::HTTP_2 {
                Self::H2
            } else {
                Self::Http1
            })
    }

    /// `http/1.1`, `h2`, `ws` or `nats`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http/1.1",
            Self::H2 => "h2",
            Self::Ws => "ws",
            Self::Nats => "nats",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extension_wins_over_the_http_version() {
        let (mut parts, ()) = http::Request::builder()
            .version(Version::HTTP_2)
            .body(())
            .expect("valid")
            .into_parts();
        assert_eq!(Protocol::of(&parts).as_str(), "h2");
        parts.extensions.insert(Protocol::Ws);
        assert_eq!(Protocol::of(&parts).as_str(), "ws");
    }
}
