//! The service: reads the snapshot once, decides, and hands the request on with its variant.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::{Extensions, HeaderMap, HeaderName, Request, Response};
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
    fn decide(&self, headers: &HeaderMap, extensions: &Extensions) -> Option<(Variant, Option<Measure>)> {
        self.look(headers, extensions, |decided| match decided {
            Decided::Pinned(variant) => (Variant::clone(variant), None),
            Decided::Served(served) => {
                served.decisions.increment(1);
                let measure = served.stats.as_ref().and_then(|stats| {
                    stats.decide();
                    served.measured.then(|| Measure::start(stats.clone()))
                });
                (Variant::clone(&served.variant), measure)
            }
        })
    }

    /// The same, counted nowhere.
    pub(crate) fn preview(&self, headers: &HeaderMap, extensions: &Extensions) -> Option<Variant> {
        self.look(headers, extensions, |decided| match decided {
            Decided::Pinned(variant) => Variant::clone(variant),
            Decided::Served(served) => Variant::clone(&served.variant),
        })
    }

    fn look<T>(
        &self,
        headers: &HeaderMap,
        extensions: &Extensions,
        take: impl FnOnce(Decided<'_>) -> T,
    ) -> Option<T> {
        let snapshot = self.handle.snapshot();
        let (tenant, lane) = snapshot.lane(extensions)?;
        if let Some(pinned) = self.pinned(tenant, lane, headers, extensions) {
            return Some(take(Decided::Pinned(pinned)));
        }
        let session = extensions.get::<SessionVariant>();
        let served = session
            .and_then(|session| kept(session, lane, extensions))
            .unwrap_or_else(|| self.assign(lane, headers, extensions, session));
        Some(take(Decided::Served(served)))
    }

    fn assign<'a>(
        &self,
        lane: &'a LaneView,
        headers: &HeaderMap,
        extensions: &Extensions,
        session: Option<&SessionVariant>,
    ) -> &'a Served {
        let takes = lane.canary().filter(|canary| match self.sampling {
            Sampling::Random => canary.threshold.contains(self.coin.flip()),
            Sampling::Sticky => self
                .key
                .with(headers, extensions, |key| canary.takes(key))
                // A frame has no cookie and no claim of its own.
                .or_else(|| Some(canary.takes(session?.key()?)))
                .unwrap_or(false),
        });
        takes.map_or(&lane.base, |canary| &canary.served)
    }

    /// The variant a tester's pin names.
    fn pinned<'a>(
        &self,
        tenant: &'a TenantView,
        lane: &LaneView,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Option<&'a Arc<Variant>> {
        if tenant.pins.is_empty() || lane.same_for_all {
            return None;
        }
        let carried = extensions.get::<Pin>().map(|Pin(header)| header);
        let header = carried.or_else(|| headers.get(PIN_HEADER))?.to_str().ok()?;
        let token = self.handle.verify_pin(header)?;
        let same_tenant = token.tenant == tenant.tenant.as_str();
        tenant.pins.get(&token.variant).filter(|_| same_tenant)
    }
}

/// What a request gets.
enum Decided<'a> {
    /// A tester's own choice; it counts in no rollout.
    Pinned(&'a Arc<Variant>),
    Served(&'a Served),
}

/// What an open session keeps, where sessions keep theirs and it is still served.
fn kept<'a>(session: &SessionVariant, lane: &'a LaneView, extensions: &Extensions) -> Option<&'a Served> {
    if lane.same_for_all {
        return None;
    }
    lane.serving(session.opened_with(extensions)?)
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
        let (variant, measure) = self.decide(request.headers(), request.extensions()).unzip();
        let header = variant.as_ref().map(Variant::header);
        // What a client claims to have been assigned never reaches the handler.
        match header.clone() {
            Some(header) => drop(request.headers_mut().try_insert(VARIANT_HEADER, header)),
            None => drop(request.headers_mut().remove(VARIANT_HEADER)),
        }
        if let Some(variant) = variant {
            request.extensions_mut().insert(variant);
        }
        // The inner service that was made ready is called at once: no clone has to be swapped in.
        ResponseFuture::new(self.inner.call(request), header, measure.flatten())
    }
}
