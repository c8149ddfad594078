//! What a gateway tells of itself: an access log, traces to a collector, and what is counted. The names of all metrics are in
//! `metrics.rs`.

use std::{convert::Infallible, net::SocketAddr};

use arqon_test_support::NatsServer;
use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    trace::v1::Span,
};
use prost::Message as _;
use serde_json::Value;
use tokio::{net::TcpListener, sync::mpsc, time::timeout};

use super::process::{Gateway, PATIENCE, eventually};

/// A collector: OTLP over HTTP, as the specification has it.
struct Collector {
    address: SocketAddr,
    spans: mpsc::Receiver<Vec<(Span, String)>>,
    seen: Vec<(Span, String)>,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (told, spans) = mpsc::channel(64);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let told = told.clone();
                let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                    let told = told.clone();
                    async move {
                        assert_eq!(request.uri().path(), "/v1/traces");
                        assert_eq!(request.headers()["content-type"], "application/x-protobuf");
                        let body = request.into_body().collect().await.expect("whole").to_bytes();
                        let export = ExportTraceServiceRequest::decode(body).expect("OTLP");
                        let mut all = Vec::new();
                        for of_resource in export.resource_spans {
                            let attributes = of_resource.resource.expect("named").attributes;
                            let service = text(&attributes, "service.name").expect("the service's name");
                            for of_scope in of_resource.scope_spans {
                                all.extend(of_scope.spans.into_iter().map(|span| (span, service.clone())));
                            }
                        }
                        told.send(all).await.expect("read");
                        let answer = ExportTraceServiceResponse::default().encode_to_vec();
                        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(answer))))
                    }
                });
                tokio::spawn(async move {
                    let serving = auto::Builder::new(TokioExecutor::new());
                    let _ = serving.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self {
            address,
            spans,
            seen: Vec::new(),
        }
    }

    /// All spans of a trace, once there are so many.
    async fn trace(&mut self, trace_id: &str, count: usize) -> Vec<Span> {
        loop {
            let of_trace = self
                .seen
                .iter()
                .filter(|(span, _)| hex(&span.trace_id) == trace_id);
            let found: Vec<_> = of_trace.map(|(span, _)| span.clone()).collect();
            if found.len() >= count {
                assert_eq!(found.len(), count, "{found:#?}");
                return found;
            }
            let more = timeout(PATIENCE, self.spans.recv())
                .await
                .expect("in time")
                .expect("open");
            assert!(more.iter().all(|(_, service)| service == "arqon-gateway"));
            self.seen.extend(more);
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(attributes: &[opentelemetry_proto::tonic::common::v1::KeyValue], key: &str) -> Option<String> {
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    }
}

fn of<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    spans
        .iter()
        .find(|span| span.name == name)
        .unwrap_or_else(|| panic!("no span {name} in {spans:#?}"))
}

#[tokio::test]
async fn one_request_has_the_same_ids_in_log_span_problem_and_nats_header() {
    let server = NatsServer::start().await.expect("a nats-server");
    let client = server.client().await.expect("connected");
    let unique = server.unique().to_owned();
    let mut published = client
        .subscribe(format!("in.t.default.{unique}.>"))
        .await
        .expect("subscribed");
    client.flush().await.expect("flushed");
    let mut collector = Collector::start().await;
    let config = format!(
        r#"
[nats]
url = "{}"
[telemetry]
access_log = true
otlp = "http://{}"
[platform.overseer]
deadline = "1s"
[[platform.overseer.policies]]
name = "block_me"
path = "block_me.wat"
"#,
        server.url(),
        collector.address
    );
    let gateway = Gateway::logging(&config, "access=info,warn").await;
    let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let traceparent = format!("00-{trace}-{parent}-01");
    let headers = [("traceparent", traceparent.as_str()), ("x-request-id", "r-7")];
    let fine = gateway.publish(&format!("{unique}.x"), &headers, "1").await;
    assert_eq!(
        (fine.status.as_u16(), fine.headers["x-request-id"].to_str().ok()),
        (202, Some("r-7"))
    );

    // The span: the caller's below it, one decision of each layer beneath.
    let spans = collector.trace(trace, 5).await;
    let root = of(&spans, "POST");
    assert_eq!(hex(&root.parent_span_id), parent);
    let span_id = hex(&root.span_id);
    assert_eq!(text(&root.attributes, "arqon.request_id").as_deref(), Some("r-7"));
    assert_eq!(text(&root.attributes, "arqon.tenant").as_deref(), Some("default"));
    assert_eq!(
        text(&root.attributes, "http.response.status_code").as_deref(),
        Some("202")
    );
    for layer in ["overseer", "schema", "rollout", "shadow"] {
        let decision = of(&spans, layer);
        assert_eq!(hex(&decision.parent_span_id), span_id, "{layer}");
        assert_eq!(
            text(&decision.attributes, "arqon.decision").as_deref(),
            Some("pass"),
            "{layer}"
        );
        assert!(
            decision.start_time_unix_nano >= root.start_time_unix_nano,
            "{layer}"
        );
        assert!(
            decision.end_time_unix_nano >= decision.start_time_unix_nano,
            "{layer}"
        );
    }
    // The message.
    let message = timeout(PATIENCE, published.next())
        .await
        .expect("in time")
        .expect("one");
    let header = |name: &str| {
        message
            .headers
            .as_ref()?
            .get(name)
            .map(|value| value.as_str().to_owned())
    };
    assert_eq!(header("traceparent"), Some(format!("00-{trace}-{span_id}-01")));
    assert_eq!(header("x-request-id").as_deref(), Some("r-7"));
    assert_eq!(
        message.subject.as_str(),
        format!("in.t.default.{unique}.x"),
        "the tenant is in the subject"
    );
    // The log.
    let line = logged(&gateway, "r-7").await;
    let said = |line: &Value, key: &str| line[key].as_str().map(str::to_owned);
    assert_eq!(
        (said(&line, "trace_id").as_deref(), said(&line, "span_id")),
        (Some(trace), Some(span_id))
    );
    assert_eq!(
        (said(&line, "tenant").as_deref(), line["status"].as_u64()),
        (Some("default"), Some(202))
    );
    assert_eq!(
        said(&line, "decisions").as_deref(),
        Some("overseer=pass schema=pass rollout=pass shadow=pass")
    );

    // A refusal; and nobody named a trace, so one begins here and all tell the same.
    let refused = gateway
        .publish("x", &[("x-request-id", "r-8"), ("X-Block-Me", "1")], "1")
        .await;
    let problem = refused.json();
    let trace = said(&problem, "trace_id").expect("a trace");
    let spans = collector.trace(&trace, 2).await;
    let (root, decision) = (of(&spans, "POST"), of(&spans, "overseer"));
    assert_eq!(said(&problem, "span_id"), Some(hex(&root.span_id)));
    assert_eq!(
        text(&decision.attributes, "arqon.decision").as_deref(),
        Some("reject")
    );
    assert_eq!(
        text(&decision.attributes, "arqon.code").as_deref(),
        Some("overseer.denied")
    );
    assert_eq!(
        (
            said(&problem, "request_id").as_deref(),
            said(&problem, "tenant").as_deref()
        ),
        (Some("r-8"), Some("default"))
    );
    let line = logged(&gateway, "r-8").await;
    for key in ["trace_id", "span_id", "request_id", "tenant", "code"] {
        assert_eq!(line[key], problem[key], "{key}");
    }

    // What its caller does not record is not sent, and not counted as lost.
    let unrecorded = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    gateway.publish("x", &[("traceparent", unrecorded)], "1").await;
    gateway
        .publish(
            "x",
            &[(
                "traceparent",
                "00-2af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            )],
            "1",
        )
        .await;
    collector.trace("2af7651916cd43dd8448eb211c80319c", 5).await;
    assert!(
        collector
            .seen
            .iter()
            .all(|(span, _)| !hex(&span.trace_id).starts_with("1af7"))
    );
    assert!(gateway.terminate().await.success());
}

/// The access log's line of a request.
async fn logged(gateway: &Gateway, request_id: &str) -> Value {
    eventually(async || {
        let lines = gateway.log_lines();
        lines
            .into_iter()
            .find(|line| line["target"] == "access" && line["request_id"] == request_id)
    })
    .await
}

#[tokio::test]
async fn a_collector_that_is_away_delays_nothing_and_is_counted() {
    let config = "[telemetry]\notlp = \"http://127.0.0.1:1\"\n";
    let gateway = Gateway::ready(config, &[]).await;
    for _ in 0..5 {
        assert_eq!(gateway.publish("x", &[], "1").await.status, 202);
    }
    eventually(async || {
        let metrics = String::from_utf8(gateway.get("/metrics").await.body.to_vec()).expect("text");
        metrics
            .contains("shield_trace_requests_total{result=\"failed\"} 5")
            .then_some(())
    })
    .await;
    assert!(gateway.terminate().await.success());
}

#[tokio::test]
async fn requests_connections_sessions_and_refusals_are_counted() {
    let gateway = Gateway::ready("", &[]).await;
    assert_eq!(gateway.publish("x", &[], "1").await.status, 202);
    assert_eq!(gateway.publish("a..b", &[], "1").await.status, 400);
    let (socket, _) = {
        use tokio_tungstenite::tungstenite::client::IntoClientRequest;
        let mut request = format!("ws://{}/v1/ws", gateway.public)
            .into_client_request()
            .expect("valid");
        request.headers_mut().insert(
            "sec-websocket-protocol",
            "arqon.v1.json".parse().expect("a value"),
        );
        tokio_tungstenite::connect_async(request).await.expect("upgraded")
    };
    let text = eventually(async || {
        let text = String::from_utf8(gateway.get("/metrics").await.body.to_vec()).expect("text");
        text.contains("shield_gateway_sessions 1").then_some(text)
    })
    .await;
    for line in [
        "shield_gateway_requests_total{protocol=\"http/1.1\",status=\"2xx\"} 1",
        "shield_gateway_requests_total{protocol=\"http/1.1\",status=\"4xx\"} 1",
        "shield_gateway_requests_total{protocol=\"http/1.1\",status=\"1xx\"} 1",
        "shield_gateway_problems_total{code=\"subject.invalid\"} 1",
        "shield_layer_entered_total{layer=\"overseer\"} 1",
        "shield_layer_passed_total{layer=\"shadow\"} 1",
        "shield_gateway_request_duration_seconds_count{protocol=\"http/1.1\"} 3",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
    drop(socket);
    eventually(async || {
        let text = String::from_utf8(gateway.get("/metrics").await.body.to_vec()).expect("text");
        text.contains("shield_gateway_sessions 0").then_some(())
    })
    .await;
}
