//! Comparing a candidate's answers with the primary's.

use std::{convert::Infallible, future::ready};

use arqon_shadow::{
    Answer, CopyBody, HttpSink, Reason, ResponseTapLayer, ShadowConfig,
    compare::{CompareSink, Comparison, Differ},
};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use tower::{Layer, ServiceExt};

use super::support::*;

fn config() -> ShadowConfig {
    ShadowConfig::default().rule(rule().comparing().with_max_body_bytes(64))
}

/// A primary behind mirror and tap, which answers with `body` and is read by a client to its end.
async fn exchange(layer: &arqon_shadow::ShadowLayer, body: &'static str) -> Seen {
    let primary = tower::service_fn(move |request: Request<_>| async move {
        read(request.into_body()).await;
        Ok::<_, Infallible>(Response::new(Frames::of([body])))
    });
    let mirrored = layer.layer(ResponseTapLayer.layer(primary));
    let mut asked = request(Frames::of(["ask"]));
    let encodings = http::HeaderValue::from_static("gzip");
    asked
        .headers_mut()
        .insert(http::header::ACCEPT_ENCODING, encodings);
    let Ok(response) = mirrored.oneshot(asked).await;
    read(response.into_body()).await
}

#[tokio::test]
async fn a_candidate_is_compared_and_the_control_takes_the_noise_out() {
    let turn = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let service = |total: &'static str| {
        let turn = std::sync::Arc::clone(&turn);
        tower::service_fn(move |request: Request<CopyBody>| {
            assert!(arqon_shadow::is_shadow(request.headers()));
            let encodings = request.headers().get(http::header::ACCEPT_ENCODING);
            assert_eq!(encodings, None, "bodies are compared as they are");
            let at = turn.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let body = format!(r#"{{"at":{at},"total":{total},"meta":{{"node":{at}}}}}"#);
            ready(Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(body)))))
        })
    };
    // One type for both, as two connections to two hosts have.
    let services = [service("8"), service("7")];
    let [candidate, control] = services.map(|service| {
        HttpSink::new(service, "http://service".parse().expect("uri"))
            .expect("target")
            .methods([Method::POST])
    });
    let comparison = Comparison::new(Differ::new().ignore("meta"));
    let (layer, handle, _drain) = with_sink(
        &config(),
        CompareSink::new(candidate, comparison.clone()).control(control),
    );
    for _ in 0..200 {
        let seen = exchange(&layer, r#"{"at":-1,"total":7,"meta":{"node":0}}"#).await;
        assert_eq!(
            seen.body, r#"{"at":-1,"total":7,"meta":{"node":0}}"#,
            "the client's answer is untouched"
        );
    }
    assert_eq!(
        handle.shutdown(std::time::Duration::from_secs(5)).await.mirrored,
        200
    );
    let report = comparison.report();
    assert_eq!((report.compared, report.controlled), (200, 200));
    let diverging: Vec<_> = report
        .fields
        .iter()
        .filter(|(_, field)| field.diverges)
        .map(|(path, _)| path)
        .collect();
    assert_eq!(diverging, ["total"]);
    assert_eq!(report.fields["at"].noise, 200);
}

/// A service that answers, or sends the head of a response and nothing more.
#[derive(Clone)]
struct Stalling(bool, std::sync::Arc<std::sync::atomic::AtomicU64>);

impl tower::Service<Request<CopyBody>> for Stalling {
    type Response = Response<axum::body::Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<CopyBody>) -> Self::Future {
        self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let never = futures_util::stream::pending::<Result<Bytes, Infallible>>();
        ready(Ok(Response::new(if self.0 {
            axum::body::Body::from_stream(never)
        } else {
            axum::body::Body::from("1")
        })))
    }
}

fn stalling(stalls: bool) -> (HttpSink<Stalling>, std::sync::Arc<std::sync::atomic::AtomicU64>) {
    let asked = std::sync::Arc::default();
    let service = Stalling(stalls, std::sync::Arc::clone(&asked));
    let sink = HttpSink::new(service, "http://service".parse().expect("uri")).expect("target");
    let sink = sink
        .methods([Method::POST])
        .in_flight(std::num::NonZeroUsize::MIN);
    (sink, asked)
}

