//! [`Schema`], the service.

use std::{
    fmt, mem,
    sync::Arc,
    task::{Context, Poll},
};

use arqon_message::{BoxError, MessageBody, Rejection, collect};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::{
    admission::{Admission, admit},
    future::{Job, ResponseFuture},
    layer::Shared,
};

/// The service of a [`SchemaLayer`](crate::SchemaLayer).
#[derive(Clone)]
pub struct Schema<S> {
    pub(crate) inner: S,
    pub(crate) shared: Arc<Shared>,
}

impl<S: Clone> Schema<S> {
    /// The inner service that was made ready; dropping it frees its place.
    fn take_ready(&mut self) -> S {
        let clone = self.inner.clone();
        mem::replace(&mut self.inner, clone)
    }
}

impl<S, B, R> Service<Request<B>> for Schema<S>
where
    S: Service<Request<MessageBody<B>>, Response = Response<R>> + Clone,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Response = Response<MessageBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match admit(&self.shared, &mut request) {
            // Straight into the inner service that was made ready: no clone has to be swapped in.
            Admission::Pass => ResponseFuture::inner(self.inner.call(request.map(MessageBody::streaming))),
            Admission::Refuse(problem) => {
                drop(self.take_ready());
                ResponseFuture::refused(Rejection::new(problem), request.into_parts().0)
            }
            Admission::Check { binding, encoding } => {
                let (parts, body) = request.into_parts();
                let limit = self.shared.registry.config().max_body_bytes;
                let job = Job {
                    ready: self.take_ready(),
                    parts,
                    binding,
                    encoding,
                    shared: Arc::clone(&self.shared),
                };
                ResponseFuture::collecting(collect(body, limit), job)
            }
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for Schema<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schema")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
