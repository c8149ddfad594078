//! The public surface on both runtimes (source: TESTS 1.2, IDB 4).
#![cfg(not(loom))]

#[path = "support/drive.rs"]
mod drive;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use ron_bus::{Bus, BusConfig, BusError, BusMetrics, Event, Notice};
use tokio::{
    sync::broadcast::error::{RecvError, TryRecvError},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use drive::{drain, now, version, versions};

const GUARD: Duration = Duration::from_secs(60);

/// 1,000 events through 256 slots: the publisher lets the subscribers drain, so nobody may lag.
async fn fan_out(subscribers: usize) {
    let bus = Bus::new(BusConfig::new(256)).expect("a capacity");
    let mut tasks = JoinSet::new();
    for _ in 0..subscribers {
        let mut rx = bus.subscribe();
        tasks.spawn(async move {
            let mut seen = Vec::new();
            loop {
                match rx.recv().await {
                    Ok(event) => seen.extend(versions(&[event])),
                    Err(RecvError::Lagged(n)) => panic!("lagged {n}"),
                    Err(RecvError::Closed) => return seen,
                }
            }
        });
    }
    for i in 0..1_000 {
        while bus.queue_depth() >= 200 {
            tokio::task::yield_now().await;
        }
        assert_eq!(bus.publish(version(i)), Ok(subscribers));
    }
    drop(bus);
    while let Some(seen) = timeout(GUARD, tasks.join_next())
        .await
        .expect("subscribers end with the bus")
    {
        assert_eq!(seen.expect("no panic"), (0..1_000).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fanout_happy_path_no_lag() {
    fan_out(2).await;
}

#[tokio::test(flavor = "current_thread")]
async fn fanout_happy_path_no_lag_on_one_thread() {
    fan_out(8).await;
}

#[test]
fn a_thousand_into_256_lags_by_exactly_744() {
    let bus = Bus::new(256).expect("a capacity");
    let (mut raw, mut observed) = (bus.subscribe(), bus.observe("slow"));
    for i in 0..1_000 {
        bus.publish(version(i)).expect("two receivers");
    }
    assert_eq!(raw.try_recv(), Err(TryRecvError::Lagged(744)));
    let rest: Vec<u64> = std::iter::from_fn(|| raw.try_recv().ok())
        .map(|event| drive::number(&event))
        .collect();
    assert_eq!(rest, (744..1_000).collect::<Vec<_>>());
    assert_eq!(now(observed.next()), Some(Some(Notice::Resync { lost: 744 })));
    assert_eq!(
        versions(&drain(&mut observed).0),
        (744..1_000).collect::<Vec<_>>()
    );
    assert_eq!((observed.received(), observed.dropped()), (256, 744));
}

async fn lag_under_publishers() {
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&warnings);
    let metrics = BusMetrics::new().with_warning(Arc::new(move |warning| {
        heard.lock().expect("no panic").push(warning.clone());
    }));
    let bus = Bus::with_metrics(16, Arc::new(metrics)).expect("a capacity");
    let (mut fast, mut slow) = (bus.observe("fast"), bus.observe("slow"));
    let publisher = bus.clone();
    let published = tokio::spawn(async move {
        for i in 0..10_000 {
            assert_eq!(
                publisher.publish(version(i)),
                Ok(2),
                "a stalled subscriber never stops a publisher"
            );
            if i % 8 == 0 {
                tokio::task::yield_now().await;
            }
        }
    });
    let fast = tokio::spawn(async move {
        while fast.next().await.is_some() {}
        (fast.received(), fast.dropped())
    });
    timeout(GUARD, published)
        .await
        .expect("publishers do not wait")
        .expect("no panic");
    let metrics = Arc::clone(bus.metrics());
    assert_eq!(slow.backlog(), 10_000, "lost slots included");
    assert_eq!(bus.queue_depth(), 16, "no more than the ring");
    assert_eq!(slow.next().await, Some(Notice::Resync { lost: 9_984 }));
    // The fast one may have lost some too, and be on its way through what was left.
    let depth = async {
        while metrics.queue_depth() != 16 {
            tokio::task::yield_now().await;
        }
    };
    timeout(GUARD, depth).await.expect("depth rises on a loss");
    drop(bus);
    while slow.next().await.is_some() {}
    assert_eq!((slow.received(), slow.dropped()), (16, 9_984));
    let (fast_received, fast_dropped) = fast.await.expect("no panic");
    assert_eq!(fast_received + fast_dropped, 10_000);
    assert_eq!(metrics.overflow_dropped_total(), 9_984 + fast_dropped);
    assert_eq!(
        metrics.received_total(),
        16 + fast_received,
        "an ended subscriber still counts"
    );
    assert_eq!(metrics.queue_depth(), 0, "depth returns to its baseline");
    let warnings = warnings.lock().expect("no panic");
    assert!(
        (1..=61).contains(&warnings.len()),
        "60 a minute: {}",
        warnings.len()
    );
    let spoken_and_held: u64 = warnings.iter().map(|warning| 1 + warning.held_back).sum();
    assert!(spoken_and_held <= metrics.lagged_total());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lagged_receiver_increments_metrics_and_stays_non_blocking() {
    lag_under_publishers().await;
}

#[tokio::test(flavor = "current_thread")]
async fn lagged_receiver_increments_metrics_on_one_thread() {
    lag_under_publishers().await;
}

#[test]
fn lagged_overflow_smoke() {
    let metrics = Arc::new(BusMetrics::new());
    let bus = Bus::with_metrics(8, Arc::clone(&metrics)).expect("a capacity");
    let mut slow = bus.observe("slow");
    for i in 0..200 {
        bus.publish(version(i)).expect("a subscriber");
    }
    let (facts, lost) = drain(&mut slow);
    assert_eq!(
        (facts.len(), lost, metrics.overflow_dropped_total()),
        (8, 192, 192)
    );
}

#[test]
fn warnings_are_spaced_and_the_held_back_ones_counted() {
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&warnings);
    let metrics = BusMetrics::new().with_warning(Arc::new(move |warning| {
        heard.lock().expect("no panic").push(warning.clone());
    }));
    let config = BusConfig::new(2).with_overflow_warn_rate_per_min(1);
    let bus = Bus::with_metrics(config, Arc::new(metrics)).expect("a capacity");
    let mut slow = bus.observe("slow");
    for _ in 0..10 {
        (0..5).for_each(|i| drop(bus.publish(version(i))));
        drain(&mut slow);
    }
    let warnings = warnings.lock().expect("no panic");
    assert_eq!(warnings.len(), 1, "one a minute");
    assert_eq!(
        (warnings[0].subscriber, warnings[0].lost, warnings[0].held_back),
        ("slow", 3, 0)
    );
    assert_eq!((warnings[0].depth, warnings[0].dropped_total), (2, 3));
    assert_eq!(bus.metrics().lagged_total(), 10);
}

#[tokio::test]
async fn every_variant_reaches_a_subscriber() {
    let bus = Bus::new(16).expect("a capacity");
    let (mut raw, mut observed) = (bus.subscribe(), bus.observe("all"));
    let events = [
        Event::Health {
            service: "overlay".into(),
            ok: true,
        },
        Event::ConfigUpdated { version: 2 },
        Event::ServiceCrashed {
            service: "overlay".into(),
            reason: "dispute".into(),
        },
        Event::Shutdown,
        Event::PolicyReloaded {
            policy: "auth".into(),
            revision: 3,
            ok: false,
        },
        Event::SchemaChanged {
            schema_id: "v1.a".into(),
            revision: 4,
        },
        Event::RolloutChanged {
            rollout: "default".into(),
            seq: 5,
            basis_points: 1_000,
        },
        Event::MirrorDegraded {
            reason: "queue_full".into(),
            dropped: 6,
        },
    ];
    let kinds: std::collections::HashSet<_> = events.iter().map(Event::kind).collect();
    assert_eq!(kinds.len(), events.len());
    for event in events {
        bus.publish(event.clone()).expect("two receivers");
        assert_eq!(raw.recv().await, Ok(event.clone()));
        assert_eq!(observed.next().await, Some(Notice::Event(event)));
    }
}

#[test]
fn an_event_is_there_before_publish_returns() {
    let bus = Bus::new(4).expect("a capacity");
    let mut rx = bus.subscribe();
    bus.publish(Event::Shutdown).expect("a receiver");
    assert_eq!(rx.try_recv(), Ok(Event::Shutdown));
}

#[test]
fn publishing_to_nobody_is_closed_and_counted_and_passes() {
    let bus = Bus::new(4).expect("a capacity");
    assert_eq!(bus.publish(Event::Shutdown), Err(BusError::Closed));
    assert_eq!(
        bus.publish_batch(vec![drive::report(1), drive::report(2)]),
        Err(BusError::Closed)
    );
    assert_eq!(bus.metrics().unheard_total(), 3);
    let mut late = bus.observe("late");
    assert_eq!(bus.publish(version(1)), Ok(1));
    assert_eq!(
        versions(&drain(&mut late).0),
        [1],
        "it saw nothing of what nobody heard"
    );
    assert_eq!(BusError::Closed.to_string(), "channel closed (no subscribers)");
}

#[test]
fn a_bus_needs_no_runtime() {
    let bus = Bus::new(4).expect("a capacity");
    let mut subscriber = bus.observe("plain thread");
    let publisher = std::thread::spawn(move || bus.publish(Event::Shutdown));
    assert_eq!(publisher.join().expect("no panic"), Ok(1));
    assert_eq!(drain(&mut subscriber).0, [Event::Shutdown]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bus_starts_no_task() {
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let bus = Bus::new(64).expect("a capacity");
    let switch = ron_bus::BusSwitch::new(bus.clone());
    let (subscriber, follower) = (bus.observe("a"), switch.follow("b"));
    switch.publish(Event::Shutdown).expect("two receivers");
    switch
        .cutover(Bus::new(8).expect("a capacity"))
        .expect("nobody is behind");
    assert_eq!(tasks(), before);
    drop((bus, switch, subscriber, follower));
    assert_eq!(tasks(), before);
}

#[tokio::test]
async fn subscribers_end_on_cancellation_and_with_the_bus() {
    let bus = Bus::new(8).expect("a capacity");
    let cancel = CancellationToken::new();
    let (mut cancelled, mut ended, token) = (bus.observe("a"), bus.observe("b"), cancel.clone());
    let cancelled = tokio::spawn(async move {
        tokio::select! {
            () = token.cancelled() => true,
            _ = cancelled.next() => false,
        }
    });
    let ended = tokio::spawn(async move {
        let first = ended.next().await;
        (first, ended.next().await)
    });
    tokio::task::yield_now().await;
    cancel.cancel();
    assert!(timeout(GUARD, cancelled)
        .await
        .expect("it ends")
        .expect("no panic"));
    bus.publish(Event::Shutdown).expect("a subscriber");
    drop(bus);
    let (first, second) = timeout(GUARD, ended).await.expect("it ends").expect("no panic");
    assert_eq!(
        (first, second),
        (Some(Notice::Event(Event::Shutdown)), None),
        "shutdown is not missed"
    );
}

#[tokio::test]
async fn a_dropped_next_loses_nothing() {
    let bus = Bus::new(512).expect("a capacity");
    let mut subscriber = bus.observe("select");
    let mut seen = Vec::new();
    for i in 0..500 {
        bus.publish(version(i)).expect("a subscriber");
        for turn in 0..3 {
            let ready = async {
                for _ in 0..turn {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                biased;
                () = ready => {}
                notice = subscriber.next() => if let Some(Notice::Event(event)) = notice { seen.push(event) },
            }
        }
    }
    seen.extend(drain(&mut subscriber).0);
    assert_eq!(versions(&seen), (0..500).collect::<Vec<_>>());
}

/// A drain that never gave way would starve everybody else on the worker.
#[tokio::test(flavor = "current_thread")]
async fn a_draining_subscriber_gives_way_every_128_events() {
    let bus = Bus::new(1_024).expect("a capacity");
    let mut subscriber = bus.observe("busy");
    (0..1_000).for_each(|i| drop(bus.publish(version(i))));
    let turns = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = Arc::clone(&turns);
    let other = tokio::spawn(async move {
        loop {
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    });
    for _ in 0..1_000 {
        assert!(matches!(subscriber.next().await, Some(Notice::Event(_))));
    }
    other.abort();
    assert!(
        turns.load(std::sync::atomic::Ordering::Relaxed) >= 7,
        "1,000 / 128 turns for the other task"
    );
}

/// What sharing does: every event reaches one of the sharers, so each misses some.
#[tokio::test]
async fn a_shared_receiver_splits_the_stream() {
    let bus = Bus::new(64).expect("a capacity");
    let shared = Arc::new(tokio::sync::Mutex::new(bus.subscribe()));
    (0..40).for_each(|i| drop(bus.publish(version(i))));
    drop(bus);
    let mut tasks = JoinSet::new();
    for _ in 0..2 {
        let shared = Arc::clone(&shared);
        tasks.spawn(async move {
            let mut seen = Vec::new();
            loop {
                let event = shared.lock().await.try_recv();
                match event {
                    Ok(event) => seen.push(drive::number(&event)),
                    Err(_) => return seen,
                }
                tokio::task::yield_now().await;
            }
        });
    }
    let parts: Vec<Vec<u64>> = tasks.join_all().await;
    let mut all = parts.concat();
    all.sort_unstable();
    assert_eq!(
        all,
        (0..40).collect::<Vec<_>>(),
        "each event went to exactly one of them"
    );
    assert!(
        parts.iter().all(|part| part.len() < 40),
        "so neither saw the whole stream"
    );
}

#[test]
fn labels_are_the_hosts_and_change_nothing() {
    let metrics = BusMetrics::new().with_amnesia(true);
    let bus = Bus::with_metrics(8, Arc::new(metrics)).expect("a capacity");
    assert_eq!(bus.metric_labels(), [("amnesia", "on".to_owned())]);
    let config = BusConfig::new(8).with_emit_amnesia_label(false);
    let bus = Bus::with_metrics(config, Arc::new(BusMetrics::new().with_amnesia(false))).expect("a capacity");
    assert_eq!(bus.metric_labels(), []);
    assert_eq!(
        Bus::new(8).expect("a capacity").metric_labels(),
        [],
        "the host said nothing"
    );
}

#[test]
fn the_golden_metrics_have_their_names() {
    assert_eq!(BusMetrics::OVERFLOW_DROPPED_TOTAL, "bus_overflow_dropped_total");
    assert_eq!(BusMetrics::QUEUE_DEPTH, "bus_queue_depth");
    assert_eq!(BusMetrics::SUBSCRIBERS_TOTAL, "bus_subscribers_total");
}

#[test]
fn one_metrics_handle_serves_two_buses() {
    let metrics = Arc::new(BusMetrics::new());
    let a = Bus::with_metrics(2, Arc::clone(&metrics)).expect("a capacity");
    let b = Bus::with_metrics(4, Arc::clone(&metrics)).expect("a capacity");
    let (mut on_a, mut on_b) = (a.observe("a"), b.observe("b"));
    (0..10).for_each(|i| drop((a.publish(version(i)), b.publish(version(i)))));
    drop((drain(&mut on_a), drain(&mut on_b)));
    assert_eq!(
        (metrics.received_total(), metrics.overflow_dropped_total()),
        (6, 14)
    );
}
