//! On an axum router and on a bare hyper-util server.

use arqon_overseer::PolicyConfig;
use axum::{Router, routing::get};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::net::TcpListener;
use tower::{Layer, ServiceExt};

use crate::guests::{BLOCK_ME, layer};

#[tokio::test]
async fn on_a_router() {
    let overseer = layer(PolicyConfig::from_module("block_me", BLOCK_ME));
    let app = Router::new()
        .route("/", get(|| async { "hello" }))
        .layer(overseer);
    let ask = |block: bool| {
        let request = Request::get("/").header(if block { "x-block-me" } else { "x-other" }, "1");
        app.clone()
            .oneshot(request.body(axum::body::Body::empty()).unwrap())
    };
    let allowed = ask(false).await.unwrap();
    assert_eq!(allowed.into_body().collect().await.unwrap().to_bytes(), "hello");
    let denied = ask(true).await.unwrap();
    assert_eq!(denied.status(), StatusCode::FORBIDDEN);
    assert_eq!(denied.headers()["content-type"], "application/problem+json");
    let body = denied.into_body().collect().await.unwrap().to_bytes();
    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(problem["code"], "overseer.denied");
    assert_eq!(problem["status"], 403);
}

#[tokio::test]
async fn on_a_bare_hyper_server() {
    let overseer = layer(PolicyConfig::from_module("block_me", BLOCK_ME));
    let service = overseer.layer(tower::service_fn(
        |request: Request<arqon_message::MessageBody<Incoming>>| async move {
            let bytes = request.into_body().collect().await?.to_bytes();
            Ok::<_, hyper::Error>(http::Response::new(Full::new(bytes)))
        },
    ));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = TowerToHyperService::new(service.clone());
            tokio::spawn(async move {
                auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await
            });
        }
    });
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<bytes::Bytes>>();
    let url = format!("http://{address}/");
    let request = Request::post(&url).body(Full::from("echo")).unwrap();
    let response = client.request(request).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "echo");
    let request = Request::post(&url)
        .header("X-Block-Me", "1")
        .body(Full::default())
        .unwrap();
    assert_eq!(
        client.request(request).await.unwrap().status(),
        StatusCode::FORBIDDEN
    );
    server.abort();
}
