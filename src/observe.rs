//! What one request was, told once: metrics, an access log line, a trace.
//!
//! [`ObserveLayer`] stands outermost. For each request it counts, and, where an access log or an exporter asks for it, makes
//! the request's *story*: its [`TraceContext`](arqon_message::TraceContext), its id, when it came, which layer decided what ([`DecisionLayer`] inside a
//! [`Stack`](crate::Stack) tells it), and how it ended. So log line, span, problem and published message name the request by
//! the same trace id, span id, tenant and request id.
//!
//! ```
//! use arqon::observe::{ObserveConfig, ObserveLayer};
//! use axum::{Router, routing::get};
//!
//! let mut config = ObserveConfig::default();
//! config.access_log = true;
//! let observe = ObserveLayer::new(config);
//! let app: Router = Router::new().route("/", get(|| async {})).layer(observe);
//! ```
//!
//! Without log and exporter it allocates nothing and changes no request. With one of them a request without `x-request-id`
//! gets one, and what is published carries our own `traceparent`; decisions go by the key they went by before.
//!
//! # Cancellation
//! A request whose future is dropped (its client went away) is counted and told with status 499.

mod decision;
#[cfg(feature = "otlp")]
#[cfg_attr(docsrs, doc(cfg(feature = "otlp")))]
pub mod otlp;
mod story;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use arqon_message::{Code, Problem, Protocol, Rejection, Sampler, Threshold};
use http::{Request, Response, StatusCode, Version};
use metrics::{Counter, Gauge, Histogram};
use pin_project_lite::pin_project;
use quanta::Instant;
use tower_layer::Layer;
use tower_service::Service;

pub use self::{
    decision::{Decided, DecidedFuture, DecisionLayer, Passed},
    story::{Decision, Ending, Story, Verdict},
};

/// Where finished stories go; it must return at once.
pub trait StorySink: Send + Sync + 'static {
    /// Takes one.
    fn told(&self, story: &Story, ending: &Ending);
}

/// What is told, and to whom.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct ObserveConfig {
    /// One log line a request, target `access`.
    pub access_log: bool,
    /// Who gets the stories of traces that are recorded.
    pub sink: Option<Arc<dyn StorySink>>,
    /// The share of traces that begin here and are recorded; the same trace, the same answer, on every node. A caller's own
    /// decision goes before it. Default all.
    pub sample: Option<Threshold>,
}

impl ObserveConfig {
    /// With these.
    #[must_use]
    pub fn new(access_log: bool, sink: Option<Arc<dyn StorySink>>, sample: Option<Threshold>) -> Self {
        Self {
            access_log,
            sink,
            sample,
        }
    }
}

impl fmt::Debug for ObserveConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObserveConfig")
            .field("access_log", &self.access_log)
            .field("sink", &self.sink.is_some())
            .finish_non_exhaustive()
    }
}

/// A layer that counts requests and tells their stories; see the [module docs](self).
#[derive(Clone, Debug)]
pub struct ObserveLayer {
    shared: Arc<Shared>,
    messages_only: bool,
}

struct Shared {
    config: ObserveConfig,
    metrics: Metrics,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.config.fmt(f)
    }
}

impl ObserveLayer {
    /// For everything that comes by.
    #[must_use]
    pub fn new(config: ObserveConfig) -> Self {
        let metrics = Metrics::register();
        // The first look at this clock in a process takes its measure, for up to 200 ms: no request should wait for that.
        let _measured = Instant::now();
        Self {
            shared: Arc::new(Shared { config, metrics }),
            messages_only: false,
        }
    }

    /// Counts and tells a message that was refused before it could be a request, such as a frame that cannot be read:
    /// `request` has what is known of it. The problem comes back with the request's ids in it.
    #[must_use]
    pub fn refused(&self, protocol: Protocol, mut request: Request<()>, problem: Problem) -> Problem {
        let mut observed = Observed::begin(&self.shared, protocol, &mut request);
        let (parts, ()) = request.into_parts();
        if let Some(story) = &observed.story {
            story.named(&parts.extensions);
        }
        let response = Rejection::new(problem).into_response::<()>(&parts);
        observed.answered(&response);
        let told = response.extensions().get::<Rejection>();
        told.expect("a rejection is in its response").problem().clone()
    }

    /// The same, for the messages of a connection that is itself observed already: WebSocket frames, NATS messages. HTTP
    /// requests pass.
    #[must_use]
    pub fn messages(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            messages_only: true,
        }
    }
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Observe<S> {
        Observe {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service of [`ObserveLayer`].
#[derive(Clone, Debug)]
pub struct Observe<S> {
    inner: S,
    layer: ObserveLayer,
}

impl<S, B, R> Service<Request<B>> for Observe<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ObserveFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let told = request.extensions().get::<Protocol>().copied();
        let is_message = matches!(told, Some(Protocol::Ws | Protocol::Nats));
        let observed = (is_message || !self.layer.messages_only).then(|| {
            let protocol = told.unwrap_or(if request.version() >= Version::HTTP_2 {
                Protocol::H2
            } else {
                Protocol::Http1
            });
            Observed::begin(&self.layer.shared, protocol, &mut request)
        });
        let inner = match observed.as_ref().and_then(|observed| observed.story.as_ref()) {
            Some(story) => story.span().in_scope(|| self.inner.call(request)),
            None => self.inner.call(request),
        };
        ObserveFuture { inner, observed }
    }
}

