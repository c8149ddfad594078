//! The response future: the inner one, and then the header.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use http::Response;
use pin_project_lite::pin_project;

use crate::{service::VARIANT_HEADER, stats::Stats, variant::Variant};

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

/// What was decided about a request.
#[derive(Debug)]
pub(crate) struct Decided {
    variant: Arc<Variant>,
    measure: Option<Measure>,
}

impl Decided {
    pub(crate) const fn new(variant: Arc<Variant>, measure: Option<Measure>) -> Self {
        Self { variant, measure }
    }

    pub(crate) fn variant(&self) -> &Variant {
        &self.variant
    }
}

pin_project! {
    /// The future of [`Rollout`](crate::Rollout). Dropping it drops the inner one; nothing is lost.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        pub(crate) inner: F,
        pub(crate) decided: Option<Decided>,
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
        if this.decided.is_none() {
            return this.inner.poll(context);
        }
        let mut answer = ready!(this.inner.poll(context));
        if let Some(Decided { variant, measure }) = this.decided.take() {
            if let Some(Measure { stats, started }) = measure {
                let error = answer
                    .as_ref()
                    .map_or(true, |response| response.status().is_server_error());
                stats.record(started.elapsed(), error);
            }
            if let Ok(response) = &mut answer {
                // A map at its limit keeps the response as it is: a rollout never fails one.
                let _ = response
                    .headers_mut()
                    .try_insert(VARIANT_HEADER, variant.header());
            }
        }
        Poll::Ready(answer)
    }
}
