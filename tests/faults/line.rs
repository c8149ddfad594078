//! The mirror on a bad line to a real nats-server: slow (F3), cut one way (F5), flapping (F10), and with a consumer of copies that
//! does not read (F11).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use arqon_test_support::NatsServer;
use async_nats::connection::State;
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

use super::shadow::{Error, client, connected, mirror, send, send_of, until};

const OPEN: u8 = 0;
/// Each piece of data waits a while, both ways.
const SLOW: u8 = 1;
/// What the client sends does not arrive; what the server sends does.
const CUT: u8 = 2;

/// A proxy whose quality is changed while it runs.
struct Line {
    url: String,
    quality: Arc<AtomicU8>,
}

impl Line {
    async fn to(server: &NatsServer) -> Result<Self, Error> {
        let upstream = server.url().trim_start_matches("nats://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("nats://{}", listener.local_addr()?);
        let quality = Arc::new(AtomicU8::new(OPEN));
        let shared = Arc::clone(&quality);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(&upstream).await else {
                    continue;
                };
                let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
                tokio::spawn(carry(near_read, far_write, Arc::clone(&shared), true));
                tokio::spawn(carry(far_read, near_write, Arc::clone(&shared), false));
            }
        });
        Ok(Self { url, quality })
    }

    fn is(&self, quality: u8) {
        self.quality.store(quality, Ordering::SeqCst);
    }
}

async fn carry(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    quality: Arc<AtomicU8>,
    upward: bool,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        while upward && quality.load(Ordering::SeqCst) == CUT {
            sleep(Duration::from_millis(5)).await;
        }
        if quality.load(Ordering::SeqCst) == SLOW {
            sleep(Duration::from_millis(100)).await;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// Sends copies; the primary must have answered each at once, whatever the line does.
async fn load(layer: &arqon_shadow::ShadowLayer, subject: &str, count: usize) -> Result<(), Error> {
    for _ in 0..count {
        let begun = Instant::now();
        send(layer, subject, Bytes::from(vec![b'x'; 16 * 1024])).await?;
        // Far above what a busy machine needs, far below what the line does to whoever waits for it.
        assert!(
            begun.elapsed() < Duration::from_millis(500),
            "the primary waited: {:?}",
            begun.elapsed()
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_slow_line_is_not_felt() -> Result<(), Error> {
    let server = NatsServer::start().await?;
    let line = Line::to(&server).await?;
    let publisher = client(&line.url).await?;
    connected(&publisher, State::Connected).await?;
    let (layer, handle) = mirror(publisher)?;
    line.is(SLOW);
    load(&layer, "in.t.a.b", 2_000).await?;
    line.is(OPEN);
    let stats = until(&handle, |stats| stats.in_flight == 0).await?;
    assert_eq!(stats.sampled, stats.mirrored + stats.dropped_sum());
    assert!(stats.mirrored > 0, "{stats:?}");
    Ok(())
}

#[tokio::test]
async fn a_line_that_is_cut_one_way_is_not_felt_and_copies_flow_again_when_it_heals() -> Result<(), Error> {
    let server = NatsServer::start().await?;
    let unique = server.unique().to_owned();
    let subscriber = server.client().await?;
    let mut copies = subscriber
        .subscribe(format!("shadow.in.t.{unique}.healed"))
        .await?;
    subscriber.flush().await?;
    let line = Line::to(&server).await?;
    let publisher = client(&line.url).await?;
    connected(&publisher, State::Connected).await?;
    let (layer, handle) = mirror(publisher.clone())?;
    line.is(CUT);
    load(&layer, &format!("in.t.{unique}.lost"), 2_000).await?;
    let lost = handle.stats();
    assert!(handle.state().queue_bytes <= 32 << 20);
    line.is(OPEN);
    until(&handle, |stats| stats.in_flight == 0).await?;
    connected(&publisher, State::Connected).await?;
    // A copy that is written while the client makes a new connection is lost, and a trace may be shed, so others are sent until
    // one is there.
    let healed = async {
        for trace in 1.. {
            send_of(&layer, &format!("in.t.{unique}.healed"), trace, "x").await?;
            if let Ok(copy) = timeout(Duration::from_millis(200), copies.next()).await {
                return Ok::<_, Error>(copy.ok_or("closed")?);
            }
        }
        Err("more traces than there are".into())
    };
    let copy = timeout(Duration::from_secs(30), healed).await??;
    assert_eq!(copy.payload, "x");
    let stats = until(&handle, |stats| stats.in_flight == 0).await?;
    assert_eq!(
        stats.sampled,
        stats.mirrored + stats.dropped_sum(),
        "{lost:?} {stats:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_server_that_flaps_leaves_the_books_right() -> Result<(), Error> {
    let mut server = NatsServer::start_own().await?;
    let publisher = client(server.url()).await?;
    connected(&publisher, State::Connected).await?;
    let (layer, handle) = mirror(publisher.clone())?;
    for n in 1..=5 {
        server.kill().await?;
        connected(&publisher, State::Disconnected).await?;
        load(&layer, "in.t.a.b", 20).await?;
        server.start_again().await?;
        connected(&publisher, State::Connected).await?;
        for _ in 0..20 {
            // Another trace than the one that has lost copies.
            send_of(&layer, "in.t.a.b", n, "x").await?;
        }
    }
    let stats = until(&handle, |stats| stats.in_flight == 0).await?;
    assert_eq!((stats.sampled, stats.mirrored + stats.dropped_sum()), (200, 200));
    assert!(stats.mirrored > 0 && stats.dropped_sum() >= 100, "{stats:?}");
    Ok(())
}

#[tokio::test]
async fn a_consumer_of_copies_that_does_not_read_holds_up_nobody() -> Result<(), Error> {
    let server = NatsServer::start().await?;
    let unique = server.unique().to_owned();
    // A bare connection, of which nothing is read once it has subscribed.
    let mut idle = TcpStream::connect(server.url().trim_start_matches("nats://")).await?;
    idle.write_all(format!("CONNECT {{\"verbose\":false,\"headers\":true,\"no_responders\":true}}\r\nSUB shadow.in.t.{unique}.> 1\r\nPING\r\n").as_bytes())
        .await?;
    let subscriber = server.client().await?;
    let mut last = subscriber.subscribe(format!("shadow.in.t.{unique}.last")).await?;
    subscriber.flush().await?;
    let publisher = client(server.url()).await?;
    connected(&publisher, State::Connected).await?;
    let (layer, handle) = mirror(publisher)?;
    for _ in 0..20 {
        load(&layer, &format!("in.t.{unique}.many"), 100).await?;
        until(&handle, |stats| stats.in_flight == 0).await?;
    }
    send(&layer, &format!("in.t.{unique}.last"), "x").await?;
    let copy = timeout(Duration::from_secs(30), last.next())
        .await?
        .ok_or("closed")?;
    assert_eq!(copy.payload, "x");
    let stats = until(&handle, |stats| stats.in_flight == 0).await?;
    assert_eq!((stats.mirrored, stats.dropped_sum()), (2_001, 0), "{stats:?}");
    drop(idle);
    Ok(())
}
