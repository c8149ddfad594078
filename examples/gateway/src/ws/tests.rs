//! Frames judged one by one, with the claims of the connection they came by.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use arqon::{
    Claims, Code, Protocol, TenantId,
    bus::Bus,
    config::{Config, PlatformConfig},
    memory::{self, Broker},
    observe::{Ending, ObserveConfig, ObserveLayer, Story, StorySink},
    overseer::{OverseerConfig, PolicyConfig},
    platform::Platform,
    supervise::Supervisor,
};
use axum::body::Body;
use futures_util::{SinkExt, StreamExt};
use http::Request;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{Message, client::IntoClientRequest},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::{Layer, ServiceBuilder, util::BoxCloneSyncService};

use crate::{
    edge::Edge,
    hub::Hub,
    readiness::Readiness,
    routes::{self, MessageService, Public},
};

/// Lets in whose claim `role` has five characters: `admin`.
const ADMINS: &str = r#"(module
  (import "arqon_host_v1" "host_get_claim" (func $claim (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (global (export "arqon_abi_v1") i32 (i32.const 1))
  (data (i32.const 0) "role")
  (func (export "on_request") (result i32)
    (i32.ne (call $claim (i32.const 0) (i32.const 4) (i32.const 0) (i32.const 0)) (i32.const 5))))"#;

/// Sets `x-role: guest`.
const GUESTS: &str = r#"(module
  (import "arqon_host_v1" "host_set_header" (func $set (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (global (export "arqon_abi_v1") i32 (i32.const 1))
  (data (i32.const 0) "x-role")
  (data (i32.const 16) "guest")
  (func (export "on_request") (result i32)
    (drop (call $set (i32.const 0) (i32.const 6) (i32.const 16) (i32.const 5))) (i32.const 0)))"#;

/// A gateway's routes, whose connections have the claim `role` of their query. Messages go to `stack` where it is given, else
/// past `policies` to a broker.
async fn serve(
    policies: Vec<PolicyConfig>,
    stack: Option<MessageService>,
) -> (SocketAddr, JoinHandle<std::io::Result<()>>) {
    serve_told(policies, stack, ObserveConfig::default()).await
}

/// The same, and requests are told.
async fn serve_told(
    policies: Vec<PolicyConfig>,
    stack: Option<MessageService>,
    told: ObserveConfig,
) -> (SocketAddr, JoinHandle<std::io::Result<()>>) {
    let platform = PlatformConfig {
        overseer: OverseerConfig::of(policies),
        ..PlatformConfig::default()
    };
    let broker = Broker::new();
    let bus = Bus::new(16).expect("a bus");
    let platform = Platform::start(&platform, memory::Sink::new(broker.clone()), &bus)
        .await
        .expect("started");
    let layers = platform.stack(routes::subjects());
    let service = stack.unwrap_or_else(|| {
        BoxCloneSyncService::new(
            ServiceBuilder::new()
                .map_response(|response: http::Response<_>| response.map(Body::new))
                .service(layers.layer(memory::Publish::new(broker.clone()))),
        )
    });
    let app = routes::app(Public {
        observe: ObserveLayer::new(told),
        stack: service,
        overseer: layers.overseer.clone(),
        rollout: layers.rollout.clone(),
        shadow: platform.shadow.clone(),
        tenant: TenantId::new("default").expect("a tenant"),
        edge: Edge::new(
            &Config::default(),
            &Readiness::default(),
            &Supervisor::new(bus),
            &CancellationToken::new(),
        )
        .expect("nothing to read"),
        hub: Hub::Memory(broker),
        request_timeout: std::time::Duration::from_secs(60),
        cors_origins: Arc::default(),
        sessions: TaskTracker::new(),
        stop: CancellationToken::new(),
    });
    // Stands where tokens are verified: the claims of a connection are in its upgrade request.
    let verified = axum::middleware::from_fn(
        |mut request: Request<Body>, next: axum::middleware::Next| async move {
            let role = request.uri().query().unwrap_or_default().to_owned();
            let claims = json!({ "role": role }).as_object().cloned().unwrap_or_default();
            request.extensions_mut().insert(Claims::new(claims));
            Ok::<_, Infallible>(next.run(request).await)
        },
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let app = axum::Router::new().fallback_service(app).layer(verified);
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    (address, server)
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn session(address: SocketAddr, role: &str) -> Socket {
    let mut request = format!("ws://{address}/v1/ws?{role}")
        .into_client_request()
        .expect("URI");
    let protocol = http::HeaderValue::from_static("arqon.v1.json");
    request.headers_mut().insert("sec-websocket-protocol", protocol);
    tokio_tungstenite::connect_async(request)
        .await
        .expect("upgraded")
        .0
}

async fn answer(socket: &mut Socket, id: u32) -> Value {
    let frame = json!({ "id": id, "subject": "users", "payload": "aGk=" }).to_string();
    socket.send(Message::text(frame)).await.expect("sent");
    let reply = socket.next().await.expect("open").expect("a frame");
    serde_json::from_str(reply.to_text().expect("text")).expect("JSON")
}

#[tokio::test]
async fn every_frame_is_judged_by_the_claims_of_its_connection() {
    let policy = PolicyConfig {
        // The upgrade is a GET: each session opens, and each of its frames is judged.
        methods: vec!["POST".to_owned()],
        ..PolicyConfig::from_module("admins", ADMINS)
    };
    let (address, server) = serve(vec![policy], None).await;
    for (role, allowed) in [("admin", true), ("reader", false)] {
        let mut socket = session(address, role).await;
        for id in 0..3 {
            let reply = answer(&mut socket, id).await;
            assert_eq!(reply["id"], id);
            assert_eq!(reply["ack"].is_object(), allowed, "{role}: {reply}");
            assert_eq!(
                reply["nack"]["code"] == "overseer.denied",
                !allowed,
                "{role}: {reply}"
            );
        }
    }
    server.abort();
}

/// Keeps how frames ended.
#[derive(Default)]
struct Endings(Mutex<Vec<(String, u16, Option<Code>)>>);

impl StorySink for Endings {
    fn told(&self, story: &Story, ending: &Ending) {
        if story.protocol() == Protocol::Ws {
            let ended = (story.request_id().to_owned(), ending.status.as_u16(), ending.code);
            self.0.lock().expect("no panic with it").push(ended);
        }
    }
}

#[tokio::test]
async fn a_frame_that_panics_is_nacked_and_told_with_its_ids_and_its_session_goes_on() {
    let panics = tower::service_fn(|_: Request<Body>| async { panic!("in a layer") });
    let endings = Arc::new(Endings::default());
    let told = ObserveConfig::new(false, Some(endings.clone()), None);
    let (address, server) = serve_told(Vec::new(), Some(BoxCloneSyncService::new(panics)), told).await;
    let mut socket = session(address, "any").await;
    for id in 0..2 {
        let reply = answer(&mut socket, id).await;
        assert_eq!(
            (&reply["id"], &reply["nack"]["code"]),
            (&json!(id), &json!("internal")),
            "{reply}"
        );
        assert!(reply["nack"]["trace_id"].is_string(), "{reply}");
        let request_id = reply["nack"]["request_id"].as_str().expect("an id").to_owned();
        let ended = endings.0.lock().expect("no panic with it").pop();
        assert_eq!(ended, Some((request_id, 500, Some(Code::Internal))));
    }
    server.abort();
}

#[tokio::test]
async fn a_clients_connection_header_takes_off_nothing_that_a_policy_or_the_edge_set() {
    let policy = PolicyConfig {
        methods: vec!["POST".to_owned()],
        ..PolicyConfig::from_module("guests", GUESTS)
    };
    let (address, server) = serve(vec![policy], None).await;
    let mut socket = session(address, "any").await;
    let frame = json!({ "id": 0, "subscribe": ">" }).to_string();
    socket.send(Message::text(frame)).await.expect("sent");
    let mut next = async || {
        let reply = socket.next().await.expect("open").expect("a frame");
        serde_json::from_str::<Value>(reply.to_text().expect("text")).expect("JSON")
    };
    assert!(next().await["ack"].is_object());

    let names = "close, X-Role, x-own, x-request-id, content-type";
    let head = format!(
        "POST /v1/publish/users HTTP/1.1\r\nHost: x\r\nConnection: {names}\r\nX-Role: admin\r\nX-Own: 1\r\n\
         X-Request-Id: theirs\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nhi"
    );
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("closed");
    let heard = next().await["headers"].take();
    assert_eq!(heard["x-role"], "guest", "{heard}");
    let id = heard["x-request-id"].as_str().expect("an id");
    assert!(answer.contains(&format!("x-request-id: {id}\r\n")), "{answer}");
    let mut left: Vec<_> = heard.as_object().expect("headers").keys().collect();
    left.sort_unstable();
    assert_eq!(left, ["x-request-id", "x-role"], "what was named is gone");

    let headers = json!({ "connection": "x-role, x-own", "x-role": "admin", "x-own": "1" });
    let frame = json!({ "id": 1, "subject": "users", "headers": headers, "payload": "aGk=" }).to_string();
    let mut publisher = session(address, "any").await;
    publisher.send(Message::text(frame)).await.expect("sent");
    assert_eq!(next().await["headers"], json!({ "x-role": "guest" }));
    server.abort();
}
