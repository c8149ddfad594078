//! `Subscriber::for_each`: the observed loop. That it gives what `next` gives, in any history, is in `prop_bus.rs`.
#![cfg(not(loom))]

#[path = "support/drive.rs"]
mod drive;

use std::future::Future;
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

/// A batch counts as the reports in it: 128 events are two batches of 64.
#[tokio::test(flavor = "current_thread")]
async fn a_drain_of_batches_gives_way_every_128_events() {
    let bus = Bus::new(256).expect("a capacity");
    let (mut by_loop, mut by_next) = (bus.observe("loop"), bus.observe("next"));
    for _ in 0..100 {
        bus.publish_batch((0..64).map(report).collect())
            .expect("subscribers");
    }
    drop(bus);
    let turns = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&turns);
    let other = tokio::spawn(async move {
        loop {
            counted.fetch_add(1, Relaxed);
            yield_now().await;
        }
    });
    by_loop.for_each(drop).await;
    let in_loop = turns.swap(0, Relaxed);
    while by_next.next().await.is_some() {}
    let in_next = turns.load(Relaxed);
    other.abort();
    assert!(in_loop >= 49, "{in_loop} turns in 6,400 events of the loop");
    assert!(in_next >= 49, "{in_next} turns in 6,400 events of next");
}

/// Giving way after the last event hides nothing from the host's gauges.
#[test]
fn a_run_of_exactly_128_is_on_the_meter_once_it_has_caught_up() {
    let metrics = Arc::new(BusMetrics::new());
    let bus = Bus::with_metrics(256, Arc::clone(&metrics)).expect("a capacity");
    let mut subscriber = bus.observe("exact");
    for i in 0..128 {
        bus.publish(version(i)).expect("a subscriber");
        assert!(matches!(now(subscriber.next()), Some(Some(Notice::Event(_)))));
    }
    assert_eq!(now(subscriber.next()), None);
    assert_eq!((metrics.received_total(), metrics.queue_depth()), (128, 0));
}

/// Counts how often a future woke itself.
#[derive(Default)]
struct SelfWakes(AtomicU64);

impl std::task::Wake for SelfWakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// Where nothing follows an event at once, a subscriber soon parks without looking around first.
#[test]
fn a_slow_stream_is_not_looked_for() {
    let bus = Bus::new(8).expect("a capacity");
    let mut subscriber = bus.observe("slow");
    let wakes = Arc::new(SelfWakes::default());
    let waker = std::task::Waker::from(Arc::clone(&wakes));
    let mut cx = std::task::Context::from_waker(&waker);
    let mut poll_until_parked = |subscriber: &mut ron_bus::Subscriber| {
        let mut next = std::pin::pin!(subscriber.next());
        loop {
            let before = wakes.0.load(Relaxed);
            match next.as_mut().poll(&mut cx) {
                std::task::Poll::Ready(notice) => return notice.is_some(),
                std::task::Poll::Pending if wakes.0.load(Relaxed) == before => return false,
                std::task::Poll::Pending => {}
            }
        }
    };
    for i in 0..640 {
        bus.publish(version(i)).expect("a subscriber");
        assert!(poll_until_parked(&mut subscriber), "event {i}");
        assert!(!poll_until_parked(&mut subscriber), "nothing more");
    }
    let looks = wakes.0.load(Relaxed);
    assert!(
        (48..1_000).contains(&looks),
        "{looks} looks for 640 events; 48 each would be 30,720"
    );
}

/// What a look finds pays for the next: a subscriber that always finds something at its first look never stops looking.
#[test]
fn looks_that_find_something_go_on() {
    let bus = Bus::new(8).expect("a capacity");
    let mut subscriber = bus.observe("paced");
    let wakes = Arc::new(SelfWakes::default());
    let waker = std::task::Waker::from(Arc::clone(&wakes));
    let mut cx = std::task::Context::from_waker(&waker);
    bus.publish(version(0)).expect("a subscriber");
    assert!(now(subscriber.next()).is_some());
    for i in 1..1_000 {
        let before = wakes.0.load(Relaxed);
        let mut next = std::pin::pin!(subscriber.next());
        assert!(next.as_mut().poll(&mut cx).is_pending());
        assert_eq!(
            wakes.0.load(Relaxed),
            before + 1,
            "event {i}: it looks again, and does not park"
        );
        bus.publish(version(i)).expect("a subscriber");
        assert!(next.as_mut().poll(&mut cx).is_ready());
    }
}

/// The depth of a subscriber that never catches up is on the gauge: every 32nd event, shared among the subscribers.
#[test]
fn depth_is_sampled_every_32_events_shared_among_the_subscribers() {
    for (subscribers, first_two) in [(1, [32, 64]), (4, [32, 160])] {
        let metrics = Arc::new(BusMetrics::new());
        let bus = Bus::with_metrics(1_024, Arc::clone(&metrics)).expect("a capacity");
        let mut all: Vec<_> = (0..subscribers).map(|_| bus.observe("busy")).collect();
        (0..1_000).for_each(|i| drop(bus.publish(version(i))));
        let mut sampled = Vec::new();
        let mut depth = metrics.queue_depth();
        for taken in 1..=200 {
            assert!(now(all[0].next()).is_some());
            if metrics.queue_depth() != depth {
                depth = metrics.queue_depth();
                assert_eq!(depth, 1_000 - taken);
                sampled.push(taken);
            }
        }
        assert_eq!(sampled[..2], first_two, "{subscribers} subscribers");
    }
}
