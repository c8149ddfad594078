//! Real servers: axum and bare hyper-util, HTTP/1 and HTTP/2, over loopback.

use std::{collections::HashMap, convert::Infallible};

use arqon_message::{ConnectionId, PerConnection, Subject, SubjectLayer};
use arqon_shadow::{Reason, RuleConfig, ShadowConfig};
use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tower::ServiceBuilder;

use super::support::*;

/// A bare hyper-util server behind the layer; it echoes and serves until the test ends.
async fn hyper_server(rig: &Rig) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let address = listener.local_addr().expect("address");
    let service = ServiceBuilder::new()
        .layer(SubjectLayer::fixed(
            Subject::parse("in.t.default.orders").expect("subject"),
        ))
        .layer(rig.layer.clone())
        .service_fn(|request: Request<_>| async move { Ok::<_, Infallible>(echo(request).await) });
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).expect("no delay");
            let service = TowerToHyperService::new(PerConnection::mint(service.clone()));
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

fn client(h2: bool) -> Client<HttpConnector, Full<Bytes>> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new())
        .http2_only(h2)
        .build(connector)
}

async fn post(
    client: &Client<HttpConnector, Full<Bytes>>,
    address: std::net::SocketAddr,
    trace: Option<u32>,
) {
    let mut request = Request::post(format!("http://{address}/orders"));
    if let Some(trace) = trace {
        request = request.header("traceparent", format!("00-{trace:032x}-b7ad6b7169203331-01"));
    }
    let request = request.body(Full::from("payload")).expect("request");
    let response: Response<Incoming> = client.request(request).await.expect("response");
    assert_eq!(response.status(), 200);
    assert_eq!(
        response.into_body().collect().await.expect("body").to_bytes(),
        "payload"
    );
}

#[tokio::test]
async fn over_many_connections_protocols_and_two_nodes_every_trace_is_copied_whole_or_not_at_all() {
    // M2: 201 traces x 20 requests over 8 connections, HTTP/1 and HTTP/2 mixed, two nodes.
    let config = ShadowConfig::default().rule(RuleConfig::new("in.t.*.>", 0.10));
    let (one, two) = (rig(&config), rig(&config));
    let addresses = [hyper_server(&one).await, hyper_server(&two).await];
    let clients: Vec<_> = (0..8).map(|n| client(n % 2 == 1)).collect();
    let runs: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(n, client)| {
            tokio::spawn(async move {
                // 7 and 8 share no factor with 201: every trace comes 20 times, on every connection, in mixed order.
                for request in (n..201 * 20).step_by(8) {
                    post(
                        &client,
                        addresses[request / 8 % 2],
                        Some((request * 7 % 201) as u32 + 1),
                    )
                    .await;
                }
            })
        })
        .collect();
    for run in runs {
        run.await.expect("joined");
    }
    let (stats_one, copies_one) = one.settled().await;
    let (stats_two, copies_two) = two.settled().await;
    assert_eq!(stats_one.dropped_sum() + stats_two.dropped_sum(), 0);
    let mut copies: HashMap<String, u32> = HashMap::new();
    for copy in copies_one.iter().chain(&copies_two) {
        *copies.entry(copy.key.as_str().to_owned()).or_default() += 1;
    }
    let sampler = arqon_message::Sampler::new(0);
    let ten = arqon_message::Fraction::new(0.10).expect("share").threshold();
    let expected: HashMap<_, _> = (1..=201)
        .map(|n| format!("{n:032x}"))
        .filter(|key| sampler.sample(key.as_bytes(), ten))
        .map(|key| (key, 20))
        .collect();
    assert!(!expected.is_empty());
    assert_eq!(copies, expected);
}

#[tokio::test]
async fn without_a_trace_all_requests_of_a_connection_agree() {
    // M3: keep-alive over HTTP/1, streams over HTTP/2.
    let rig = rig(&ShadowConfig::default().rule(RuleConfig::new("in.t.*.>", 0.5)));
    let address = hyper_server(&rig).await;
    let mut answers = std::collections::HashSet::new();
    for n in 0..24 {
        let client = client(n % 2 == 1);
        let before = rig.handle.stats().sampled;
        for _ in 0..4 {
            post(&client, address, None).await;
        }
        let chosen = rig.handle.stats().sampled - before;
        assert!(chosen == 0 || chosen == 4, "{chosen} of 4");
        answers.insert(chosen);
    }
    assert_eq!(answers.len(), 2, "24 connections at 50 % fall on both sides");
}

#[tokio::test]
async fn an_axum_router_mirrors_with_the_connections_id() {
    let rig = rig(&all());
    let app = axum::Router::new()
        .route("/orders", axum::routing::post(|body: Bytes| async move { body }))
        .layer(rig.layer.clone())
        .layer(SubjectLayer::fixed(
            Subject::parse("in.t.default.orders").expect("subject"),
        ));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        axum::serve(
            listener,
            app.into_make_service_with_connect_info::<ConnectionId>(),
        )
        .await
    });
    for h2 in [false, true] {
        let client = client(h2);
        post(&client, address, None).await;
        post(&client, address, None).await;
    }
    let (stats, copies) = rig.settled().await;
    assert_eq!((stats.mirrored, stats.no_key), (4, 0));
    assert!(
        copies
            .iter()
            .all(|copy| copy.body == "payload" && copy.key.as_str().starts_with("c:"))
    );
    let of = |n: usize| copies[n].headers()["x-arqon-shadow-of"].clone();
    assert!(of(0) == of(1) && of(2) == of(3) && of(0) != of(2));
}

