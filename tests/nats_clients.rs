//! Clients that die and those that come after them: what they take, which servers they know, and a mirror that goes on.
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
    Subject, SubjectPattern,
    nats::{self, Connection, Identity, serve::Source, sink::NatsSink},
    shadow::{ShadowConfig, ShadowLayer},
};
use arqon_shadow::RuleConfig;
use arqon_test_support::{GuardedServer, NatsServer};
use async_nats::connection::State;
use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::{BoxError, Layer, ServiceExt, service_fn};

type Error = Box<dyn std::error::Error>;

/// How long anything may take that has to happen.
const PATIENCE: Duration = Duration::from_secs(30);

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        sleep(Duration::from_millis(2)).await;
    }
}

/// A server by hand.
struct ByHand {
    listener: TcpListener,
    url: String,
}

impl ByHand {
    async fn start() -> Result<Self, Error> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("nats://{}", listener.local_addr()?);
        Ok(Self { listener, url })
    }

    /// Greets the next client.
    async fn greet(&self) -> Result<Greeted, Error> {
        let (stream, _) = timeout(PATIENCE, self.listener.accept()).await??;
        let mut greeted = Greeted(BufReader::new(stream));
        let info = "INFO {\"server_id\":\"x\",\"version\":\"2.10.0\",\"proto\":1,\"headers\":true,\"max_payload\":2000000}\r\n";
        greeted.say(info.as_bytes()).await?;
        greeted.line("PING").await?;
        greeted.say(b"PONG\r\n").await?;
        Ok(greeted)
    }
}

/// A client that was greeted.
struct Greeted(BufReader<TcpStream>);

impl Greeted {
    async fn say(&mut self, what: &[u8]) -> Result<(), Error> {
        Ok(self.0.write_all(what).await?)
    }

    /// What the client says once it begins with `first`; it is given what is left of the line.
    async fn line(&mut self, first: &str) -> Result<String, Error> {
        loop {
            let mut line = Vec::new();
            let count = timeout(PATIENCE, self.0.read_until(b'\n', &mut line)).await??;
            assert!(count > 0, "the client is gone before {first}");
            let line = String::from_utf8_lossy(&line);
            if let Some(rest) = line.strip_prefix(first) {
                return Ok(rest.trim().to_owned());
            }
        }
    }
}

#[tokio::test]
async fn a_request_is_answered_while_the_client_that_heard_it_is_made_anew() -> Result<(), Error> {
    let (by_hand, server) = (ByHand::start().await?, NatsServer::start().await?);
    let heard = Connection::open(&by_hand.url, &Identity::default(), |_| {}).await?;
    let replies = Connection::open(server.url(), &Identity::default(), |_| {}).await?;
    until("the replies' client connects", || replies.is_connected()).await;
    let inbox = format!("_INBOX.{}", server.unique());
    let client = server.client().await?;
    let mut answers = client.subscribe(format!("{inbox}.*")).await?;
    client.flush().await?;
    // One at a time, each when it may.
    let (may, called) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let service = {
        let (may, called) = (Arc::clone(&may), Arc::clone(&called));
        service_fn(move |_: Request<Full<Bytes>>| {
            let (may, called) = (Arc::clone(&may), Arc::clone(&called));
            async move {
                called.fetch_add(1, Ordering::Relaxed);
                may.acquire().await.expect("open").forget();
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"stored"))))
            }
        })
    };
    let source = Source::requests(&heard, SubjectPattern::parse("rpc.>")?).replies_through(&replies);
    let stop = CancellationToken::new();
    let serving = tokio::spawn(nats::serve(source, service).in_flight_max(1).run(stop.clone()));
    let mut greeted = by_hand.greet().await?;
    let subscribed = greeted.line("SUB rpc.> ").await?;
    for n in 0..2 {
        let message = format!("MSG rpc.x {subscribed} {inbox}.{n} 1\r\nx\r\n");
        greeted.say(message.as_bytes()).await?;
    }
    until("the first one is called", || called.load(Ordering::Relaxed) == 1).await;
    // Nobody is there for the next client.
    drop(by_hand);
    let kills = b"NATS/1.0\r\na: b\rc\r\n\r\n";
    let head = format!("HMSG rpc.x {subscribed} {} {}\r\n", kills.len(), kills.len() + 1);
    greeted.say(&[head.as_bytes(), kills, b"x\r\n"].concat()).await?;
    until("the client dies of it, and another is made", || {
        heard.client().connection_state() == State::Pending
    })
    .await;
    may.add_permits(2);
    for _ in 0..2 {
        let answer = timeout(PATIENCE, answers.next()).await?.ok_or("closed")?;
        assert_eq!((&answer.payload[..], answer.headers), (&b"stored"[..], None));
    }
    stop.cancel();
    let served = timeout(PATIENCE, serving).await???;
    assert_eq!((served.ok, served.total()), (2, 2));
    Ok(())
}

