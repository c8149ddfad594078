//! A NATS server that is not well: it flaps (F44), stands still, or goes away while sessions hear. And messages of which a client dies.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arqon_test_support::NatsServer;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring::default_provider,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{Message, client::IntoClientRequest},
};

use super::process::{Gateway, PATIENCE, eventually};

/// What a gateway connects with: publishes, copies, control.
const CLIENTS: usize = 3;
/// How many lines a place in the code may write in a minute.
const REPEATS: usize = 5;

/// What a client of [`Flapping`] finds.
#[derive(Clone, Copy)]
enum Mode {
    /// A certificate that no authority signed.
    Stranger,
    /// A greeting, then the connection is cut.
    Cut,
    /// The real server.
    Well,
}

/// Stands before a real server, and is not always well.
struct Flapping {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    came: Arc<AtomicUsize>,
}

impl Flapping {
    async fn before(url: &str) -> Self {
        let server: SocketAddr = url.trim_start_matches("nats://").parse().expect("an address");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (mode, is) = watch::channel(Mode::Stranger);
        let came = Arc::new(AtomicUsize::new(0));
        let (counting, stranger) = (Arc::clone(&came), stranger());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                counting.fetch_add(1, Ordering::Relaxed);
                let (mode, stranger) = (*is.borrow(), stranger.clone());
                tokio::spawn(async move {
                    // A client that goes away is as good an end as any.
                    let _ = match mode {
                        Mode::Stranger => greet(client, Some(stranger)).await,
                        Mode::Cut => greet(client, None).await,
                        Mode::Well => pass(client, server).await,
                    };
                });
            }
        });
        Self { address, mode, came }
    }

    fn came(&self) -> usize {
        self.came.load(Ordering::Relaxed)
    }
}

/// Signed by itself.
fn stranger() -> TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("made");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("known")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a pair");
    TlsAcceptor::from(Arc::new(config))
}

/// Says who it is, and asks for TLS or answers the first ping; then the connection ends.
async fn greet(client: TcpStream, tls: Option<TlsAcceptor>) -> io::Result<()> {
    let mut client = BufReader::new(client);
    let info = format!(
        "INFO {{\"server_id\":\"x\",\"version\":\"2.10.0\",\"proto\":1,\"headers\":true,\"max_payload\":1048576,\"tls_required\":{}}}\r\n",
        tls.is_some()
    );
    client.write_all(info.as_bytes()).await?;
    if let Some(acceptor) = tls {
        return acceptor.accept(client).await.map(drop);
    }
    let mut line = String::new();
    while client.read_line(&mut line).await? > 0 {
        if line == "PING\r\n" {
            client.write_all(b"PONG\r\n").await?;
            break;
        }
        line.clear();
    }
    client.shutdown().await
}

async fn pass(mut client: TcpStream, server: SocketAddr) -> io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}

fn config(url: &str) -> String {
    format!(
        "[nats]\nurl = \"{url}\"\n[telemetry]\nlog = \"json\"\nlog_repeats_per_min = {REPEATS}\n\
         [platform.mirroring]\nrules = [{{ prefix = \"in.t.default.>\", percent = \"100%\" }}]\n"
    )
}

/// The most tries that pauses of 0.1 s, 0.2 s, .. 3 s, each shortened by at most a quarter, leave in `time`.
fn tries_max(time: Duration) -> usize {
    let (mut tries, mut at, mut pause) = (1, 0.0, 0.05);
    while at < time.as_secs_f64() {
        pause = f64::min(pause * 2.0, 3.0);
        at += pause * 0.75;
        tries += 1;
    }
    tries
}

/// The most lines that one place has written.
fn repeats(gateway: &Gateway) -> usize {
    let mut places = std::collections::BTreeMap::<_, usize>::new();
    for line in gateway.log_lines() {
        let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        *places.entry((text("target"), text("message"))).or_default() += 1;
    }
    places.into_values().max().unwrap_or_default()
}

