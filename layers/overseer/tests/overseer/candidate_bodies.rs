//! Candidates that look at bodies: asked when the body was handed on, so that nobody waits for them.

use std::{convert::Infallible, io};

use arqon_message::MessageBody;
use arqon_overseer::{CandidateStatus, OverseerConfig, OverseerHandle, OverseerLayer, PolicyConfig};
use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::sync::{mpsc, oneshot};
use tower::{Layer, ServiceExt};

use crate::{
    candidate::tried,
    guests::{module, on_request, small},
    handle::{allow, channel, deny},
};

/// Denies what has a body of another length.
fn only_of_length(bytes: usize) -> String {
    on_request(&format!("(i32.ne (call $host_payload_len) (i32.const {bytes}))"))
}

/// Writes so many bytes, all `byte`, over the payload.
fn rewrites(byte: u8, bytes: usize) -> String {
    let pages = bytes / 65_536 + 1;
    module(&format!(
        r#"(memory (export "memory") {pages})
           (func (export "on_request") (result i32)
             (memory.fill (i32.const 0) (i32.const {byte}) (i32.const {bytes}))
             (call $host_set_payload (i32.const 0) (i32.const {bytes})))"#
    ))
}

fn rewriting(module: String) -> PolicyConfig {
    PolicyConfig {
        grants: vec!["rewrite".to_owned()],
        ..PolicyConfig::from_module("p", module)
    }
}

/// One request whose handler reads the body if it is asked to: the status, and what was read.
async fn post(layer: &OverseerLayer, body: impl Into<Body>, read: bool) -> (StatusCode, Bytes) {
    let inner = tower::service_fn(move |request: Request<MessageBody<Body>>| async move {
        let read = match read {
            true => request.into_body().collect().await.unwrap().to_bytes(),
            false => Bytes::new(),
        };
        Ok::<_, Infallible>(Response::new(Body::from(read)))
    });
    let request = Request::post("/").body(body.into()).unwrap();
    let response = layer.layer(inner).oneshot(request).await.unwrap();
    let status = response.status();
    (status, response.into_body().collect().await.unwrap().to_bytes())
}

/// What is counted of a candidate beside `policy`, after one request with this body.
async fn compared(policy: PolicyConfig, candidate: String, body: &'static str) -> CandidateStatus {
    let (layer, handle, _) = channel(small([policy]));
    handle.candidate("p", candidate.into()).await.unwrap();
    post(&layer, body, true).await;
    tried(&handle, 1).await
}

#[tokio::test]
async fn a_candidate_is_shown_the_body_that_the_handler_read_and_refuses_none() {
    let config = OverseerConfig {
        max_body_bytes: 4,
        ..small([PolicyConfig::from_module("p", allow())])
    };
    let (layer, handle, _) = channel(config);
    handle.candidate("p", only_of_length(4).into()).await.unwrap();
    // In each row: the body, whether the handler reads it, and `same`, `differs` and `not_asked` by then.
    let chunked = |parts: [&'static str; 2]| {
        let parts = parts.map(|part| Ok::<_, io::Error>(Bytes::from_static(part.as_bytes())));
        Body::new(Sized::new(4, futures_util::stream::iter(parts)))
    };
    for (at, (body, read, counts)) in [
        (Body::from("fits"), true, (1, 0, 0)),
        (chunked(["fi", "ts"]), true, (2, 0, 0)),
        (Body::from("fit"), true, (2, 1, 0)),
        (Body::empty(), true, (2, 2, 0)),
        (Body::from("over the cap"), true, (2, 2, 1)),
        (Body::from("fits"), false, (2, 2, 2)),
        (chunked(["fits", "."]), true, (2, 2, 3)),
        (Body::from("fits"), true, (3, 2, 3)),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(post(&layer, body, read).await.0, StatusCode::OK, "row {at}");
        let shown = tried(&handle, at as u64 + 1).await;
        assert_eq!((shown.same, shown.differs, shown.not_asked), counts, "row {at}");
        assert_eq!(shown.skipped, 0);
    }
}

#[tokio::test]
async fn a_request_that_the_active_module_refuses_has_no_body_to_ask_about() {
    let shown = compared(PolicyConfig::from_module("p", deny()), only_of_length(4), "fits").await;
    assert_eq!((shown.not_asked, shown.divergences.len()), (1, 0));
}

#[tokio::test]
async fn a_candidate_that_rewrites_the_payload_otherwise_differs() {
    // In each row: what the active module and the candidate do, and whether that is the same.
    for (active, candidate, same) in [
        (allow(), rewrites(b'x', 4), false),
        (allow(), only_of_length(4), true),
        (rewrites(b'x', 4), rewrites(b'x', 4), true),
        (rewrites(b'x', 4), rewrites(b'y', 4), false),
        (rewrites(b'x', 4), allow(), false),
    ] {
        let shown = compared(rewriting(active.clone()), candidate.clone(), "fits").await;
        assert_eq!(
            (shown.same, shown.differs),
            (same.into(), (!same).into()),
            "{active}\n{candidate}"
        );
        if !same {
            let divergence = &shown.divergences[0];
            assert!(divergence.amended_differently);
            assert_eq!((&*divergence.active, &*divergence.candidate), ("allow", "allow"));
        }
    }
}

/// A body of announced length.
struct Sized<S> {
    bytes: u64,
    frames: S,
}