#[tokio::test(start_paused = true)]
async fn a_control_that_stalls_in_its_bodies_takes_no_comparison_with_it_and_is_left_alone() {
    let ((candidate, _), (control, asked)) = (stalling(false), stalling(true));
    let comparison = Comparison::new(Differ::new());
    let (layer, handle, _drain) = with_sink(
        &config(),
        CompareSink::new(candidate, comparison.clone()).control(control),
    );
    for _ in 0..10 {
        exchange(&layer, "1").await;
    }
    let stats = handle.shutdown(std::time::Duration::from_secs(60)).await;
    assert_eq!(stats.mirrored, 10);
    let report = comparison.report();
    assert_eq!((report.compared, report.controlled), (10, 0));
    let asked = asked.load(std::sync::atomic::Ordering::Relaxed);
    assert!((5..8).contains(&asked), "five times, and a probe or two: {asked}");
}

#[tokio::test(start_paused = true)]
async fn a_candidate_that_stalls_in_its_bodies_is_left_alone_after_five_copies() {
    let (candidate, asked) = stalling(true);
    let comparison = Comparison::new(Differ::new());
    let (layer, handle, _drain) = with_sink(&config(), CompareSink::new(candidate, comparison.clone()));
    for _ in 0..10 {
        exchange(&layer, "1").await;
    }
    let stats = handle.shutdown(std::time::Duration::from_secs(60)).await;
    assert_eq!(comparison.report().compared, 0);
    assert_eq!(
        (
            stats.dropped_by(Reason::Timeout),
            stats.dropped_by(Reason::Disconnected),
            asked.load(std::sync::atomic::Ordering::Relaxed)
        ),
        (5, 5, 5)
    );
}

#[tokio::test]
async fn a_copy_carries_the_answer_that_the_client_read() {
    let rig = rig(&config());
    assert_eq!(exchange(&rig.layer, "ok").await.body, "ok");
    // As much as is captured; more: the status alone. No body at all: complete at once.
    exchange(
        &rig.layer,
        "sixty-four bytes, which is the cap itself, so all of it is here.",
    )
    .await;
    exchange(
        &rig.layer,
        "sixty-five bytes, one more than the cap, so it is not captured here.",
    )
    .await;
    let none = ResponseTapLayer.layer(tower::service_fn(|request: Request<_>| async move {
        read(request.into_body()).await;
        Ok::<_, Infallible>(
            Response::builder()
                .status(204)
                .body(Full::<Bytes>::default())
                .expect("response"),
        )
    }));
    let Ok(answer) = rig.layer.layer(none).oneshot(request(Frames::of(["ask"]))).await;
    drop(answer);
    let queue_bytes = rig.handle.clone();
    let (_, copies) = rig.settled().await;
    let primary: Vec<_> = copies
        .iter()
        .map(|copy| copy.primary.as_deref().expect("answer").clone())
        .collect();
    assert_eq!(
        (primary[0].status, primary[0].body.as_ref(), primary[0].complete),
        (StatusCode::OK, &b"ok"[..], true)
    );
    assert_eq!((primary[1].body.len(), primary[1].complete), (64, true));
    assert_eq!((primary[2].body.len(), primary[2].complete), (0, false));
    assert_eq!(
        (primary[3].status, primary[3].complete),
        (StatusCode::NO_CONTENT, true)
    );
    assert_eq!(queue_bytes.state().queue_bytes, 0);
}

#[tokio::test]
async fn without_a_tap_or_without_an_answer_a_copy_goes_out_all_the_same() {
    let rig = rig(&config());
    send(&rig.layer, request(Frames::of(["ask"])), echo).await;
    // A client that leaves before it has read the answer.
    let tapped = ResponseTapLayer.layer(tower::service_fn(|request: Request<_>| async move {
        read(request.into_body()).await;
        Ok::<_, Infallible>(Response::new(Frames::of(["never read"])))
    }));
    let Ok(response) = rig
        .layer
        .layer(tapped)
        .oneshot(request(Frames::of(["ask"])))
        .await;
    drop(response);
    let (_, copies) = rig.settled().await;
    assert!(copies[0].primary.is_none());
    assert!(!copies[1].primary.as_ref().expect("status").complete);
}

