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
    exchange::Lent,
    future::{Held, ResponseFuture, State, consult, onward},
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
        if let Some(current) = self.shared.current()
            && let Some(snapshot) = &*current
        {
            return look(&mut self.inner, snapshot, request);
        }
        // A future is made where it stays: through a constructor it would be copied.
        ResponseFuture {
            state: State::Pass {
                future: self.inner.call(request.map(MessageBody::streaming)),
            },
        }
    }
}

/// The policies look at once if there is room and they need no body; else the future waits for that.
#[inline(never)]
fn look<S, B, R>(inner: &mut S, snapshot: &Arc<Snapshot>, request: Request<B>) -> ResponseFuture<S, B>
where
    S: Service<Request<MessageBody<B>>, Response = Response<R>> + Clone,
    B: Body<Data = Bytes>,
{
    let matching = snapshot.matching(&request);
    if matching.is_empty() {
        return ResponseFuture {
            state: State::Pass {
                future: inner.call(request.map(MessageBody::streaming)),
            },
        };
    }
    let (parts, body) = request.into_parts();
    let exchange = Lent::request(parts, None);
    if snapshot.needs_body(matching) || !snapshot.loader.engine.gate().try_enter() {
        let clone = inner.clone();
        let held = Held {
            ready: mem::replace(inner, clone),
            snapshot: Arc::clone(snapshot),
            matching,
            exchange,
        };
        return ResponseFuture::wait(held, body);
    }
    match consult(snapshot, matching, exchange, true) {
        (exchange, Ok(None)) => ResponseFuture {
            state: State::Pass {
                future: onward(inner, exchange, body),
            },
        },
        (exchange, Ok(after)) => ResponseFuture {
            state: State::Inner {
                future: onward(inner, exchange, body),
                after,
            },
        },
        (exchange, Err(rejection)) => {
            // What was made ready is not called, so it goes, with the place it may hold.
            let clone = inner.clone();
            drop(mem::replace(inner, clone));
            ResponseFuture {
                state: State::Refused {
                    refused: Some(Box::new((exchange.into_request(), rejection))),
                },
            }
        }
    }
}
