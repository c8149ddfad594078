//! When a copy is sent, and what it carries.

use arqon_shadow::{Reason, ShadowConfig, is_shadow};
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use http_body_util::Full;
use tower::{Layer, Service};

use super::support::*;

fn body() -> Full<Bytes> {
    Full::new(Bytes::from_static(b"42 apples"))
}

#[tokio::test]
async fn by_default_only_what_the_primary_accepted_is_mirrored() {
    // M13
    let rig = rig(&all());
    for code in [200, 202, 204, 299, 100, 301, 304, 400, 403, 404, 413, 500, 503] {
        send(&rig.layer, request(body()), move |request| async move {
            read(request.into_body()).await;
            status(code)
        })
        .await;
    }
    let (stats, copies) = rig.settled().await;
    assert_eq!((copies.len(), stats.dropped_by(Reason::PrimaryRejected)), (4, 9));
}

#[tokio::test]
async fn at_arrival_the_answer_does_not_matter() {
    let rig = rig(&ShadowConfig::default().rule(rule().at_arrival()));
    send(&rig.layer, request(body()), |request| async move {
        read(request.into_body()).await;
        status(500)
    })
    .await;
    // The primary is dropped after the body: the copy is on its way already.
    let mut shadow = rig
        .layer
        .layer(tower::service_fn(|request: http::Request<_>| async move {
            read(request.into_body()).await;
            std::future::pending::<Result<http::Response<()>, std::convert::Infallible>>().await
        }));
    let mut answer = Box::pin(shadow.call(request(body())));
    assert!(poll_once(answer.as_mut()).await.is_pending());
    drop(answer);
    drop(shadow);
    let (stats, copies) = rig.settled().await;
    assert_eq!((stats.sampled, copies.len()), (2, 2));
}

#[tokio::test]
async fn a_primary_that_fails_leaves_no_copy_and_its_error_passes_untouched() {
    let rig = rig(&all());
    let mut shadow = rig
        .layer
        .layer(tower::service_fn(|request: http::Request<_>| async move {
            read(request.into_body()).await;
            Err::<http::Response<()>, _>("its own error")
        }));
    assert_eq!(
        shadow.call(request(body())).await.expect_err("failed"),
        "its own error"
    );
    drop(shadow);
    assert_eq!(rig.settled().await.0.dropped_by(Reason::PrimaryRejected), 1);
}

#[tokio::test]
async fn a_copy_is_the_request_marked_once() {
    // M8, M10
    let rig = rig(&all());
    let mut original = request(body());
    for (name, value) in [
        ("x-arqon-shadow", "false"),
        ("x_arqon.shadow", "no"),
        ("x-arqon-shadow-of", "forged"),
        ("authorization", "Bearer secret"),
        ("cookie", "a=b"),
        ("reply-to", "inbox"),
        ("nats-msg-id", "1"),
        ("nats-expected-stream", "S"),
        ("nats-rollup", "sub"),
        ("connection", "x-hop"),
        ("x-hop", "1"),
        ("content-type", "text/plain"),
        ("tracestate", "a=b"),
    ] {
        original.headers_mut().append_once(name, value);
    }
    let before = original.headers().clone();
    send(&rig.layer, original, move |request| {
        let before = before.clone();
        async move {
            assert_eq!(*request.headers(), before, "the primary's request is untouched");
            echo(request).await
        }
    })
    .await;
    let (_, copies) = rig.settled().await;
    let copy = &copies[0];
    assert_eq!(copy.subject.as_str(), "shadow.in.t.default.orders");
    assert_eq!(copy.original.as_str(), "in.t.default.orders");
    assert_eq!(
        (copy.method.as_str(), copy.uri.to_string().as_str()),
        ("POST", "/orders?x=1")
    );
    assert_eq!((copy.body.as_ref(), copy.rule()), (&b"42 apples"[..], "in.>"));
    assert!(is_shadow(&copy.headers()));
    let map = copy.headers();
    let mut headers: Vec<_> = map
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_str().expect("text")))
        .collect();
    headers.sort_unstable();
    let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
    assert_eq!(
        headers,
        [
            ("content-type", "text/plain"),
            ("traceparent", parent.as_str()),
            ("tracestate", "a=b"),
            ("x-arqon-shadow", "true"),
            ("x-arqon-shadow-of", TRACE),
        ]
    );
}

#[tokio::test]
async fn a_traceparent_that_is_none_is_not_copied() {
    let good = format!("00-{TRACE}-b7ad6b7169203331-01");
    let junk = format!("{good}-more");
    for (parents, copied) in [
        (vec![good.as_str()], true),
        (vec!["junk"], false),
        (vec![junk.as_str()], false),
        (vec![""], false),
        (vec![good.as_str(), good.as_str()], false),
    ] {
        let rig = rig(&all());
        let mut request = request(body());
        let headers = request.headers_mut();
        headers.remove("traceparent");
        headers.insert("x-b3-traceid", HeaderValue::from_static(TRACE));
        for parent in &parents {
            headers
                .try_append("traceparent", HeaderValue::from_str(parent).expect("a value"))
                .expect("room");
        }
        send(&rig.layer, request, echo).await;
        let (_, copies) = rig.settled().await;
        assert_eq!(
            copies[0].headers().contains_key("traceparent"),
            copied,
            "{parents:?}"
        );
        let mut told = 0;
        copies[0].each_header(|name, _| told += usize::from(name == "traceparent"));
        assert_eq!(told, usize::from(copied), "{parents:?}");
    }
}

trait AppendOnce {
    fn append_once(&mut self, name: &'static str, value: &'static str);
}

impl AppendOnce for http::HeaderMap {
    fn append_once(&mut self, name: &'static str, value: &'static str) {
        self.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
}

#[tokio::test]
async fn a_copy_that_comes_in_again_is_never_mirrored() {
    // M9
    let rig = rig(&ShadowConfig::default().rule(arqon_shadow::RuleConfig::new(">", 1.0)));
    send(&rig.layer, request(body()), echo).await;
    rig.sink.recorded(1).await;
    let copy = rig.sink.copies().remove(0);
    let headers = copy.headers();
    let mut again = request(Full::new(copy.body));
    *again.headers_mut() = headers;
    send(&rig.layer, again, echo).await;
    let mut on_its_subject = request(body());
    on_its_subject.extensions_mut().insert(copy.subject);
    send(&rig.layer, on_its_subject, echo).await;
    let (stats, _) = rig.settled().await;
    assert_eq!((stats.sampled, stats.loops), (1, 1));
}

#[tokio::test]
async fn no_key_is_counted_apart() {
    // M4
    let rig = rig(&all());
    let mut unkeyed = request(body());
    unkeyed.headers_mut().clear();
    send(&rig.layer, unkeyed, echo).await;
    let (stats, _) = rig.settled().await;
    assert_eq!((stats.sampled, stats.no_key), (0, 1));
}
