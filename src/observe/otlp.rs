//! Traces to a collector, by OTLP over HTTP (protobuf).
//!
//! [`exporter`] makes a [`StorySink`] and the task behind it: finished requests wait in a queue of 2,048, are sent in batches of up to 512
//! a second at the latest, and are lost and counted when the collector is away or the queue is full: nothing of a request
//! waits for it. A request is one span, and each layer's decision one below it.

use std::{
    borrow::Cow,
    fmt,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use metrics::Counter;
use opentelemetry::{
    InstrumentationScope, KeyValue,
    trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState},
};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{SpanData, SpanEvents, SpanExporter, SpanLinks},
};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use arqon_message::{Code, ConnectionId, Protocol};

use super::{Decision, Ending, Story, StorySink, Verdict};
use crate::outbound;

/// How many requests may wait.
const QUEUE_MAX: usize = 2_048;
/// How many are sent at once.
const BATCH_MAX: usize = 512;
/// How long a request waits for others at most.
const DELAY: Duration = Duration::from_secs(1);
/// How long the collector may take.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// The most that is read of its answer, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Why traces cannot be exported.
#[derive(Debug, thiserror::Error)]
#[error("telemetry.otlp {endpoint:?} cannot be used: {why}")]
pub struct OtlpError {
    endpoint: String,
    why: String,
}

/// Exports to the collector at `endpoint`, such as `http://127.0.0.1:4318` or `https://collector.example`; without a path that is
/// `/v1/traces`. Over TLS its certificate has to be signed by an authority of `ca_file`, else of the system. `service` and `version`
/// name the program.
///
/// # Errors
/// When the endpoint is no such URL, or the file cannot be read.
pub fn exporter(
    endpoint: &str,
    ca_file: Option<&Path>,
    service: &'static str,
    version: &'static str,
) -> Result<(Arc<dyn StorySink>, Exporter), OtlpError> {
    let refused = |why: String| OtlpError {
        endpoint: endpoint.to_owned(),
        why,
    };
    let url = traces_url(endpoint).map_err(|why| refused(why.to_owned()))?;
    let client = Collector(outbound::connector(ca_file).map_err(refused)?);
    let mut exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_endpoint(url)
        .with_timeout(SEND_TIMEOUT)
        .build()
        .map_err(|error| refused(error.to_string()))?;
    let resource = Resource::builder_empty()
        .with_attributes([
            KeyValue::new("service.name", service),
            KeyValue::new("service.version", version),
        ])
        .build();
    exporter.set_resource(&resource);
    let (queue, stories) = mpsc::channel(QUEUE_MAX);
    metrics::describe_counter!(
        "shield_trace_requests_total",
        "Requests whose spans were sent, or lost, by result"
    );
    let counter = |result: &'static str| {
        let counter = metrics::counter!("shield_trace_requests_total", "result" => result);
        counter.increment(0);
        counter
    };
    let scope = InstrumentationScope::builder("arqon")
        .with_version(version)
        .build();
    let sink = Queue {
        queue,
        full: counter("queue_full"),
        scope,
    };
    let exporter = Exporter {
        exporter,
        stories,
        sent: counter("sent"),
        failed: counter("failed"),
    };
    Ok((Arc::new(sink), exporter))
}

/// The address of the traces, or why it is none.
///
/// # Errors
/// One sentence.
pub fn traces_url(endpoint: &str) -> Result<String, &'static str> {
    const FIX: &str = "write http://host:port or https://host";
    let uri: http::Uri = endpoint.parse().map_err(|_| FIX)?;
    let scheme = uri
        .scheme_str()
        .filter(|scheme| ["http", "https"].contains(scheme));
    let (Some(scheme), Some(authority)) = (scheme, uri.authority()) else {
        return Err(FIX);
    };
    if authority.as_str().contains('@') || uri.query().is_some() {
        return Err("no user, password or query can stand in it");
    }
    let path = uri.path().trim_end_matches('/');
    let path = if path.is_empty() { "/v1/traces" } else { path };
    Ok(format!("{scheme}://{authority}{path}"))
}

/// A connection for each batch, of which there is one a second, as OpenTelemetry's client.
struct Collector(TlsConnector);

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Collector")
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>, HttpError> {
        let asking = outbound::ask(request, &self.0, ANSWER_BYTES_MAX);
        Ok(timeout(SEND_TIMEOUT, asking).await??)
    }
}

