//! A sink that sends copies to another HTTP service.

mod body;
mod breaker;

use std::{fmt, future::poll_fn, num::NonZeroUsize, pin::pin, sync::Arc};

use arqon_message::BoxError;
use bytes::Buf;
use http::{
    HeaderName, HeaderValue, Method, Request, Response, Uri, header,
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body::Body;
use tower_service::Service;

pub use self::body::CopyBody;
use self::breaker::{Attempt, Breaker};
use crate::{Delivery, ShadowCopy, Sink, SinkError};

/// How many requests may be under way at once, unless set otherwise.
const IN_FLIGHT: NonZeroUsize = NonZeroUsize::new(100).expect("not zero");
/// How much of a response is read so that its connection can be used again, in bytes; beyond, it is dropped.
const RESPONSE_BYTES_MAX: usize = 64 * 1024;
/// The subject of the copy, which an HTTP request has no other place for.
const SHADOW_SUBJECT: HeaderName = HeaderName::from_static("x-arqon-shadow-subject");

/// Sends each copy as a request to another service: same method, path, query, headers and body, another host.
///
/// It takes any `tower` service as its client: hyper-util's, a balancer, or a `Router` in the same process. Responses are
/// read up to 64 KiB and ignored, whatever their status; a copy is mirrored when a response came.
///
/// - Methods: `GET` and `HEAD` only, unless [`methods`](Self::methods) says more. A copied `POST` runs the side effects of
///   a service that does not know the mark `x-arqon-shadow`.
/// - At most [`in_flight`](Self::in_flight) requests at once (100); order is not kept.
/// - After five failures in a row (errors and timeouts, in a response's body too) nothing is sent for a second, then one request tries; each
///   further failure doubles the pause, up to a minute. Meanwhile copies are dropped as `disconnected`, at once.
///
/// ```
/// use arqon_shadow::{HttpSink, RuleConfig, ShadowConfig, ShadowLayer};
/// use axum::{Router, routing::get};
/// use http::Method;
///
/// // In a program: `hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http()`.
/// let candidate: Router = Router::new().route("/orders", get(|| async { "the new version" }));
/// let sink = HttpSink::new(candidate, "http://candidate.internal:8080".parse()?)?
///     .methods([Method::GET, Method::HEAD, Method::POST]);
/// let config = ShadowConfig::default().rule(RuleConfig::new("in.t.*.>", 0.10));
/// let (layer, handle, drain) = ShadowLayer::channel(&config, sink)?;
/// # let _ = (layer, handle, drain);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct HttpSink<C> {
    client: C,
    target: Target,
    methods: Arc<[Method]>,
    in_flight: NonZeroUsize,
    breaker: Arc<Breaker>,
}

/// Where requests go.
#[derive(Clone, Debug)]
struct Target {
    scheme: Scheme,
    authority: Authority,
    /// Before each path; empty, or `/like/this`.
    prefix: Arc<str>,
}

/// A target that requests cannot be sent to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{uri:?} is no target for copies: write scheme, host and port, such as \"http://candidate:8080\"")]
pub struct InvalidTarget {
    uri: String,
}

/// The sink's list does not have the copy's method.
#[derive(Debug, thiserror::Error)]
#[error("the sink is not told to send {0}: add it to its methods, or leave it out of the rule's")]
struct MethodNotListed(Method);

impl<C> HttpSink<C> {
    /// Sends through `client` to `target`: scheme, host and port, and a prefix for every path if it has a path.
    ///
    /// # Errors
    /// When `target` has no scheme or host, or has a query.
    pub fn new(client: C, target: Uri) -> Result<Self, InvalidTarget> {
        let invalid = || InvalidTarget {
            uri: target.to_string(),
        };
        let parts = target.clone().into_parts();
        let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else {
            return Err(invalid());
        };
        if target.query().is_some() {
            return Err(invalid());
        }
        let prefix = target.path().trim_end_matches('/').into();
        Ok(Self {
            client,
            target: Target {
                scheme,
                authority,
                prefix,
            },
            methods: Arc::new([Method::GET, Method::HEAD]),
            in_flight: IN_FLIGHT,
            breaker: Arc::default(),
        })
    }

    /// Sends these methods only; the default is `GET` and `HEAD`.
    #[must_use]
    pub fn methods(mut self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.methods = methods.into_iter().collect();
        self
    }

    /// Sets how many requests may be under way at once.
    #[must_use]
    pub fn in_flight(mut self, requests: NonZeroUsize) -> Self {
        self.in_flight = requests;
        self
    }

