//! The response future: the inner one, and then the header.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{HeaderValue, Response};
use pin_project_lite::pin_project;

use crate::service::VARIANT_HEADER;

pin_project! {
    /// The future of [`Rollout`](crate::Rollout). Dropping it drops the inner one; nothing is lost.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        variant: Option<HeaderValue>,
    }
}

impl<F> ResponseFuture<F> {
    pub(crate) fn new(inner: F, variant: Option<HeaderValue>) -> Self {
        Self { inner, variant }
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<R>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(context))?;
        if let Some(variant) = this.variant.take() {
            // A map at its limit keeps the response as it is: a rollout never fails one.
            let _ = response.headers_mut().try_insert(VARIANT_HEADER, variant);
        }
        Poll::Ready(Ok(response))
    }
}
