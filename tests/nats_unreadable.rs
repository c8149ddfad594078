//! Messages whose headers the NATS client cannot read: the connection that hears them is cut and comes back, and no other.
#![cfg(feature = "nats")]

use std::{convert::Infallible, sync::atomic::Ordering, time::Duration};

use arqon::{
    SubjectPattern,
    nats::{self, serve::Source},
};
use arqon_test_support::NatsServer;
use async_nats::Client;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::service_fn;

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
