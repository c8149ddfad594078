//! A policy on every request of an axum app: `curl -H 'X-Block-Me: 1' 127.0.0.1:8080` is refused.
//!
//! `cargo run -p example-overseer -- [MODULE.wat|MODULE.wasm]`, by default the policy below.

use std::{error::Error, path::PathBuf};

use arqon_overseer::{OverseerConfig, OverseerLayer, PolicyConfig};
use axum::{Router, routing::get};

/// Denies what carries the header `X-Block-Me`.
const BLOCK_ME: &str = r#"(module
  (import "arqon_host_v1" "host_get_header" (func $get_header (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (global (export "arqon_abi_v1") i32 (i32.const 1))
  (data (i32.const 16) "X-Block-Me")
  (func (export "on_request") (result i32)
    (i32.ge_s (call $get_header (i32.const 16) (i32.const 10) (i32.const 0) (i32.const 0)) (i32.const 0))))"#;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let policy = match std::env::args_os().nth(1) {
        Some(path) => PolicyConfig::from_path("policy", PathBuf::from(path)),
        None => PolicyConfig::from_module("block_me", BLOCK_ME),
    };
    let (overseer, handle) = OverseerLayer::channel(OverseerConfig::of([policy]))?;
    for policy in handle.policies() {
        println!("{}", policy.report);
    }

    let app = Router::new()
        .route(
            "/",
            get(|| async { "hello\n" }).post(|body: String| async { body }),
        )
        .layer(overseer);

    let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}
