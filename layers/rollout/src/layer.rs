//! The layer.

use std::sync::Arc;

use http::{Extensions, HeaderMap};
use tower_layer::Layer;

use crate::{
    assignment::{CoinFlip, Key, Sampling},
    handle::Handle,
    service::Rollout,
    session::SessionVariant,
    variant::Variant,
};

/// Assigns every request a variant: `Extension<Variant>` and `x-arqon-variant` on the request handed on,
/// `x-arqon-variant` on the response. It never refuses a request and never looks at its body.
///
/// Which scope applies follows from the request's extensions: its [`Subject`](arqon_message::Subject), else
/// its [`TenantId`](arqon_message::TenantId), else the only tenant there is.
#[derive(Debug, Clone)]
pub struct RolloutLayer {
    handle: Handle,
    key: Arc<Key>,
    sampling: Sampling,
    coin: Arc<CoinFlip>,
}

impl RolloutLayer {
    /// Serves what `handle`'s executor publishes, sticky by the config's `key`.
    pub fn new(handle: &Handle) -> Self {
        let (key, sampling) = (Arc::new(handle.key().clone()), handle.sampling());
        Self {
            handle: handle.clone(),
            key,
            sampling,
            coin: Arc::new(CoinFlip::new()),
        }
    }

    /// Serves no one's rollout: requests pass with no variant. For a platform without a rollout.
    pub fn disabled() -> Self {
        Self::new(&Handle::disabled())
    }

    /// Makes decisions sticky by another key.
    #[must_use]
    pub fn with_key(mut self, key: Key) -> Self {
        self.key = Arc::new(key);
        self
    }

    /// The variant a request would get now, without counting it: for code that is no tower service. None where no
    /// catalog is.
    pub fn variant(&self, headers: &HeaderMap, extensions: &Extensions) -> Option<Variant> {
        self.layer(()).preview(headers, extensions)
    }

    /// What a WebSocket session keeps of its upgrade request; it goes into the extensions of each of its frames.
    pub fn session(&self, headers: &HeaderMap, extensions: &Extensions) -> SessionVariant {
        SessionVariant::open(
            &self.handle,
            (&self.key, self.sampling, &self.coin),
            headers,
            extensions,
        )
    }

    /// Decides otherwise than by the key.
    #[must_use]
    pub fn with_sampling(mut self, sampling: Sampling) -> Self {
        self.sampling = sampling;
        self
    }
}

impl<S> Layer<S> for RolloutLayer {
    type Service = Rollout<S>;

    fn layer(&self, inner: S) -> Rollout<S> {
        Rollout::new(
            inner,
            self.handle.clone(),
            self.key.clone(),
            self.sampling,
            self.coin.clone(),
        )
    }
}
