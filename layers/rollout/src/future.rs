//! The response future: the inner one, and then the header.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use http::{HeaderValue, Response};
use pin_project_lite::pin_project;

use crate::{service::VARIANT_HEADER, stats::Stats};

/// Measures one answer. Dropped with the future it counts nothing: the client has gone.
#[derive(Debug)]
pub(crate) struct Measure {
    stats: Arc<Stats>,
    started: Instant,
}

impl Measure {
    pub(crate) fn start(stats: Arc<Stats>) -> Self {
        Self {
            stats,
            started: Instant::now(),
        }
    }
}

pin_project! {
    /// The future of [`Rollout`](crate::Rollout). Dropping it drops the inner one; nothing is lost.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        variant: Option<HeaderValue>,
        measure: Option<Measure>,
    }
}

impl<F> ResponseFuture<F> {
    #[inline]
    pub(crate) fn new(inner: F, variant: Option<HeaderValue>, measure: Option<Measure>) -> Self {
        Self {
            inner,
            variant,
            measure,
        }
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<R>, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.inner.poll(context));
        if let Some(Measure { stats, started }) = this.measure.take() {
            let error = answer
                .as_ref()
                .map_or(true, |response| response.status().is_server_error());
            stats.record(started.elapsed(), error);
        }
        let mut response = answer?;
        if let Some(variant) = this.variant.take() {
            // A map at its limit keeps the response as it is: a rollout never fails one.
            let _ = response.headers_mut().try_insert(VARIANT_HEADER, variant);
        }
        Poll::Ready(Ok(response))
    }
}
