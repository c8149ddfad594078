//! A rollout in one program: propose, approve half of the traffic, serve it sticky, stop.
//!
//! `cargo run -p example-rollout`, then `curl -i -H 'x-user: ada' localhost:8080` for several users.

use arqon_message::TenantId;
use arqon_rollout::{
    Catalog, Clock, Config, Control, DownstreamMessage, Executor, KeyPair, Proposal, RolloutConfig,
    RolloutLayer, SystemClock, Variant,
};
use axum::{Router, routing::get};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let operator = KeyPair::generate("ops-1")?;
    let catalog = br#"{"version":1,"baseline":1,"variants":[{"id":1,"name":"old"},{"id":2,"name":"new"}]}"#;
    let config = Config {
        enabled: true,
        keys: vec![operator.public().to_config()],
        key: "header:x-user".to_owned(),
        ..Config::default()
    };
    let executor = Executor::builder(&config)
        .catalog(Catalog::parse(catalog)?)
        .build()?;
    let handle = executor.handle();
    tokio::spawn(executor.run());

    // A node proposes variant 2, the operator signs exactly that proposal at 50 %, 5 % more a minute.
    let proposal = Proposal {
        id: "p1".to_owned(),
        variant_id: Some(2),
        confidence: 0.9,
        ..Default::default()
    };
    handle.client(&TenantId::new("default")?).send(proposal).await?;
    let approval = DownstreamMessage::Approval {
        proposal_id: "p1".to_owned(),
        proposal_digest: handle.status().tenants[0].pending[0].digest.clone(),
        rollout: Some(RolloutConfig {
            initial_percent: 50.0,
            increment_per_minute: 5.0,
            max_percent: 100.0,
        }),
    };
    let control = Control::new("default", SystemClock::new().now_us(), 60_000_000, approval);
    handle
        .submit(control.sign(&[&operator])?.to_json().as_bytes())
        .await?;

    let app = Router::new()
        .route(
            "/",
            get(|variant: Variant| async move { format!("served by {}\n", variant.name) }),
        )
        .layer(RolloutLayer::new(&handle));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    println!("http://{}: curl -H 'x-user: ada' ..", listener.local_addr()?);
    Ok(axum::serve(listener, app).await?)
}
