//! The control log against a real nats-server: order, gaps, a stream that was replaced, one that forgets.
#![cfg(feature = "nats")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arqon::nats::{NatsControlLog, governance::STREAM};
use arqon_message::TenantId;
use arqon_rollout::{
    Batch, CURRENT, Catalog, Channel, Config, Control, ControlLog, DownstreamMessage, EnforcementAction,
    Executor, Handle, KeyPair, Phase, Proposal, Record, UpstreamMessage,
};
use arqon_test_support::NatsServer;
use async_nats::{Client, jetstream};
use futures_util::StreamExt;
use tokio::time::{Instant, timeout};

type Error = Box<dyn std::error::Error>;

/// How long anything may take that has to happen.
const PATIENCE: Duration = Duration::from_secs(30);

fn down() -> Result<Channel, Error> {
    Ok(Channel::Down(TenantId::new("default")?))
}

/// Reads on until `count` records have come.
async fn read(
    log: &NatsControlLog,
    mut after: u64,
    count: usize,
) -> Result<(Vec<Record>, Vec<Batch>), Error> {
    let (mut records, mut batches) = (Vec::new(), Vec::new());
    let start = Instant::now();
    while records.len() < count {
        assert!(start.elapsed() < PATIENCE, "{} of {count} records", records.len());
        // A read that fails is repeated, as the executor does.
        let Ok(batch) = log.read(after).await else {
            continue;
        };
        after = batch.records.last().map_or(after, |record| record.seq);
        records.extend(batch.records.clone());
        batches.push(batch);
    }
    Ok((records, batches))
}

fn texts(records: &[Record]) -> Vec<(u64, &[u8])> {
    records
        .iter()
        .map(|record| (record.seq, &record.envelope[..]))
        .collect()
}

async fn log(server: &NatsServer) -> Result<(NatsControlLog, Client), Error> {
    let client = server.client().await?;
    Ok((NatsControlLog::new(client.clone(), 1), client))
}

#[tokio::test]
async fn records_come_in_order_in_bounded_batches_and_silence_is_asked_about() -> Result<(), Error> {
    let server = NatsServer::start_own().await?;
    let (log, client) = log(&server).await?;
    let now = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map(|since| since.as_micros())
    };
    let asked = now()?;
    let empty = timeout(PATIENCE, log.read(0)).await??;
    let Batch {
        records,
        gap,
        more,
        log_time_us,
        asked: end_asked,
    } = empty;
    let end_asked = end_asked.ok_or("who said where it ends?")?;
    let since = now()?.saturating_sub(asked);
    assert!(end_asked.elapsed().as_micros() <= since, "of this read");
    assert!(
        records.is_empty() && !gap && !more,
        "an empty log that was read to its end"
    );
    // The server is on this machine: its time is between the question and now.
    let told = u128::from(log_time_us.ok_or("the server does not say what time it is")?);
    assert!((asked..=now()?).contains(&told), "{asked} {told}");
    for number in 1..=600_u64 {
        let appended = log.append(down()?, number.to_string().into()).await?;
        assert_eq!(appended.seq, number);
    }
    let (records, batches) = read(&log, 0, 600).await?;
    assert!(records.iter().zip(1_u64..).all(|(record, number)| {
        record.seq == number
            && record.envelope == number.to_string()
            && record.received_at_us > 1_600_000_000_000_000
    }));
    assert!(
        batches
            .iter()
            .all(|batch| batch.records.len() <= 256 && !batch.gap)
    );
    let (last, before) = batches.split_last().ok_or("no batch")?;
    for batch in before {
        assert!(
            batch.more || batch.records.len() < 256,
            "a full batch is not the end"
        );
    }
    assert!(!last.more && last.records.len() < 256);
    // A node that starts in the middle goes on there.
    let (late, batches) = read(&NatsControlLog::new(client.clone(), 1), 598, 2).await?;
    assert_eq!(texts(&late), [(599, &b"599"[..]), (600, b"600")]);
    // Before anything is made of them, the time is compared.
    assert!(batches.first().is_some_and(|batch| batch.log_time_us.is_some()));

    // The stream is as durable as one can be made, and it takes what belongs to it only.
    let stream = jetstream::new(client).get_stream(STREAM).await?;
    let config = &stream.cached_info().config;
    assert!(config.deny_delete && config.deny_purge && config.max_age.is_zero());
    assert_eq!(config.subjects, ["gov.t.*.down", "gov.t.*.up.*"]);
    assert!(stream.delete_message(3).await.is_err() && stream.purge().await.is_err());
    Ok(())
}

