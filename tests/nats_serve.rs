//! Tower services on a real nats-server: request and reply, ack, nak and term, drain.
#![cfg(feature = "nats")]

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arqon::{
    Code, Problem, Protocol, Rejection, Subject, SubjectPattern, TenantId,
    nats::{
        self,
        serve::{ServeError, Served, Source},
    },
};
use arqon_test_support::NatsServer;
use async_nats::{
    Client,
    jetstream::{self, consumer::PullConsumer, stream::Stream},
};
use axum::{Router, body::Body, routing::post};
use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response, StatusCode};
use tokio::{
    sync::{Notify, Semaphore, mpsc},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::service_fn;

type Error = Box<dyn std::error::Error>;

/// How long anything may take that has to happen.
const PATIENCE: Duration = Duration::from_secs(30);

fn pattern(text: &str) -> SubjectPattern {
    SubjectPattern::parse(text).expect("a pattern")
}

/// A service that runs, its stop and its end.
struct Running {
    stop: CancellationToken,
    ended: JoinHandle<Result<Served, ServeError>>,
}

impl Running {
    async fn drained(self) -> Result<Served, Error> {
        self.stop.cancel();
        Ok(timeout(PATIENCE, self.ended).await???)
    }
}

/// Serves `app` on `<unique>.>`, once the subscription is there.
async fn served(server: &NatsServer, app: Router, in_flight_max: usize) -> Result<Running, Error> {
    let client = server.client().await?;
    let source =
        Source::requests(&client, pattern(&format!("{}.>", server.unique()))).strip_prefix(server.unique());
    let stop = CancellationToken::new();
    let serving = nats::serve(source, app)
        .in_flight_max(in_flight_max)
        .run(stop.clone());
    let ended = tokio::spawn(serving);
    let probe = server.client().await?;
    let start = Instant::now();
    // Subscribed is what the server knows: an answer, not a time.
    while let Err(error) = probe
        .request(format!("{}.probe", server.unique()), "".into())
        .await
    {
        assert!(start.elapsed() < PATIENCE, "{error}");
        sleep(Duration::from_millis(5)).await;
    }
    Ok(Running { stop, ended })
}

fn header<'a>(message: &'a async_nats::Message, name: &str) -> Option<&'a str> {
    message.headers.as_ref()?.get(name).map(|value| value.as_str())
}

#[tokio::test]
async fn a_request_is_answered_with_headers_and_a_refusal_says_so() -> Result<(), Error> {
    let server = NatsServer::start().await?;
    let (seen, mut requests) = mpsc::channel(8);
    let handler = move |request: Request<Body>| {
        let seen = seen.clone();
        async move {
            let extensions = request.extensions();
            let known = (
                request.method().to_string(),
                extensions.get::<Subject>().map(ToString::to_string),
                extensions.get::<TenantId>().map(ToString::to_string),
                extensions.get::<Protocol>().copied(),
                request.headers().get("x-arqon-variant").is_some(),
                arqon::is_shadow(request.headers()),
            );
            seen.try_send(known).expect("room");
            ([("x-own", "1")], "pong")
        }
    };
    let refusing = || async {
        let (parts, ()) = Request::new(()).into_parts();
        let problem = Problem::new(Code::SchemaViolation, "field 'user_id' missing");
        Rejection::new(problem)
            .into_response::<Body>(&parts)
            .map(Body::new)
    };
    let app = Router::new()
        .route("/probe", post(|| async {}))
        .route("/in.t.acme.ping", post(handler))
        .route("/in.t.acme.refused", post(refusing))
        .route(
            "/in.t.acme.panics",
            post(|| async {
                if true {
                    panic!("on purpose")
                }
            }),
        );
    let running = served(&server, app, 8).await?;
    let client = server.client().await?;
    let subject = |suffix: &str| format!("{}.in.t.acme.{suffix}", server.unique());

    let mut headers = async_nats::HeaderMap::new();
    headers.insert("X-Arqon-Variant", "7");
    headers.insert("X-Arqon-Shadow", "true");
    let reply = client
        .request_with_headers(subject("ping"), headers, "ping".into())
        .await?;
    assert_eq!(
        (&reply.payload[..], header(&reply, "x-own")),
        (&b"pong"[..], Some("1"))
    );
    assert_eq!(header(&reply, "Nats-Service-Error"), None);
    let known = requests.recv().await.ok_or("seen")?;
    let expected = (
        "POST".to_owned(),
        Some("in.t.acme.ping".to_owned()),
        Some("acme".to_owned()),
        Some(Protocol::Nats),
        false,
        true,
    );
    assert_eq!(
        known, expected,
        "reserved headers are gone, the shadow marker is kept"
    );

    let reply = client.request(subject("refused"), "x".into()).await?;
    assert_eq!(header(&reply, "Nats-Service-Error-Code"), Some("400"));
    assert_eq!(
        header(&reply, "Nats-Service-Error"),
        Some("schema.violation: field 'user_id' missing")
    );
    assert_eq!(header(&reply, "content-type"), Some("application/problem+json"));
    let problem: serde_json::Value = serde_json::from_slice(&reply.payload)?;
    assert_eq!(problem["code"], "schema.violation");

    let reply = client.request(subject("panics"), "x".into()).await?;
    assert_eq!(header(&reply, "Nats-Service-Error-Code"), Some("500"));
    let reply = client.request(subject("nobody"), "x".into()).await?;
    assert_eq!(
        header(&reply, "Nats-Service-Error-Code"),
        Some("404"),
        "the panic ended nothing"
    );
    let big = Bytes::from(vec![0; arqon::MAX_BODY_BYTES]);
    let reply = client.request(subject("ping"), big).await?;
    assert_eq!(&reply.payload[..], b"pong", "a body at the cap is served");

    let served = running.drained().await?;
    assert_eq!((served.refused, served.failed, served.poison), (2, 1, 0));
    assert!(served.ok >= 3, "{served:?}");
    Ok(())
}