impl<S> Sized<S> {
    const fn new(bytes: u64, frames: S) -> Self {
        Self { bytes, frames }
    }
}

impl<S: futures_util::Stream<Item = io::Result<Bytes>> + Unpin> http_body::Body for Sized<S> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<io::Result<Frame<Bytes>>>> {
        std::pin::Pin::new(&mut self.frames)
            .poll_next(cx)
            .map(|next| next.map(|data| data.map(Frame::data)))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes)
    }
}

/// A request whose body is still to come: what sends it, and what the handler told, first that it was called.
struct Slow {
    frames: mpsc::Sender<io::Result<Bytes>>,
    called: oneshot::Receiver<()>,
    answer: tokio::task::JoinHandle<StatusCode>,
}

impl Slow {
    /// The handler answers 200 with a whole body and 418 with one that breaks off.
    fn post(layer: &OverseerLayer) -> Self {
        let (frames, mut receiver) = mpsc::channel(1);
        let stream = futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx));
        let (tell, called) = oneshot::channel();
        let tell = std::sync::Arc::new(std::sync::Mutex::new(Some(tell)));
        let inner = tower::service_fn(move |request: Request<MessageBody<Body>>| {
            tell.lock().unwrap().take().unwrap().send(()).unwrap();
            async {
                let status = match request.into_body().collect().await {
                    Ok(body) => {
                        assert_eq!(body.to_bytes(), "fits");
                        StatusCode::OK
                    }
                    Err(_) => StatusCode::IM_A_TEAPOT,
                };
                let mut response = Response::new(Body::empty());
                *response.status_mut() = status;
                Ok::<_, Infallible>(response)
            }
        });
        let service = layer.layer(inner);
        let answer = tokio::spawn(async move {
            let body = Body::new(Sized::new(4, stream));
            let request = Request::post("/").body(body).unwrap();
            service.oneshot(request).await.unwrap().status()
        });
        Self {
            frames,
            called,
            answer,
        }
    }
}

async fn beside(candidate: String) -> (OverseerLayer, OverseerHandle) {
    let (layer, handle, _) = channel(small([PolicyConfig::from_module("p", allow())]));
    handle.candidate("p", candidate.into()).await.unwrap();
    (layer, handle)
}

#[tokio::test]
async fn no_handler_waits_for_a_body_that_only_a_candidate_looks_at() {
    let (layer, handle) = beside(only_of_length(4)).await;
    let slow = Slow::post(&layer);
    // No byte of the body is there.
    slow.called.await.unwrap();
    slow.frames.send(Ok("fi".into())).await.unwrap();
    slow.frames.send(Ok("ts".into())).await.unwrap();
    drop(slow.frames);
    assert_eq!(slow.answer.await.unwrap(), StatusCode::OK);
    assert_eq!(tried(&handle, 1).await.same, 1);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_the_handlers_affair_though_a_candidate_looks_at_it() {
    let (layer, handle) = beside(only_of_length(4)).await;
    let slow = Slow::post(&layer);
    slow.called.await.unwrap();
    slow.frames.send(Ok("fi".into())).await.unwrap();
    slow.frames
        .send(Err(io::ErrorKind::ConnectionReset.into()))
        .await
        .unwrap();
    assert_eq!(slow.answer.await.unwrap(), StatusCode::IM_A_TEAPOT);
    assert_eq!(tried(&handle, 1).await.not_asked, 1);

    // A client that goes away takes its request with it.
    let slow = Slow::post(&layer);
    slow.called.await.unwrap();
    slow.answer.abort();
    assert!(slow.answer.await.unwrap_err().is_cancelled());
    assert_eq!(tried(&handle, 2).await.not_asked, 2);
}

#[tokio::test]
async fn trials_hold_so_many_bytes_and_what_there_is_no_room_for_is_skipped() {
    const MIB: usize = 1 << 20;
    let large = |policy| OverseerConfig {
        max_body_bytes: 32 * MIB,
        fuel_limit: Some(u64::MAX / 4),
        deadline: Some("10s".to_owned()),
        ..small([policy])
    };
    // The path is a byte.
    let most = 16 * MIB - 1;
    let (layer, handle, _) = channel(large(PolicyConfig::from_module("p", allow())));
    handle.candidate("p", only_of_length(most).into()).await.unwrap();
    for (bytes, same, skipped) in [(most, 1, 0), (most + 1, 1, 1), (most, 2, 1)] {
        let (status, read) = post(&layer, vec![0; bytes], true).await;
        assert_eq!((status, read.len()), (StatusCode::OK, bytes));
        let shown = tried(&handle, same + skipped).await;
        assert_eq!((shown.same, shown.skipped), (same, skipped), "{bytes}");
    }

    // What the active module leaves counts too.
    let rewritten = 3 * MIB;
    let (layer, handle, _) = channel(large(rewriting(rewrites(b'x', rewritten))));
    handle
        .candidate("p", rewrites(b'x', rewritten).into())
        .await
        .unwrap();
    for (bytes, same, skipped) in [(most - rewritten, 1, 0), (most - rewritten + 1, 1, 1)] {
        let (status, read) = post(&layer, vec![0; bytes], true).await;
        assert_eq!((status, read.len()), (StatusCode::OK, rewritten));
        let shown = tried(&handle, same + skipped).await;
        assert_eq!((shown.same, shown.skipped), (same, skipped), "{bytes}");
    }
}