#[tokio::test]
async fn a_server_that_flaps_is_asked_with_pauses_the_log_stays_short_and_what_comes_back_is_used() {
    let server = NatsServer::start().await.expect("a nats-server");
    let flapping = Flapping::before(server.url()).await;
    let start = Instant::now();
    let gateway = Gateway::logging_unready(&config(&format!("nats://{}", flapping.address)), "info");
    eventually(async || (flapping.came() >= 4).then_some(())).await;
    sleep(Duration::from_secs(4)).await;
    let (came, most) = (flapping.came(), CLIENTS * tries_max(start.elapsed()));
    assert!(
        came <= most,
        "{came} tries of a handshake that fails, at most {most}"
    );
    gateway.becomes_ready(false).await;
    let answer = gateway.publish("users", &[], "hello").await;
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (503, "publish.unavailable")
    );

    flapping.mode.send_replace(Mode::Cut);
    let (start, before) = (Instant::now(), flapping.came());
    eventually(async || (flapping.came() >= before + 3 * REPEATS).then_some(())).await;
    let came = flapping.came() - before;
    // 50 ms at least, a quarter less by chance, after each time it was connected.
    let most = CLIENTS * (start.elapsed().as_millis() as usize / 37 + 1);
    assert!(came <= most, "{came} connections that are cut, at most {most}");
    let held_back = eventually(async || {
        let metrics = gateway.get("/metrics").await;
        let text = String::from_utf8(metrics.body.to_vec()).expect("text");
        let line = text
            .lines()
            .find(|line| line.starts_with("shield_gateway_log_held_back_total "))?;
        line.rsplit(' ')
            .next()?
            .parse::<u64>()
            .ok()
            .filter(|count| *count > 0)
    })
    .await;
    let minutes = start.elapsed().as_secs() as usize / 60 + 2;
    let repeats = repeats(&gateway);
    assert!(
        repeats <= REPEATS * minutes,
        "{repeats} lines of one place; {held_back} held back"
    );

    flapping.mode.send_replace(Mode::Well);
    gateway.becomes_ready(true).await;
    let answer = eventually(async || {
        let answer = gateway.publish("users", &[], "hello").await;
        (answer.status == 202).then_some(answer)
    })
    .await;
    assert_eq!(answer.json()["subject"], "in.t.default.users");
    assert!(gateway.terminate().await.success());
}

#[tokio::test]
async fn a_host_that_no_name_server_knows_is_waited_for_and_said() {
    let gateway = Gateway::logging_unready(&config("nats://nobody.invalid:4222"), "info");
    let said = gateway.becomes_ready(false).await;
    assert!(said.to_string().contains("not connected to NATS"), "{said}");
    let answer = gateway.publish("users", &[], "hello").await;
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (503, "publish.unavailable")
    );
    assert!(answer.headers.contains_key("retry-after"));
    assert_eq!(gateway.get("/healthz").await.status, 200);
    sleep(Duration::from_secs(2)).await;
    let repeats = repeats(&gateway);
    assert!(repeats <= 2 * REPEATS, "{repeats} lines of one place");
    assert!(gateway.terminate().await.success());
}

/// Publishes `count` messages of `bytes`, 64 at a time, and yields what was said to each.
async fn flood(gateway: &Gateway, count: usize, bytes: usize) -> Vec<String> {
    let body = Bytes::from(vec![b'x'; bytes]);
    let publishes = futures_util::stream::iter(0..count).map(|_| gateway.publish("users", &[], body.clone()));
    publishes
        .map(|answer| async {
            let answer = answer.await;
            format!(
                "{} {}",
                answer.status.as_u16(),
                answer.json()["detail"].as_str().unwrap_or_default()
            )
        })
        .buffer_unordered(64)
        .collect()
        .await
}

#[tokio::test]
async fn a_server_that_stands_still_is_given_no_more_than_may_wait_for_it() {
    let mut server = NatsServer::start_own().await.expect("a nats-server");
    let settings = config(server.url()).replace("[telemetry]", "publish_timeout_ms = 200\n[telemetry]");
    let gateway = Gateway::ready(&settings, &[]).await;
    server.pause().await.expect("paused");
    // 64 MiB may wait, and what the system's own buffers take, and one more round of those that are asked at once.
    let mut said = Vec::new();
    for _ in 0..4 {
        said.extend(flood(&gateway, 64, 1_000_000).await);
    }
    let held = |what: &str| said.iter().filter(|said| said.contains(what)).count();
    let (given, turned_away) = (
        held("did not acknowledge in time"),
        held("as much waits for it as may"),
    );
    assert_eq!(given + turned_away, said.len(), "{said:?}");
    assert!(
        (64..=160).contains(&given),
        "{given} were given to a server that stands still"
    );
    server.resume().await.expect("resumed");
    eventually(async || (gateway.publish("users", &[], "hello").await.status == 202).then_some(())).await;
}

