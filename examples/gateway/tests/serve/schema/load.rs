//! F2 under load: what needs no NATS goes on as before when it dies.

use std::{sync::Arc, time::Duration};

use arqon_test_support::NatsServer;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

use super::site::{BAD, GOOD, SEVEN, answers, bucket, config, narrow, wider};
use crate::process::{Gateway, PATIENCE};

/// Requests a second and seconds of each part: a little in CI, `TEST_LOAD=2000x10` for the figures of the issue.
fn load() -> (u32, u32) {
    let wanted = std::env::var("TEST_LOAD").unwrap_or_else(|_| "200x2".to_owned());
    let (rate, seconds) = wanted.split_once('x').expect("<requests a second>x<seconds>");
    (rate.parse().expect("a rate"), seconds.parse().expect("seconds"))
}

/// How long the answers took, from when they were due.
#[derive(Default)]
struct Took {
    /// Refused by the contract: these need no NATS.
    refused: Vec<Duration>,
    published: Vec<Duration>,
    unavailable: Vec<Duration>,
}

fn quantile(took: &mut [Duration], share: f64) -> Duration {
    took.sort_unstable();
    let at = (took.len() as f64 * share) as usize;
    took.get(at.min(took.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}

/// Sends at that rate, whatever the answers take. One in four keeps its contract and wants to be published.
async fn send(gateway: &Arc<Gateway>, subject: &str, rate: u32, seconds: u32) -> Took {
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut asked = JoinSet::new();
    for number in 0..rate * seconds {
        let due = ticks.tick().await;
        let (gateway, subject) = (Arc::clone(gateway), subject.to_owned());
        asked.spawn(async move {
            let good = number % 4 == 0;
            let payload = if good { GOOD } else { BAD };
            let publishing = gateway.publish(&subject, &[], payload);
            let answer = timeout(PATIENCE, publishing).await.expect("in time");
            (good, answer.status.as_u16(), answer.code(), due.elapsed())
        });
    }
    let mut took = Took::default();
    while let Some(answer) = asked.join_next().await {
        let (good, status, code, after) = answer.expect("no panic");
        match (good, status, code.as_str()) {
            (true, 202, _) => took.published.push(after),
            (true, 503, "publish.unavailable") => took.unavailable.push(after),
            (false, 400, "schema.violation") => took.refused.push(after),
            other => panic!("{other:?}"),
        }
    }
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f2_under_load_what_needs_no_nats_goes_on_and_what_does_fails_in_time() {
    let (rate, seconds) = load();
    let mut server = NatsServer::start_own().await.expect("a nats-server");
    let gateway = Arc::new(Gateway::ready(&config(&server, server.url(), ""), &[]).await);
    let bucket = bucket(&server).await;
    bucket.put(super::site::ID, narrow().into()).await.expect("put");
    answers(&gateway, &server, GOOD, 202).await;
    let subject = format!("{}.users", server.unique());

    send(&gateway, &subject, rate, 1).await;
    let mut before = send(&gateway, &subject, rate, seconds).await;
    assert!(before.unavailable.is_empty(), "NATS is there");
    let (mut after, ()) = tokio::join!(send(&gateway, &subject, rate, seconds), async {
        server.kill().await.expect("killed");
    });
    let p99 = [&mut before.refused, &mut after.refused].map(|took| quantile(took, 0.99));
    println!(
        "{rate} requests a second, {seconds} s each, {} and {} refused by contract: p50 {:?} and {:?}, p99 {:?} before and {:?} \
         after NATS died: {:.2}x",
        before.refused.len(),
        after.refused.len(),
        quantile(&mut before.refused, 0.5),
        quantile(&mut after.refused, 0.5),
        p99[0],
        p99[1],
        p99[1].as_secs_f64() / p99[0].as_secs_f64(),
    );
    println!(
        "published {} and {}, p99 {:?} before; then {} unavailable, p50 {:?}, p99 {:?}, the last {:?}",
        before.published.len(),
        after.published.len(),
        quantile(&mut before.published, 0.99),
        after.unavailable.len(),
        quantile(&mut after.unavailable, 0.5),
        quantile(&mut after.unavailable, 0.99),
        quantile(&mut after.unavailable, 1.0),
    );
    assert!(!after.unavailable.is_empty(), "NATS was away");
    // An order of magnitude above the deadline of a publish: this fails on one that waits for NATS to come back.
    assert!(quantile(&mut after.unavailable, 1.0) < Duration::from_secs(10));

    server.start_again().await.expect("started");
    gateway.becomes_ready(true).await;
    bucket.put(super::site::ID, wider().into()).await.expect("put");
    answers(&gateway, &server, SEVEN, 202).await;
}
