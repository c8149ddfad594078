//! The mirror against a real nats-server: healthy, away, dying, stalled, and with a small `max_payload` (F1 to F5, F12).

use std::{convert::Infallible, time::Duration};

use arqon::nats::sink::NatsSink;
use arqon_message::Subject;
use arqon_shadow::{Reason, RuleConfig, ShadowConfig, ShadowHandle, ShadowLayer, ShadowStats};
use arqon_test_support::NatsServer;
use async_nats::{Client, ConnectOptions, connection::State};
use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt};

pub(crate) type Error = Box<dyn std::error::Error>;

/// A client of its own, that starts without a server too.
pub(crate) async fn client(url: &str) -> Result<Client, Error> {
    let options = ConnectOptions::new()
        .retry_on_initial_connect()
        .ping_interval(Duration::from_millis(500))
        .reconnect_delay_callback(|_| Duration::from_millis(20));
    Ok(options.connect(url).await?)
}

pub(crate) fn mirror(client: Client) -> Result<(ShadowLayer, ShadowHandle), Error> {
    mirror_to(NatsSink::new(client))
}

fn mirror_to(sink: NatsSink) -> Result<(ShadowLayer, ShadowHandle), Error> {
    let config = ShadowConfig::default()
        .rule(RuleConfig::new("in.t.*.>", 1.0).with_max_body_bytes(4 << 20))
        .with_timeout_ms(200);
    let (layer, handle, drain) = ShadowLayer::channel(&config, sink)?;
    tokio::spawn(drain.run());
    Ok((layer, handle))
}

/// One request through an echoing primary, which has to answer as if there were no mirror.
pub(crate) async fn send(layer: &ShadowLayer, subject: &str, body: impl Into<Bytes>) -> Result<(), Error> {
    send_of(layer, subject, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, body).await
}

/// The same, of another trace.
pub(crate) async fn send_of(
    layer: &ShadowLayer,
    subject: &str,
    trace: u128,
    body: impl Into<Bytes>,
) -> Result<(), Error> {
    let body = body.into();
    let primary = layer.layer(tower::service_fn(|request: Request<_>| async move {
        let body = http_body_util::BodyExt::collect(request.into_body())
            .await?
            .to_bytes();
        Ok::<_, Infallible>(Response::new(body))
    }));
    let mut request = Request::post("/")
        .header("traceparent", format!("00-{trace:032x}-b7ad6b7169203331-01"))
        .header("authorization", "Bearer secret")
        .header("nats-msg-id", "1")
        .body(Full::new(body.clone()).boxed())?;
    request.extensions_mut().insert(Subject::parse(subject)?);
    assert_eq!(primary.oneshot(request).await?.into_body(), body);
    Ok(())
}