#[tokio::test]
async fn a_primary_that_refuses_is_not_compared() {
    let rig = rig(&config());
    let refusing = ResponseTapLayer.layer(tower::service_fn(|request: Request<_>| async move {
        read(request.into_body()).await;
        Ok::<_, Infallible>(
            Response::builder()
                .status(403)
                .body(Frames::of(["no"]))
                .expect("response"),
        )
    }));
    let Ok(response) = rig
        .layer
        .layer(refusing)
        .oneshot(request(Frames::of(["ask"])))
        .await;
    assert_eq!(read(response.into_body()).await.body, "no");
    assert_eq!(rig.settled().await.0.dropped_by(Reason::PrimaryRejected), 1);
}

#[tokio::test]
async fn an_answer_of_64_kib_is_compared_and_one_byte_more_is_known_to_differ() {
    let candidate = tower::service_fn(|request: Request<CopyBody>| {
        let size = http_body::Body::size_hint(request.body()).exact().expect("size");
        // What it was asked is how much more than the cap it answers.
        let body = vec![b'x'; 65_536 + size as usize - 1];
        ready(Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(body)))))
    });
    let sink = HttpSink::new(candidate, "http://service".parse().expect("uri"))
        .expect("target")
        .methods([Method::POST]);
    let comparison = Comparison::new(Differ::new());
    let config = ShadowConfig::default().rule(rule().comparing().with_max_body_bytes(100_000));
    let (layer, handle, _drain) = with_sink(&config, CompareSink::new(sink, comparison.clone()));
    let echoes = tower::service_fn(|request: Request<_>| async move {
        let asked = read(request.into_body()).await.body;
        let body = vec![b'x'; 65_536 + asked.len() - 1];
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(body))))
    });
    let answers_less = tower::service_fn(|request: Request<_>| async move {
        read(request.into_body()).await;
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(vec![b'x'; 65_536]))))
    });
    // Equal at the cap.
    let Ok(response) = layer
        .layer(ResponseTapLayer.layer(echoes))
        .oneshot(request(Frames::of(["1"])))
        .await;
    read(response.into_body()).await;
    // Both a byte more: nobody looked.
    let Ok(response) = layer
        .layer(ResponseTapLayer.layer(echoes))
        .oneshot(request(Frames::of(["12"])))
        .await;
    read(response.into_body()).await;
    // The candidate alone a byte more.
    let Ok(response) = layer
        .layer(ResponseTapLayer.layer(answers_less))
        .oneshot(request(Frames::of(["12"])))
        .await;
    read(response.into_body()).await;
    handle.shutdown(std::time::Duration::from_secs(30)).await;
    let report = comparison.report();
    assert_eq!((report.compared, report.incomplete), (3, 1));
    let body = &report.fields["body"];
    assert_eq!(body.different, 1);
    assert_eq!(body.examples[0].difference.other, "more than 65536 bytes");
}

#[test]
fn what_the_control_shows_too_is_not_counted_as_divergence() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let page = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        let comparison = Comparison::new(Differ::new());
        let key = arqon_message::TraceKey::given(TRACE.as_bytes()).expect("key");
        let answer =
            |at: u32, total: u32| Answer::new(StatusCode::OK, format!(r#"{{"at":{at},"total":{total}}}"#));
        comparison.record(&key, &answer(1, 7), &answer(2, 8), Some(&answer(3, 7)));
        comparison.record(&key, &answer(1, 7), &answer(2, 8), None);
    });
    let page = page.render();
    for line in [
        r#"shield_mirror_divergence_total{field="total"} 2"#,
        r#"shield_mirror_divergence_total{field="at"} 1"#,
    ] {
        assert!(page.lines().any(|shown| shown == line), "{line}\n{page}");
    }
}
