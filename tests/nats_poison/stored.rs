//! A stream with a consumer, and messages in it that no client would publish.

use std::time::Duration;

use arqon_test_support::NatsServer;
use async_nats::{
    Client, Subscriber,
    jetstream::{
        self,
        consumer::{PullConsumer, pull},
    },
};
use futures_util::StreamExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{CUTS, Error, PATIENCE};

/// A client that says what no client would, and reads what none can.
pub(super) struct ByHand(TcpStream);

impl ByHand {
    pub(super) async fn connect(server: &NatsServer) -> Result<Self, Error> {
        let mut stream = TcpStream::connect(server.url().trim_start_matches("nats://")).await?;
        let hello = b"CONNECT {\"headers\":true,\"verbose\":false}\r\nSUB by.hand 1\r\n";
        stream.write_all(hello).await?;
        Ok(Self(stream))
    }

    pub(super) async fn publish(&mut self, subject: &[u8], headers: &[u8]) -> Result<(), Error> {
        let sizes = format!(" {} {}\r\n", headers.len(), headers.len() + 1);
        let line = [b"HPUB ", subject, sizes.as_bytes(), headers, b"x\r\nPING\r\n"].concat();
        self.0.write_all(&line).await?;
        self.hear("PONG", 1).await
    }

    /// Takes `count` messages of a consumer, and acknowledges none.
    pub(super) async fn pull(&mut self, consumer: &PullConsumer, count: usize) -> Result<(), Error> {
        let info = consumer.cached_info();
        let asked = format!("{{\"batch\":{count},\"no_wait\":true}}");
        let line = format!(
            "PUB $JS.API.CONSUMER.MSG.NEXT.{}.{} by.hand {}\r\n{asked}\r\n",
            info.stream_name,
            info.name,
            asked.len()
        );
        self.0.write_all(line.as_bytes()).await?;
        self.hear("$JS.ACK.", count).await
    }

    pub(super) async fn hear(&mut self, what: &str, count: usize) -> Result<(), Error> {
        let mut said = Vec::new();
        while String::from_utf8_lossy(&said).matches(what).count() < count {
            let mut more = vec![0; 65_536];
            let read = timeout(PATIENCE, self.0.read(&mut more)).await??;
            assert!(read > 0, "{}", String::from_utf8_lossy(&said));
            said.extend_from_slice(&more[..read]);
        }
        Ok(())
    }
}

/// A stream with a consumer, and who stores into it.
pub(super) struct Stored {
    pub(super) server: NatsServer,
    pub(super) client: Client,
    pub(super) by_hand: ByHand,
    pub(super) pull: PullConsumer,
    /// What the server tells of messages that are given up: terminated, or delivered too often.
    told: Subscriber,
}

impl Stored {
    pub(super) async fn with(config: pull::Config) -> Result<Self, Error> {
        let server = NatsServer::start_own().await?;
        let client = server.client().await?;
        let context = jetstream::new(client.clone());
        let stream = context
            .create_stream(jetstream::stream::Config {
                name: "S".to_owned(),
                subjects: vec!["in.t.>".to_owned()],
                ..jetstream::stream::Config::default()
            })
            .await?;
        let pull = stream
            .create_consumer(pull::Config {
                durable_name: Some("workers".to_owned()),
                ..config
            })
            .await?;
        let told = client.subscribe("$JS.EVENT.ADVISORY.CONSUMER.>").await?;
        Ok(Self {
            by_hand: ByHand::connect(&server).await?,
            server,
            client,
            pull,
            told,
        })
    }

    /// Good ones, `g`, that can be told apart, and bad ones, `b`.
    pub(super) async fn store(&mut self, order: &str) -> Result<(), Error> {
        for (index, kind) in order.chars().enumerate() {
            let subject = format!("in.t.acme.{index}");
            let headers = if kind == 'g' { b"NATS/1.0\r\n\r\n" } else { CUTS };
            self.by_hand.publish(subject.as_bytes(), headers).await?;
        }
        Ok(())
    }

    /// Waits until the consumer owes nothing.
    pub(super) async fn settled(&mut self) -> Result<(), Error> {
        let start = Instant::now();
        loop {
            let info = self.pull.info().await?;
            if info.num_pending == 0 && info.num_ack_pending == 0 {
                return Ok(());
            }
            assert!(start.elapsed() < PATIENCE, "{info:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until these are given up, and no others.
    pub(super) async fn expect_given_up(&mut self, expected: &[(u64, bool)]) -> Result<(), Error> {
        let (mut found, start) = (Vec::new(), Instant::now());
        while found != expected {
            assert!(start.elapsed() < PATIENCE, "{found:?}");
            found.extend(self.given_up().await?);
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// The sequences that were given up until now, and whether they were terminated.
    pub(super) async fn given_up(&mut self) -> Result<Vec<(u64, bool)>, Error> {
        self.client
            .publish("$JS.EVENT.ADVISORY.CONSUMER.END", "{}".into())
            .await?;
        let mut found = Vec::new();
        loop {
            let message = timeout(PATIENCE, self.told.next()).await?.ok_or("closed")?;
            let kind = message.subject.as_str();
            if kind.ends_with(".END") {
                found.sort_unstable();
                return Ok(found);
            }
            let told: serde_json::Value = serde_json::from_slice(&message.payload)?;
            match told["stream_seq"].as_u64() {
                Some(sequence) if kind.contains(".MSG_TERMINATED.") => found.push((sequence, true)),
                Some(sequence) if kind.contains(".MAX_DELIVERIES.") => found.push((sequence, false)),
                _ => {}
            }
        }
    }
}
