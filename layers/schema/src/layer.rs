//! [`SchemaLayer`].

use std::fmt;

use tower_layer::Layer;

use crate::{config::Unmapped, handle::Registry, service::Schema};

/// Checks the payload of every message against the contract of its subject. See the crate's documentation.
#[derive(Clone)]
pub struct SchemaLayer {
    /// None where nothing is mapped and what is not mapped passes: no request has anything to look at.
    registry: Option<Registry>,
}

impl SchemaLayer {
    /// A layer that enforces the registry's mappings by the registry's configuration. Takes the registry's metric handles:
    /// install the recorder before its first layer.
    #[must_use]
    pub fn new(registry: Registry) -> Self {
        let config = registry.config();
        crate::metrics::relaxed(config);
        registry.common().metrics();
        let idle = config.mappings.is_empty() && config.unmapped == Unmapped::Allow;
        Self {
            registry: (!idle).then_some(registry),
        }
    }
}

impl<S> Layer<S> for SchemaLayer {
    type Service = Schema<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Schema {
            inner,
            registry: self.registry.clone(),
        }
    }
}

impl fmt::Debug for SchemaLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SchemaLayer")
            .field("registry", &self.registry)
            .finish()
    }
}
