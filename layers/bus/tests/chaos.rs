//! Churn, flapping, reload under load, amnesia: short always, long with `RON_BUS_LONG=1` (source: RUNBOOK 9).
//! Trends and exact accounts, no clocks in assertions.
#![cfg(not(loom))]

#[path = "support/drive.rs"]
mod drive;

use std::{sync::Arc, time::Duration};

use ron_bus::{Bus, BusConfig, BusMetrics, BusSwitch, Notice};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use drive::{drain, number, report, scale, version};

const GUARD: Duration = Duration::from_secs(600);

/// A small generator, so that a failure repeats: the seed is in the test.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// Half of the subscribers are slow, two never read until the end: publishers finish, every loss is counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_lag_churn() {
    let events = scale(100_000, 10_000_000);
    let metrics = Arc::new(BusMetrics::new());
    let bus = Bus::with_metrics(64, Arc::clone(&metrics)).expect("a capacity");
    let mut stalled: Vec<_> = (0..2).map(|_| bus.observe("stalled")).collect();
    let mut readers = JoinSet::new();
    for seed in 1..=6u64 {
        let (mut subscriber, mut dice) = (bus.observe("churn"), Dice(seed));
        readers.spawn(async move {
            while subscriber.next().await.is_some() {
                if seed % 2 == 0 && dice.roll(50) == 0 {
                    for _ in 0..dice.roll(200) {
                        tokio::task::yield_now().await;
                    }
                }
            }
            (subscriber.received(), subscriber.dropped())
        });
    }
    let publisher = bus.clone();
    let published = tokio::spawn(async move {
        let (mut sent, mut dice) = (0, Dice(99));
        let mut losses = Vec::new();
        while sent < events {
            let len = if dice.roll(4) == 0 { 1 + dice.roll(64) } else { 1 };
            let answer = match len {
                1 => publisher.publish(version(sent)),
                _ => publisher.publish_batch((0..len).map(|i| report(sent + i)).collect()),
            };
            assert_eq!(answer, Ok(8));
            sent += len;
            if dice.roll(100) == 0 {
                losses.push(publisher.metrics().overflow_dropped_total());
                tokio::task::yield_now().await;
            }
        }
        (sent, losses)
    });
    let (sent, losses) = timeout(GUARD, published)
        .await
        .expect("publishers never wait")
        .expect("no panic");
    assert!(
        losses.windows(2).all(|pair| pair[0] <= pair[1]),
        "the counter never falls"
    );
    drop(bus);
    let (mut received, mut dropped) = (0, 0);
    while let Some(reader) = timeout(GUARD, readers.join_next()).await.expect("readers end") {
        let (one_received, one_dropped) = reader.expect("no panic");
        assert_eq!(
            one_received + one_dropped,
            sent,
            "received + lost = sent, for each"
        );
        received += one_received;
        dropped += one_dropped;
    }
    for subscriber in &mut stalled {
        drain(subscriber);
        assert_eq!(subscriber.received() + subscriber.dropped(), sent);
        assert!(subscriber.dropped() > 0);
        received += subscriber.received();
        dropped += subscriber.dropped();
    }
    assert_eq!(
        (metrics.received_total(), metrics.overflow_dropped_total()),
        (received, dropped)
    );
}

/// Join and leave, as often as 100 Hz for a minute; the long form keeps the pace as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_flapping() {
    let paced = scale(0, 1) == 1;
    let metrics = Arc::new(BusMetrics::new());
    let bus = Bus::with_metrics(256, Arc::clone(&metrics)).expect("a capacity");
    let mut steady = bus.observe("steady");
    let steady = tokio::spawn(async move {
        while steady.next().await.is_some() {}
        (steady.received(), steady.dropped())
    });
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    let mut sent = 0;
    for join in 0..6_000 {
        if paced {
            tick.tick().await;
        }
        let mut flapping = bus.observe("flapping");
        for _ in 0..8 {
            bus.publish(version(sent)).expect("subscribers");
            sent += 1;
        }
        assert!(matches!(flapping.next().await, Some(Notice::Event(_))));
        if join % 2 == 0 {
            let leaving = tokio::spawn(async move { while flapping.next().await.is_some() {} });
            leaving.abort();
            drop(leaving.await);
        }
        if join % 16 == 0 {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(bus.subscribers(), 1, "nobody is left behind");
    let no_more_tasks = async {
        // A task is counted for a moment after its handle has answered.
        while tokio::runtime::Handle::current().metrics().num_alive_tasks() > tasks {
            tokio::task::yield_now().await;
        }
    };
    timeout(GUARD, no_more_tasks)
        .await
        .expect("no task is left behind");
    drop(bus);
    let (received, dropped) = timeout(GUARD, steady).await.expect("it ends").expect("no panic");
    assert_eq!(received + dropped, sent);
    assert_eq!(metrics.queue_depth(), 0, "depth is back at its baseline");
}

/// Several publishers, a cutover every few events, a follower that checks every number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_reload() {
    let switch = BusSwitch::new(Bus::new(512).expect("a capacity"));
    let mut follower = switch.follow("fast");
    let events = scale(50_000, 5_000_000);
    let reader = tokio::spawn(async move {
        let mut next = 0;
        while let Some(notice) = follower.next().await {
            let Notice::Event(event) = notice else {
                panic!("a paced follower lagged: {notice:?}")
            };
            assert_eq!(number(&event), next, "no gap, no duplicate");
            next += 1;
        }
        next
    });
    let mut dice = Dice(7);
    for i in 0..events {
        while switch.bus().queue_depth() >= 200 {
            tokio::task::yield_now().await;
        }
        switch.publish(version(i)).expect("a follower");
        if dice.roll(50) == 0 {
            let capacity = 256 + dice.roll(1_024) as u32;
            let _ = switch.cutover(Bus::new(capacity).expect("a capacity")); // Refused while it is behind.
        }
    }
    drop(switch);
    assert_eq!(
        timeout(GUARD, reader).await.expect("it ends").expect("no panic"),
        events
    );
}

