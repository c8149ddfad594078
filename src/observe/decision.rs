//! What a layer decided, seen from its two sides.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use arqon_message::Rejection;
use http::{Request, Response};
use metrics::Counter;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{Story, Verdict};

/// Puts one watcher before a layer and one behind it: what comes in and goes on was let pass, what is answered without going
/// on was rejected. Counted as `shield_layer_entered_total{layer}` and `shield_layer_passed_total{layer}`; a story, where the
/// request has one, is told both.
#[derive(Clone)]
pub struct DecisionLayer<L> {
    layer: L,
    watch: Arc<Watch>,
}

/// What both sides of a layer share: services are cloned for each request, and this is one reference count.
struct Watch {
    name: &'static str,
    entered: Counter,
    passed: Counter,
}

impl<L> DecisionLayer<L> {
    /// Watches `layer` under this name.
    #[must_use]
    pub fn new(name: &'static str, layer: L) -> Self {
        metrics::describe_counter!(
            "shield_layer_entered_total",
            "Requests that a layer was asked about"
        );
        metrics::describe_counter!(
            "shield_layer_passed_total",
            "Requests that a layer let pass; the rest it answered itself, or they ended before"
        );
        let entered = metrics::counter!("shield_layer_entered_total", "layer" => name);
        let passed = metrics::counter!("shield_layer_passed_total", "layer" => name);
        entered.increment(0);
        passed.increment(0);
        Self {
            layer,
            watch: Arc::new(Watch {
                name,
                entered,
                passed,
            }),
        }
    }
}

impl<L: fmt::Debug> fmt::Debug for DecisionLayer<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DecisionLayer")
            .field("name", &self.watch.name)
            .field("layer", &self.layer)
            .finish_non_exhaustive()
    }
}

impl<S, L: Layer<Passed<S>>> Layer<S> for DecisionLayer<L> {
    type Service = Decided<L::Service>;

    fn layer(&self, inner: S) -> Self::Service {
        let passed = Passed {
            inner,
            watch: Arc::clone(&self.watch),
        };
        Decided {
            inner: self.layer.layer(passed),
            watch: Arc::clone(&self.watch),
        }
    }
}

/// The service before a layer.
#[derive(Clone)]
pub struct Decided<S> {
    inner: S,
    watch: Arc<Watch>,
}

/// The service behind a layer.
#[derive(Clone)]
pub struct Passed<S> {
    inner: S,
    watch: Arc<Watch>,
}

impl<S: fmt::Debug> fmt::Debug for Decided<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decided")
            .field("name", &self.watch.name)
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<S: fmt::Debug> fmt::Debug for Passed<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passed")
            .field("name", &self.watch.name)
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<S, B, R> Service<Request<B>> for Decided<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = DecidedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.watch.entered.increment(1);
        let story = request.extensions().get::<Arc<Story>>().cloned();
        if let Some(story) = &story {
            story.asked(self.watch.name, request.extensions());
        }
        DecidedFuture {
            inner: self.inner.call(request),
            name: self.watch.name,
            story,
        }
    }
}

impl<S, B> Service<Request<B>> for Passed<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.watch.passed.increment(1);
        if let Some(story) = request.extensions().get::<Arc<Story>>() {
            story.decided(self.watch.name, Verdict::Pass);
        }
        self.inner.call(request)
    }
}

pin_project! {
    /// The future of [`Decided`].
    #[derive(Debug)]
    pub struct DecidedFuture<F> {
        #[pin]
        inner: F,
        name: &'static str,
        story: Option<Arc<Story>>,
    }
}

impl<F, R, E> Future for DecidedFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // Looked at where it is: an answer that is taken out of its `Poll` is copied.
        let polled = this.inner.poll(cx);
        if let Poll::Ready(answered) = &polled
            && let Some(story) = this.story.take()
        {
            let code = answered.as_ref().ok().and_then(|response| {
                let rejection = response.extensions().get::<Rejection>();
                rejection.map(|rejection| rejection.problem().code)
            });
            // Of no account if it was let pass.
            story.decided(this.name, Verdict::Reject(code));
        }
        polled
    }
}
