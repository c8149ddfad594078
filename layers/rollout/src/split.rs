//! Sends variants to different services.

use std::{
    mem,
    task::{Context, Poll, ready},
};

use http::Request;
use tower_service::Service;

use crate::{variant::Variant, wire::VariantId};

/// A service per variant, under a [`RolloutLayer`](crate::RolloutLayer): requests go to the one of their
/// variant, all others to the baseline's.
///
/// All services must be ready before a request is taken, since the variant is only known with it.
///
/// ```
/// use arqon_rollout::Split;
/// use http::{Request, Response};
/// use tower::service_fn;
///
/// let answer = |text: &'static str| {
///     service_fn(move |_: Request<()>| std::future::ready(Ok::<_, std::convert::Infallible>(Response::new(text))))
/// };
/// # fn same<S>(split: Split<S>) {}
/// let split = Split::new(tower::util::BoxCloneService::new(answer("old")))
///     .variant(42, tower::util::BoxCloneService::new(answer("new")));
/// # same(split);
/// ```
#[derive(Debug, Clone)]
pub struct Split<S> {
    baseline: S,
    variants: Vec<(VariantId, S)>,
}

impl<S> Split<S> {
    /// Everything goes to `baseline`.
    pub fn new(baseline: S) -> Self {
        Self {
            baseline,
            variants: Vec::new(),
        }
    }

    /// Requests of variant `id` go to `service`; a second call for the same id replaces the first.
    #[must_use]
    pub fn variant(mut self, id: VariantId, service: S) -> Self {
        self.variants.retain(|(known, _)| *known != id);
        self.variants.push((id, service));
        self
    }
}

impl<S, B> Service<Request<B>> for Split<S>
where
    S: Service<Request<B>> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        for (_, service) in &mut self.variants {
            ready!(service.poll_ready(context))?;
        }
        self.baseline.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> S::Future {
        let id = request.extensions().get::<Variant>().map(|variant| variant.id);
        let service = self.variants.iter_mut().find(|(known, _)| Some(*known) == id);
        let inner = service.map_or(&mut self.baseline, |(_, service)| service);
        let clone = inner.clone();
        let mut ready = mem::replace(inner, clone);
        ready.call(request)
    }
}
