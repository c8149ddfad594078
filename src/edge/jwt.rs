//! Who the client is: bearer tokens that are JSON Web Tokens (RFC 7519), verified before anything else looks at a request.
//!
//! [`JwtLayer`] takes the token of `Authorization: Bearer`, and puts [`Claims`](arqon_message::Claims), the
//! [`TenantId`](arqon_message::TenantId) of the claim `tenant_id` and [`Verified`] into the request's extensions. A request
//! without a token that holds is answered 401 `auth.missing` or `auth.invalid`, one whose token names no tenant 403
//! `tenant.invalid`; neither reaches the inner service.
//!
//! ```
//! use arqon::{Claims, TenantId, config::{AuthConfig, IssuerConfig}, edge::jwt::JwtLayer};
//! use axum::{Extension, Router, routing::get};
//!
//! let keys = r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "1",
//!                          "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
//! let jwt = JwtLayer::new(&AuthConfig {
//!     issuers: vec![IssuerConfig::of("https://id.example", "my-service", keys)],
//!     ..AuthConfig::default()
//! })?;
//!
//! async fn handler(Extension(tenant): Extension<TenantId>, Extension(claims): Extension<Claims>) -> String {
//!     format!("{tenant}: {:?}", claims.get("sub"))
//! }
//! let app: Router = Router::new().route("/", get(handler)).layer(jwt);
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! # use tower::ServiceExt;
//! let answer = app.oneshot(http::Request::new(axum::body::Body::empty())).await?;
//! assert_eq!((answer.status().as_u16(), &answer.headers()["www-authenticate"]), (401, &"Bearer".parse()?));
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Keys from files and URLs stay fresh while [`JwtLayer::refresh`] runs:
//!
//! ```no_run
//! # use arqon::{config::{AuthConfig, IssuerConfig}, edge::jwt::JwtLayer};
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let jwt = JwtLayer::new(&AuthConfig {
//!     issuers: vec![IssuerConfig {
//!         issuer: "https://id.example".to_owned(),
//!         audience: vec!["my-service".to_owned()],
//!         jwks_url: Some("https://id.example/.well-known/jwks.json".to_owned()),
//!         ..IssuerConfig::default()
//!     }],
//!     ..AuthConfig::default()
//! })?;
//! let stop = tokio_util::sync::CancellationToken::new();
//! tokio::spawn(jwt.refresh().run(stop.clone()));
//! # Ok(())
//! # }
//! ```
//!
//! # What holds
//!
//! HS256, RS256, ES256 and EdDSA (RFC 8725 read strictly, ADR 0030). The key is chosen by `iss` and `kid` among the
//! configured issuers' keys only, and the key says which algorithm its tokens have; `none` and every other mix is refused.
//! `jku`, `x5u`, `jwk` and `x5c` in a token are never looked at; `crit`, nesting and compression are refused; so are names
//! that stand twice. `exp`, `iss` and `aud` are required, `nbf` counts where it is there, and so does whatever `require`
//! names. A request that carries [`Verified`] already, a frame of a session that was opened with a token, is held to the
//! token's time again and to its key being in force ([`JwtLayer::has_key_of`]), and ends its session when either is over.
//!
//! # Under load
//!
//! A token that held is remembered by its digest, within `cache_entries`; a change of keys forgets all. A token of an unknown
//! key is refused at once and asks the refresh task for new keys, at most every ten seconds; nothing waits for it.
//!
//! # Cancellation
//!
//! The layer waits for nothing of its own. Dropping [`KeyRefresh::run`] leaves the last keys in force.

mod cache;
mod fetch;
mod json;
mod key;
mod keys;
mod service;
mod token;

use std::{fmt, sync::Arc};

use self::keys::Issuers;
pub(crate) use self::service::Optional;
pub use self::{
    keys::KeyRefresh,
    service::{Jwt, ResponseFuture},
    token::Verified,
};
use crate::config::{AuthConfig, InvalidConfig};

/// Lets in requests with a token that holds; see the [module docs](self). Cloning is a reference count.
#[derive(Clone)]
pub struct JwtLayer(Arc<Issuers>);

impl JwtLayer {
    /// A layer with the keys that are given or lie in files; those of URLs come with [`refresh`](Self::refresh). Metrics'
    /// handles are taken here: install the recorder first.
    ///
    /// # Errors
    /// Every finding at once, such as a key file that cannot be read or a key that is too weak.
    pub fn new(config: &AuthConfig) -> Result<Self, InvalidConfig> {
        Issuers::new(config).map(|issuers| Self(Arc::new(issuers)))
    }

    /// The task that keeps the keys fresh.
    #[must_use]
    pub fn refresh(&self) -> KeyRefresh {
        KeyRefresh::new(Arc::clone(&self.0))
    }

    /// Whether the key of a token that held is still in force: a session asks for it as long as it lives. It takes no lock.
    #[must_use]
    pub fn has_key_of(&self, verified: &Verified) -> bool {
        self.0.has_key_of(verified)
    }

    /// For readiness: whether every issuer has keys.
    ///
    /// # Errors
    /// The first one that has none yet, in words.
    pub fn ready(&self) -> Result<(), String> {
        match self.0.without_keys() {
            Some(issuer) => Err(format!("the keys of {issuer} are not there yet")),
            None => Ok(()),
        }
    }
}

/// Puts the series at 0 that a layer would register, for a program without one: what is not there cannot be told from what
/// was lost. `shield_auth_keys{issuer}` is there for each configured issuer.
pub fn register_metrics() {
    keys::register_metrics();
}

impl fmt::Debug for JwtLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtLayer").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
