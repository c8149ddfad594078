//! Revisions that change under live traffic.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arqon_test_support::NatsServer;
use async_nats::jetstream;

use super::site::{GOOD, ID, bucket, config, publish, source};
use crate::process::{Gateway, PATIENCE, eventually};

/// How many revisions are put: a few in CI, `TEST_SWAPS=200` for the figure of DESIGN 7.
fn puts() -> u32 {
    let wanted = std::env::var("TEST_SWAPS").ok();
    wanted.map_or(30, |wanted| wanted.parse().expect("a number of puts"))
}

/// Far above what is promised, and below what a registry takes that waits for its next look at the bucket (30 s).
const EACH: Duration = Duration::from_secs(5);

/// A payload that uses field `number`.
fn with_field(number: u32) -> Vec<u8> {
    let mut payload = GOOD.to_vec();
    payload.extend([(number << 3) as u8 & 0x7f | 0x80, (number >> 4) as u8, 1]);
    payload
}

/// What a request was answered by: the revision that its published message names.
async fn answered_by(stream: &jetstream::stream::Stream, sequence: u64) -> u64 {
    let message = stream.get_raw_message(sequence).await.expect("stored");
    let named: Vec<_> = message.headers.get_all("x-arqon-schema").collect();
    let [named] = named[..] else {
        panic!("{named:?}");
    };
    let (id, revision) = named.as_str().rsplit_once('@').expect("<id>@<revision>");
    assert_eq!(id, ID);
    revision.parse().expect("a revision")
}

/// S7, and issue 5's line: a put is enforced within 2 s p99 while requests go on, each by exactly one revision.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_is_enforced_on_live_traffic_and_each_request_is_answered_by_exactly_one_revision() {
    let puts = puts();
    let server = NatsServer::start().await.expect("a nats-server");
    let gateway = Arc::new(Gateway::ready(&config(&server, server.url(), ""), &[]).await);
    let bucket = bucket(&server).await;
    let first = bucket.put(ID, source("").into()).await.expect("put");
    eventually(async || (publish(&gateway, &server, GOOD).await.status == 202).then_some(())).await;
    let client = server.client().await.expect("connected");
    let stream = jetstream::new(client)
        .get_stream("ARQON_IN")
        .await
        .expect("there");
    let subject = format!("{}.users", server.unique());

    // Clients that go on all the while: each knows the newest field that was accepted when it asked.
    let (stop, newest) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let rounds: Arc<[AtomicU64; 4]> = Arc::default();
    let clients: Vec<_> = (0..4)
        .map(|own| {
            let (gateway, subject) = (Arc::clone(&gateway), subject.clone());
            let (stop, newest, rounds) = (Arc::clone(&stop), Arc::clone(&newest), Arc::clone(&rounds));
            tokio::spawn(async move {
                let mut accepted = Vec::new();
                let mut refused = 0_u32;
                while !stop.load(Ordering::Relaxed) {
                    let known = newest.load(Ordering::Acquire);
                    // The newest known, and the one after it, which may or may not be there yet.
                    for (field, must) in [(known, true), (known + 1, false)] {
                        let payload = match field {
                            0 => GOOD.to_vec(),
                            field => with_field(field as u32 + 15),
                        };
                        let answer = gateway.publish(&subject, &[], payload).await;
                        match answer.status.as_u16() {
                            202 => {
                                let sequence = answer.json()["sequence"].as_u64().expect("a sequence");
                                accepted.push((field, sequence));
                            }
                            400 if !must => refused += 1,
                            other => panic!("field {field} (known {known}): {other} {:?}", answer.json()),
                        }
                    }
                    rounds[own].fetch_add(1, Ordering::Relaxed);
                }
                (accepted, refused)
            })
        })
        .collect();

    // Each client asks at least once between two revisions, however slow the machine is.
    let asked = async || {
        let before: Vec<u64> = rounds.iter().map(|of| of.load(Ordering::Relaxed)).collect();
        eventually(async || {
            let mut both = rounds.iter().zip(&before);
            both.all(|(of, before)| of.load(Ordering::Relaxed) > *before)
                .then_some(())
        })
        .await;
    };
    let mut fields = String::new();
    let mut took = Vec::new();
    let mut revisions = BTreeMap::from([(0_u64, first)]);
    for number in 1..=puts {
        asked().await;
        fields.push_str(&format!("int32 f{number} = {}; ", number + 15));
        let set = source(&fields);
        let start = Instant::now();
        let revision = bucket.put(ID, set.into()).await.expect("put");
        loop {
            let answer = gateway.publish(&subject, &[], with_field(number + 15)).await;
            if answer.status == 202 {
                break;
            }
            assert_eq!(answer.status, 400);
            assert!(
                start.elapsed() < 2 * PATIENCE,
                "revision {revision} is not enforced"
            );
        }
        took.push(start.elapsed());
        revisions.insert(u64::from(number), revision);
        newest.store(u64::from(number), Ordering::Release);
    }
    stop.store(true, Ordering::Relaxed);
    took.sort();
    let at = |share: f64| took[((took.len() as f64 * share) as usize).min(took.len() - 1)];
    println!(
        "put to enforced, {puts} puts under traffic: median {:?}, p99 {:?}, worst {:?}",
        at(0.5),
        at(0.99),
        at(1.0)
    );

    let (mut answered, mut refused) = (0, 0);
    for client in clients {
        let (accepted, not) = client.await.expect("no panic");
        refused += not;
        let mut last = 0;
        for (field, sequence) in accepted {
            let by = answered_by(&stream, sequence).await;
            assert!(
                by >= revisions[&field],
                "field {field} passed under revision {by}: {revisions:?}"
            );
            assert!(
                by >= last,
                "a later request of one client went back from {last} to {by}"
            );
            last = by;
            answered += 1;
        }
    }
    println!("{answered} requests accepted, each by the revision its message names; {refused} refused");
    assert!(
        answered >= 4 * puts && refused >= 4,
        "each client was answered each time"
    );
    let all: Duration = took.iter().sum();
    assert!(all < EACH * puts, "{took:?}");
}
