//! The last guard around whatever answers a request: a panic is a 500, and what takes too long a 503.

use std::{
    convert::Infallible,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use arqon::{Code, Problem};
use axum::body::Body;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tower::{Layer, Service};

use crate::routes;

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
        // Layers decide in `call` too.
        let inner = catch_unwind(AssertUnwindSafe(|| self.inner.call(request))).ok();
        Guarding {
            inner,
            timeout: self.timeout,
            looks: 0,
            timer: None,
        }
    }
}

pin_project! {
    /// The answer of [`Guarded`].
    pub(crate) struct Guarding<F> {
        // None: it panicked at once.
        #[pin]
        inner: Option<F>,
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
            return Poll::Ready(Ok(panicked()));
        };
        match catch_unwind(AssertUnwindSafe(|| inner.poll(cx))) {
            Ok(Poll::Ready(answered)) => return Poll::Ready(answered),
            Ok(Poll::Pending) => {}
            Err(_) => return Poll::Ready(Ok(panicked())),
        }
        if !is_late(this.looks, this.timer, *this.timeout, cx) {
            return Poll::Pending;
        }
        let detail = "the request was not answered in time; see gateway.request_timeout_ms";
        let (parts, ()) = Request::new(()).into_parts();
        Poll::Ready(Ok(routes::refuse(Problem::new(Code::Overloaded, detail), &parts)))
    }
}

/// Whether something that is still pending has had its time. The clock is wound only at the second look: most of what is
/// pending at the first has its data in the connection's buffer, and a clock costs more than another look.
pub(crate) fn is_late(
    looks: &mut u8,
    timer: &mut Option<Pin<Box<Sleep>>>,
    time: Duration,
    cx: &mut Context<'_>,
) -> bool {
    if *looks == 0 {
        *looks = 1;
        cx.waker().wake_by_ref();
        return false;
    }
    timer
        .get_or_insert_with(|| Box::pin(sleep(time)))
        .as_mut()
        .poll(cx)
        .is_ready()
}

/// The panic's hook has written what it was.
fn panicked() -> Response<Body> {
    metrics::counter!("shield_gateway_panics_total").increment(1);
    tracing::error!(component = "edge", "a request panicked");
    let (parts, ()) = Request::new(()).into_parts();
    routes::refuse(
        Problem::new(Code::Internal, "an internal error; it has been logged"),
        &parts,
    )
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures_util::future::{BoxFuture, FutureExt};
    use tower::{ServiceExt, service_fn};

    use super::*;

    async fn answer(
        handler: fn() -> BoxFuture<'static, Result<Response<Body>, Infallible>>,
    ) -> (u16, String) {
        let guard = GuardLayer {
            timeout: Duration::from_secs(60),
        };
        let service = guard.layer(service_fn(move |_: Request<()>| handler()));
        let answer = service.oneshot(Request::new(())).await.expect("infallible");
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
        let later = || {
            async {
                tokio::task::yield_now().await;
                panic!("in poll")
            }
            .boxed()
        };
        assert_eq!(answer(later).await.0, 500);
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
        assert_eq!(started.elapsed().as_secs(), 60);
    }

    #[tokio::test]
    async fn an_answer_passes_as_it_is() {
        let (status, said) = answer(|| ready(Ok(Response::new(Body::from("fine")))).boxed()).await;
        assert_eq!((status, said.as_str()), (200, "fine"));
    }
}
