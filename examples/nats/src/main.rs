//! An axum app on a NATS subscription, with a policy in front: `nats request rpc.hello world` is answered, and
//! `nats request rpc.hello world -H X-Block-Me:1` is refused with `Nats-Service-Error-Code: 403`.
//!
//! `cargo run -p example-nats -- [URL]`, by default `nats://127.0.0.1:4222`.

use std::error::Error;

use arqon::{
    OverseerLayer, SubjectPattern,
    nats::{self, serve::Source},
    overseer::{OverseerConfig, PolicyConfig},
};
use axum::{Router, extract::Path, routing::post};
use tokio_util::sync::CancellationToken;

/// The same policy as in `examples/overseer`.
const BLOCK_ME: &str = include_str!("../../policies/wat/block_me.wat");

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "nats://127.0.0.1:4222".to_owned());
    let policy = PolicyConfig::from_module("block_me", BLOCK_ME);
    let app = Router::new()
        .route(
            "/{subject}",
            post(
                |Path(subject): Path<String>, body: String| async move { format!("{subject} got {body}\n") },
            ),
        )
        .layer(OverseerLayer::new(OverseerConfig::of([policy]))?);

    let client = nats::connect(&url, None).await?;
    let stop = CancellationToken::new();
    let source = Source::requests(&client, SubjectPattern::parse("rpc.>")?).queue_group("example");
    let serving = tokio::spawn(nats::serve(source, app).run(stop.clone()));
    println!("serving rpc.> on {url}; Ctrl-C drains");
    tokio::signal::ctrl_c().await?;
    stop.cancel();
    let served = serving.await??;
    println!("{} answered, {} refused", served.ok, served.refused);
    Ok(())
}