    fn request(&self, copy: ShadowCopy) -> Result<Request<CopyBody>, SinkError> {
        if !self.methods.contains(&copy.method) {
            return Err(SinkError::publish(MethodNotListed(copy.method)));
        }
        let path = copy.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let uri = Uri::builder()
            .scheme(self.target.scheme.clone())
            .authority(self.target.authority.clone())
            .path_and_query([&self.target.prefix, path].concat())
            .build()
            .map_err(SinkError::publish)?;
        let headers = copy.headers();
        let mut request = Request::new(CopyBody::new(copy.body, copy.trailers));
        *request.method_mut() = copy.method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        // The client names the host of the URI.
        request.headers_mut().remove(header::HOST);
        if let Ok(subject) = HeaderValue::from_str(copy.subject.as_str()) {
            // A copy with 32,768 headers goes without it.
            let _ = request.headers_mut().try_insert(SHADOW_SUBJECT, subject);
        }
        Ok(request)
    }
}

impl<C, R> Sink for HttpSink<C>
where
    C: Service<Request<CopyBody>, Response = Response<R>> + Clone + Send + Sync + 'static,
    C::Future: Send,
    C::Error: Into<BoxError>,
    R: Body + Send,
    R::Data: Send,
    R::Error: Send,
{
    fn send(&self, copy: ShadowCopy) -> Delivery<'_> {
        Box::pin(async move {
            let (attempt, response) = self.respond(self.request(copy)?).await?;
            read(response.into_body(), |_| ()).await;
            attempt.succeeded();
            Ok(())
        })
    }

    fn concurrency(&self) -> NonZeroUsize {
        self.in_flight
    }

    fn is_down(&self) -> bool {
        self.breaker.is_open()
    }
}

impl<C> HttpSink<C> {
    /// Sends what was made of a copy; the response has its head. The attempt succeeds once its body was read.
    async fn respond<R>(&self, request: Request<CopyBody>) -> Result<(Attempt<'_>, Response<R>), SinkError>
    where
        C: Service<Request<CopyBody>, Response = Response<R>> + Clone,
        C::Error: Into<BoxError>,
    {
        // Dropped before it succeeded, which is what a timeout does, an attempt has failed.
        let attempt = self.breaker.attempt().ok_or(SinkError::Disconnected)?;
        let mut ready = self.client.clone();
        poll_fn(|cx| ready.poll_ready(cx))
            .await
            .map_err(SinkError::publish)?;
        let response = ready.call(request).await.map_err(SinkError::publish)?;
        Ok((attempt, response))
    }

    /// Sends a copy; the answer is what came back.
    #[cfg(feature = "compare")]
    pub(crate) async fn exchange<R>(&self, copy: ShadowCopy) -> Result<crate::Answer, SinkError>
    where
        C: Service<Request<CopyBody>, Response = Response<R>> + Clone,
        C::Error: Into<BoxError>,
        R: Body<Data = bytes::Bytes>,
    {
        let mut request = self.request(copy)?;
        // Bodies are compared as they are, so nobody is asked to compress one.
        request.headers_mut().remove(header::ACCEPT_ENCODING);
        let (attempt, response) = self.respond(request).await?;
        let (head, body) = response.into_parts();
        let mut frames = crate::frames::Frames::None;
        let answer = match read(body, |data| frames.push(&data, RESPONSE_BYTES_MAX)).await {
            End::Whole => crate::Answer::new(head.status, frames.join()),
            end => crate::Answer {
                broken: end == End::Broken,
                cut_at: (end == End::TooLarge).then_some(RESPONSE_BYTES_MAX),
                ..crate::Answer::of_status(head.status)
            },
        };
        attempt.succeeded();
        Ok(answer.typed(&head.headers))
    }
}

/// How a response ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Whole,
    Broken,
    TooLarge,
}

/// Reads a response up to the cap, so that its connection can be used again.
async fn read<R: Body>(body: R, mut each: impl FnMut(R::Data)) -> End {
    let mut body = pin!(body);
    let mut bytes = 0;
    while bytes <= RESPONSE_BYTES_MAX {
        match poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    bytes += data.remaining();
                    each(data);
                }
            }
            Some(Err(_)) => return End::Broken,
            None if bytes <= RESPONSE_BYTES_MAX => return End::Whole,
            None => return End::TooLarge,
        }
    }
    End::TooLarge
}

impl<C> fmt::Debug for HttpSink<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpSink")
            .field("target", &self.target)
            .field("methods", &self.methods)
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}