#[tokio::test]
async fn no_more_are_worked_on_than_allowed_and_a_drain_answers_what_was_taken() -> Result<(), Error> {
    let server = NatsServer::start().await?;
    let (gate, began) = (Arc::new(Semaphore::new(0)), Arc::new(Notify::new()));
    let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let slow = {
        let (gate, began, inside, most) = (gate.clone(), began.clone(), inside.clone(), most.clone());
        move || async move {
            let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
            most.fetch_max(now, Ordering::SeqCst);
            began.notify_one();
            gate.acquire().await.expect("open").forget();
            inside.fetch_sub(1, Ordering::SeqCst);
            "done"
        }
    };
    let app = Router::new()
        .route("/probe", post(|| async {}))
        .route("/slow", post(slow));
    let running = served(&server, app, 3).await?;
    let client = server.client().await?;
    let asking: Vec<_> = (0..9)
        .map(|_| {
            let (client, subject) = (client.clone(), format!("{}.slow", server.unique()));
            tokio::spawn(async move { client.request(subject, "".into()).await })
        })
        .collect();
    while inside.load(Ordering::SeqCst) < 3 {
        timeout(PATIENCE, began.notified()).await?;
    }
    client.flush().await?;
    let draining = tokio::spawn(running.drained_late());
    gate.add_permits(9);
    for asked in asking {
        assert_eq!(&timeout(PATIENCE, asked).await???.payload[..], b"done");
    }
    let served = timeout(PATIENCE, draining).await???;
    assert_eq!(most.load(Ordering::SeqCst), 3);
    assert!(served.ok >= 9, "{served:?}");
    let late = client
        .request(format!("{}.slow", server.unique()), "".into())
        .await;
    assert!(late.is_err(), "nobody is subscribed after a drain");
    Ok(())
}

impl Running {
    /// As [`drained`](Self::drained), as a task of its own.
    async fn drained_late(self) -> Result<Served, String> {
        self.drained().await.map_err(|error| error.to_string())
    }
}

/// A stream of its own, with a consumer.
async fn consumer(server: &NatsServer, client: &Client) -> Result<(Stream, PullConsumer), Error> {
    let context = jetstream::new(client.clone());
    let stream = context
        .create_stream(jetstream::stream::Config {
            name: format!("S_{}", server.unique()),
            subjects: vec![format!("in.t.{}.>", server.unique())],
            ..jetstream::stream::Config::default()
        })
        .await?;
    let consumer = stream
        .create_consumer(jetstream::consumer::pull::Config {
            durable_name: Some("workers".to_owned()),
            ack_wait: Duration::from_secs(60),
            ..jetstream::consumer::pull::Config::default()
        })
        .await?;
    Ok((stream, consumer))
}

