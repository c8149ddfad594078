//! [`Overseer`].

use std::{
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use arqon_message::{BoxError, MessageBody};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::{
    chain::Snapshot,
    future::{ResponseFuture, State},
    shared::Shared,
};

/// The service of [`OverseerLayer`](crate::OverseerLayer).
#[derive(Clone, Debug)]
pub struct Overseer<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> Overseer<S> {
    pub(crate) const fn new(inner: S, shared: Arc<Shared>) -> Self {
        Self { inner, shared }
    }
}

impl<S, B, R> Service<Request<B>> for Overseer<S>
where
    S: Service<Request<MessageBody<B>>, Response = Response<R>> + Clone,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Response = Response<MessageBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<B>) -> ResponseFuture<S, B> {
        // What passes goes straight into the inner service that was made ready: no clone has to be swapped in.
        if let Some(snapshot) = self.shared.snapshot() {
            return self.look(snapshot, request);
        }
        // A future is made where it stays: through a constructor it would be copied.
        ResponseFuture {
            state: State::Pass {
                future: self.inner.call(request.map(MessageBody::streaming)),
            },
        }
    }
}

impl<S> Overseer<S> {
    #[inline(never)]
    fn look<B, R>(&mut self, snapshot: Arc<Snapshot>, request: Request<B>) -> ResponseFuture<S, B>
    where
        S: Service<Request<MessageBody<B>>, Response = Response<R>> + Clone,
        B: Body<Data = Bytes>,
    {
        let (parts, body) = request.into_parts();
        let matching = snapshot.matching(&parts, &body.size_hint());
        if matching.is_empty() {
            let request = Request::from_parts(parts, MessageBody::streaming(body));
            return ResponseFuture {
                state: State::Pass {
                    future: self.inner.call(request),
                },
            };
        }
        let clone = self.inner.clone();
        let ready = mem::replace(&mut self.inner, clone);
        ResponseFuture::consult(ready, snapshot, matching, parts, body)
    }
}
