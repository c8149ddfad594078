//! The four layers without our gateway: on an axum app, and on a bare hyper-util server. Real sockets both times.

use std::{
    convert::Infallible,
    net::SocketAddr,
    task::{Context, Poll},
};

use arqon::{
    BusLayer, ConnectionId, OverseerLayer, PerConnection, RolloutLayer, SchemaLayer, Stack, Subject,
    SubjectLayer, TenantId, ValidatedBy, Variant,
    bus::{Bus, Event},
    edge::reserved::ReservedHeadersLayer,
    overseer::{OverseerConfig, PolicyConfig},
    rollout::{
        Catalog, Clock, Control, DownstreamMessage, Executor, KeyPair, Proposal, RolloutConfig, SystemClock,
    },
    schema::{MappingConfig, MemoryStore, RegistryConfig},
    shadow::{RecordingSink, RuleConfig, ShadowConfig, ShadowLayer},
};
use axum::{Extension, Router, response::IntoResponse, routing::post};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tokio::net::TcpListener;
use tower::{Layer, Service, ServiceBuilder, service_fn};

const BLOCK_ME: &str = include_str!("../examples/policies/wat/block_me.wat");
const GOOD: &[u8] = b"\x0a\x02u1";

/// The layers, with a rollout of variant 7 at 50 %, and what they mirror to.
async fn stack(bus: &Bus) -> (Stack, RecordingSink) {
    let overseer = OverseerLayer::new(OverseerConfig::of([PolicyConfig::from_module(
        "block_me", BLOCK_ME,
    )]));
    let config = RegistryConfig {
        mappings: vec![MappingConfig::new("in.t.acme.users", "v1.user").require("user_id")],
        ..RegistryConfig::default()
    };
    let (registry, writer) = arqon::schema::channel(config).expect("valid");
    let store = MemoryStore::new();
    store
        .put_source(
            "v1.user",
            r#"syntax = "proto3"; message User { string user_id = 1; }"#,
        )
        .expect("compiles");
    store.load(&writer).expect("loads");

    let sink = RecordingSink::new(1_000);
    let mirror = ShadowConfig::default().rule(RuleConfig::new("in.t.acme.>", "100%"));
    let (shadow, _, drain) = ShadowLayer::channel(&mirror, sink.clone()).expect("valid");
    tokio::spawn(drain.run());

    let stack = Stack {
        reserved: ReservedHeadersLayer::new(),
        auth: None,
        limit: Default::default(),
        subject: SubjectLayer::from_path("/").tenant(TenantId::new("acme").expect("tenant")),
        bus: BusLayer::new(bus.clone()),
        overseer: overseer.expect("loads"),
        schema: SchemaLayer::new(registry),
        rollout: rollout().await,
        shadow,
    };
    (stack, sink)
}

async fn rollout() -> RolloutLayer {
    let operator = KeyPair::generate("ops-1").expect("randomness");
    let config = arqon::rollout::Config {
        enabled: true,
        tenants: vec!["acme".to_owned()],
        keys: vec![operator.public().to_config()],
        ..arqon::rollout::Config::default()
    };
    let catalog =
        br#"{"version":1,"baseline":1,"variants":[{"id":1,"name":"stable"},{"id":7,"name":"new"}]}"#;
    let executor = Executor::builder(&config)
        .catalog(Catalog::parse(catalog).expect("valid"))
        .build()
        .expect("valid");
    let handle = executor.handle();
    tokio::spawn(executor.run());
    let tenant = TenantId::new("acme").expect("tenant");
    let proposal = Proposal {
        id: "p1".to_owned(),
        timestamp_us: SystemClock::new().now_us(),
        variant_id: Some(7),
        reason: "better".to_owned(),
        confidence: 0.9,
        ..Proposal::default()
    };
    handle.client(&tenant).send(proposal).await.expect("proposed");
    let approval = DownstreamMessage::Approval {
        proposal_id: "p1".to_owned(),
        proposal_digest: handle.status().tenants[0].pending[0].digest.clone(),
        rollout: Some(RolloutConfig {
            initial_percent: 50.0,
            increment_per_minute: 0.0,
            max_percent: 50.0,
        }),
    };
    let control = Control::new("acme", SystemClock::new().now_us(), 60_000_000, approval);
    let envelope = control.sign(&[&operator]).expect("signed").to_json();
    handle.submit(envelope.as_bytes()).await.expect("approved");
    RolloutLayer::new(&handle)
}

/// A layer that a user wrote: it says on the bus that a request passed, knowing nothing but the request.
#[derive(Clone)]
struct Tell<S>(S);

impl<S, B> Service<Request<B>> for Tell<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if let Some(bus) = request.extensions().get::<Bus>() {
            let _ = bus.publish(Event::Health {
                service: "foreign layer".to_owned(),
                ok: true,
            });
        }
        self.0.call(request)
    }
}