pin_project! {
    /// The future of [`Observe`].
    pub struct ObserveFuture<F> {
        #[pin]
        inner: F,
        observed: Option<Observed>,
    }
}

impl<F: fmt::Debug> fmt::Debug for ObserveFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObserveFuture")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<F, R, E> Future for ObserveFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let story = this
            .observed
            .as_ref()
            .and_then(|observed| observed.story.as_ref());
        let polled = match story {
            Some(story) => story.span().in_scope(|| this.inner.poll(cx)),
            None => this.inner.poll(cx),
        };
        // Looked at where it is: an answer that is taken out of its `Poll` is copied.
        if let Poll::Ready(answered) = &polled
            && let Some(observed) = this.observed.as_mut()
        {
            match answered {
                Ok(response) => observed.answered(response),
                Err(_) => observed.ends(StatusCode::INTERNAL_SERVER_ERROR, None),
            }
            *this.observed = None;
        }
        polled
    }
}

/// A request under way. Dropping it is its end, whatever that was.
struct Observed {
    shared: Arc<Shared>,
    protocol: Protocol,
    started: Instant,
    story: Option<Arc<Story>>,
    ended: bool,
    ending: Ending,
}

impl Observed {
    fn begin<B>(shared: &Arc<Shared>, protocol: Protocol, request: &mut Request<B>) -> Self {
        shared.metrics.in_flight.increment(1.0);
        let config = &shared.config;
        let story = (config.access_log || config.sink.is_some()).then(|| {
            let story = Arc::new(Story::begin(protocol, request));
            request.extensions_mut().insert(Arc::clone(&story));
            story
        });
        Self {
            shared: Arc::clone(shared),
            protocol,
            started: Instant::now(),
            story,
            ended: false,
            ending: Ending::cancelled(),
        }
    }
}

impl Observed {
    fn answered<R>(&mut self, response: &Response<R>) {
        let rejection = response.extensions().get::<Rejection>();
        self.ends(
            response.status(),
            rejection.map(|rejection| rejection.problem().code),
        );
    }

    fn ends(&mut self, status: StatusCode, code: Option<Code>) {
        let took = self.started.elapsed();
        self.ending = Ending { status, code, took };
        self.ended = true;
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        if !self.ended {
            self.ending.took = self.started.elapsed();
        }
        let Shared { config, metrics } = &*self.shared;
        metrics.in_flight.decrement(1.0);
        metrics.count(self.protocol, &self.ending);
        let Some(story) = &self.story else {
            return;
        };
        if config.access_log {
            story.log(&self.ending);
        }
        if let Some(sink) = &config.sink
            && is_recorded(story, config.sample)
        {
            sink.told(story, &self.ending);
        }
    }
}

/// The caller's decision, else the sample's.
fn is_recorded(story: &Story, sample: Option<Threshold>) -> bool {
    let context = story.context();
    match (context.parent_id(), sample) {
        (Some(_), _) => context.is_sampled(),
        (None, None) => true,
        (None, Some(threshold)) => Sampler::new(0).sample(context.trace_id().as_bytes(), threshold),
    }
}

const PROTOCOLS: [Protocol; 4] = [Protocol::Http1, Protocol::H2, Protocol::Ws, Protocol::Nats];
/// The label of a status: its class, or 499 for what its client gave up.
const STATUSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "cancelled"];

struct Metrics {
    requests: [[Counter; STATUSES.len()]; PROTOCOLS.len()],
    duration: [Histogram; PROTOCOLS.len()],
    in_flight: Gauge,
    problems: Vec<Counter>,
}

impl Metrics {
    fn register() -> Self {
        metrics::describe_counter!(
            "shield_gateway_requests_total",
            "Requests that ended, by protocol and class of status; `cancelled` are those whose client went away"
        );
        metrics::describe_histogram!(
            "shield_gateway_request_duration_seconds",
            "From a request's head to its answer's head, by protocol"
        );
        metrics::describe_gauge!("shield_gateway_requests_in_flight", "Requests under way");
        metrics::describe_counter!("shield_gateway_problems_total", "Refusals by problem code");
        let zero = |counter: Counter| {
            counter.increment(0);
            counter
        };
        let in_flight = metrics::gauge!("shield_gateway_requests_in_flight");
        in_flight.increment(0.0);
        Self {
            requests: PROTOCOLS.map(|protocol| {
                STATUSES.map(|status| {
                    zero(metrics::counter!("shield_gateway_requests_total", "protocol" => protocol.as_str(), "status" => status))
                })
            }),
            duration: PROTOCOLS.map(|protocol| {
                metrics::histogram!("shield_gateway_request_duration_seconds", "protocol" => protocol.as_str())
            }),
            in_flight,
            problems: Code::ALL
                .iter()
                .map(|code| zero(metrics::counter!("shield_gateway_problems_total", "code" => code.as_str())))
                .collect(),
        }
    }

    fn count(&self, protocol: Protocol, ending: &Ending) {
        let at = PROTOCOLS
            .iter()
            .position(|known| *known == protocol)
            .unwrap_or_default();
        let class = match ending.status.as_u16() {
            499 => 5,
            status => usize::from(status / 100).clamp(1, 5) - 1,
        };
        self.requests[at][class].increment(1);
        self.duration[at].record(ending.took.as_secs_f64());
        if let Some(code) = ending.code
            && let Some(place) = Code::ALL.iter().position(|known| *known == code)
        {
            self.problems[place].increment(1);
        }
    }
}
