//! The service: reads the snapshot once, decides, and hands the request on with its variant.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, HeaderName, Request, Response};
use tower_service::Service;

use crate::{decider::Decider, future::ResponseFuture, variant::Variant};

/// Names the variant, on the request handed on and on the response.
pub const VARIANT_HEADER: HeaderName = HeaderName::from_static("x-arqon-variant");

/// The service of [`RolloutLayer`](crate::RolloutLayer).
#[derive(Debug, Clone)]
pub struct Rollout<S> {
    inner: S,
    decider: Arc<Decider>,
}

impl<S> Rollout<S> {
    pub(crate) const fn new(inner: S, decider: Arc<Decider>) -> Self {
        Self { inner, decider }
    }
}

/// How many names are looked at one by one.
const SCANNED_MAX: usize = 32;

/// Removes what a client claims to have been assigned: it never reaches the handler. To look at a few names costs less
/// than the hash that `remove` takes of this one.
#[inline]
fn strip(headers: &mut HeaderMap) {
    if headers.keys_len() > SCANNED_MAX || headers.keys().any(|name| *name == VARIANT_HEADER) {
        headers.remove(VARIANT_HEADER);
    }
}

impl<S, B, R> Service<Request<B>> for Rollout<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    #[inline]
    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let decided = self.decider.decide(request.headers(), request.extensions());
        match &decided {
            Some(decided) => {
                let variant = decided.variant();
                drop(request.headers_mut().try_insert(VARIANT_HEADER, variant.header()));
                request.extensions_mut().insert(Variant::clone(variant));
            }
            None => strip(request.headers_mut()),
        }
        // A future is made where it stays: through a constructor it would be copied.
        ResponseFuture {
            inner: self.inner.call(request),
            decided,
        }
    }
}
