//! `Subscriber::for_each`: the observed loop. That it gives what `next` gives, in any history, is in `prop_bus.rs`.
#![cfg(not(loom))]

#[path = "support/drive.rs"]
mod drive;

use std::sync::{
    atomic::{AtomicU64, Ordering::Relaxed},
    Arc,
};

use ron_bus::{Bus, BusMetrics, Notice};
use tokio::{sync::mpsc, task::yield_now};

use drive::{now, number, report, version};

fn versions_of(notice: Notice, seen: &mut Vec<u64>) {
    match notice {
        Notice::Event(event) => seen.extend(event.facts().iter().map(number)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_loop_ends_with_the_bus_and_has_told_everything() {
    let metrics = Arc::new(BusMetrics::new());
    let bus = Bus::with_metrics(8, Arc::clone(&metrics)).expect("a capacity");
    let mut subscriber = bus.observe("loop");
    for i in 0..20 {
        bus.publish(version(i)).expect("a subscriber");
    }
    bus.publish_batch((20..30).map(report).collect())
        .expect("a subscriber");
    drop(bus);
    let mut told = Vec::new();
    subscriber.for_each(|notice| told.push(notice)).await;
    assert_eq!(
        told[0],
        Notice::Resync { lost: 13 },
        "21 slots, of which 8 are kept"
    );
    assert_eq!(told.len(), 1 + 8);
    assert_eq!((subscriber.received(), subscriber.dropped()), (7 + 10, 13));
    assert_eq!(
        (metrics.received_total(), metrics.overflow_dropped_total()),
        (17, 13)
    );
}

#[tokio::test]
async fn a_dropped_loop_loses_nothing() {
    let bus = Bus::new(1_024).expect("a capacity");
    let mut subscriber = bus.observe("select");
    let mut seen = Vec::new();
    for i in 0..1_000 {
        bus.publish(version(i)).expect("a subscriber");
        let ready = async {
            for _ in 0..i % 4 {
                yield_now().await;
            }
        };
        tokio::select! {
            biased;
            () = ready => {}
            () = subscriber.for_each(|notice| versions_of(notice, &mut seen)) => panic!("the bus is open"),
        }
    }
    let _open = now(subscriber.for_each(|notice| versions_of(notice, &mut seen)));
    assert_eq!(seen, (0..1_000).collect::<Vec<_>>());
}

/// As `next`: a loop that never gave way would starve everybody else on the worker.
#[tokio::test(flavor = "current_thread")]
async fn a_draining_loop_gives_way_every_128_events() {
    let bus = Bus::new(1_024).expect("a capacity");
    let mut subscriber = bus.observe("busy");
    (0..1_000).for_each(|i| drop(bus.publish(version(i))));
    drop(bus);
    let turns = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&turns);
    let other = tokio::spawn(async move {
        loop {
            counted.fetch_add(1, Relaxed);
            yield_now().await;
        }
    });
    let mut longest = (0, 0, 0);
    subscriber
        .for_each(|_| {
            let turn = turns.load(Relaxed);
            longest = if turn == longest.0 {
                (turn, longest.1 + 1, longest.2.max(longest.1 + 1))
            } else {
                (turn, 1, longest.2)
            };
        })
        .await;
    other.abort();
    assert_eq!(
        longest.2, 128,
        "the most events between two turns of the other task"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parked_loop_wakes_for_each_event() {
    let bus = Bus::new(8).expect("a capacity");
    let mut subscriber = bus.observe("parked");
    let (seen, mut told) = mpsc::channel(8);
    let reader = tokio::spawn(async move {
        subscriber
            .for_each(|notice| seen.try_send(notice).expect("one at a time"))
            .await;
    });
    for i in 0..200 {
        bus.publish(version(i)).expect("a subscriber");
        assert_eq!(told.recv().await, Some(Notice::Event(version(i))));
    }
    drop(bus);
    reader.await.expect("it ends with the bus");
}
