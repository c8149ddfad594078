//! The service: reads the snapshot once, decides, and hands the request on with its variant.

use std::{
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderName, Request, Response};
use tower_service::Service;

use crate::{
    assignment::{CoinFlip, Key, Sampling},
    future::{Measure, ResponseFuture},
    handle::Handle,
    variant::Variant,
};

/// Names the variant, on the request handed on and on the response.
pub const VARIANT_HEADER: HeaderName = HeaderName::from_static("x-arqon-variant");

/// The service of [`RolloutLayer`](crate::RolloutLayer).
#[derive(Debug, Clone)]
pub struct Rollout<S> {
    inner: S,
    handle: Handle,
    key: Arc<Key>,
    sampling: Sampling,
    coin: Arc<CoinFlip>,
}

impl<S> Rollout<S> {
    pub(crate) fn new(
        inner: S,
        handle: Handle,
        key: Arc<Key>,
        sampling: Sampling,
        coin: Arc<CoinFlip>,
    ) -> Self {
        Self {
            inner,
            handle,
            key,
            sampling,
            coin,
        }
    }

    /// The variant of a request and who measures it; None where no catalog is.
    fn decide<B>(&self, request: &Request<B>) -> Option<(Variant, Option<Measure>)> {
        let snapshot = self.handle.snapshot();
        let lane = snapshot.lane(request.extensions())?;
        let takes = lane.canary().filter(|canary| match self.sampling {
            Sampling::Random => canary.threshold.contains(self.coin.flip()),
            Sampling::Sticky => self
                .key
                .with(request.headers(), request.extensions(), |key| canary.takes(key))
                .unwrap_or(false),
        });
        let served = takes.map_or(&lane.base, |canary| &canary.served);
        served.decisions.increment(1);
        Some((
            Variant::clone(&served.variant),
            served.stats.clone().map(Measure::start),
        ))
    }
}

impl<S, B, R> Service<Request<B>> for Rollout<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let clone = self.inner.clone();
        let mut ready = mem::replace(&mut self.inner, clone);
        let (variant, measure) = self.decide(&request).unzip();
        let header = variant.as_ref().map(Variant::header);
        // What a client claims to have been assigned never reaches the handler.
        match header.clone() {
            Some(header) => drop(request.headers_mut().try_insert(VARIANT_HEADER, header)),
            None => drop(request.headers_mut().remove(VARIANT_HEADER)),
        }
        if let Some(variant) = variant {
            request.extensions_mut().insert(variant);
        }
        ResponseFuture::new(ready.call(request), header, measure.flatten())
    }
}