/// How old the end of the log is in what a reader finds after it did nothing for so long, and in what it reads next.
async fn stood_still(log: &NatsControlLog, after: u64) -> Result<(Duration, Duration), Error> {
    let quiet = timeout(PATIENCE, log.read(after)).await??;
    let asked = quiet.asked.ok_or("who said where it ends?")?;
    // It comes at once, and the server says that nothing follows it: that is true when it is sent.
    log.append(down()?, "a".into()).await?;
    while asked.elapsed() <= CURRENT {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let one = timeout(PATIENCE, log.read(after)).await??;
    let found = one.asked.ok_or("who said where it ends?")?.elapsed();
    let next = timeout(PATIENCE, log.read(after + 1)).await??;
    let asked = next.asked.ok_or("who said where it ends?")?.elapsed();
    if one.records.len() != 1 || !next.records.is_empty() || next.more {
        return Err("the machine is slow".into());
    }
    Ok((found, asked))
}

#[tokio::test]
async fn what_a_reader_finds_after_it_stood_still_is_as_old_as_its_last_question() -> Result<(), Error> {
    let server = NatsServer::start_own().await?;
    let mut seen = Vec::new();
    // On a machine that stands still itself the reader begins anew, which is as good.
    for after in 0..10 {
        let (log, _) = log(&server).await?;
        match stood_still(&log, after).await {
            Ok((found, next)) if found > CURRENT && next <= CURRENT => return Ok(()),
            other => seen.push(other.map_err(|error| error.to_string())),
        }
    }
    Err(format!("{seen:?}").into())
}

#[tokio::test]
async fn a_stream_that_was_replaced_is_a_gap_and_is_read_from_its_start() -> Result<(), Error> {
    let server = NatsServer::start_own().await?;
    let (log, client) = log(&server).await?;
    for text in ["a", "b", "c"] {
        log.append(down()?, text.into()).await?;
    }
    let (records, _) = read(&log, 0, 3).await?;
    let jetstream = jetstream::new(client.clone());
    jetstream.delete_stream(STREAM).await?;
    let other = NatsControlLog::new(client.clone(), 1);
    // As many entries as before: only what they hold tells that they are others.
    for text in ["x", "y", "stop"] {
        other.append(down()?, text.into()).await?;
    }
    let (again, batches) = read(&log, 3, 3).await?;
    assert!(batches.iter().any(|batch| batch.gap));
    assert_eq!(
        texts(&again),
        [(4, &b"x"[..]), (5, b"y"), (6, b"stop")],
        "behind the old positions"
    );
    let appended = log.append(down()?, "resume".into()).await?;
    assert_eq!(appended.seq, 7, "and what is appended is behind them, too");
    // The same for a node that comes back with its trail.
    let restarted = NatsControlLog::new(client.clone(), 1).anchored(records.last());
    let (again, batches) = read(&restarted, 3, 4).await?;
    assert!(batches[0].gap && again.len() == 4);
    // A node whose last entry is the stream's is at home.
    let (known, _) = read(&NatsControlLog::new(client.clone(), 1), 0, 3).await?;
    let home = NatsControlLog::new(client, 1).anchored(known.last());
    let (again, batches) = read(&home, 3, 1).await?;
    assert!(batches.iter().all(|batch| !batch.gap));
    assert_eq!(texts(&again), [(4, &b"resume"[..])]);
    Ok(())
}

#[tokio::test]
async fn entries_that_somebody_deleted_are_a_gap() -> Result<(), Error> {
    let server = NatsServer::start_own().await?;
    let (log, client) = log(&server).await?;
    let config = jetstream::stream::Config {
        name: STREAM.to_owned(),
        subjects: vec!["gov.t.>".to_owned()],
        ..jetstream::stream::Config::default()
    };
    let stream = jetstream::new(client.clone()).create_stream(config).await?;
    for text in ["a", "b", "c", "d"] {
        log.append(down()?, text.into()).await?;
    }
    stream.delete_message(1).await?;
    stream.delete_message(3).await?;
    let (records, batches) = read(&log, 0, 2).await?;
    assert_eq!(texts(&records), [(2, &b"b"[..]), (4, b"d")]);
    assert!(batches.iter().filter(|batch| batch.gap).count() >= 1);
    let (records, batches) = read(&NatsControlLog::new(client, 1), 2, 1).await?;
    assert_eq!(texts(&records), [(4, &b"d"[..])]);
    assert!(batches.iter().any(|batch| batch.gap), "in the middle, too");
    Ok(())
}

#[tokio::test]
async fn a_stream_that_forgets_is_not_used() -> Result<(), Error> {
    let server = NatsServer::start_own().await?;
    let (log, client) = log(&server).await?;
    let config = jetstream::stream::Config {
        name: STREAM.to_owned(),
        subjects: vec!["gov.t.>".to_owned()],
        max_age: Duration::from_secs(3_600),
        ..jetstream::stream::Config::default()
    };
    jetstream::new(client.clone()).create_stream(config).await?;
    let refused = log.read(0).await.map_err(|error| error.to_string());
    assert!(
        refused.as_ref().is_err_and(|error| error.contains("max_age")),
        "{refused:?}"
    );
    // Who may not make the stream says so.
    jetstream::new(client.clone()).delete_stream(STREAM).await?;
    let absent = NatsControlLog::existing(client).append(down()?, "x".into()).await;
    assert!(absent.is_err_and(|error| error.to_string().contains("a gateway makes it")));
    Ok(())
}

#[tokio::test]
async fn with_the_server_away_every_call_ends_and_the_log_goes_on_afterwards() -> Result<(), Error> {
    let mut server = NatsServer::start_own().await?;
    let client = arqon::nats::connect(server.url(), None).await?;
    let log = NatsControlLog::new(client, 1);
    read_until_contact(&log, 0).await?;
    log.append(down()?, "a".into()).await?;
    read(&log, 0, 1).await?;
    server.kill().await?;
    for _ in 0..3 {
        assert!(timeout(PATIENCE, log.read(1)).await?.is_err());
        assert!(
            timeout(PATIENCE, log.append(down()?, "lost".into()))
                .await?
                .is_err()
        );
    }
    server.start_again().await?;
    read_until_contact(&log, 1).await?;
    log.append(down()?, "b".into()).await?;
    let (records, batches) = read(&log, 1, 1).await?;
    assert_eq!(texts(&records), [(2, &b"b"[..])]);
    assert!(batches.iter().all(|batch| !batch.gap), "a restart is no gap");
    Ok(())
}

async fn read_until_contact(log: &NatsControlLog, after: u64) -> Result<(), Error> {
    let contact = async {
        while log.read(after).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    Ok(timeout(PATIENCE, contact).await?)
}

/// A node on the server, with the keys of all.
async fn node(server: &NatsServer, at: usize, keys: &[KeyPair], ops: &KeyPair) -> Result<Handle, Error> {
    let config = Config {
        enabled: true,
        node_id: keys[at].keyid().to_owned(),
        keys: vec![ops.public().to_config()],
        node_keys: keys.iter().map(|key| key.public().to_config()).collect(),
        ..Config::default()
    };
    let catalog =
        br#"{"version":1,"baseline":1,"variants":[{"id":1,"name":"stable"},{"id":42,"name":"fast"}]}"#;
    let executor = Executor::builder(&config)
        .catalog(Catalog::parse(catalog)?)
        .node_key(keys[at].clone())
        .log(NatsControlLog::new(server.client().await?, 1))
        .build()?;
    let handle = executor.handle();
    tokio::spawn(executor.run());
    timeout(PATIENCE, handle.contacted()).await?;
    Ok(handle)
}

#[tokio::test]
async fn a_node_proposes_to_all_is_told_what_was_decided_and_reports() -> Result<(), Error> {
    let server = NatsServer::start_own().await?;
    let tenant = TenantId::new("default")?;
    let ops = KeyPair::generate("ops-1")?;
    let keys = [KeyPair::generate("gw-1")?, KeyPair::generate("gw-2")?];
    let (first, second) = (
        node(&server, 0, &keys, &ops).await?,
        node(&server, 1, &keys, &ops).await?,
    );
    let client = server.client().await?;
    let mut reports = client.subscribe("gov.t.default.tel.gw-2").await?;
    client.flush().await?;

    let mut told = second.client(&tenant);
    let proposal = Proposal {
        id: "p1".to_owned(),
        variant_id: Some(42),
        confidence: 1.0,
        ..Proposal::default()
    };
    let receipt = first.client(&tenant).send(proposal).await?.ok_or("a receipt")?;
    let seq = receipt.seq.ok_or("a position")?;
    timeout(PATIENCE, second.reached(seq)).await?;
    let status = second.status();
    assert_eq!(status.tenants[0].pending[0].issuer, "gw-1");
    let stored = jetstream::new(client)
        .get_stream(STREAM)
        .await?
        .get_raw_message(seq)
        .await?;
    assert_eq!(stored.subject.as_str(), "gov.t.default.up.gw-1");

    // What the operator decides at one node, the other's client is told.
    let message = DownstreamMessage::Enforce {
        action: EnforcementAction::EmergencyStop,
        reason: "drill".to_owned(),
    };
    let issued_at_us = stored.time.unix_timestamp_nanos() / 1_000 + 1;
    let control = Control::new(
        "default",
        u64::try_from(issued_at_us)?,
        60_000_000,
        message.clone(),
    );
    first.submit(control.sign(&[&ops])?.to_json().as_bytes()).await?;
    assert_eq!(timeout(PATIENCE, told.recv()).await??, message);
    let scope = second.status();
    assert_eq!(scope.scope("default", "").ok_or("there")?.phase, Phase::Stopped);

    // A node's figures go where only they go, and are kept nowhere.
    let figures = UpstreamMessage::Telemetry {
        timestamp_us: 1,
        node_id: "gw-2".to_owned(),
        metrics: [("throughput".to_owned(), 12.5)].into(),
    };
    second.client(&tenant).send(figures.clone()).await?;
    let report = timeout(PATIENCE, reports.next()).await?.ok_or("open")?;
    assert_eq!(
        serde_json::from_slice::<UpstreamMessage>(&report.payload)?,
        figures
    );
    let nan = UpstreamMessage::Telemetry {
        timestamp_us: 1,
        node_id: "gw-2".to_owned(),
        metrics: [("throughput".to_owned(), f64::NAN)].into(),
    };
    assert!(second.client(&tenant).send(nan).await.is_err());
    Ok(())
}

/// Passes everything on between a client and the server, each byte so much later.
async fn far(server: &NatsServer, way: Duration) -> Result<String, Error> {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        sync::mpsc,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("nats://{}", listener.local_addr()?);
    let to = server.url().trim_start_matches("nats://").to_owned();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(&to).await else {
                return;
            };
            let (near_in, near_out) = near.into_split();
            let (server_in, server_out) = server.into_split();
            for (mut from, mut into) in [(near_in, server_out), (server_in, near_out)] {
                let (sent, mut arrives) = mpsc::channel::<(Instant, Vec<u8>)>(4_096);
                tokio::spawn(async move {
                    let mut bytes = vec![0; 65_536];
                    while let Ok(count @ 1..) = from.read(&mut bytes).await {
                        let arrives = (Instant::now() + way, bytes[..count].to_vec());
                        if sent.send(arrives).await.is_err() {
                            return;
                        }
                    }
                });
                tokio::spawn(async move {
                    while let Some((at, bytes)) = arrives.recv().await {
                        tokio::time::sleep_until(at).await;
                        if into.write_all(&bytes).await.is_err() {
                            return;
                        }
                    }
                });
            }
        }
    });
    Ok(url)
}

#[tokio::test]
async fn a_reader_far_from_its_server_begins_to_follow_and_hears_of_the_end() -> Result<(), Error> {
    let server = NatsServer::start_own().await?;
    let (near, _client) = log(&server).await?;
    near.append(down()?, b"one".to_vec().into()).await?;
    // Each question takes half a second, and six of them stand before the first record.
    let url = far(&server, Duration::from_millis(250)).await?;
    let client = async_nats::ConnectOptions::new()
        .retry_on_initial_connect()
        .connect(url)
        .await?;
    let log = NatsControlLog::new(client, 1);
    let (records, _) = read(&log, 0, 1).await?;
    assert_eq!(texts(&records), [(1, &b"one"[..])]);
    near.append(down()?, b"two".to_vec().into()).await?;
    let (records, _) = read(&log, 1, 1).await?;
    assert_eq!(texts(&records), [(2, &b"two"[..])]);
    Ok(())
}
