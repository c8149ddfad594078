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
    pin::{PIN_HEADER, Pin},
    session::SessionVariant,
    snapshot::{LaneView, Served, TenantView},
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
        let (tenant, lane) = snapshot.lane(request.extensions())?;
        if let Some(pinned) = self.pinned(tenant, lane, request) {
            return Some((pinned, None));
        }
        let session = request.extensions().get::<SessionVariant>();
        let served = session
            .and_then(|session| kept(session, lane, request))
            .unwrap_or_else(|| self.assign(lane, request, session));
        served.decisions.increment(1);
        let measure = served.stats.as_ref().and_then(|stats| {
            stats.decide();
            served.measured.then(|| Measure::start(stats.clone()))
        });
        Some((Variant::clone(&served.variant), measure))
    }

    fn assign<'a, B>(
        &self,
        lane: &'a LaneView,
        request: &Request<B>,
        session: Option<&SessionVariant>,
    ) -> &'a Served {
        let takes = lane.canary().filter(|canary| match self.sampling {
            Sampling::Random => canary.threshold.contains(self.coin.flip()),
            Sampling::Sticky => self
                .key
                .with(request.headers(), request.extensions(), |key| canary.takes(key))
                // A frame has no cookie and no claim of its own.
                .or_else(|| Some(canary.takes(session?.key()?)))
                .unwrap_or(false),
        });
        takes.map_or(&lane.base, |canary| &canary.served)
    }

    /// The variant a tester's pin names.
    fn pinned<B>(&self, tenant: &TenantView, lane: &LaneView, request: &Request<B>) -> Option<Variant> {
        if tenant.pins.is_empty() || lane.same_for_all {
            return None;
        }
        let carried = request.extensions().get::<Pin>().map(|Pin(header)| header);
        let header = carried
            .or_else(|| request.headers().get(PIN_HEADER))?
            .to_str()
            .ok()?;
        let token = self.handle.verify_pin(header)?;
        let same_tenant = token.tenant == tenant.tenant.as_str();
        tenant
            .pins
            .get(&token.variant)
            .filter(|_| same_tenant)
            .map(|variant| Variant::clone(variant))
    }
}

/// What an open session keeps, where sessions keep theirs and it is still served.
fn kept<'a, B>(session: &SessionVariant, lane: &'a LaneView, request: &Request<B>) -> Option<&'a Served> {
    if lane.same_for_all {
        return None;
    }
    lane.serving(session.opened_with(request.extensions())?)
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
