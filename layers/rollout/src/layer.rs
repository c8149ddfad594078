//! The layer.

use std::sync::Arc;

use http::{Extensions, HeaderMap};
use tower_layer::Layer;

use crate::{
    assignment::{CoinFlip, Key, Sampling},
    decider::Decider,
    handle::Handle,
    service::Rollout,
    session::SessionVariant,
    variant::Variant,
    wire::VariantId,
};

/// Assigns every request a variant: `Extension<Variant>` and `x-arqon-variant` on the request handed on,
/// `x-arqon-variant` on the response. It never refuses a request and never looks at its body.
///
/// Which scope applies follows from the request's extensions: its [`Subject`](arqon_message::Subject), else
/// its [`TenantId`](arqon_message::TenantId), else the only tenant there is.
#[derive(Debug, Clone)]
pub struct RolloutLayer {
    decider: Arc<Decider>,
}

impl RolloutLayer {
    /// Serves what `handle`'s executor publishes, sticky by the config's `key`.
    pub fn new(handle: &Handle) -> Self {
        Self::by(handle, handle.key().clone(), handle.sampling())
    }

    fn by(handle: &Handle, key: Key, sampling: Sampling) -> Self {
        Self {
            decider: Arc::new(Decider {
                handle: handle.clone(),
                key,
                sampling,
                coin: CoinFlip::new(),
            }),
        }
    }

    /// Serves no one's rollout: requests pass with no variant. For a platform without a rollout.
    pub fn disabled() -> Self {
        Self::new(&Handle::disabled())
    }

    /// Makes decisions sticky by another key.
    #[must_use]
    pub fn with_key(self, key: Key) -> Self {
        Self::by(&self.decider.handle, key, self.decider.sampling)
    }

    /// The variant a request would get now, without counting it: for code that is no tower service. None where no
    /// catalog is.
    pub fn variant(&self, headers: &HeaderMap, extensions: &Extensions) -> Option<Variant> {
        self.decider.preview(headers, extensions)
    }

    /// The number of the variant a request would get now, without counting it: the bare decision. None where no catalog is.
    pub fn variant_id(&self, headers: &HeaderMap, extensions: &Extensions) -> Option<VariantId> {
        self.decider.number(headers, extensions)
    }

    /// What a WebSocket session keeps of its upgrade request; it goes into the extensions of each of its frames.
    pub fn session(&self, headers: &HeaderMap, extensions: &Extensions) -> SessionVariant {
        SessionVariant::open(&self.decider, headers, extensions)
    }

    /// Decides otherwise than by the key.
    #[must_use]
    pub fn with_sampling(self, sampling: Sampling) -> Self {
        Self::by(&self.decider.handle, self.decider.key.clone(), sampling)
    }
}

impl<S> Layer<S> for RolloutLayer {
    type Service = Rollout<S>;

    fn layer(&self, inner: S) -> Rollout<S> {
        Rollout::new(inner, Arc::clone(&self.decider))
    }
}
