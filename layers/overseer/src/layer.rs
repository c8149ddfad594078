//! [`OverseerLayer`].

use std::sync::Arc;

use tower_layer::Layer;

use crate::{
    config::OverseerConfig, error::BuildError, event::OnEvent, handle::OverseerHandle, service::Overseer,
    shared::Shared,
};

/// Runs sandboxed policies on every request. See the [crate's documentation](crate).
#[derive(Clone, Debug)]
pub struct OverseerLayer {
    shared: Arc<Shared>,
}

impl OverseerLayer {
    /// Loads every policy of `config`. Blocks while they compile: some milliseconds each.
    ///
    /// # Errors
    ///
    /// Everything wrong with the configuration, or everything wrong with the modules; or the engine could not be made.
    pub fn new(config: OverseerConfig) -> Result<Self, BuildError> {
        Self::channel(config).map(|(layer, _)| layer)
    }

    /// The layer, and the handle that changes its policies while it runs.
    ///
    /// # Errors
    ///
    /// As [`OverseerLayer::new`].
    pub fn channel(config: OverseerConfig) -> Result<(Self, OverseerHandle), BuildError> {
        Self::channel_with(config, Arc::new(|_| ()))
    }

    /// As [`OverseerLayer::channel`], with somebody to tell what happens.
    ///
    /// # Errors
    ///
    /// As [`OverseerLayer::new`].
    pub fn channel_with(
        config: OverseerConfig,
        on_event: OnEvent,
    ) -> Result<(Self, OverseerHandle), BuildError> {
        let shared = Arc::new(Shared::new(&config, on_event)?);
        Ok((
            Self {
                shared: Arc::clone(&shared),
            },
            OverseerHandle::new(shared),
        ))
    }
}

impl<S> Layer<S> for OverseerLayer {
    type Service = Overseer<S>;

    fn layer(&self, inner: S) -> Overseer<S> {
        Overseer::new(inner, Arc::clone(&self.shared))
    }
}
