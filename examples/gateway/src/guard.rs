//! The last guard around whatever answers a request: a panic is a 500, and what takes too long a 503.

use std::{
    convert::Infallible,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use arqon::{Code, Problem, TenantId, observe::Story};
use axum::body::Body;
use http::{HeaderName, HeaderValue, Request, Response, uri::PathAndQuery};
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tower::{Layer, Service};

use crate::{request_id::X_REQUEST_ID, routes};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Makes [`Guarded`] of a service.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GuardLayer {
    /// For a whole request, its body included.
    pub(crate) timeout: Duration,
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded {
            inner,
            timeout: self.timeout,
        }
    }
}

/// A service that always answers, in time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guarded<S> {
    inner: S,
    timeout: Duration,
}

impl<S, B> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Guarding<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let asked = Asked::of(&request);
        // Layers decide in `call` too. Request and future are taken from and put where they lie: what a closure owns or gives
        // back is copied.
        let (mut request, mut inner) = (Some(request), None);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            inner = request.take().map(|request| self.inner.call(request));
        }));
        // None is left where it did.
        drop(panicked);
        Guarding {
            inner,
            asked,
            timeout: self.timeout,
            looks: 0,
            timer: None,
        }
    }
}

/// In the extensions of an answer that was given because its request's time was up: whatever of its body is still to come is not
/// waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Late;

/// What names a request in an answer, kept while the request itself is in the layers' hands. Small: it is moved with the future.
struct Asked {
    path: Option<PathAndQuery>,
    id: Option<HeaderValue>,
    told: Told,
}

/// What is known of a request's trace, and of whose it is.
enum Told {
    Story(Arc<Story>),
    /// Without a story, what the client sent.
    Trace(Option<HeaderValue>),
}

impl Asked {
    fn of<B>(request: &Request<B>) -> Self {
        let story = request.extensions().get::<Arc<Story>>();
        // Both in one go: to look them up by their hashes takes longer.
        let (mut id, mut trace) = (None, None);
        for (name, value) in request.headers() {
            if *name == X_REQUEST_ID {
                id = id.or(Some(value));
            } else if *name == TRACEPARENT && story.is_none() {
                trace = trace.or(Some(value));
            }
        }
        Self {
            path: request.uri().path_and_query().cloned(),
            id: id.cloned(),
            told: story.map_or_else(
                || Told::Trace(trace.cloned()),
                |story| Told::Story(Arc::clone(story)),
            ),
        }
    }

    /// The answer to it.
    fn refuse(&self, problem: Problem) -> Response<Body> {
        let mut request = Request::new(());
        if let Some(path) = &self.path {
            *request.uri_mut() = path.clone().into();
        }
        if let Some(id) = &self.id {
            request.headers_mut().insert(X_REQUEST_ID, id.clone());
        }
        match &self.told {
            Told::Story(story) => {
                request.extensions_mut().insert(*story.context());
                if let Some(tenant) = story.tenant().and_then(|name| TenantId::new(name).ok()) {
                    request.extensions_mut().insert(tenant);
                }
            }
            Told::Trace(Some(trace)) => {
                request.headers_mut().insert(TRACEPARENT, trace.clone());
            }
            Told::Trace(None) => {}
        }
        let (parts, ()) = request.into_parts();
        routes::refuse(problem, &parts)
    }

    /// The panic's hook has written what it was.
    fn panicked(&self) -> Response<Body> {
        metrics::counter!("shield_gateway_panics_total").increment(1);
        tracing::error!(component = "edge", "a request panicked");
        let detail = "an internal error; it has been logged";
        self.refuse(Problem::new(Code::Internal, detail))
    }
}

pin_project! {
    /// The answer of [`Guarded`].
    pub(crate) struct Guarding<F> {
        // None: it panicked at once.
        #[pin]
        inner: Option<F>,
        asked: Asked,
        timeout: Duration,
        looks: u8,
        timer: Option<Pin<Box<Sleep>>>,
    }
}

