//! The primary's answer, on its way through.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::Response;
use pin_project_lite::pin_project;

use crate::tee::Pending;

pin_project! {
    /// The future of [`Shadow`](crate::Shadow): the primary's own, watched for its status.
    ///
    /// Dropping it drops the primary's future; a copy still waiting for the answer is then counted as `cancelled`.
    pub struct ResponseFuture<F> {
        #[pin]
        pub(crate) inner: F,
        pub(crate) pending: Option<Arc<Pending>>,
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<R>, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if this.pending.is_none() {
            return this.inner.poll(cx);
        }
        let answer = ready!(this.inner.poll(cx));
        if let Some(pending) = this.pending.take() {
            pending.answered(
                answer
                    .as_ref()
                    .is_ok_and(|response| response.status().is_success()),
            );
        }
        Poll::Ready(answer)
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("mirrored", &self.pending.is_some())
            .finish_non_exhaustive()
    }
}
