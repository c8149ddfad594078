//! Every layer through the same cases of the `tower::Service` contract: the readied inner is the one that is called, an
//! early answer frees it, each request has a clone of its own, a future can be dropped at every await, and the inner
//! error passes untouched.

#[path = "contract/order.rs"]
mod order;

use std::{
    convert::Infallible,
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use arqon::{
    BusLayer, MessageBody, OverseerLayer, RolloutLayer, SchemaLayer, Subject, SubjectLayer,
    bus::Bus,
    edge::reserved::ReservedHeadersLayer,
    overseer::{OverseerConfig, PolicyConfig},
    rollout::{Catalog, Executor, KeyPair},
    schema::{Level, MappingConfig, MemoryStore, RegistryConfig},
    shadow::{RecordingSink, RuleConfig, ShadowConfig, ShadowLayer},
};
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, Service, ServiceExt, limit::ConcurrencyLimit, service_fn};
use tower_test::mock::{self, Mock};

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const BLOCK_ME: &str = include_str!("../examples/policies/wat/block_me.wat");

/// A body that gives each of its frames only after it was asked twice, so that a collect has awaits to be dropped at.
struct Slow {
    frames: Vec<Bytes>,
    asked: bool,
}

impl Slow {
    fn new(frames: &[&'static [u8]]) -> Self {
        Self {
            frames: frames
                .iter()
                .rev()
                .map(|frame| Bytes::from_static(frame))
                .collect(),
            asked: false,
        }
    }
}

impl Body for Slow {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if !std::mem::replace(&mut self.asked, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.asked = false;
        Poll::Ready(self.frames.pop().map(|frame| Ok(Frame::data(frame))))
    }
}

/// A request that every layer has work with: a subject that is mapped and mirrored, a trace, a valid payload.
fn good() -> Request<Slow> {
    let mut request = Request::builder()
        .method("POST")
        .header("traceparent", TRACE)
        .body(Slow::new(&[b"\x0a", b"\x02", b"u1"]))
        .expect("valid");
    request
        .extensions_mut()
        .insert(Subject::parse("in.t.default.users").expect("subject"));
    request
}

/// A request that the Overseer refuses.
fn blocked() -> Request<Slow> {
    let mut request = good();
    request
        .headers_mut()
        .insert("x-block-me", http::HeaderValue::from_static("1"));
    request
}

/// A request that the Schema layer refuses.
fn malformed() -> Request<Slow> {
    good().map(|_| Slow::new(&[b"\x0a\x09", b"u1"]))
}

/// A request that the subject layer of [`layers`] refuses.
fn bad_subject() -> Request<Slow> {
    let mut request = good();
    *request.uri_mut() = "/v1/a%20b".parse().expect("URI");
    request
}

fn overseer() -> OverseerLayer {
    OverseerLayer::new(OverseerConfig::of([PolicyConfig::from_module(
        "block_me", BLOCK_ME,
    )]))
    .expect("loads")
}

fn schema() -> SchemaLayer {
    let config = RegistryConfig {
        mappings: vec![
            MappingConfig::new("in.t.default.users", "v1.user")
                .level(Level::Strict)
                .require("user_id"),
        ],
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
    SchemaLayer::new(registry)
}

fn shadow() -> ShadowLayer {
    let config = ShadowConfig::default().rule(RuleConfig::new("in.t.default.>", "100%"));
    let (layer, _handle, drain) = ShadowLayer::channel(&config, RecordingSink::new(16)).expect("valid");
    tokio::spawn(drain.run());
    layer
}

/// A live one: with a catalog every request gets a variant, a header and an extension.
fn rollout() -> RolloutLayer {
    let operator = KeyPair::from_seed("ops-1", [1; 32]);
    let config = arqon::rollout::Config {
        enabled: true,
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
    RolloutLayer::new(&handle)
}

fn subject() -> SubjectLayer {
    SubjectLayer::from_path("/v1").tenant(arqon::TenantId::new("default").expect("tenant"))
}

fn bus() -> BusLayer {
    BusLayer::new(Bus::new(16).expect("capacity"))
}

/// The error of the inner service, to be found again.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("the inner service failed")]
struct InnerFailed;

/// Counts how often the bottom is called.
#[derive(Clone, Default)]
struct Calls(Arc<AtomicUsize>);

impl Calls {
    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// One request at a time reaches the bottom, which reads the body and answers late: so permits and awaits can be seen.
macro_rules! bottom {
    ($calls:expr, $in_body:ty) => {{
        let calls: Calls = $calls;
        ConcurrencyLimit::new(
            service_fn(move |request: Request<$in_body>| {
                let calls = calls.clone();
                async move {
                    calls.0.fetch_add(1, Ordering::SeqCst);
                    let body = request
                        .into_body()
                        .collect()
                        .await
                        .map_err(|_| InnerFailed)?
                        .to_bytes();
                    tokio::task::yield_now().await;
                    Ok::<_, InnerFailed>(Response::new(Full::new(body)))
                }
            }),
            1,
        )
    }};
}

/// The cases, for one layer. `$in_body` is what the layer hands on; `$refused` makes a request that it answers itself.
macro_rules! contract {
    ($name:ident, $layer:expr, $in_body:ty $(, refuses $refused:expr)?) => {
        mod $name {
            use super::*;

            #[tokio::test]
            async fn poll_ready_only_forwards_and_the_readied_inner_is_called() {
                let (inner, mut handle): (Mock<Request<$in_body>, Response<Full<Bytes>>>, _) = mock::pair();
                let mut service = $layer.layer(inner);
                handle.allow(0);
                assert_pending!(task::spawn(()).enter(|cx, _| Service::<Request<Slow>>::poll_ready(&mut service, cx)));
                handle.allow(1);
                // The mock panics when it is called without having been ready.
                let mut call = task::spawn({
                    assert_ready!(task::spawn(()).enter(|cx, _| Service::<Request<Slow>>::poll_ready(&mut service, cx)))
                        .expect("ready");
                    service.call(good())
                });
                let (request, respond) = loop {
                    assert_pending!(call.poll());
                    if let Poll::Ready(Some(request)) = handle.poll_request() {
                        break request;
                    }
                };
                respond.send_response(Response::new(Full::default()));
                drop(request);
                let answer = loop {
                    if let Poll::Ready(answer) = call.poll() {
                        break answer;
                    }
                };
                assert_eq!(answer.expect("answered").status(), 200);
            }

            #[tokio::test]
            async fn the_inner_error_passes_untouched() {
                let (inner, mut handle): (Mock<Request<$in_body>, Response<Full<Bytes>>>, _) = mock::pair();
                let answer = tokio::spawn($layer.layer(inner).oneshot(good()));
                let (_request, respond) = handle.next_request().await.expect("a request");
                respond.send_error(InnerFailed);
                let error = answer.await.expect("no panic").err().expect("the error");
                assert_eq!(error.downcast_ref::<InnerFailed>(), Some(&InnerFailed));
            }

            #[tokio::test]
            async fn clones_serve_requests_of_their_own() {
                let calls = Calls::default();
                let service = $layer.layer(bottom!(calls.clone(), $in_body));
                let both = tokio::join!(service.clone().oneshot(good()), service.clone().oneshot(good()));
                for answer in [both.0, both.1] {
                    let body = answer.expect("answered").into_body().collect().await.expect("body").to_bytes();
                    assert_eq!(body, "\x0a\x02u1", "the payload arrives as it was sent");
                }
                assert_eq!(calls.count(), 2);
            }

            #[tokio::test]
            async fn a_future_dropped_at_any_await_frees_the_inner() {
                let service = $layer.layer(bottom!(Calls::default(), $in_body));
                let mut completed = false;
                for polls in 0..40 {
                    let mut ready = service.clone();
                    let ready = ServiceExt::<Request<Slow>>::ready(&mut ready).await.expect("the permit is free again");
                    let mut future = pin!(ready.call(good()));
                    for _ in 0..polls {
                        let polled = std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_ready())).await;
                        if polled {
                            completed = true;
                            break;
                        }
                        tokio::task::yield_now().await;
                    }
                    if completed {
                        break;
                    }
                }
                assert!(completed, "40 polls are enough, so every await was a place to drop at");
                assert_eq!(service.oneshot(good()).await.expect("answered").status(), 200);
            }

            $(
                #[tokio::test]
                async fn an_early_answer_frees_the_inner_and_never_calls_it() {
                    let calls = Calls::default();
                    let service = $layer.layer(bottom!(calls.clone(), $in_body));
                    let mut first = service.clone();
                    let refused = ServiceExt::<Request<Slow>>::ready(&mut first).await.expect("ready").call($refused);
                    let refused = refused.await.expect("a refusal is a response");
                    assert!(refused.status().is_client_error(), "{}", refused.status());
                    assert!(refused.extensions().get::<arqon::Rejection>().is_some(), "typed in the extensions");
                    // The refusal is still held, and so is the service that gave it: the permit is free all the same.
                    let other = service.clone().oneshot(good()).await.expect("the permit is free");
                    assert_eq!((other.status().as_u16(), calls.count()), (200, 1));
                    drop((refused, first));
                }
            )?
        }
    };
}

contract!(
    reserved_headers,
    ReservedHeadersLayer::new(),
    arqon::edge::reserved::WithoutReservedTrailers<Slow>
);
contract!(subject_layer, subject(), Slow, refuses bad_subject());
contract!(bus_layer, bus(), Slow);
contract!(overseer_layer, overseer(), MessageBody<Slow>, refuses blocked());
contract!(schema_layer, schema(), MessageBody<Slow>, refuses malformed());
contract!(rollout_layer, rollout(), Slow);
contract!(shadow_layer, shadow(), arqon::shadow::ShadowBody<Slow>);