struct Queue {
    queue: mpsc::Sender<Vec<SpanData>>,
    full: Counter,
    scope: InstrumentationScope,
}

impl StorySink for Queue {
    fn told(&self, story: &Story, ending: &Ending) {
        // A place first: what has none is not worth making.
        match self.queue.try_reserve() {
            Ok(place) => place.send(spans(story, ending, &self.scope)),
            Err(_) => self.full.increment(1),
        }
    }
}

/// The task behind the sink.
#[derive(Debug)]
pub struct Exporter {
    exporter: opentelemetry_otlp::SpanExporter,
    stories: mpsc::Receiver<Vec<SpanData>>,
    sent: Counter,
    failed: Counter,
}

impl Exporter {
    /// Sends until `stop`, and then what waits.
    ///
    /// # Errors
    /// None so far.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), String> {
        let mut ticks = interval(DELAY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            let room = BATCH_MAX - batch.len();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = ticks.tick() => self.send(&mut batch).await,
                taken = self.stories.recv_many(&mut batch, room) => {
                    if taken == 0 {
                        break;
                    }
                    if batch.len() == BATCH_MAX {
                        self.send(&mut batch).await;
                    }
                }
            }
        }
        self.stories.close();
        while self.stories.recv_many(&mut batch, BATCH_MAX).await > 0 {
            self.send(&mut batch).await;
        }
        self.send(&mut batch).await;
        Ok(())
    }

    async fn send(&self, batch: &mut Vec<Vec<SpanData>>) {
        if batch.is_empty() {
            return;
        }
        let requests = batch.len() as u64;
        let spans = batch.drain(..).flatten().collect();
        match timeout(SEND_TIMEOUT, self.exporter.export(spans)).await {
            Ok(Ok(())) => self.sent.increment(requests),
            Ok(Err(error)) => {
                self.failed.increment(requests);
                tracing::warn!(component = "otlp", %error, requests, "traces are lost: the collector did not take them");
            }
            Err(_late) => {
                self.failed.increment(requests);
                tracing::warn!(
                    component = "otlp",
                    requests,
                    "traces are lost: the collector did not answer in time"
                );
            }
        }
    }
}

/// A request's span, and one below it for each decision.
fn spans(story: &Story, ending: &Ending, scope: &InstrumentationScope) -> Vec<SpanData> {
    let context = story.context();
    let trace_id = TraceId::from_hex(context.trace_id()).unwrap_or(TraceId::INVALID);
    let root = SpanId::from_hex(context.span_id()).unwrap_or(SpanId::INVALID);
    let parent = context.parent_id().and_then(|id| SpanId::from_hex(id).ok());
    let span = |id, parent: SpanId, name: Cow<'static, str>, from: SystemTime, to: SystemTime| SpanData {
        span_context: SpanContext::new(trace_id, id, TraceFlags::SAMPLED, false, TraceState::NONE),
        parent_span_id: parent,
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name,
        start_time: from,
        end_time: to,
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: scope.clone(),
    };
    let began = story.began();
    let name = match story.protocol() {
        Protocol::Ws => Cow::Borrowed("ws frame"),
        Protocol::Nats => Cow::Borrowed("nats request"),
        _ => Cow::Owned(story.method().to_string()),
    };
    let mut request = span(
        root,
        parent.unwrap_or(SpanId::INVALID),
        name,
        began,
        began + ending.took,
    );
    request.parent_span_is_remote = parent.is_some();
    request.span_kind = SpanKind::Server;
    request.attributes = attributes(story, ending);
    if ending.status.is_server_error() {
        request.status = Status::error(ending.code.map_or("", Code::as_str));
    }
    let mut spans = vec![request];
    spans.extend(story.decisions().into_iter().map(|decision| {
        let Decision {
            layer,
            from,
            to,
            verdict,
        } = decision;
        let id = SpanId::from(ConnectionId::mint().as_u128() as u64 | 1);
        let mut span = span(
            id,
            root,
            Cow::Borrowed(layer),
            began + from,
            began + to.unwrap_or(ending.took),
        );
        span.attributes = vec![
            KeyValue::new("arqon.layer", layer),
            KeyValue::new("arqon.decision", verdict.as_str()),
        ];
        if let Verdict::Reject(Some(code)) = verdict {
            span.attributes.push(KeyValue::new("arqon.code", code.as_str()));
        }
        span
    }));
    spans
}

