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
use crate::process::{Gateway, eventually};

/// How many revisions are put.
const PUTS: u32 = 30;

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
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (gateway, subject) = (Arc::clone(&gateway), subject.clone());
            let (stop, newest) = (Arc::clone(&stop), Arc::clone(&newest));
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
                }
                (accepted, refused)
            })
        })
        .collect();

    let mut fields = String::new();
    let mut took = Vec::new();
    let mut revisions = BTreeMap::from([(0_u64, first)]);
    for number in 1..=PUTS {
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
                start.elapsed() < Duration::from_secs(30),
                "revision {revision} is not enforced"
            );
        }
        took.push(start.elapsed());
        revisions.insert(u64::from(number), revision);
        newest.store(u64::from(number), Ordering::Release);
    }
    stop.store(true, Ordering::Relaxed);
    took.sort();
    let (median, worst) = (took[took.len() / 2], took[took.len() - 1]);
    println!("put to enforced, {PUTS} puts under traffic: median {median:?}, p99 = worst {worst:?}");

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
    assert!(answered > PUTS && refused > 0);
    // An order of magnitude above what is promised: this fails on a registry that waits for its reconcile.
    assert!(worst < Duration::from_secs(20), "{took:?}");
}