/// Waits until the books show something.
pub(crate) async fn until(
    handle: &ShadowHandle,
    shown: impl Fn(&ShadowStats) -> bool,
) -> Result<ShadowStats, Error> {
    let wait = async {
        loop {
            let stats = handle.stats();
            if shown(&stats) {
                return stats;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    Ok(tokio::time::timeout(Duration::from_secs(30), wait).await?)
}

pub(crate) async fn connected(client: &Client, wanted: State) -> Result<(), Error> {
    let wait = async {
        while client.connection_state() != wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    Ok(tokio::time::timeout(Duration::from_secs(30), wait).await?)
}

#[tokio::test]
async fn copies_arrive_on_their_shadow_subject_marked_once_and_in_order() -> Result<(), Error> {
    let server = NatsServer::start().await?;
    let unique = server.unique().to_owned();
    let mut copies = server
        .client()
        .await?
        .subscribe(format!("shadow.in.t.{unique}.>"))
        .await?;
    let publisher = client(server.url()).await?;
    connected(&publisher, State::Connected).await?;
    let (layer, handle) = mirror(publisher)?;
    for n in 0..100 {
        send(&layer, &format!("in.t.{unique}.orders"), format!("order {n}")).await?;
    }
    for n in 0..100 {
        let copy = tokio::time::timeout(Duration::from_secs(10), copies.next())
            .await?
            .ok_or("closed")?;
        assert_eq!(copy.subject.as_str(), format!("shadow.in.t.{unique}.orders"));
        assert_eq!(copy.payload, format!("order {n}"));
        let headers = copy.headers.ok_or("headers")?;
        let all: Vec<_> = headers
            .get_all("x-arqon-shadow")
            .map(|value| value.as_str().to_owned())
            .collect();
        assert_eq!(all, ["true"]);
        assert_eq!(
            headers.get("x-arqon-shadow-of").map(|key| key.as_str().len()),
            Some(32)
        );
        assert!(headers.get("traceparent").is_some());
        assert!(headers.get("authorization").is_none() && headers.get("nats-msg-id").is_none());
        assert!(copy.reply.is_none());
    }
    let stats = handle.shutdown(Duration::from_secs(5)).await;
    assert_eq!((stats.sampled, stats.mirrored, stats.in_flight), (100, 100, 0));
    Ok(())
}

#[tokio::test]
async fn without_a_server_at_the_start_copies_are_dropped_and_once_it_is_there_they_flow() -> Result<(), Error>
{
    // F1, F10: nothing listens on the server's port until it is started again.
    let mut server = NatsServer::start_own().await?;
    server.stop().await?;
    let publisher = client(server.url()).await?;
    let (layer, handle) = mirror(publisher.clone())?;
    for _ in 0..50 {
        send(&layer, "in.t.a.b", "early").await?;
    }
    let stats = until(&handle, |stats| stats.in_flight == 0).await?;
    // They wait for the first connection, and go all at once when its two seconds are over.
    assert_eq!(stats.dropped_by(Reason::Disconnected), 50, "{stats:?}");
    send(&layer, "in.t.a.b", "later").await?;
    assert_eq!(
        handle.stats().dropped_by(Reason::Disconnected),
        51,
        "not even queued"
    );

    server.start_again().await?;
    connected(&publisher, State::Connected).await?;
    // Another trace: of one of which something is lost the rest is left out.
    send_of(&layer, "in.t.a.b", 1, "late").await?;
    assert_eq!(until(&handle, |stats| stats.in_flight == 0).await?.mirrored, 1);
    Ok(())
}

#[tokio::test]
async fn what_is_sent_before_the_first_connection_is_made_waits_for_it() -> Result<(), Error> {
    let server = NatsServer::start().await?;
    let unique = server.unique().to_owned();
    let subscriber = server.client().await?;
    let mut copies = subscriber.subscribe(format!("shadow.in.t.{unique}.>")).await?;
    subscriber.flush().await?;
    // Not waited for: the copy is there before the connection is.
    let publisher = client(server.url()).await?;
    assert_eq!(publisher.connection_state(), State::Pending);
    let (layer, handle) = mirror(publisher)?;
    send(&layer, &format!("in.t.{unique}.first"), "early").await?;
    let copy = tokio::time::timeout(Duration::from_secs(10), copies.next())
        .await?
        .ok_or("closed")?;
    assert_eq!(copy.payload, "early");
    assert_eq!(until(&handle, |stats| stats.in_flight == 0).await?.mirrored, 1);
    Ok(())
}

#[tokio::test]
async fn a_first_connection_has_its_own_deadline_whatever_those_of_a_copy_are() -> Result<(), Error> {
    let mut server = NatsServer::start_own().await?;
    server.stop().await?;
    let sink = NatsSink::new(client(server.url()).await?).first_connection(Duration::from_secs(120));
    let (layer, handle) = mirror_to(sink)?;
    for _ in 0..3 {
        send(&layer, "in.t.a.b", "early").await?;
    }
    // A publish may take 0.8 s and a copy 0.2 s: both pass.
    tokio::time::sleep(Duration::from_millis(1_300)).await;
    assert_eq!(handle.stats().in_flight, 3);
    server.start_again().await?;
    assert_eq!(until(&handle, |stats| stats.in_flight == 0).await?.mirrored, 3);
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_killed_under_load_is_not_felt_and_copies_flow_again_after_it() -> Result<(), Error>
{
    // F2
    let mut server = NatsServer::start_own().await?;
    let publisher = client(server.url()).await?;
    connected(&publisher, State::Connected).await?;
    let (layer, handle) = mirror(publisher.clone())?;
    for n in 0..300 {
        if n == 100 {
            server.kill().await?;
            connected(&publisher, State::Disconnected).await?;
        }
        send(&layer, "in.t.a.b", "x").await?;
    }
    let stats = until(&handle, |stats| stats.in_flight == 0).await?;
    assert!(stats.dropped_by(Reason::Disconnected) >= 200, "{stats:?}");
    assert_eq!(stats.sampled, stats.mirrored + stats.dropped_sum());
    server.start_again().await?;
    connected(&publisher, State::Connected).await?;
    send_of(&layer, "in.t.a.b", 1, "x").await?;
    let before = stats.mirrored;
    assert_eq!(
        until(&handle, |stats| stats.in_flight == 0).await?.mirrored,
        before + 1
    );
    Ok(())
}

#[tokio::test]
async fn a_server_that_stalls_is_not_felt_and_memory_stays_within_the_budget() -> Result<(), Error> {
    // F4: SIGSTOP. The server's socket takes what the kernel buffers, then nothing.
    let mut server = NatsServer::start_own().await?;
    let publisher = client(server.url()).await?;
    connected(&publisher, State::Connected).await?;
    let (layer, handle) = mirror(publisher.clone())?;
    server.pause().await?;
    let body = Bytes::from(vec![b'x'; 64 * 1024]);
    let begun = std::time::Instant::now();
    for _ in 0..8_000 {
        send(&layer, "in.t.a.b", body.clone()).await?;
        assert!(handle.state().queue_bytes <= 32 << 20);
    }
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "the primary waited: {:?}",
        begun.elapsed()
    );
    let stats = handle.stats();
    assert!(stats.dropped_sum() > 0);
    // What counts as mirrored is in socket buffers or in the client, which holds 4 MiB: not the 128 MiB of its 2,048 slots.
    assert!(stats.mirrored < 600, "{stats:?}");
    server.resume().await?;
    connected(&publisher, State::Connected).await?;
    let stats = until(&handle, |stats| stats.in_flight == 0).await?;
    assert_eq!(stats.sampled, stats.mirrored + stats.dropped_sum());
    Ok(())
}

#[tokio::test]
async fn what_is_above_the_servers_max_payload_is_skipped_and_counted() -> Result<(), Error> {
    // F12: the server takes 1 MiB.
    let server = NatsServer::start().await?;
    let unique = server.unique().to_owned();
    let publisher = client(server.url()).await?;
    connected(&publisher, State::Connected).await?;
    let limit = publisher.max_payload();
    let (layer, handle) = mirror(publisher)?;
    // The task has looked at the limit before the first copy is delivered.
    send(&layer, &format!("in.t.{unique}.a"), "small").await?;
    until(&handle, |stats| stats.mirrored == 1).await?;
    // The mark, the key and the trace, as NATS writes them.
    let lines = "NATS/1.0\r\nx-arqon-shadow: true\r\nx-arqon-shadow-of: \r\ntraceparent: \r\n\r\n";
    let headers = lines.len() + 32 + 55;
    for (size, fits) in [
        (limit + 1, 0),
        (limit, 0),
        (limit - headers + 1, 0),
        (limit - headers, 1),
    ] {
        let before = handle.stats();
        send(&layer, &format!("in.t.{unique}.a"), vec![b'x'; size]).await?;
        // What is too large is not even queued.
        let dropped = handle.stats().dropped_by(Reason::MaxPayload) - before.dropped_by(Reason::MaxPayload);
        assert_eq!(dropped, 1 - fits, "{size}");
        let stats = until(&handle, |stats| stats.in_flight == 0).await?;
        assert_eq!(stats.mirrored - before.mirrored, fits, "{size}");
    }
    Ok(())
}
