//! The service: `poll_ready` and `call`.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::{ResponseFuture, ShadowBody, mirror::Mirror};

/// The service that [`ShadowLayer`](crate::ShadowLayer) makes: the primary, with a coherent sample of its requests copied.
///
/// It never rejects, never waits and never buffers: response, error and readiness are the primary's own.
#[derive(Clone, Debug)]
pub struct Shadow<S> {
    inner: S,
    mirror: Arc<Mirror>,
}

impl<S> Shadow<S> {
    pub(crate) const fn new(inner: S, mirror: Arc<Mirror>) -> Self {
        Self { inner, mirror }
    }
}

impl<S, B, R> Service<Request<B>> for Shadow<S>
where
    S: Service<Request<ShadowBody<B>>, Response = Response<R>>,
    B: Body<Data = Bytes>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let (tee, pending) = match self.mirror.begin(&request) {
            None => (None, None),
            Some(begun) => {
                begun
                    .wanted
                    .into_iter()
                    .for_each(|wanted| drop(request.extensions_mut().insert(wanted)));
                (begun.tee, begun.answer)
            }
        };
        // The inner service that was made ready is called at once: no clone has to be swapped in.
        // A future is made where it stays: through a constructor it would be copied.
        ResponseFuture {
            inner: self.inner.call(request.map(|body| ShadowBody::new(body, tee))),
            pending,
        }
    }
}
