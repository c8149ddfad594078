//! Stored messages that the NATS client cannot read: a JetStream consumer terminates them, and what lies behind them
//! comes.
#![cfg(feature = "nats")]

#[path = "nats_poison/stored.rs"]
mod stored;

use std::{convert::Infallible, sync::atomic::Ordering, time::Duration};

use arqon::{
    Subject,
    nats::{
        self,
        serve::{ServeError, Served, Source},
    },
};
use async_nats::{
    Client,
    jetstream::{
        self,
        consumer::{PullConsumer, pull},
    },
};
use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use http_body_util::Full;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::service_fn;

use self::stored::{ByHand, Stored};

type Error = Box<dyn std::error::Error>;

/// How long anything may take that has to happen.
const PATIENCE: Duration = Duration::from_secs(60);
const ACK_WAIT: Duration = Duration::from_millis(500);

/// Ends a client's connection, and a client.
const CUTS: &[u8] = b"NATS/1.0\r\nbad line\r\n\r\n";
const KILLS: &[u8] = b"NATS/1.0\r\na: b\rc\r\n\r\n";

/// A service that runs on a client of its own, and the subjects it is called with.
struct Running {
    client: Client,
    calls: mpsc::Receiver<String>,
    stop: CancellationToken,
    ended: JoinHandle<Result<Served, ServeError>>,
}

impl Running {
    async fn on(stored: &Stored) -> Result<Self, Error> {
        Self::asking(stored, |source, _| source).await
    }

