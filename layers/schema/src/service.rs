//! [`Schema`], the service.

use std::{
    fmt, mem,
    task::{Context, Poll},
};

use arqon_message::{BoxError, MessageBody, Rejection, collect};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::{
    admission::{Admission, admit},
    future::{Job, ResponseFuture, State},
    handle::Registry,
};

/// The service of a [`SchemaLayer`](crate::SchemaLayer).
#[derive(Clone)]
pub struct Schema<S> {
    pub(crate) inner: S,
    pub(crate) registry: Option<Registry>,
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
    fn call(&mut self, request: Request<B>) -> Self::Future {
        // What passes goes straight into the inner service that was made ready: no clone has to be swapped in. And a
        // future is made where it stays: through a constructor it would be copied.
        let Some(registry) = &self.registry else {
            return ResponseFuture {
                state: State::Inner {
                    future: self.inner.call(request.map(MessageBody::streaming)),
                },
            };
        };
        check(&mut self.inner, registry, request)
    }
}

/// Out of line: where nothing is mapped, the way past it is a few moves and should stay that.
#[inline(never)]
fn check<S, B, R>(inner: &mut S, registry: &Registry, mut request: Request<B>) -> ResponseFuture<S, B>
where
    S: Service<Request<MessageBody<B>>, Response = Response<R>> + Clone,
    B: Body<Data = Bytes>,
{
    match admit(registry, &mut request) {
        // Each where it is returned: a head is 224 bytes, and should not be copied on its way.
        Admission::Check { binding, encoding } => {
            let ready = take_ready(inner);
            let limit = registry.config().max_body_bytes;
            let (parts, body) = request.into_parts();
            ResponseFuture {
                state: State::Collecting {
                    body: collect(body, limit),
                    head: Some(parts),
                    job: Some(Job {
                        ready,
                        binding,
                        encoding,
                    }),
                },
            }
        }
        Admission::Pass => ResponseFuture {
            state: State::Inner {
                future: inner.call(request.map(MessageBody::streaming)),
            },
        },
        Admission::Refuse(problem) => {
            drop(take_ready(inner));
            ResponseFuture {
                state: State::refused(Rejection::new(*problem), request.into_parts().0),
            }
        }
    }
}

/// The inner service that was made ready; dropping it frees its place.
fn take_ready<S: Clone>(inner: &mut S) -> S {
    let clone = inner.clone();
    mem::replace(inner, clone)
}

impl<S: fmt::Debug> fmt::Debug for Schema<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schema")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