/// The same over a real socket: what an outside reader gets has no gap though the bus is replaced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_e2e_reload() {
    let events = scale(20_000, 2_000_000);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let metrics = Arc::new(BusMetrics::new());
    let with = |capacity: u32| Bus::with_metrics(capacity, Arc::clone(&metrics)).expect("a capacity");
    let switch = BusSwitch::new(with(256));
    let mut follower = switch.follow("export");
    let host = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.expect("a reader");
        while let Some(notice) = follower.next().await {
            let Notice::Event(event) = notice else {
                panic!("the export lagged: {notice:?}")
            };
            let line = format!(
                "{{\"event\":\"{}\",\"version\":{}}}\n",
                event.kind(),
                number(&event)
            );
            socket.write_all(line.as_bytes()).await.expect("the reader lives");
        }
    });
    let reader = tokio::spawn(async move {
        let mut lines = BufReader::new(TcpStream::connect(address).await.expect("the host")).lines();
        let mut next = 0;
        while let Some(line) = lines.next_line().await.expect("whole lines") {
            assert_eq!(
                line,
                format!("{{\"event\":\"config_updated\",\"version\":{next}}}")
            );
            next += 1;
        }
        next
    });
    for i in 0..events {
        while switch.bus().queue_depth() >= 100 {
            tokio::task::yield_now().await;
        }
        switch.publish(version(i)).expect("the export");
        if i % 500 == 499 {
            let _ = switch.cutover(with(if i % 1_000 == 499 { 512 } else { 256 }));
        }
    }
    drop(switch);
    timeout(GUARD, host)
        .await
        .expect("the export ends")
        .expect("no panic");
    assert_eq!(
        timeout(GUARD, reader)
            .await
            .expect("the reader ends")
            .expect("no panic"),
        events
    );
    assert_eq!((metrics.overflow_dropped_total(), metrics.queue_depth()), (0, 0));
}

/// One schedule played with `amnesia` on, off and unknown: the same answers, only the label differs.
#[test]
fn chaos_amnesia_profile() {
    let play = |amnesia: Option<bool>, emit: bool| {
        let metrics = BusMetrics::new();
        let metrics = Arc::new(match amnesia {
            Some(on) => metrics.with_amnesia(on),
            None => metrics,
        });
        let config = BusConfig::new(32).with_emit_amnesia_label(emit);
        let bus = Bus::with_metrics(config, Arc::clone(&metrics)).expect("a capacity");
        let (mut subscriber, mut dice, mut story) = (bus.observe("amnesia"), Dice(5), Vec::new());
        for i in 0..scale(20_000, 2_000_000) {
            bus.publish(version(i)).expect("a subscriber");
            if dice.roll(20) == 0 {
                let (facts, lost) = drain(&mut subscriber);
                story.push((facts.len(), facts.first().map(number), lost));
            }
        }
        drain(&mut subscriber);
        (
            story,
            metrics.received_total(),
            metrics.overflow_dropped_total(),
            bus.metric_labels(),
        )
    };
    let (on, off, unsaid) = (
        play(Some(true), true),
        play(Some(false), true),
        play(Some(true), false),
    );
    assert_eq!((&on.0, on.1, on.2), (&off.0, off.1, off.2));
    assert_eq!((&on.0, on.1, on.2), (&unsaid.0, unsaid.1, unsaid.2));
    let labels = (on.3, off.3, unsaid.3);
    let label = |value: &str| vec![("amnesia", value.to_owned())];
    assert_eq!(labels, (label("on"), label("off"), vec![]));
}

/// A subscriber dies in the middle and comes back: the others and the publisher notice nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_kill_and_restart_a_subscriber() {
    let bus = Bus::new(1_024).expect("a capacity");
    let mut steady = bus.observe("steady");
    let steady = tokio::spawn(async move {
        let mut next = 0;
        while let Some(notice) = steady.next().await {
            assert_eq!(notice, Notice::Event(version(next)));
            next += 1;
        }
        next
    });
    let events = scale(50_000, 5_000_000);
    let mut victim: Option<tokio::task::JoinHandle<()>> = None;
    for i in 0..events {
        while bus.queue_depth() >= 800 {
            tokio::task::yield_now().await;
        }
        bus.publish(version(i)).expect("the steady one");
        if i % 1_000 == 0 {
            if let Some(victim) = victim.take() {
                victim.abort();
                assert!(victim.await.is_err_and(|error| error.is_cancelled()));
            }
            let mut subscriber = bus.observe("victim");
            victim = Some(tokio::spawn(
                async move { while subscriber.next().await.is_some() {} },
            ));
        }
    }
    drop(bus);
    assert_eq!(
        timeout(GUARD, steady).await.expect("it ends").expect("no panic"),
        events
    );
}
