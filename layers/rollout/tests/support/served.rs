//! A node that serves unsigned rollouts from memory, and requests for it.

use std::convert::Infallible;

use arqon_message::TenantId;
use arqon_rollout::{
    Catalog, Clock, Config, Control, DownstreamMessage, Executor, Handle, Proposal, RolloutConfig,
    RolloutLayer, SystemClock, Variant,
};
use http::{HeaderValue, Request, Response};
use tower::{Layer, ServiceExt, service_fn};

/// A node with everything served from memory and messages unsigned.
pub(crate) async fn node(tenants: &[&str]) -> Handle {
    let catalog = Catalog::parse(
        br#"{"version":1,"baseline":1,"variants":[{"id":1,"name":"stable"},
            {"id":42,"name":"fast","params":{"alpha":{"default":0.5,"min":0,"max":1}}}]}"#,
    );
    let config = Config {
        enabled: true,
        allow_unsigned: true,
        tenants: tenants.iter().map(ToString::to_string).collect(),
        ..Config::default()
    };
    let executor = Executor::builder(&config)
        .catalog(catalog.unwrap())
        .build()
        .unwrap();
    let handle = executor.handle();
    tokio::spawn(executor.run());
    handle
}

pub(crate) async fn submit(handle: &Handle, tenant: &str, message: DownstreamMessage) {
    let control = Control::new(tenant, SystemClock::new().now_us(), 60_000_000, message);
    handle
        .submit(control.sign(&[]).unwrap().to_json().as_bytes())
        .await
        .unwrap();
}

/// Rolls 42 out at a constant percent; the digest of its proposal seeds the cohort.
pub(crate) async fn roll_out(handle: &Handle, tenant: &str, id: &str, scope: Option<&str>, percent: f64) {
    let proposal = Proposal {
        id: id.to_owned(),
        timestamp_us: 1,
        variant_id: Some(42),
        confidence: 1.0,
        scope: scope.map(str::to_owned),
        ..Default::default()
    };
    let digest = arqon_rollout::Digest::of_proposal(&proposal).unwrap();
    handle
        .client(&TenantId::new(tenant).unwrap())
        .send(proposal)
        .await
        .unwrap();
    let approval = DownstreamMessage::Approval {
        proposal_id: id.to_owned(),
        proposal_digest: digest.to_string(),
        rollout: Some(RolloutConfig {
            initial_percent: percent,
            increment_per_minute: 0.0,
            max_percent: percent,
        }),
    };
    submit(handle, tenant, approval).await;
}

pub(crate) fn request(user: &str) -> Request<()> {
    let mut request = Request::new(());
    if !user.is_empty() {
        request
            .headers_mut()
            .insert("x-user", HeaderValue::from_str(user).unwrap());
    }
    request
}

/// The variant a request is handed on with, after checking both headers.
pub(crate) async fn assigned(layer: &RolloutLayer, request: Request<()>) -> Option<Variant> {
    let inner = service_fn(|request: Request<()>| async move {
        let variant = request.extensions().get::<Variant>().cloned();
        let headers: Vec<_> = request
            .headers()
            .get_all("x-arqon-variant")
            .iter()
            .cloned()
            .collect();
        let names: Vec<_> = variant
            .iter()
            .map(|variant| HeaderValue::from_str(&variant.name).unwrap())
            .collect();
        assert_eq!(headers, names);
        Ok::<_, Infallible>(Response::new(variant))
    });
    let response = layer.layer(inner).oneshot(request).await.unwrap();
    let name = response
        .headers()
        .get("x-arqon-variant")
        .map(|name| name.to_str().unwrap());
    assert_eq!(name, response.body().as_ref().map(|variant| &*variant.name));
    response.into_body()
}

pub(crate) fn by_user(handle: &Handle) -> RolloutLayer {
    RolloutLayer::new(handle).with_key("header:x-user".parse().unwrap())
}