fn attributes(story: &Story, ending: &Ending) -> Vec<KeyValue> {
    let mut attributes = vec![
        KeyValue::new("http.request.method", story.method().to_string()),
        KeyValue::new("url.path", story.path().to_owned()),
        KeyValue::new("http.response.status_code", i64::from(ending.status.as_u16())),
        KeyValue::new("network.protocol.name", story.protocol().as_str()),
        KeyValue::new("arqon.request_id", story.request_id().to_owned()),
    ];
    if let Some(tenant) = story.tenant() {
        attributes.push(KeyValue::new("arqon.tenant", tenant.to_owned()));
    }
    if let Some(subject) = story.subject() {
        attributes.push(KeyValue::new("messaging.destination.name", subject.to_string()));
    }
    if let Some(remote) = story.remote() {
        attributes.push(KeyValue::new("client.address", remote.0.ip().to_string()));
    }
    if let Some(code) = ending.code {
        attributes.push(KeyValue::new("arqon.code", code.as_str()));
    }
    attributes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_an_http_url_without_secrets() {
        for (given, url) in [
            ("http://127.0.0.1:4318", Some("http://127.0.0.1:4318/v1/traces")),
            ("http://127.0.0.1:4318/", Some("http://127.0.0.1:4318/v1/traces")),
            ("http://h:1/otlp/traces", Some("http://h:1/otlp/traces")),
            ("https://h:1", Some("https://h:1/v1/traces")),
            ("https://h/", Some("https://h/v1/traces")),
            ("ftp://h:1", None),
            ("h:1", None),
            ("http://u:p@h:1", None),
            ("http://h:1?key=x", None),
            ("", None),
        ] {
            assert_eq!(traces_url(given).ok().as_deref(), url, "{given}");
        }
    }

    #[tokio::test]
    async fn a_collector_over_tls_is_spoken_to_if_its_authority_is_trusted()
    -> Result<(), Box<dyn std::error::Error>> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        use tokio_rustls::{
            TlsAcceptor,
            rustls::{ServerConfig, crypto::ring::default_provider, pki_types::PrivateKeyDer},
        };

        let folder = tempfile::tempdir()?;
        let made = |name: &str| -> Result<_, Box<dyn std::error::Error>> {
            let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()])?;
            let file = folder.path().join(name);
            std::fs::write(&file, made.cert.pem())?;
            Ok((file, made))
        };
        let ((trusted, own), (stranger, _)) = (made("own.pem")?, made("other.pem")?);
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der())?;
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)?;
        let (acceptor, listener) = (
            TlsAcceptor::from(Arc::new(config)),
            tokio::net::TcpListener::bind("127.0.0.1:0").await?,
        );
        let endpoint = format!("https://{}", listener.local_addr()?);
        let collector = tokio::spawn(async move {
            let mut heads = Vec::new();
            for _ in 0..2 {
                let (stream, _) = listener.accept().await.expect("a connection");
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let mut head = Vec::new();
                while !head.windows(4).any(|four| four == b"\r\n\r\n") {
                    assert!(stream.read_buf(&mut head).await.expect("read") > 0);
                }
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                stream.write_all(answer).await.expect("written");
                heads.push(String::from_utf8_lossy(&head).into_owned());
            }
            heads
        });
        let send = async |ca: &Path| {
            let request = http::Request::post(traces_url(&endpoint).expect("it holds")).body(Bytes::new());
            let client = Collector(outbound::connector(Some(ca)).expect("readable"));
            client.send_bytes(request.expect("valid")).await
        };
        assert_eq!(send(&trusted).await.expect("answered").status(), 200);
        assert!(send(&stranger).await.is_err());
        let heads = collector.await?;
        assert_eq!(heads.len(), 1);
        assert!(heads[0].starts_with("POST /v1/traces HTTP/1.1\r\n"), "{heads:?}");
        assert!(exporter("https://h", Some(Path::new("/no/such/file")), "x", "1").is_err());
        Ok(())
    }
}
