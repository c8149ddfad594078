//! A plain axum app that takes only what keeps the contract.
//!
//! ```text
//! cargo run -p example-schema
//! curl -i localhost:8080/users -H 'content-type: application/json' -d '{"userId":"u1"}'
//! curl -i localhost:8080/users -H 'content-type: application/json' -d '{"age":5}'
//! ```

use arqon_message::{Subject, SubjectLayer};
use arqon_schema::{MappingConfig, MemoryStore, RegistryConfig, SchemaLayer, ValidatedBy, channel};
use axum::{Extension, Router, routing::post};

const SOURCE: &str = r#"
    syntax = "proto3";
    package events.v1;
    message UserCreated { string user_id = 1; int32 age = 2; }
"#;

async fn created(Extension(by): Extension<ValidatedBy>) -> String {
    format!("{} by {}@{}\n", by.message, by.schema_id, by.revision)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mapping = MappingConfig::new("in.t.*.users.created", "v1.events.user_created").require("user_id");
    let (registry, writer) = channel(RegistryConfig {
        mappings: vec![mapping],
        ..RegistryConfig::default()
    })?;
    let store = MemoryStore::new();
    store.load(&writer)?;
    store.put_source("v1.events.user_created", SOURCE)?;

    let app = Router::new()
        .route("/users", post(created))
        .layer(SchemaLayer::new(registry))
        .layer(SubjectLayer::fixed(Subject::parse("in.t.default.users.created")?));

    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let listener = tokio::net::TcpListener::bind(&address).await?;
    println!("listening on {}", listener.local_addr()?);
    Ok(axum::serve(listener, app).await?)
}
