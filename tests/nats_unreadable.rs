//! Messages whose headers the NATS client cannot read: the connection that hears them is cut and comes back, and no other. One of
//! which the client dies takes the client along, and another takes its place.
#![cfg(feature = "nats")]

use std::{convert::Infallible, sync::atomic::Ordering, time::Duration};

use arqon::{
    SubjectPattern,
    nats::{self, Connection, Identity, NatsControlLog, Publish, schemas::KvSchemas, serve::Source},
    rollout::{Channel, ControlLog},
    schema::{RegistryConfig, SchemaStore, channel},
};
use arqon_test_support::NatsServer;
use async_nats::{Client, jetstream};
use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use http_body_util::Full;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::{ServiceExt, service_fn};

type Error = Box<dyn std::error::Error>;

/// How long anything may take that has to happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a server passes on as headers all the same.
const UNREADABLE: [&[u8]; 5] = [
    b"NATS/1.0\r\nbad line\r\n\r\n",
    b"NATS/1.0\r\na b: v\r\n\r\n",
    b"NATS/1.0\r\na: \xff\r\n\r\n",
    b"NATS/9\r\n\r\n",
    b"garbage\r\n\r\n",
];

/// Publishes by hand what no client would.
async fn publish(server: &NatsServer, subject: &str, headers: &[u8]) -> Result<(), Error> {
    let address = server.url().trim_start_matches("nats://");
    let mut stream = TcpStream::connect(address).await?;
    let total = headers.len() + 1;
    let head = format!(
        "CONNECT {{\"headers\":true,\"verbose\":false}}\r\nHPUB {subject} {} {total}\r\n",
        headers.len()
    );
    stream
        .write_all(&[head.as_bytes(), headers, b"x\r\nPING\r\n"].concat())
        .await?;
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains("PONG") {
        let mut more = [0; 4_096];
        let count = timeout(PATIENCE, stream.read(&mut more)).await??;
        assert!(count > 0, "{}", String::from_utf8_lossy(&said));
        said.extend_from_slice(&more[..count]);
    }
    Ok(())
}

fn connects(client: &Client) -> u64 {
    client.statistics().connects.load(Ordering::Relaxed)
}

