//! received + lost = sent x receivers, exactly: 10^8 deliveries in release (10^9 with `RON_BUS_LONG=1`), a
//! hundredth in debug. Four publishers, eight receivers of both kinds, bursts that overflow, batches.
#![cfg(not(loom))]

#[path = "support/drive.rs"]
mod drive;

use std::{sync::Arc, time::Instant};

use ron_bus::{Bus, BusMetrics};
use tokio::{sync::broadcast::error::RecvError, task::JoinSet};

use drive::{report, scale, version};

const PUBLISHERS: u64 = 4;
const RECEIVERS: u64 = 8;

/// Events and slots one publisher sends.
async fn publish(bus: Bus, events: u64) -> (u64, u64) {
    let (mut sent, mut slots) = (0, 0);
    while sent < events {
        // An eighth of the time it neither looks whether there is room nor gives way.
        let burst = slots / 64 % 256 < 32;
        while !burst && bus.queue_depth() > 512 {
            tokio::task::yield_now().await;
        }
        for i in 0..64u64 {
            let left = events - sent;
            if i % 16 == 0 && left > 64 {
                let len = 1 + (slots + i) % 64;
                bus.publish_batch((0..len).map(report).collect())
                    .expect("receivers");
                sent += len;
                slots += 1;
            } else if left > 0 {
                bus.publish(version(sent)).expect("receivers");
                sent += 1;
                slots += 1;
            }
        }
        if !burst {
            tokio::task::yield_now().await;
        }
    }
    (sent, slots)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn received_plus_lost_is_sent_times_receivers() {
    let hundredth = if cfg!(debug_assertions) { 100 } else { 1 };
    let deliveries = scale(100_000_000, 1_000_000_000) / hundredth;
    let events = deliveries / RECEIVERS / PUBLISHERS;
    let metrics = Arc::new(BusMetrics::new());
    let bus = Bus::with_metrics(1_024, Arc::clone(&metrics)).expect("a capacity");
    let (mut observers, mut raws) = (JoinSet::new(), JoinSet::new());
    for i in 0..RECEIVERS / 2 {
        let (mut subscriber, mut raw) = (bus.observe("soak"), bus.subscribe());
        observers.spawn(async move {
            if i % 2 == 0 {
                subscriber.for_each(|_| {}).await;
            } else {
                while subscriber.next().await.is_some() {}
            }
            (subscriber.received(), subscriber.dropped())
        });
        raws.spawn(async move {
            let (mut received, mut lost) = (0, 0);
            loop {
                match raw.recv().await {
                    Ok(_) => received += 1,
                    Err(RecvError::Lagged(slots)) => lost += slots,
                    Err(RecvError::Closed) => return (received, lost),
                }
            }
        });
    }
    let start = Instant::now();
    let mut publishers = JoinSet::new();
    (0..PUBLISHERS).for_each(|_| drop(publishers.spawn(publish(bus.clone(), events))));
    let sent: Vec<(u64, u64)> = publishers.join_all().await;
    let (sent, slots) = sent
        .iter()
        .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    drop(bus);
    let (observers, raws) = (observers.join_all().await, raws.join_all().await);
    for (received, lost) in &observers {
        assert_eq!(received + lost, sent, "events, for each subscriber");
    }
    for (received, lost) in &raws {
        assert_eq!(received + lost, slots, "slots, for each raw receiver");
    }
    let received: u64 = observers.iter().map(|one| one.0).sum();
    let lost: u64 = observers.iter().map(|one| one.1).sum();
    assert_eq!(received + lost, sent * RECEIVERS / 2);
    assert_eq!(
        (metrics.received_total(), metrics.overflow_dropped_total()),
        (received, lost)
    );
    assert!(lost > 0, "the bursts overflow");
    let share = lost as f64 / (received + lost) as f64;
    println!(
        "{} deliveries, {:.3} % lost, {:?}",
        sent * RECEIVERS,
        share * 100.0,
        start.elapsed()
    );
}
