//! A mirror around a primary that echoes.

use std::{collections::VecDeque, convert::Infallible, future::Future};

use arqon_message::{BoxError, Subject};
use arqon_shadow::{
    RecordingSink, RuleConfig, Shadow, ShadowBody, ShadowConfig, ShadowHandle, ShadowLayer, ShadowStats, Sink,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceExt};

pub(crate) const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// Everything under `in.` is mirrored.
pub(crate) fn all() -> ShadowConfig {
    ShadowConfig::default().rule(rule())
}

pub(crate) fn rule() -> RuleConfig {
    RuleConfig::new("in.>", 1.0)
}

/// A layer whose drain task runs, and what it recorded.
pub(crate) struct Rig {
    pub(crate) layer: ShadowLayer,
    pub(crate) handle: ShadowHandle,
    pub(crate) sink: RecordingSink,
    pub(crate) drain: tokio::task::JoinHandle<()>,
}

pub(crate) fn rig(config: &ShadowConfig) -> Rig {
    let sink = RecordingSink::new(1_000);
    let (layer, handle, drain) = with_sink(config, sink.clone());
    Rig {
        layer,
        handle,
        sink,
        drain,
    }
}

pub(crate) fn with_sink(
    config: &ShadowConfig,
    sink: impl Sink,
) -> (ShadowLayer, ShadowHandle, tokio::task::JoinHandle<()>) {
    let (layer, handle, drain) = ShadowLayer::channel(config, sink).expect("config");
    (layer, handle, tokio::spawn(drain.run()))
}

impl Rig {
    /// The books once nothing is in flight, and everything that was recorded.
    pub(crate) async fn settled(self) -> (ShadowStats, Vec<arqon_shadow::ShadowCopy>) {
        let stats = self.handle.shutdown(std::time::Duration::from_secs(5)).await;
        assert_eq!(stats.in_flight, 0, "{stats:?}");
        assert_eq!(stats.sampled, stats.mirrored + stats.dropped_sum(), "{stats:?}");
        assert_eq!(stats.mirrored, self.sink.total());
        (stats, self.sink.take())
    }
}

/// A body of given frames: `Err` is a failed read, `None` one that never comes.
#[derive(Debug)]
pub(crate) struct Frames {
    pub(crate) frames: VecDeque<Option<Result<Frame<Bytes>, BoxError>>>,
    /// Whether the end shows before it is asked for, as with a content-length.
    pub(crate) eager: bool,
}

impl Frames {
    pub(crate) fn of<const N: usize>(frames: [&'static str; N]) -> Self {
        let frames = frames.map(|data| Some(Ok(Frame::data(Bytes::from_static(data.as_bytes())))));
        Self {
            frames: frames.into(),
            eager: false,
        }
    }

    pub(crate) fn and_trailers(mut self, name: &'static str, value: &'static str) -> Self {
        let mut trailers = HeaderMap::new();
        trailers.insert(name, HeaderValue::from_static(value));
        self.frames.push_back(Some(Ok(Frame::trailers(trailers))));
        self
    }

    pub(crate) fn and_error(mut self) -> Self {
        self.frames.push_back(Some(Err("broken".into())));
        self
    }

    pub(crate) fn and_nothing_more(mut self) -> Self {
        self.frames.push_back(None);
        self
    }

    pub(crate) fn eager(mut self) -> Self {
        self.eager = true;
        self
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.frames.front() {
            Some(None) => std::task::Poll::Pending,
            _ => std::task::Poll::Ready(self.frames.pop_front().flatten()),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.eager && self.frames.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// A request with a subject and a trace.
pub(crate) fn request<B>(body: B) -> Request<B> {
    traced(TRACE, body)
}

pub(crate) fn traced<B>(trace: &str, body: B) -> Request<B> {
    let mut request = Request::post("/orders?x=1")
        .header("traceparent", format!("00-{trace}-b7ad6b7169203331-01"))
        .body(body)
        .expect("request");
    request
        .extensions_mut()
        .insert(Subject::parse("in.t.default.orders").expect("subject"));
    request
}

/// What a primary saw of a body.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Seen {
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
    pub(crate) failed: bool,
}

/// Reads a body as a handler does.
pub(crate) async fn read<B: Body<Data = Bytes>>(body: B) -> Seen {
    match body.collect().await {
        Ok(collected) => {
            let trailers = collected.trailers().cloned();
            Seen {
                body: collected.to_bytes(),
                trailers,
                failed: false,
            }
        }
        Err(_) => Seen {
            failed: true,
            ..Seen::default()
        },
    }
}

/// Sends one request to a primary made of `answer` behind the layer.
pub(crate) async fn send<B, F, D>(
    layer: &ShadowLayer,
    request: Request<B>,
    answer: F,
) -> Response<Full<Bytes>>
where
    B: Body<Data = Bytes>,
    F: Fn(Request<ShadowBody<B>>) -> D + Clone,
    D: Future<Output = Response<Full<Bytes>>>,
{
    let primary = tower::service_fn(move |request| {
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut shadow: Shadow<_> = layer.layer(primary);
    let Ok(ready) = ServiceExt::<Request<B>>::ready(&mut shadow).await;
    let Ok(response) = ready.call(request).await;
    response
}

/// Reads the whole body and answers with it: 400 when reading failed.
pub(crate) async fn echo<B: Body<Data = Bytes>>(request: Request<B>) -> Response<Full<Bytes>> {
    let seen = read(request.into_body()).await;
    let mut response = Response::new(Full::new(seen.body));
    if seen.failed {
        *response.status_mut() = http::StatusCode::BAD_REQUEST;
    }
    response
}

pub(crate) fn status(code: u16) -> Response<Full<Bytes>> {
    Response::builder()
        .status(code)
        .body(Full::default())
        .expect("response")
}

/// Polls once.
pub(crate) async fn poll_once<F: Future + ?Sized>(
    mut future: std::pin::Pin<&mut F>,
) -> std::task::Poll<F::Output> {
    std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx))).await
}