/// Waits until the consumer owes nothing: neither pending nor unacknowledged.
async fn settled(consumer: &mut PullConsumer) -> Result<(), Error> {
    let start = Instant::now();
    loop {
        let info = consumer.info().await?;
        if info.num_pending == 0 && info.num_ack_pending == 0 {
            return Ok(());
        }
        assert!(start.elapsed() < PATIENCE, "{info:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_consumers_messages_are_acked_naked_and_terminated_by_the_answer() -> Result<(), Error> {
    let server = NatsServer::start().await?;
    let client = server.client().await?;
    let (_stream, mut pull) = consumer(&server, &client).await?;
    let (told, mut calls) = mpsc::channel(64);
    let tries = Arc::new(AtomicUsize::new(0));
    let service = service_fn(move |request: Request<http_body_util::Full<Bytes>>| {
        let (told, tries) = (told.clone(), tries.clone());
        async move {
            let subject = request.extensions().get::<Subject>().expect("named").clone();
            let suffix = subject.suffix().unwrap_or_default().to_owned();
            let status = match suffix.as_str() {
                "fine" => StatusCode::OK,
                "never" => StatusCode::FORBIDDEN,
                // Fails once.
                "later" if tries.fetch_add(1, Ordering::SeqCst) == 0 => StatusCode::SERVICE_UNAVAILABLE,
                "always" => StatusCode::INTERNAL_SERVER_ERROR,
                _ => StatusCode::OK,
            };
            told.try_send(suffix).expect("room");
            let mut response = Response::new(http_body_util::Full::<Bytes>::default());
            *response.status_mut() = status;
            if status.is_server_error() {
                response
                    .headers_mut()
                    .insert("retry-after", http::HeaderValue::from_static("0"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let context = jetstream::new(client.clone());
    for suffix in ["fine", "never", "later", "always"] {
        context
            .publish(format!("in.t.{}.{suffix}", server.unique()), "x".into())
            .await?
            .await?;
    }
    let mut unusable = async_nats::HeaderMap::new();
    unusable.insert("a(b", "1");
    context
        .publish_with_headers(format!("in.t.{}.poison", server.unique()), unusable, "x".into())
        .await?
        .await?;

    let stop = CancellationToken::new();
    let source = Source::consumer(&client, pull.clone());
    let ended = tokio::spawn(nats::serve(source, service).deliveries_max(3).run(stop.clone()));
    settled(&mut pull).await?;
    let served = Running { stop, ended }.drained().await?;
    let mut seen = std::collections::BTreeMap::new();
    while let Ok(suffix) = calls.try_recv() {
        *seen.entry(suffix).or_insert(0) += 1;
    }
    let expected =
        [("always", 3), ("fine", 1), ("later", 2), ("never", 1)].map(|(name, n)| (String::from(name), n));
    assert_eq!(
        seen,
        expected.into(),
        "naked messages come again, terminated ones do not"
    );
    assert_eq!(
        (served.ok, served.refused, served.failed, served.poison),
        (2, 1, 3, 2),
        "fine and later; never; later once and always twice; always at last and what was no request"
    );
    Ok(())
}

#[tokio::test]
async fn a_stop_gives_back_what_was_not_begun_and_ends_what_was() -> Result<(), Error> {
    let server = NatsServer::start().await?;
    let client = server.client().await?;
    let (_stream, mut pull) = consumer(&server, &client).await?;
    let (gate, began) = (Arc::new(Semaphore::new(0)), Arc::new(Notify::new()));
    let service = {
        let (gate, began) = (gate.clone(), began.clone());
        service_fn(move |_: Request<http_body_util::Full<Bytes>>| {
            let (gate, began) = (gate.clone(), began.clone());
            async move {
                began.notify_one();
                gate.acquire().await.expect("open").forget();
                Ok::<_, Infallible>(Response::new(http_body_util::Full::<Bytes>::default()))
            }
        })
    };
    let context = jetstream::new(client.clone());
    for _ in 0..5 {
        context
            .publish(format!("in.t.{}.x", server.unique()), "x".into())
            .await?
            .await?;
    }
    let stop = CancellationToken::new();
    let serving = nats::serve(Source::consumer(&client, pull.clone()), service.clone()).in_flight_max(1);
    let ended = tokio::spawn(serving.run(stop.clone()));
    timeout(PATIENCE, began.notified()).await?;
    stop.cancel();
    gate.add_permits(1);
    let served = timeout(PATIENCE, ended).await???;
    assert_eq!(served.total(), 1, "only what was begun");
    // The ack wait is a minute: that the rest comes now means that it was given back.
    gate.add_permits(16);
    let stop = CancellationToken::new();
    let ended = tokio::spawn(nats::serve(Source::consumer(&client, pull.clone()), service).run(stop.clone()));
    settled(&mut pull).await?;
    let served = Running { stop, ended }.drained().await?;
    assert_eq!(served.ok, 4);
    Ok(())
}

#[tokio::test]
async fn a_subscription_and_a_consumer_outlive_a_restart_of_the_server() -> Result<(), Error> {
    let mut server = NatsServer::start_own().await?;
    let client = nats::connect(server.url(), None).await?;
    let ours = server.client().await?;
    let (_stream, pull) = consumer(&server, &ours).await?;
    let (told, mut calls) = mpsc::channel(256);
    let app = service_fn(move |request: Request<http_body_util::Full<Bytes>>| {
        let told = told.clone();
        async move {
            let subject = request.extensions().get::<Subject>().expect("named").clone();
            let _ = told.try_send(subject.to_string());
            Ok::<_, Infallible>(Response::new(http_body_util::Full::<Bytes>::default()))
        }
    });
    let stop = CancellationToken::new();
    let core = Source::requests(&client, pattern("rpc.>"));
    let core = tokio::spawn(nats::serve(core, app.clone()).run(stop.clone()));
    let stream = tokio::spawn(nats::serve(Source::consumer(&client, pull), app).run(stop.clone()));
    server.restart().await?;
    let ours = server.client().await?;
    let start = Instant::now();
    while ours.request("rpc.x", "".into()).await.is_err() {
        assert!(start.elapsed() < PATIENCE, "the subscription does not come back");
        sleep(Duration::from_millis(20)).await;
    }
    let subject = format!("in.t.{}.after", server.unique());
    jetstream::new(ours)
        .publish(subject.clone(), "x".into())
        .await?
        .await?;
    let waiting = async {
        while calls.recv().await.ok_or("open")? != subject {}
        Ok::<_, &str>(())
    };
    timeout(PATIENCE, waiting).await??;
    stop.cancel();
    for ended in [core, stream] {
        timeout(PATIENCE, ended).await???;
    }
    Ok(())
}

#[tokio::test]
async fn replies_go_to_inboxes_and_nowhere_else() -> Result<(), Error> {
    let server = NatsServer::start().await?;
    let app = Router::new().fallback(|| async { "done" });
    let running = served(&server, app, 1).await?;
    let client = server.client().await?;
    let unique = server.unique();
    let mut heard = client.subscribe(format!("{unique}-elsewhere.>")).await?;
    let mut inbox = client.subscribe(format!("_INBOX.{unique}.*")).await?;
    let request = format!("{unique}.in.t.acme.a");
    for elsewhere in [
        format!("{unique}-elsewhere.in.t.victim.x"),
        format!("_INBOX.{unique}.*"),
        "_INBOX.>".to_owned(),
        "_INBOX".to_owned(),
        format!("_INBOXES.{unique}"),
    ] {
        client
            .publish_with_reply(request.clone(), elsewhere, "".into())
            .await?;
    }
    client
        .publish_with_reply(request, format!("_INBOX.{unique}.1"), "".into())
        .await?;
    // They are served in their order, so the one that may be answered is behind all others.
    let reply = timeout(PATIENCE, inbox.next()).await?.ok_or("closed")?;
    assert_eq!(
        (reply.subject.as_str(), &reply.payload[..]),
        (&*format!("_INBOX.{unique}.1"), &b"done"[..])
    );
    let end = format!("{unique}-elsewhere.end");
    client.publish(end.clone(), "".into()).await?;
    let first = timeout(PATIENCE, heard.next()).await?.ok_or("closed")?;
    assert_eq!(first.subject.as_str(), end);
    assert!(running.drained().await?.ok >= 6, "all were served");
    Ok(())
}

#[tokio::test]
async fn a_group_shares_the_messages() -> Result<(), Error> {
    let server = NatsServer::start().await?;
    let stop = CancellationToken::new();
    let counts = [Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0))];
    let mut ended = Vec::new();
    for count in counts.clone() {
        let client = server.client().await?;
        let source = Source::requests(&client, pattern(&format!("{}.x", server.unique()))).queue_group("g");
        let app = service_fn(move |_: Request<http_body_util::Full<Bytes>>| {
            count.fetch_add(1, Ordering::SeqCst);
            async { Ok::<_, Infallible>(Response::new(http_body_util::Full::<Bytes>::default())) }
        });
        ended.push(tokio::spawn(nats::serve(source, app).run(stop.clone())));
    }
    let client = server.client().await?;
    let subject = format!("{}.x", server.unique());
    let (mut asked, start) = (0, Instant::now());
    // Until both have answered, since they subscribe when they get to it.
    while counts.iter().any(|count| count.load(Ordering::SeqCst) == 0) {
        assert!(start.elapsed() < PATIENCE, "one of them never answers");
        asked += usize::from(client.request(subject.clone(), "".into()).await.is_ok());
    }
    stop.cancel();
    for ended in ended {
        timeout(PATIENCE, ended).await???;
    }
    let total: usize = counts.iter().map(|count| count.load(Ordering::SeqCst)).sum();
    assert_eq!(total, asked, "each message to one of them");
    let mut nobody = client.subscribe(subject).await?;
    nobody.unsubscribe().await?;
    assert!(nobody.next().await.is_none());
    Ok(())
}
