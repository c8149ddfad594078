//! Names that only Arqon may write.
//!
//! Headers beginning with `x-arqon-` carry decisions: the shadow marker, the variant, the schema revision. A client that
//! could send them could make consumers skip side effects, or pick its own variant. [`ReservedHeadersLayer`] stands
//! outermost at an untrusted edge and takes them out, however they are spelled: names are compared without regard to
//! case, and with `_` and `.` read as `-`, because some consumers read them so. It also takes such names out of `Trailer` and
//! out of trailers, and takes off what `Connection` names ([`hop`]), before anything below sets a header. A signed `x-arqon-pin` moves into the extension [`Pin`]. Only on what a trusted peer sent
//! ([`FromTrustedPeer`]) the shadow marker stays. `shield_reserved_headers_total` counts what was taken out.
//!
//! ```
//! use arqon::edge::reserved::ReservedHeadersLayer;
//! use axum::{Router, routing::get};
//!
//! let app: Router = Router::new().route("/", get(|| async {})).layer(ReservedHeadersLayer::new());
//! ```

use std::{
    pin::Pin as StdPin,
    task::{Context, Poll},
};

pub use arqon_rollout::Pin;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, header::TRAILER};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{hop, peers::FromTrustedPeer};

/// What all reserved names begin with, normalised.
const RESERVED_PREFIX: &str = "x-arqon-";
const PIN: HeaderName = HeaderName::from_static("x-arqon-pin");

/// Whether a header name is reserved, once case, `_` and `.` are normalised.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    let mut bytes = name.bytes();
    RESERVED_PREFIX.bytes().all(|want| {
        bytes.next().is_some_and(|byte| match byte {
            b'_' | b'.' => want == b'-',
            byte => byte.eq_ignore_ascii_case(&want),
        })
    })
}

/// Takes reserved headers off requests; see the [module docs](self).
#[derive(Clone, Copy, Debug, Default)]
pub struct ReservedHeadersLayer {
    keep_marker: bool,
}

impl ReservedHeadersLayer {
    /// For an edge whose clients are not trusted.
    #[must_use]
    pub const fn new() -> Self {
        Self { keep_marker: false }
    }

    /// For an edge whose peers are ours, such as a NATS subscription: the shadow marker stays, so that a mirrored message
    /// is not mirrored again.
    #[must_use]
    pub const fn keeping_shadow_marker() -> Self {
        Self { keep_marker: true }
    }

    pub(crate) fn strip(self, headers: &mut HeaderMap) -> Option<Pin> {
        hop::strip(headers);
        let mut pin = None;
        // In one go: to look a name up by its hash takes longer.
        let (mut reserves, mut lists) = (false, false);
        for name in headers.keys() {
            reserves |= is_reserved(name.as_str());
            lists |= *name == TRAILER;
        }
        if reserves {
            pin = headers.get(PIN).cloned().map(Pin);
            let marker = self.keep_marker && arqon_shadow::is_shadow(headers);
            take_reserved(headers);
            if marker {
                headers.insert(arqon_shadow::SHADOW, HeaderValue::from_static("true"));
            }
        }
        if lists {
            strip_trailer_names(headers);
        }
        pin
    }
}

/// Takes reserved headers out, and counts them: a client that sends some is mistaken or tries something.
fn take_reserved(headers: &mut HeaderMap) {
    let reserved: Vec<_> = headers
        .keys()
        .filter(|name| is_reserved(name.as_str()))
        .cloned()
        .collect();
    metrics::counter!("shield_reserved_headers_total").increment(reserved.len() as u64);
    for name in reserved {
        headers.remove(name);
    }
}

/// Takes reserved names out of the list of trailers to come.
fn strip_trailer_names(headers: &mut HeaderMap) {
    let reserved = |token: &str| is_reserved(token.trim());
    let names_one = |value: &HeaderValue| value.to_str().is_ok_and(|value| value.split(',').any(reserved));
    if !headers.get_all(TRAILER).iter().any(names_one) {
        return;
    }
    let kept: Vec<String> = headers
        .get_all(TRAILER)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter(|token| !reserved(token))
        .map(|token| token.trim().to_owned())
        .collect();
    headers.remove(TRAILER);
    if let Ok(value) = HeaderValue::from_str(&kept.join(", "))
        && !kept.is_empty()
    {
        headers.insert(TRAILER, value);
    }
}

impl<S> Layer<S> for ReservedHeadersLayer {
    type Service = ReservedHeaders<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ReservedHeaders { inner, layer: *self }
    }
}

/// The service of [`ReservedHeadersLayer`].
#[derive(Clone, Debug)]
pub struct ReservedHeaders<S> {
    inner: S,
    layer: ReservedHeadersLayer,
}