/// Waits until the client has connected once more than `before`.
async fn cut(client: &Client, before: u64) {
    let start = Instant::now();
    while connects(client) == before {
        assert!(
            start.elapsed() < PATIENCE,
            "the client reads such headers now: what is done about them can go"
        );
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_subscription_goes_on_and_the_connection_that_replies_holds() -> Result<(), Error> {
    let server = NatsServer::start().await?;
    let (heard, replies) = (
        nats::connect(server.url(), None).await?,
        nats::connect(server.url(), None).await?,
    );
    replies.flush().await?;
    let name = server.unique();
    let source =
        Source::requests(&heard, SubjectPattern::parse(format!("{name}.>"))?).replies_through(&replies);
    let echo = service_fn(|request: Request<Full<Bytes>>| async move {
        Ok::<_, Infallible>(Response::new(request.into_body()))
    });
    let stop = CancellationToken::new();
    let serving = tokio::spawn(nats::serve(source, echo).run(stop.clone()));
    let client = server.client().await?;
    let answered = async || {
        let start = Instant::now();
        loop {
            // One that was sent while the connection was cut is not heard.
            let asked = client.request(format!("{name}.x"), "hello".into());
            match timeout(Duration::from_secs(2), asked).await {
                Ok(Ok(answer)) => return assert_eq!(answer.payload, "hello"),
                unheard => assert!(start.elapsed() < PATIENCE, "{unheard:?}"),
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    answered().await;
    let mut cuts = 0;
    for headers in UNREADABLE {
        let before = connects(&heard);
        publish(&server, &format!("{name}.x"), headers).await?;
        cut(&heard, before).await;
        answered().await;
        cuts += 1;
    }
    assert_eq!((connects(&heard), connects(&replies)), (1 + cuts, 1));
    stop.cancel();
    let served = timeout(PATIENCE, serving).await???;
    assert_eq!(served.total(), served.ok, "none of them came as a request");
    Ok(())
}

/// What the client dies of.
const DEADLY: &[u8] = b"NATS/1.0\r\na: b\rc\r\n\r\n";

async fn open(server: &NatsServer) -> Result<Connection, Error> {
    let connection = Connection::open(server.url(), &Identity::default(), |_| {}).await?;
    connection.client().flush().await?;
    Ok(connection)
}

/// Waits until the server has taken what the client was given: nobody answers, and that is said.
async fn there_and_back(client: &Client) {
    let _ = client.request("nobody.answers.here", Bytes::new()).await;
}

/// Waits until it has a connection again, after `before` of them.
async fn again(connection: &Connection, before: u64) {
    let start = Instant::now();
    while connection.connects() == before || connection.ready().is_err() {
        assert!(
            start.elapsed() < PATIENCE,
            "the client is dead and no other comes, or it reads such headers now: then what is done about them can go"
        );
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn requests_are_heard_by_another_client_when_one_has_died() -> Result<(), Error> {
    let server = NatsServer::start().await?;
    let (heard, replies) = (open(&server).await?, open(&server).await?);
    let name = server.unique();
    let pattern = SubjectPattern::parse(format!("{name}.>"))?;
    let echo = service_fn(|request: Request<Full<Bytes>>| async move {
        Ok::<_, Infallible>(Response::new(request.into_body()))
    });
    let stop = CancellationToken::new();
    let source = Source::requests(&heard, pattern.clone()).replies_through(&replies);
    let serving = tokio::spawn(nats::serve(source, echo).run(stop.clone()));
    // A client of somebody's own cannot be made again: its end is told.
    let alone = Source::requests(nats::connect(server.url(), None).await?, pattern);
    let alone = tokio::spawn(nats::serve(alone, echo).run(CancellationToken::new()));
    let client = server.client().await?;
    let answered = async || {
        let start = Instant::now();
        loop {
            let asked = client.request(format!("{name}.x"), "hello".into());
            match timeout(Duration::from_secs(2), asked).await {
                Ok(Ok(answer)) => return assert_eq!(answer.payload, "hello"),
                unheard => assert!(start.elapsed() < PATIENCE, "{unheard:?}"),
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    answered().await;
    for before in 1..=2 {
        publish(&server, &format!("{name}.x"), DEADLY).await?;
        again(&heard, before).await;
        answered().await;
    }
    assert_eq!((heard.connects(), replies.connects()), (3, 1));
    let ended = timeout(PATIENCE, alone).await??;
    assert!(matches!(ended, Err(nats::serve::ServeError::Closed)), "{ended:?}");
    stop.cancel();
    timeout(PATIENCE, serving).await???;
    Ok(())
}

#[tokio::test]
async fn clients_that_die_one_after_the_other_are_made_after_pauses_that_end_below_a_second()
-> Result<(), Error> {
    let server = NatsServer::start().await?;
    let connection = open(&server).await?;
    let name = server.unique();
    let (mut longest, mut told) = (Duration::ZERO, false);
    for before in 1..=9 {
        let _heard = connection.client().subscribe(name.to_owned()).await?;
        there_and_back(&connection.client()).await;
        publish(&server, name, DEADLY).await?;
        let start = Instant::now();
        while connection.connects() == before {
            assert!(start.elapsed() < PATIENCE);
            match connection.ready() {
                Err(said) => told |= said.contains("has died"),
                // It has not died yet, or the next is there by now.
                Ok(()) => {
                    assert!(start.elapsed() < Duration::from_millis(300) || connection.connects() > before)
                }
            }
            sleep(Duration::from_millis(5)).await;
        }
        longest = longest.max(start.elapsed());
        again(&connection, before).await;
    }
    assert!(longest >= Duration::from_millis(450), "{longest:?}: no pause");
    assert!(told, "it is said while there is none");
    // A client that is closed is not made again.
    connection.client().drain().await?;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(connection.connects(), 10);
    Ok(())
}

#[tokio::test]
async fn publishes_go_on_when_the_client_died_of_an_acknowledgement() -> Result<(), Error> {
    let server = NatsServer::start().await?;
    let connection = open(&server).await?;
    let publisher = Publish::new(&connection).timeout(Duration::from_secs(5));
    publisher.create_stream(&server.unique().to_uppercase()).await?;
    let subject = format!("in.t.{}.users", server.unique());
    let client = server.client().await?;
    // Whoever is subscribed sees where the acknowledgement is expected.
    let mut sees = client.subscribe(subject.clone()).await?;
    there_and_back(&client).await;
    let send = async || {
        let mut request = Request::post("/").body(Full::new(Bytes::from("hello")))?;
        request.extensions_mut().insert(arqon::Subject::parse(&subject)?);
        let answer = publisher.clone().oneshot(request).await?;
        Ok::<_, Error>(answer.status().as_u16())
    };
    assert_eq!(send().await?, 202);
    let seen = timeout(PATIENCE, sees.next()).await?.ok_or("no message")?;
    publish(&server, seen.reply.ok_or("nobody waits")?.as_str(), DEADLY).await?;
    again(&connection, 1).await;
    assert_eq!(send().await?, 202);
    Ok(())
}

#[tokio::test]
async fn the_control_log_goes_on_behind_records_that_its_client_dies_of() -> Result<(), Error> {
    let server = NatsServer::start_own().await?;
    let writer = NatsControlLog::new(server.client().await?, 1);
    let down = || Channel::Down(arqon::TenantId::new("default").expect("a tenant"));
    let (connection, mut after, mut found) = (open(&server).await?, 0, Vec::new());
    let log = NatsControlLog::new(&connection, 1);
    let mut follow = async |count: usize| {
        let start = Instant::now();
        while found.len() < count {
            assert!(start.elapsed() < PATIENCE, "{found:?} of {count}");
            // A read that fails is repeated, as the executor does.
            let Ok(batch) = log.read(after).await else {
                continue;
            };
            assert!(!batch.gap);
            for record in batch.records {
                after = record.seq;
                found.push((record.seq, record.envelope));
            }
        }
        found.clone()
    };
    writer.append(down(), "1".into()).await?;
    follow(1).await;
    // One that comes, and then some that are stored.
    publish(&server, "gov.t.default.down", DEADLY).await?;
    follow(2).await;
    let other = NatsControlLog::new(&open(&server).await?, 1);
    writer.append(down(), "3".into()).await?;
    publish(&server, "gov.t.default.down", DEADLY).await?;
    publish(&server, "gov.t.default.down", UNREADABLE[0]).await?;
    writer.append(down(), "6".into()).await?;
    let expected: Vec<_> = (1..=6)
        .zip(["1", "x", "3", "x", "x", "6"])
        .map(|(at, text)| (at, Bytes::from(text)))
        .collect();
    assert_eq!(follow(6).await, expected);
    // And from the start, where all of them are in one delivery.
    let (start, mut read) = (Instant::now(), Vec::new());
    while read.len() < 6 {
        assert!(start.elapsed() < PATIENCE, "{read:?}");
        let after = read.last().map_or(0, |(at, _)| *at);
        if let Ok(batch) = other.read(after).await {
            read.extend(
                batch
                    .records
                    .into_iter()
                    .map(|record| (record.seq, record.envelope)),
            );
        }
    }
    assert_eq!(read, expected);
    Ok(())
}

#[tokio::test]
async fn a_stop_gets_into_the_control_log_while_the_client_that_reads_it_is_dead() -> Result<(), Error> {
    let server = NatsServer::start_own().await?;
    let nobody = Connection::open("nats://127.0.0.1:1", &Identity::default(), |_| {}).await?;
    let down = || Channel::Down(arqon::TenantId::new("default").expect("a tenant"));
    let log = NatsControlLog::new(&nobody, 1);
    assert!(log.append(down(), "0".into()).await.is_err());
    // Which also makes the log.
    let log = log.appends_through(open(&server).await?);
    assert_eq!(log.append(down(), "1".into()).await?.seq, 1);
    assert!(log.read(0).await.is_err());
    let read = NatsControlLog::new(open(&server).await?, 1).read(0).await?;
    assert_eq!(read.records[0].envelope, "1");
    Ok(())
}

#[tokio::test]
async fn schemas_are_followed_on_behind_a_record_that_the_client_dies_of() -> Result<(), Error> {
    let server = NatsServer::start().await?;
    let (registry, writer) = channel(RegistryConfig::default())?;
    let bucket = format!("SCHEMAS_{}", server.unique());
    let connection = open(&server).await?;
    let store = KvSchemas::new(&connection, &bucket, registry.config());
    let following = tokio::spawn(async move { drop(store.run(writer).await) });
    let eventually = async |what: &str, holds: &dyn Fn() -> bool| {
        let start = Instant::now();
        while !holds() {
            assert!(start.elapsed() < PATIENCE, "{what}");
            sleep(Duration::from_millis(20)).await;
        }
    };
    eventually("read", &|| registry.is_ready()).await;
    let kv = jetstream::new(server.client().await?)
        .get_key_value(&bucket)
        .await?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("user.proto");
    std::fs::write(&path, "syntax = \"proto3\"; message User { int32 a = 1; }")?;
    let set = arqon::schema::read_schema(&path)?;
    let in_force = |id: &str| {
        let schemas = registry.schemas();
        schemas.iter().find(|one| one.id == id).map(|one| one.revision)
    };
    let revision = kv.put("v1.users", set.clone().into()).await?;
    eventually("the first", &|| in_force("v1.users") == Some(revision)).await;
    for (before, headers) in [(1, DEADLY), (2, UNREADABLE[0])] {
        publish(&server, &format!("$KV.{bucket}.v1.users"), headers).await?;
        again(&connection, before).await;
        let id = format!("v1.after{before}");
        let revision = kv.put(&id, set.clone().into()).await?;
        eventually(&id, &|| in_force(&id) == Some(revision)).await;
    }
    assert_eq!(in_force("v1.users"), Some(revision), "in force stays what was");
    assert!(registry.lost().is_empty(), "{:?}", registry.lost());
    let good = kv.put("v1.users", set.into()).await?;
    eventually("the next", &|| in_force("v1.users") == Some(good)).await;
    following.abort();
    Ok(())
}