/// What both handlers do: publish on the bus that the request carries, hear it back, and say what the layers decided.
async fn answer(
    bus: Bus,
    subject: &Subject,
    valid: Option<&ValidatedBy>,
    variant: Option<&Variant>,
) -> String {
    let mut heard = bus.subscribe();
    bus.publish(Event::ConfigUpdated { version: 7 })
        .expect("we listen");
    assert_eq!(
        heard.recv().await.expect("heard"),
        Event::ConfigUpdated { version: 7 }
    );
    format!(
        "{subject} {} {}",
        valid.map_or("unchecked", |valid| &valid.message),
        variant.map_or("none", |variant| &variant.name)
    )
}

async fn axum_handler(
    Extension(bus): Extension<Bus>,
    Extension(subject): Extension<Subject>,
    valid: Option<Extension<ValidatedBy>>,
    variant: Option<Extension<Variant>>,
    _body: Bytes,
) -> impl IntoResponse {
    answer(bus, &subject, valid.as_deref(), variant.as_deref()).await
}

async fn axum_app(stack: Stack) -> SocketAddr {
    let layers = ServiceBuilder::new().layer(stack).layer_fn(Tell);
    let app = Router::new().route("/{*path}", post(axum_handler)).layer(layers);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        axum::serve(
            listener,
            app.into_make_service_with_connect_info::<ConnectionId>(),
        )
        .await
    });
    address
}

async fn hyper_handler<B: http_body::Body<Data = Bytes>>(
    request: Request<B>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    assert!(body.collect().await.is_ok());
    let extensions = &parts.extensions;
    let bus = extensions.get::<Bus>().expect("the bus").clone();
    let subject = extensions.get::<Subject>().expect("a subject");
    let text = answer(bus, subject, extensions.get(), extensions.get()).await;
    Ok(Response::new(Full::new(Bytes::from(text))))
}

async fn hyper_server(stack: Stack) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Generic over its body: whatever the layers make of hyper's `Incoming`.
            let handler = Tell(service_fn(hyper_handler));
            let service = PerConnection::mint(stack.layer(handler));
            tokio::spawn(async move {
                let _ = Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
                    .await;
            });
        }
    });
    address
}

async fn send(
    to: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: &'static [u8],
) -> (StatusCode, String) {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let mut request = Request::post(format!("http://{to}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = client
        .request(request.body(Full::new(Bytes::from_static(body))).expect("valid"))
        .await;
    let (parts, body) = response.expect("answered").into_parts();
    let body = body.collect().await.expect("body").to_bytes();
    (parts.status, String::from_utf8(body.to_vec()).expect("text"))
}

async fn all_four_layers_work(app: SocketAddr, bus: &Bus, sink: &RecordingSink) {
    let mut events = bus.subscribe();
    let (status, body) = send(app, "/users", &[("x-block-me", "1")], GOOD).await;
    assert_eq!(
        (status.as_u16(), body.contains("overseer.denied")),
        (403, true),
        "{body}"
    );
    let (status, body) = send(app, "/users", &[], b"\x0a\x09u1").await;
    assert_eq!((status.as_u16(), body.contains("user_id")), (400, true), "{body}");
    let (status, body) = send(app, "/a%20b", &[], GOOD).await;
    assert_eq!(
        (status.as_u16(), body.contains("subject.invalid")),
        (400, true),
        "{body}"
    );
    assert!(sink.copies().is_empty(), "what was rejected is not mirrored");

    let mut seen = Vec::new();
    for n in 1..=40_u128 {
        let trace = format!("00-{:032x}-b7ad6b7169203331-01", n * 0x9e37_79b9_7f4a_7c15);
        for _ in 0..2 {
            let (status, body) = send(app, "/users", &[("traceparent", &trace)], GOOD).await;
            assert_eq!(status, 200, "{body}");
            seen.push(body);
        }
    }
    assert!(
        seen.chunks(2).all(|pair| pair[0] == pair[1]),
        "sticky per trace: {seen:?}"
    );
    for variant in ["stable", "new"] {
        let expected = format!("in.t.acme.users User {variant}");
        assert!(seen.contains(&expected), "{expected} in {seen:?}");
    }
    sink.recorded(80).await;
    let copy = &sink.copies()[0];
    assert_eq!(
        (copy.subject.as_str(), &copy.body[..]),
        ("shadow.in.t.acme.users", GOOD)
    );
    assert!(arqon::is_shadow(&copy.headers()));
    assert_eq!(
        events.recv().await.expect("heard"),
        Event::Health {
            service: "foreign layer".to_owned(),
            ok: true
        }
    );
}

#[tokio::test]
async fn an_axum_app_gets_all_four_layers() {
    let bus = Bus::new(1_024).expect("capacity");
    let (stack, sink) = stack(&bus).await;
    all_four_layers_work(axum_app(stack).await, &bus, &sink).await;
}

#[tokio::test]
async fn a_bare_hyper_util_server_gets_all_four_layers() {
    let bus = Bus::new(1_024).expect("capacity");
    let (stack, sink) = stack(&bus).await;
    all_four_layers_work(hyper_server(stack).await, &bus, &sink).await;
}