impl<S, B> Service<Request<B>> for ReservedHeaders<S>
where
    S: Service<Request<WithoutReservedTrailers<B>>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let trusted = request.extensions().get::<FromTrustedPeer>().is_some();
        let layer = ReservedHeadersLayer {
            keep_marker: self.layer.keep_marker || trusted,
        };
        if let Some(pin) = layer.strip(request.headers_mut()) {
            request.extensions_mut().insert(pin);
        }
        self.inner
            .call(request.map(|body| WithoutReservedTrailers { body }))
    }
}

pin_project! {
    /// A request's body, without reserved trailers.
    #[derive(Clone, Debug, Default)]
    pub struct WithoutReservedTrailers<B> {
        #[pin]
        body: B,
    }
}

impl<B: Body<Data = Bytes>> Body for WithoutReservedTrailers<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: StdPin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.project().body.poll_frame(cx).map_ok(|mut frame| {
            if let Some(trailers) = frame.trailers_mut() {
                take_reserved(trailers);
            }
            frame
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{BodyExt, Full};
    use tower::{ServiceExt, service_fn};

    use super::*;

    async fn seen(layer: ReservedHeadersLayer, request: http::request::Builder) -> (HeaderMap, Option<Pin>) {
        let inner = service_fn(
            |request: Request<WithoutReservedTrailers<Full<Bytes>>>| async move {
                Ok::<_, Infallible>((
                    request.headers().clone(),
                    request.extensions().get::<Pin>().cloned(),
                ))
            },
        );
        layer
            .layer(inner)
            .oneshot(request.body(Full::default()).expect("valid"))
            .await
            .expect("infallible")
    }

    #[tokio::test]
    async fn reserved_names_go_however_they_are_spelled() {
        let request = Request::builder()
            .header("X-Arqon-Shadow", "true")
            .header("x_arqon_shadow", "true")
            .header("x.arqon.variant", "7")
            .header("x-arqon_Schema", "s")
            .header("x-arqonaut", "stays")
            .header("x-arqo", "stays");
        let (headers, _) = seen(ReservedHeadersLayer::new(), request).await;
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["x-arqo", "x-arqonaut"]);
    }

    #[tokio::test]
    async fn a_header_that_connection_names_ends_here_and_trailer_names_no_reserved_one() {
        let request = Request::builder()
            .header("connection", "keep-alive, X-Own, X-Arqon-Shadow, upgrade")
            .header("connection", "x_arqon_pin")
            .header("x-own", "1")
            .header("trailer", "x-arqon-shadow, x-sum");
        let (headers, _) = seen(ReservedHeadersLayer::new(), request).await;
        assert_eq!(headers.get("connection").expect("kept"), "upgrade");
        assert_eq!(headers.get(TRAILER).expect("kept"), "x-sum");
        assert_eq!(headers.len(), 2);
    }

    #[tokio::test]
    async fn connection_talks_no_message_out_of_its_marker() {
        let request = Request::builder()
            .extension(FromTrustedPeer)
            .header("connection", "x-arqon-shadow")
            .header("x-arqon-shadow", "true");
        assert!(arqon_shadow::is_shadow(
            &seen(ReservedHeadersLayer::new(), request).await.0
        ));
    }

    #[tokio::test]
    async fn a_pin_moves_into_the_extensions() {
        let (headers, pin) = seen(
            ReservedHeadersLayer::new(),
            Request::builder().header("x-arqon-pin", "p"),
        )
        .await;
        assert_eq!(
            (headers.len(), pin),
            (0, Some(Pin(HeaderValue::from_static("p"))))
        );
    }

    #[tokio::test]
    async fn only_a_trusted_edge_keeps_the_marker() {
        let request = || {
            Request::builder()
                .header("x-arqon-shadow", "true")
                .header("x-arqon-variant", "1")
        };
        assert!(seen(ReservedHeadersLayer::new(), request()).await.0.is_empty());
        let (headers, _) = seen(ReservedHeadersLayer::keeping_shadow_marker(), request()).await;
        assert_eq!(headers.len(), 1);
        assert!(arqon_shadow::is_shadow(&headers));
    }

    #[tokio::test]
    async fn what_a_trusted_peer_sent_keeps_the_marker_and_nothing_else() {
        let request = Request::builder()
            .extension(FromTrustedPeer)
            .header("x-arqon-shadow", "true")
            .header("x-arqon-variant", "1");
        let (headers, _) = seen(ReservedHeadersLayer::new(), request).await;
        assert_eq!((headers.len(), arqon_shadow::is_shadow(&headers)), (1, true));
    }

    #[tokio::test]
    async fn reserved_trailers_go_and_others_stay() {
        let trailers = HeaderMap::from_iter([
            (
                HeaderName::from_static("x-arqon-shadow"),
                HeaderValue::from_static("true"),
            ),
            (HeaderName::from_static("x-sum"), HeaderValue::from_static("1")),
        ]);
        let body = arqon_message::MessageBody::<Full<Bytes>>::whole(Bytes::from_static(b"a"), Some(trailers));
        let collected = WithoutReservedTrailers { body }
            .collect()
            .await
            .expect("infallible");
        assert_eq!(collected.trailers().expect("some").len(), 1);
    }
}
