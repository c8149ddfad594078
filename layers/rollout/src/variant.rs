//! What a request runs under: found by a handler as `Extension<Variant>`, and with feature `axum` as an
//! extractor.

use std::{collections::BTreeMap, sync::Arc};

use http::HeaderValue;
use serde::Serialize;

use crate::wire::VariantId;

/// Parameter values by name.
pub type Params = BTreeMap<String, f64>;

/// The variant a request was assigned. Cloning costs a few reference counts.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Variant {
    /// Its number in the catalog.
    pub id: VariantId,
    /// Its name in the catalog.
    pub name: Arc<str>,
    /// Its parameters, within the catalog's bounds.
    pub params: Arc<Params>,
    /// Whether it is the catalog's safe baseline.
    pub baseline: bool,
    #[serde(skip)]
    header: HeaderValue,
}

impl Variant {
    pub(crate) fn new(id: VariantId, name: &str, params: Params, baseline: bool) -> Self {
        let header = HeaderValue::from_str(name).unwrap_or_else(|_| HeaderValue::from(id));
        Self {
            id,
            name: name.into(),
            params: Arc::new(params),
            baseline,
            header,
        }
    }

    /// The value of a parameter.
    pub fn param(&self, name: &str) -> Option<f64> {
        self.params.get(name).copied()
    }

    /// The value of `x-arqon-variant`.
    pub(crate) fn header(&self) -> HeaderValue {
        self.header.clone()
    }
}

/// A nameless baseline: what the extractor yields on a route without a rollout.
impl Default for Variant {
    fn default() -> Self {
        Self::new(0, "baseline", Params::new(), true)
    }
}

/// Never refuses a request: a route without [`RolloutLayer`](crate::RolloutLayer), or a tenant without a
/// catalog, sees [`Variant::default`].
#[cfg(feature = "axum")]
impl<S: Send + Sync> axum::extract::FromRequestParts<S> for Variant {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(
        parts: &mut http::request::Parts,
        _state: &S,
    ) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}