/// Sends bytes over one HTTP/1 connection and reads until `until` was seen.
async fn converse(stream: &mut TcpStream, send: &str, until: &str) -> String {
    stream.write_all(send.as_bytes()).await.expect("sent");
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(until) {
        assert!(
            stream.read_buf(&mut seen).await.expect("read") > 0,
            "closed after {seen:?}"
        );
    }
    String::from_utf8(seen).expect("text")
}

const HEAD: &str = "POST /orders HTTP/1.1\r\nhost: x\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";

#[tokio::test]
async fn expect_100_continue_works_as_without_the_layer() {
    let rig = rig(&all());
    let mut stream = TcpStream::connect(hyper_server(&rig).await)
        .await
        .expect("connected");
    let head = format!("{HEAD}expect: 100-continue\r\ncontent-length: 5\r\n\r\n");
    assert_eq!(
        converse(&mut stream, &head, "\r\n\r\n").await,
        "HTTP/1.1 100 Continue\r\n\r\n"
    );
    assert!(
        converse(&mut stream, "hello", "hello")
            .await
            .starts_with("HTTP/1.1 200")
    );
    let (_, copies) = rig.settled().await;
    assert_eq!(copies[0].body, "hello");
    assert!(
        !copies[0].headers().contains_key("expect") && !copies[0].headers().contains_key("content-length")
    );
}

#[tokio::test]
async fn chunked_uploads_trailers_and_empty_bodies_are_mirrored_over_http_1() {
    let rig = rig(&all());
    let mut stream = TcpStream::connect(hyper_server(&rig).await)
        .await
        .expect("connected");
    let chunked = format!(
        "{HEAD}transfer-encoding: chunked\r\ntrailer: x-digest\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nx-digest: 9\r\n\r\n"
    );
    assert!(
        converse(&mut stream, &chunked, "abcde")
            .await
            .starts_with("HTTP/1.1 200")
    );
    let empty = format!("{HEAD}transfer-encoding: chunked\r\n\r\n0\r\n\r\n");
    assert!(
        converse(&mut stream, &empty, "\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 200")
    );
    let none = format!("{HEAD}\r\n");
    assert!(
        converse(&mut stream, &none, "\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 200")
    );
    let (stats, copies) = rig.settled().await;
    assert_eq!((stats.sampled, copies.len()), (3, 3));
    assert_eq!(
        (
            copies[0].body.as_ref(),
            copies[1].body.len(),
            copies[2].body.len()
        ),
        (&b"abcde"[..], 0, 0)
    );
    assert_eq!(copies[0].trailers.as_ref().expect("trailers")["x-digest"], "9");
    assert!(
        !copies[0].headers().contains_key("transfer-encoding")
            && !copies[0].headers().contains_key("trailer")
    );
}

#[tokio::test]
async fn a_client_that_goes_away_in_the_middle_leaves_no_copy() {
    // M6
    let rig = rig(&all());
    let mut stream = TcpStream::connect(hyper_server(&rig).await)
        .await
        .expect("connected");
    let head = format!("{HEAD}expect: 100-continue\r\ncontent-length: 10\r\n\r\n");
    converse(&mut stream, &head, "\r\n\r\n").await;
    stream.write_all(b"half").await.expect("sent");
    assert_eq!(rig.handle.stats().in_flight, 1);
    drop(stream);
    // The server notices when it reads: the counters say when.
    while rig.handle.stats().in_flight > 0 {
        tokio::task::yield_now().await;
    }
    let (stats, copies) = rig.settled().await;
    assert_eq!((stats.sampled, copies.len()), (1, 0));
    assert_eq!(
        stats.dropped_by(Reason::Cancelled) + stats.dropped_by(Reason::PrimaryRejected),
        1
    );
}

#[tokio::test]
async fn upgrades_pass_untouched() {
    // M15
    let rig = rig(&all());
    let mut stream = TcpStream::connect(hyper_server(&rig).await)
        .await
        .expect("connected");
    let upgrade = "connection: upgrade, http2-settings\r\nhttp2-settings: AAMAAABk\r\n";
    let get = HEAD.replacen("POST", "GET", 1);
    let head = format!("{get}{upgrade}upgrade: websocket\r\n\r\n");
    assert!(
        converse(&mut stream, &head, "\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 200")
    );
    assert_eq!(rig.handle.stats().sampled, 0);
    // What `curl --http2` sends: an offer beside an ordinary request.
    let offer = format!("{HEAD}{upgrade}upgrade: h2c\r\ncontent-length: 5\r\n\r\nhello");
    assert!(
        converse(&mut stream, &offer, "hello")
            .await
            .starts_with("HTTP/1.1 200")
    );
    let (stats, copies) = rig.settled().await;
    assert_eq!((stats.sampled, copies.len()), (1, 1));
    let headers = copies[0].headers();
    assert_eq!(copies[0].body, "hello");
    assert!(!headers.contains_key("upgrade") && !headers.contains_key("http2-settings"));
}

#[tokio::test]
async fn over_http_2_bodies_and_trailers_pass_and_are_mirrored() {
    let rig = rig(&all());
    let address = hyper_server(&rig).await;
    let stream = TokioIo::new(TcpStream::connect(address).await.expect("connected"));
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
        .await
        .expect("handshake");
    tokio::spawn(connection);
    let mut request = request(Frames::of(["ab", "cd"]).and_trailers("x-digest", "9"));
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = format!("http://{address}/orders").parse().expect("uri");
    let response = sender.send_request(request).await.expect("response");
    assert_eq!(
        response.into_body().collect().await.expect("body").to_bytes(),
        "abcd"
    );
    let (_, copies) = rig.settled().await;
    assert_eq!(copies[0].body, "abcd");
    assert_eq!(copies[0].trailers.as_ref().expect("trailers")["x-digest"], "9");
}