#[tokio::test]
async fn a_mirror_whose_client_has_died_goes_on_with_the_next() -> Result<(), Error> {
    let by_hand = ByHand::start().await?;
    let nats = Connection::open(&by_hand.url, &Identity::default(), |_| {}).await?;
    let config = ShadowConfig::default().rule(RuleConfig::new("in.t.*.>", "100%"));
    let (layer, handle, drain) = ShadowLayer::channel(&config, NatsSink::new(&nats))?;
    tokio::spawn(drain.run());
    let primary = layer.layer(service_fn(|request: Request<_>| async {
        let body = BodyExt::collect(request.into_body()).await?.to_bytes();
        Ok::<_, BoxError>(Response::new(Full::new(body)))
    }));
    let send = async || {
        let mut request = Request::post("/")
            .header(
                "traceparent",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            )
            .body(Full::new(Bytes::from_static(b"x")).boxed())?;
        request
            .extensions_mut()
            .insert(Subject::parse("in.t.acme.orders")?);
        let answer = primary
            .clone()
            .oneshot(request)
            .await
            .map_err(|error| error.to_string())?;
        BodyExt::collect(answer.into_body())
            .await
            .map_err(|error| error.to_string())?;
        Ok::<_, Error>(())
    };
    for life in 0..3 {
        let mut greeted = by_hand.greet().await?;
        until("the mirror is connected", || nats.is_connected()).await;
        send().await?;
        greeted.line("HPUB shadow.in.t.acme.orders ").await?;
        assert_eq!(handle.stats().mirrored, life + 1, "{:?}", handle.stats());
        greeted.say(b"-ERR\r\n").await?;
        until("the client dies of it", || !nats.is_connected()).await;
    }
    Ok(())
}

#[tokio::test]
async fn each_client_knows_all_servers_of_a_list_and_is_the_same_user_to_each() -> Result<(), Error> {
    let by_hand = ByHand::start().await?;
    let guarded = "authorization { user: gw, password: pw }";
    let server = GuardedServer::start(guarded, &[]).await?;
    let first = by_hand.url.replace("nats://", "nats://gw:pw@");
    let nats = Connection::open(&format!("{first},{}", server.url()), &Identity::default(), |_| {}).await?;
    // Whichever it chose first: once the one by hand is gone, it is with the other.
    let _ = timeout(Duration::from_millis(300), by_hand.greet()).await;
    drop(by_hand);
    until("the other one is found", || {
        nats.is_connected() && nats.client().server_info().port == port(&server.url())
    })
    .await;
    Ok(())
}

fn port(url: &str) -> u16 {
    let (_, port) = url.rsplit_once(':').expect("a port");
    port.parse().expect("a number")
}

#[tokio::test]
async fn where_one_server_of_a_list_is_asked_for_tls_so_are_the_others() -> Result<(), Error> {
    let server = NatsServer::start().await?;
    for (list, gets_in) in [
        (format!("nats://127.0.0.1:1,{}", server.url()), true),
        (format!("tls://127.0.0.1:1,{}", server.url()), false),
    ] {
        let nats = Connection::open(&list, &Identity::default(), |_| {}).await?;
        let start = Instant::now();
        while !nats.is_connected() && start.elapsed() < Duration::from_secs(2) {
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(nats.is_connected(), gets_in, "{list}");
    }
    Ok(())
}