    async fn asking(stored: &Stored, asking: impl FnOnce(Source, &Client) -> Source) -> Result<Self, Error> {
        let client = nats::connect(stored.server.url(), None).await?;
        let context = jetstream::new(client.clone());
        let consumer: PullConsumer = context.get_consumer_from_stream("workers", "S").await?;
        let (told, calls) = mpsc::channel(4_096);
        let service = service_fn(move |request: Request<Full<Bytes>>| {
            let subject = request.extensions().get::<Subject>().expect("named").to_string();
            told.try_send(subject).expect("room");
            async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())) }
        });
        let stop = CancellationToken::new();
        let source = asking(Source::consumer(&client, consumer), &client);
        let ended = tokio::spawn(nats::serve(source, service).run(stop.clone()));
        Ok(Self {
            client,
            calls,
            stop,
            ended,
        })
    }

    fn connects(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    /// Cuts the connection by something that is not stored, and waits until it is back.
    async fn cut(&self, stored: &mut Stored) -> Result<(), Error> {
        let mut heard = self.client.subscribe("not.stored").await?;
        // What comes back says that the server knows of the subscription.
        self.client.publish("not.stored", "".into()).await?;
        timeout(PATIENCE, heard.next()).await?.ok_or("closed")?;
        let (before, start) = (self.connects(), Instant::now());
        stored.by_hand.publish(b"not.stored", CUTS).await?;
        while self.connects() == before {
            assert!(start.elapsed() < PATIENCE, "the client reads such headers now");
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// How it went, and the last words of the subjects that came, in their order.
    async fn drained(mut self) -> Result<(Served, Vec<String>), Error> {
        self.stop.cancel();
        let served = timeout(PATIENCE, self.ended).await???;
        let mut names = Vec::new();
        while let Ok(subject) = self.calls.try_recv() {
            names.push(subject.rsplit('.').next().unwrap_or_default().to_owned());
        }
        names.sort_unstable();
        Ok((served, names))
    }
}

/// Where in `order` the messages of this kind are, as the last words of their subjects.
fn places(order: &str, kind: char) -> Vec<usize> {
    let found = order.chars().enumerate().filter(|(_, found)| *found == kind);
    found.map(|(index, _)| index).collect()
}

#[tokio::test]
async fn what_cannot_be_read_is_terminated_once_and_the_others_come() -> Result<(), Error> {
    // With two deliveries at most, one that needs a third never comes.
    for (order, deliveries) in [
        ("bggg", 0),
        ("bggg", 3),
        ("bggg", 2),
        ("gggbggg", 2),
        ("gbbggg", 2),
        ("bgbgbg", 2),
    ] {
        let mut stored = Stored::with(pull::Config {
            ack_wait: ACK_WAIT,
            max_deliver: deliveries,
            ..pull::Config::default()
        })
        .await?;
        stored.store(order).await?;
        let running = Running::on(&stored).await?;
        stored.settled().await?;
        let (served, names) = running.drained().await?;
        let good: Vec<_> = places(order, 'g').iter().map(ToString::to_string).collect();
        assert_eq!(names, good, "{order}, {deliveries}: each of them once");
        let bad = places(order, 'b');
        assert_eq!(
            (served.ok, served.poison, served.total()),
            (good.len() as u64, bad.len() as u64, order.len() as u64),
            "{order}, {deliveries}"
        );
        let terminated: Vec<_> = bad.iter().map(|index| (*index as u64 + 1, true)).collect();
        assert_eq!(stored.given_up().await?, terminated, "{order}, {deliveries}");
    }
    Ok(())
}

#[tokio::test]
async fn where_the_api_may_not_be_asked_messages_come_one_by_one() -> Result<(), Error> {
    let mut stored = Stored::with(pull::Config {
        ack_wait: ACK_WAIT,
        max_deliver: 2,
        ..pull::Config::default()
    })
    .await?;
    stored.store("bgggbg").await?;
    let nobody = |source: Source, client: &Client| {
        source.context(jetstream::with_prefix(client.clone(), "NOBODY.HEARS"))
    };
    let running = Running::asking(&stored, nobody).await?;
    stored.settled().await?;
    let (served, names) = running.drained().await?;
    assert_eq!(names, ["1", "2", "3", "5"]);
    assert_eq!((served.ok, served.poison), (4, 0));
    assert!(
        !stored.given_up().await?.contains(&(2, false)),
        "only the bad ones"
    );
    Ok(())
}

#[tokio::test]
async fn what_ended_the_client_before_is_terminated_before_it_comes_again() -> Result<(), Error> {
    let mut stored = Stored::with(pull::Config {
        ack_wait: ACK_WAIT,
        max_deliver: 3,
        ..pull::Config::default()
    })
    .await?;
    stored.by_hand.publish(b"in.t.acme.kills", KILLS).await?;
    stored.store("ggg").await?;
    let running = Running::on(&stored).await?;
    let ended = timeout(PATIENCE, running.ended).await??;
    assert!(matches!(ended, Err(ServeError::Closed)), "{ended:?}");
    assert_eq!(stored.given_up().await?, []);
    let running = Running::on(&stored).await?;
    stored.settled().await?;
    assert_eq!(running.connects(), 1);
    let (served, names) = running.drained().await?;
    assert_eq!(names, ["0", "1", "2"]);
    assert_eq!((served.ok, served.poison), (3, 1));
    assert_eq!(stored.given_up().await?, [(1, true)]);
    Ok(())
}

#[tokio::test]
async fn what_is_read_of_headers_is_what_the_client_reads() -> Result<(), Error> {
    let mut stored = Stored::with(pull::Config {
        ack_wait: ACK_WAIT,
        max_deliver: 3,
        ..pull::Config::default()
    })
    .await?;
    // The first one cuts, so that all others are judged; what is judged wrong is not served, or cuts again and is given
    // up.
    let cuts: [&[u8]; 11] = [
        CUTS,
        b"garbage\r\n\r\n",
        b"NATS/9\r\n\r\n",
        b"nats/1.0\r\n\r\n",
        b"NATS/1.0\r\na: \xff\r\n\r\n",
        b"NATS/1.0\r\na b: v\r\n\r\n",
        b"NATS/1.0\r\n\xc3\xa9: v\r\n\r\n",
        b"NATS/1.0\r\n folded: nothing before\r\n\r\n",
        b"NATS/1.0\r\na: b\r\r\n c\r\n\r\n",
        b"NATS/1.0\r\na\r\n: b\r\n\r\n",
        KILLS,
    ];
    let reads: [&[u8]; 9] = [
        b"NATS/1.0\r\n\r\n",
        b"NATS/1.0\n\n",
        b"NATS/1.0\r\na: b",
        b"NATS/1.0\r\na: b\nc:d\n",
        b"NATS/1.0\r\na:\r\nb: \r\n\r\n",
        b"NATS/1.0\r\na: b\r\r\n\r\n",
        b"NATS/1.0\r\na: folded\r\n on\r\n\tand on\r\n\r\n",
        b"NATS/1.0\r\n\r\na: behind the end\r\n\r\n",
        b"NATS/1.0\r\na: b: c\r\nA: x\r\na: y\r\n\r\n",
    ];
    for headers in cuts {
        stored.by_hand.publish(b"in.t.acme.cuts", headers).await?;
    }
    for (index, headers) in reads.iter().enumerate() {
        let subject = format!("in.t.acme.{index}");
        stored.by_hand.publish(subject.as_bytes(), headers).await?;
    }
    let running = Running::on(&stored).await?;
    stored.settled().await?;
    assert_eq!(running.connects(), 2);
    let (_, names) = running.drained().await?;
    let all: Vec<_> = (0..reads.len()).map(|index| index.to_string()).collect();
    assert_eq!(names, all);
    let terminated: Vec<_> = (1..=cuts.len() as u64).map(|sequence| (sequence, true)).collect();
    assert_eq!(stored.given_up().await?, terminated);
    Ok(())
}

#[tokio::test]
async fn one_that_was_terminated_is_terminated_again_where_nothing_else_can_be_what_cuts() -> Result<(), Error>
{
    let mut stored = Stored::with(pull::Config {
        ack_wait: Duration::from_secs(60),
        ..pull::Config::default()
    })
    .await?;
    // Another node has both, and settles neither: the floor stays below them.
    stored.store("gb").await?;
    let mut other = ByHand::connect(&stored.server).await?;
    other.pull(&stored.pull, 2).await?;
    let running = Running::on(&stored).await?;
    stored.expect_given_up(&[(2, true)]).await?;
    stored.store("b").await?;
    stored.expect_given_up(&[(3, true)]).await?;
    // A server may forget what it was told last.
    running.cut(&mut stored).await?;
    stored.expect_given_up(&[(2, true), (3, true)]).await?;
    let (served, _) = running.drained().await?;
    assert_eq!((served.ok, served.poison), (0, 4));
    Ok(())
}

#[tokio::test]
async fn only_what_the_consumer_is_for_and_cannot_be_read_is_terminated() -> Result<(), Error> {
    let mut stored = Stored::with(pull::Config {
        ack_wait: ACK_WAIT,
        max_deliver: 2,
        filter_subjects: vec!["in.t.a.>".to_owned(), "in.t.b.>".to_owned()],
        ..pull::Config::default()
    })
    .await?;
    let fine = b"NATS/1.0\r\n\r\n";
    for (subject, headers) in [
        ("in.t.a.first".as_bytes(), &fine[..]),
        (b"in.t.a.bad", CUTS),
        // Of others, who may read it.
        (b"in.t.c.other", CUTS),
        ("in.t.b.\u{fffd}".as_bytes(), fine),
        (b"in.t.b.\xff", fine),
        ("in.t.b.a\u{a0}b".as_bytes(), fine),
        (b"in.t.b.last", b"NATS/1.0\r\na: folded\r\n on\r\n\r\n"),
    ] {
        stored.by_hand.publish(subject, headers).await?;
    }
    let running = Running::on(&stored).await?;
    stored.settled().await?;
    let (served, names) = running.drained().await?;
    assert_eq!(names, ["first", "last", "\u{fffd}"]);
    assert_eq!((served.ok, served.poison), (3, 3));
    assert_eq!(stored.given_up().await?, [(2, true), (5, true), (6, true)]);
    Ok(())
}

#[tokio::test]
async fn a_look_ends_at_its_limit_and_the_next_goes_on_from_there() -> Result<(), Error> {
    for (before, found_at_start) in [(1_023, true), (1_024, false)] {
        let mut stored = Stored::with(pull::Config {
            ack_wait: Duration::from_secs(60),
            max_ack_pending: 4_096,
            ..pull::Config::default()
        })
        .await?;
        let context = jetstream::new(stored.client.clone());
        for _ in 0..before {
            context.publish("in.t.acme.held", "x".into()).await?.await?;
        }
        // Another node has them, and the bad one.
        stored.by_hand.publish(b"in.t.acme.bad", CUTS).await?;
        let mut other = ByHand::connect(&stored.server).await?;
        other.pull(&stored.pull, before + 1).await?;
        stored.store("g").await?;
        let mut running = Running::on(&stored).await?;
        assert_eq!(
            timeout(PATIENCE, running.calls.recv()).await?.as_deref(),
            Some("in.t.acme.0")
        );
        let bad = before as u64 + 1;
        let first: &[_] = if found_at_start { &[(bad, true)] } else { &[] };
        assert_eq!(stored.given_up().await?, first);
        stored.store("b").await?;
        let rest: &[_] = if found_at_start {
            &[(bad + 2, true)]
        } else {
            &[(bad, true), (bad + 2, true)]
        };
        stored.expect_given_up(rest).await?;
        running.drained().await?;
    }
    Ok(())
}

#[tokio::test]
async fn where_all_can_be_read_nothing_is_asked_for_alone_nor_by_the_api() -> Result<(), Error> {
    let mut stored = Stored::with(pull::Config::default()).await?;
    let mut asked = stored.client.subscribe("$JS.API.CONSUMER.MSG.NEXT.>").await?;
    let mut read = stored.client.subscribe("$JS.API.STREAM.MSG.GET.>").await?;
    let running = Running::on(&stored).await?;
    stored.store(&"g".repeat(300)).await?;
    stored.settled().await?;
    stored
        .client
        .publish("$JS.API.STREAM.MSG.GET.END", "".into())
        .await?;
    let first = timeout(PATIENCE, read.next()).await?.ok_or("closed")?;
    assert!(first.subject.ends_with(".END"), "{}", first.subject);
    // Nor one by one where a connection ends for another reason, since nothing that is owed can have ended it.
    running.cut(&mut stored).await?;
    stored.store("ggg").await?;
    stored.settled().await?;
    let (served, _) = running.drained().await?;
    assert_eq!((served.ok, served.total()), (303, 303));
    stored
        .client
        .publish("$JS.API.CONSUMER.MSG.NEXT.END", "".into())
        .await?;
    let mut batches = Vec::new();
    loop {
        let request = timeout(PATIENCE, asked.next()).await?.ok_or("closed")?;
        if request.subject.ends_with(".END") {
            break;
        }
        let request: serde_json::Value = serde_json::from_slice(&request.payload)?;
        batches.push(request["batch"].as_u64());
    }
    assert!((5..=14).contains(&batches.len()), "{batches:?}");
    assert!(batches.iter().all(|batch| *batch == Some(64)), "{batches:?}");
    Ok(())
}
