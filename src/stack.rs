//! The order of the layers, in one place.

use tower::ServiceBuilder;
use tower_layer::Layer;

use arqon_message::{SubjectLayer, WithSubject};
use arqon_overseer::{Overseer, OverseerLayer};
use arqon_rollout::{Rollout, RolloutLayer};
use arqon_schema::{Schema, SchemaLayer};
use arqon_shadow::{Shadow, ShadowLayer};

use crate::{
    edge::{
        limit::{TenantLimit, TenantLimitLayer},
        reserved::{ReservedHeaders, ReservedHeadersLayer},
    },
    events::{BusLayer, WithBus},
    observe::{Decided, DecisionLayer, Passed},
};

/// What authenticates requests in a [`Stack`].
#[cfg(feature = "jwt")]
pub type Authentication = crate::edge::jwt::JwtLayer;
/// What authenticates requests in a [`Stack`]: nothing, without the feature `jwt`.
#[cfg(not(feature = "jwt"))]
pub type Authentication = std::convert::Infallible;

#[cfg(feature = "jwt")]
type Authenticated<S> = crate::edge::jwt::Jwt<S>;
#[cfg(not(feature = "jwt"))]
type Authenticated<S> = S;

/// All layers of a message stack, put around a publisher or any other service in the one order that holds:
/// reserved headers, authentication, limits, subject, bus, Overseer, Schema, Rollout, Shadow.
///
/// `ServiceBuilder` applies top to bottom, so the first pushed is the outermost; `Router::layer` is the other way round:
/// the last one is the outermost.
///
/// ```
/// use axum::{Router, routing::get};
/// use tower::ServiceBuilder;
/// # use tower::{Service, ServiceExt, layer::layer_fn, util::MapRequestLayer};
/// # use axum::body::Body;
/// # use http::{HeaderValue, Request};
///
/// # let mark = |name: &'static str| MapRequestLayer::new(move |mut request: Request<Body>| {
/// #     let before = request.headers().get("order").map_or("", |v| v.to_str().unwrap()).to_owned();
/// #     request.headers_mut().insert("order", HeaderValue::from_str(&(before + name)).unwrap());
/// #     request
/// # });
/// # let handler = |request: Request<Body>| async move { request.headers()["order"].to_str().unwrap().to_owned() };
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// // `mark(x)` stands for any layer.
/// let builder: Router = Router::new()
///     .route("/", get(handler))
///     .layer(ServiceBuilder::new().layer(mark("outer ")).layer(mark("inner ")));
/// let router: Router = Router::new().route("/", get(handler)).layer(mark("inner ")).layer(mark("outer "));
///
/// for app in [builder, router] {
///     let answer = app.oneshot(Request::new(Body::empty())).await.unwrap();
///     let body = axum::body::to_bytes(answer.into_body(), 100).await.unwrap();
///     assert_eq!(body, "outer inner ");
/// }
/// # });
/// ```
#[derive(Clone, Debug)]
pub struct Stack {
    /// Outermost: what a client may not say.
    pub reserved: ReservedHeadersLayer,
    /// Who the client is; `None` lets everybody in.
    pub auth: Option<Authentication>,
    /// How much one tenant may ask for.
    pub limit: TenantLimitLayer,
    /// Names the subject.
    pub subject: SubjectLayer,
    /// Hands out the bus.
    pub bus: BusLayer,
    /// Policies.
    pub overseer: OverseerLayer,
    /// Contracts.
    pub schema: SchemaLayer,
    /// Variants.
    pub rollout: RolloutLayer,
    /// Mirrors.
    pub shadow: ShadowLayer,
}

/// What [`Stack`] makes of a service.
pub type Stacked<S> = ReservedHeaders<
    Authenticated<
        TenantLimit<
            WithSubject<
                WithBus<
                    Decided<
                        Overseer<
                            Passed<
                                Decided<Schema<Passed<Decided<Rollout<Passed<Decided<Shadow<Passed<S>>>>>>>>>,
                            >,
                        >,
                    >,
                >,
            >,
        >,
    >,
>;

impl<S> Layer<S> for Stack {
    type Service = Stacked<S>;

    fn layer(&self, inner: S) -> Self::Service {
        #[cfg(feature = "jwt")]
        let auth = crate::edge::jwt::Optional(self.auth.clone());
        #[cfg(not(feature = "jwt"))]
        let auth = tower_layer::Identity::new();
        ServiceBuilder::new()
            // First, so that nothing below can be told a decision by a client.
            .layer(self.reserved)
            // Before whatever costs something, and before whatever asks for the tenant.
            .layer(auth)
            // As soon as the tenant is known: no policy runs and no bus is used for what is over its share.
            .layer(self.limit.clone())
            // Before whatever decides by subject.
            .layer(self.subject.clone())
            // Before everything that may publish or subscribe, foreign layers included.
            .layer(self.bus.clone())
            // Code that says no goes before work on the payload.
            .layer(DecisionLayer::new("overseer", self.overseer.clone()))
            // After the policies: they may rewrite the payload, and what they made of it has to hold too.
            .layer(DecisionLayer::new("schema", self.schema.clone()))
            // After both: a rejected request is no sample of a variant.
            .layer(DecisionLayer::new("rollout", self.rollout.clone()))
            // Last: a rejected request is never mirrored, and the copy carries what the others added.
            .layer(DecisionLayer::new("shadow", self.shadow.clone()))
            .service(inner)
    }
}