#[tokio::test]
async fn a_subscription_that_nats_does_not_take_is_refused_and_the_session_hears_of_a_drain() {
    let mut server = NatsServer::start_own().await.expect("a nats-server");
    let settings = config(server.url()).replace("[telemetry]", "publish_timeout_ms = 200\n[telemetry]");
    let gateway = Gateway::ready(&settings, &[]).await;
    let mut socket = session(&gateway).await;
    server.pause().await.expect("paused");
    // The client's queue is full, and what is written fills the system's buffers.
    flood(&gateway, 16, 1_000_000).await;
    let mut answer = String::new();
    for _ in 0..8 {
        flood(&gateway, 3_000, 10).await;
        socket
            .send(Message::text(r#"{"id":1,"subscribe":">"}"#))
            .await
            .expect("sent");
        answer = heard(&mut socket).await.expect("a frame");
        if answer.contains("nack") {
            break;
        }
    }
    assert!(answer.contains("publish.unavailable"), "{answer}");
    let ending = tokio::spawn(gateway.terminate());
    assert_eq!(heard(&mut socket).await.expect_err("the end"), 1001);
    assert!(ending.await.expect("no panic").success());
}

#[tokio::test]
async fn a_session_whose_deliveries_nats_lost_is_closed_and_none_comes_after_the_gap() {
    let mut server = NatsServer::start_own().await.expect("a nats-server");
    let gateway = Gateway::ready(&config(server.url()), &[]).await;
    let (mut hears, mut silent) = (session(&gateway).await, session(&gateway).await);
    hears
        .send(Message::text(r#"{"id":1,"subscribe":">"}"#))
        .await
        .expect("sent");
    assert!(heard(&mut hears).await.expect("a frame").contains("subscribed"));
    eventually(async || (gateway.publish("users", &[], "before").await.status == 202).then_some(())).await;
    assert!(heard(&mut hears).await.expect("a frame").contains("YmVmb3Jl"));
    server.restart().await.expect("again");
    eventually(async || (gateway.publish("users", &[], "after").await.status == 202).then_some(())).await;
    // Nothing that was published behind the gap comes, only the end.
    assert_eq!(heard(&mut hears).await.expect_err("the end"), 1013);
    silent
        .send(Message::text(r#"{"id":1,"subject":"users"}"#))
        .await
        .expect("sent");
    assert!(
        heard(&mut silent).await.expect("a frame").contains("ack"),
        "it had no subscription"
    );
}

/// Publishes by hand what async-nats dies of.
async fn publish_deadly(server: &NatsServer, subject: &str) {
    const HEADERS: &str = "NATS/1.0\r\na: b\rc\r\n\r\n";
    let address = server.url().trim_start_matches("nats://");
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let (head, total) = (HEADERS.len(), HEADERS.len() + 1);
    let said = format!(
        "CONNECT {{\"headers\":true,\"verbose\":false}}\r\nHPUB {subject} {head} {total}\r\n{HEADERS}x\r\nPING\r\n"
    );
    stream.write_all(said.as_bytes()).await.expect("written");
    let mut answer = String::new();
    while !answer.contains("PONG") {
        let mut more = [0; 4_096];
        let count = timeout(PATIENCE, stream.read(&mut more))
            .await
            .expect("in time")
            .expect("read");
        assert!(count > 0, "{answer}");
        answer.push_str(&String::from_utf8_lossy(&more[..count]));
    }
}

#[tokio::test]
async fn a_message_of_which_a_client_dies_costs_a_moment_wherever_the_gateway_hears_it() {
    let server = NatsServer::start_own().await.expect("a nats-server");
    let settings =
        config(server.url()).replace("[telemetry]", "serve = { prefix = \"gateway\" }\n[telemetry]");
    let settings = format!("{settings}[platform.registry]\nkv_bucket = \"SCHEMAS\"\n");
    let gateway = Gateway::logged(&settings).await;
    let died = async |times: usize| {
        eventually(async || {
            let lines = gateway.log_lines();
            let died = lines
                .iter()
                .filter(|line| line.to_string().contains("a NATS client has died"));
            (died.count() >= times).then_some(())
        })
        .await;
        gateway.becomes_ready(true).await;
        eventually(async || (gateway.publish("users", &[], "hello").await.status == 202).then_some(())).await;
    };
    // What is served.
    let client = server.client().await.expect("connected");
    let served = async || {
        eventually(async || {
            let asked = client.request("gateway.in.t.default.users", "hello".into());
            let answer = timeout(Duration::from_secs(2), asked).await.ok()?.ok()?;
            answer.payload.starts_with(b"{").then_some(())
        })
        .await;
    };
    served().await;
    publish_deadly(&server, "gateway.in.t.default.users").await;
    died(1).await;
    served().await;
    // A session.
    let subscribed = async || {
        let mut socket = session(&gateway).await;
        let frame = Message::text(r#"{"id":1,"subscribe":">"}"#);
        eventually(async || {
            socket.send(frame.clone()).await.expect("sent");
            let said = heard(&mut socket).await.expect("a frame");
            said.contains("subscribed").then_some(())
        })
        .await;
        socket
    };
    // One of them stays while the other ends: what they share is made anew all the same.
    let (mut first, mut second) = (subscribed().await, subscribed().await);
    publish_deadly(&server, "in.t.default.users").await;
    assert_eq!(heard(&mut first).await.expect_err("the end"), 1013);
    let mut third = subscribed().await;
    assert_eq!(heard(&mut second).await.expect_err("the end"), 1013);
    died(2).await;
    assert!(heard(&mut third).await.expect("a frame").contains("aGVsbG8"));
    // The schemas' bucket, and with it what publishes.
    let jetstream = async_nats::jetstream::new(client.clone());
    eventually(async || {
        let stream = jetstream.get_stream("KV_SCHEMAS").await.ok()?;
        (stream.cached_info().state.consumer_count > 0).then_some(())
    })
    .await;
    publish_deadly(&server, "$KV.SCHEMAS.v1.users").await;
    died(3).await;
    // An acknowledgement: whoever hears the message sees where it is expected.
    let mut sees = client.subscribe("in.t.default.seen").await.expect("subscribed");
    let to = eventually(async || {
        gateway.publish("seen", &[], "hello").await;
        let seen = timeout(Duration::from_millis(200), sees.next()).await.ok()??;
        seen.reply
    })
    .await;
    publish_deadly(&server, to.as_str()).await;
    died(4).await;
    served().await;
    // What panicked is said once each, in the log's own words and nowhere else.
    let lines = gateway.log_lines();
    let panics = lines
        .iter()
        .filter(|line| line["location"].to_string().contains("async-nats"));
    assert_eq!(panics.clone().count(), 4, "{lines:?}");
    for line in panics {
        assert_eq!(
            (&line["level"], &line["component"]),
            (&"ERROR".into(), &"nats".into()),
            "{line}"
        );
        assert!(line["panic_message"].is_string(), "{line}");
    }
    let log = std::fs::read_to_string(gateway.path("gateway.log")).expect("read");
    let foreign = log.lines().filter(|line| !line.starts_with(['{', 'a'])).count();
    assert_eq!(foreign, 0, "{log}");
    assert!(gateway.terminate().await.success());
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn session(gateway: &Gateway) -> Socket {
    let mut request = format!("ws://{}/v1/ws", gateway.public)
        .into_client_request()
        .expect("URI");
    let protocol = http::HeaderValue::from_static("arqon.v1.json");
    request.headers_mut().insert("sec-websocket-protocol", protocol);
    tokio_tungstenite::connect_async(request)
        .await
        .expect("upgraded")
        .0
}

/// The next text, or the code the session is closed with.
async fn heard(socket: &mut Socket) -> Result<String, u16> {
    loop {
        let message = timeout(PATIENCE, socket.next()).await.expect("in time");
        match message.expect("a close frame comes first").expect("a frame") {
            Message::Text(text) => return Ok(text.as_str().to_owned()),
            Message::Close(frame) => return Err(frame.expect("a code").code.into()),
            _ => {}
        }
    }
}
