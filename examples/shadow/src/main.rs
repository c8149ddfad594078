//! An axum program that mirrors half of its traces. Run it, then post a few times:
//!
//! ```text
//! curl -d '42 apples' -H 'traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01' localhost:3000/orders
//! curl -d '7 pears' localhost:3000/orders        # no trace: the connection decides
//! ```

use arqon_message::{ConnectionId, Subject, SubjectLayer};
use arqon_shadow::{RecordingSink, RuleConfig, ShadowConfig, ShadowLayer};
use axum::{Router, routing::post};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = ShadowConfig::default().rule(RuleConfig::new("in.t.default.>", "50%"));
    let sink = RecordingSink::new(1_000);
    let (shadow, handle, drain) = ShadowLayer::channel(&config, sink.clone())?;
    tokio::spawn(drain.run());
    tokio::spawn(async move {
        for total in 1.. {
            sink.recorded(total).await;
            for copy in sink.take() {
                println!("{}  key {}  {:?}", copy.subject, copy.key.as_str(), copy.body);
            }
        }
    });

    // The last layer is the outermost: the subject is there when the mirror looks for it.
    let app = Router::new()
        .route(
            "/orders",
            post(|body: String| async move { format!("got {body}\n") }),
        )
        .layer(shadow)
        .layer(SubjectLayer::fixed(Subject::parse("in.t.default.orders")?));

    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(
        listener,
        app.into_make_service_with_connect_info::<ConnectionId>(),
    )
    .with_graceful_shutdown(async { drop(tokio::signal::ctrl_c().await) })
    .await?;
    println!("{:?}", handle.shutdown(std::time::Duration::from_secs(1)).await);
    Ok(())
}