impl<F: Future<Output = Result<Response<Body>, Infallible>>> Future for Guarding<F> {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(inner) = this.inner.as_pin_mut() else {
            return Poll::Ready(Ok(this.asked.panicked()));
        };
        // Left where it is written: an answer that is handed through is copied.
        let mut polled = Poll::Pending;
        if catch_unwind(AssertUnwindSafe(|| polled = inner.poll(cx))).is_err() {
            return Poll::Ready(Ok(this.asked.panicked()));
        }
        if polled.is_ready() {
            return polled;
        }
        if !is_late(this.looks, this.timer, || sleep(*this.timeout), cx) {
            return Poll::Pending;
        }
        let detail = "the request was not answered in time; see gateway.request_timeout_ms";
        let mut response = this.asked.refuse(Problem::new(Code::Overloaded, detail));
        response.extensions_mut().insert(Late);
        Poll::Ready(Ok(response))
    }
}

/// Whether something that is still pending has had its time. The clock is wound only at the second look: most of what is
/// pending at the first has its data in the connection's buffer, and a clock costs more than another look.
pub(crate) fn is_late(
    looks: &mut u8,
    timer: &mut Option<Pin<Box<Sleep>>>,
    clock: impl FnOnce() -> Sleep,
    cx: &mut Context<'_>,
) -> bool {
    if *looks == 0 {
        *looks = 1;
        cx.waker().wake_by_ref();
        return false;
    }
    timer
        .get_or_insert_with(|| Box::pin(clock()))
        .as_mut()
        .poll(cx)
        .is_ready()
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures_util::future::{BoxFuture, FutureExt};
    use tower::{ServiceExt, service_fn};

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    /// Whether a problem says which request it was.
    fn names_its_request(said: &str) -> bool {
        let said: serde_json::Value = serde_json::from_str(said).expect("JSON");
        said["instance"] == "/v1/publish/users" && said["request_id"] == "r-1" && said["trace_id"] == TRACE
    }

    async fn answer(
        handler: fn() -> BoxFuture<'static, Result<Response<Body>, Infallible>>,
    ) -> (u16, String) {
        let guard = GuardLayer {
            timeout: Duration::from_secs(60),
        };
        let service = guard.layer(service_fn(move |_: Request<()>| handler()));
        let request = Request::builder()
            .uri("/v1/publish/users?token=x")
            .header("x-request-id", "r-1")
            .header("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01"));
        let request = request.body(()).expect("a request");
        let answer = service.oneshot(request).await.expect("infallible");
        let status = answer.status().as_u16();
        let body = axum::body::to_bytes(answer.into_body(), 10_000)
            .await
            .expect("whole");
        (status, String::from_utf8(body.to_vec()).expect("text"))
    }

    #[tokio::test]
    async fn a_panic_is_a_500_wherever_it_comes_from() {
        let (status, said) = answer(|| panic!("in call")).await;
        assert_eq!((status, said.contains("\"internal\"")), (500, true), "{said}");
        assert!(names_its_request(&said), "{said}");
        let later = || {
            async {
                tokio::task::yield_now().await;
                panic!("in poll")
            }
            .boxed()
        };
        let (status, said) = answer(later).await;
        assert!(status == 500 && names_its_request(&said), "{said}");
    }

    #[tokio::test]
    async fn an_answer_in_place_of_one_has_the_storys_ids() {
        let panics = service_fn(|request: Request<()>| async move {
            let named = request.extensions().get::<Arc<Story>>();
            panic!("{named:?}")
        });
        let guard = GuardLayer {
            timeout: Duration::from_secs(60),
        };
        let config = arqon::observe::ObserveConfig::new(true, None, None);
        let service = arqon::observe::ObserveLayer::new(config).layer(guard.layer(panics));
        let answer = service.oneshot(Request::new(())).await.expect("infallible");
        let rejection = answer.extensions().get::<arqon::Rejection>().expect("typed");
        let said = serde_json::to_value(rejection.problem()).expect("JSON");
        for id in ["trace_id", "span_id", "request_id"] {
            assert!(said[id].is_string(), "{id} of {said}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_answered_in_time_is_a_503_that_says_so() {
        let started = tokio::time::Instant::now();
        let (status, said) = answer(|| pending().boxed()).await;
        assert_eq!(
            (status, said.contains("request_timeout_ms")),
            (503, true),
            "{said}"
        );
        assert!(names_its_request(&said), "{said}");
        assert_eq!(started.elapsed().as_secs(), 60);
    }

    #[tokio::test]
    async fn an_answer_passes_as_it_is() {
        let (status, said) = answer(|| ready(Ok(Response::new(Body::from("fine")))).boxed()).await;
        assert_eq!((status, said.as_str()), (200, "fine"));
    }
}
