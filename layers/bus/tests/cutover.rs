//! Replacing a bus while events flow: no gap, no duplicate (source: RUNBOOK 6.3, INTEROP 5.5).
#![cfg(not(loom))]

#[path = "support/drive.rs"]
mod drive;

use std::{
    future::Future,
    pin::pin,
    sync::{
        atomic::{AtomicU64, Ordering::Relaxed},
        Arc,
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use ron_bus::{Bus, BusError, BusMetrics, BusSwitch, Event, Follower, Notice};
use tokio::{task::JoinSet, time::timeout};

use drive::{drain_follower, drain_follower_to_its_end, number, report, version, versions, Wakes};

const GUARD: Duration = Duration::from_secs(120);
const PUBLISHERS: u64 = 4;

fn bus(capacity: u32) -> Bus {
    Bus::new(capacity).expect("a capacity")
}

#[test]
fn the_old_bus_is_read_to_its_end_before_the_new_one() {
    let switch = BusSwitch::new(bus(8));
    let mut follower = switch.follow("f");
    (0..4).for_each(|i| drop(switch.publish(version(i))));
    switch.cutover(bus(64)).expect("nobody is behind");
    (4..20).for_each(|i| drop(switch.publish(version(i))));
    assert_eq!(
        versions(&drain_follower(&mut follower).0),
        (0..20).collect::<Vec<_>>()
    );
    assert_eq!(switch.bus().capacity(), 64);
}

#[test]
fn what_a_kept_clone_of_the_old_bus_sends_still_arrives_once() {
    let switch = BusSwitch::new(bus(8));
    let mut follower = switch.follow("f");
    let kept = switch.bus();
    switch.cutover(bus(8)).expect("nobody is behind");
    switch.publish(version(1)).expect("a follower");
    assert_eq!(versions(&drain_follower(&mut follower).0), [1]);
    kept.publish(version(2)).expect("the follower still listens");
    switch.publish(version(3)).expect("a follower");
    assert_eq!(versions(&drain_follower(&mut follower).0), [2, 3]);
    drop(kept);
    switch.cutover(bus(8)).expect("nobody is behind");
    switch.publish(version(4)).expect("a follower");
    assert_eq!(versions(&drain_follower(&mut follower).0), [4]);
}

#[test]
fn a_kept_clone_hides_no_later_cutover() {
    let switch = BusSwitch::new(bus(8));
    let mut follower = switch.follow("f");
    let kept = switch.bus();
    // More than a follower may be behind: those that ended do not count.
    for round in 0..9 {
        switch.cutover(bus(8)).expect("one former bus is open");
        switch.publish(version(2 * round)).expect("a follower");
        assert_eq!(versions(&drain_follower(&mut follower).0), [2 * round]);
        kept.publish(version(2 * round + 1))
            .expect("the follower still listens");
        assert_eq!(versions(&drain_follower(&mut follower).0), [2 * round + 1]);
    }
    // Several at once, then all of it.
    for v in 100..103 {
        switch.cutover(bus(8)).expect("three and the kept one");
        switch.publish(version(v)).expect("a follower");
    }
    kept.publish(version(99)).expect("the follower still listens");
    assert_eq!(
        versions(&drain_follower(&mut follower).0),
        [99, 100, 101, 102],
        "the oldest bus first"
    );
    drop(switch);
    kept.publish(version(103)).expect("the follower still listens");
    drop(kept);
    assert_eq!(versions(&drain_follower_to_its_end(&mut follower).0), [103]);
}

#[test]
fn clones_of_four_former_buses_hold_up_the_next_cutover_and_nothing_else() {
    let switch = BusSwitch::new(bus(8));
    let mut follower = switch.follow("f");
    let mut kept = Vec::new();
    for i in 0..4 {
        kept.push(switch.bus());
        switch.cutover(bus(8)).expect("fewer than four former buses");
        switch.publish(version(i)).expect("a follower");
        assert_eq!(versions(&drain_follower(&mut follower).0), [i]);
    }
    let refused = || switch.cutover(bus(8));
    assert_eq!(
        refused(),
        Err(BusError::Cutover("f is still 4 cutovers behind".into()))
    );
    for (i, kept) in (10..).zip(&kept) {
        kept.publish(version(i)).expect("the follower still listens");
    }
    switch.publish(version(20)).expect("a follower");
    assert_eq!(
        versions(&drain_follower(&mut follower).0),
        [10, 11, 12, 13, 20],
        "all of them are read"
    );
    kept.remove(2);
    assert!(refused().is_err(), "the follower has not seen that end");
    assert!(drain_follower(&mut follower).0.is_empty());
    assert_eq!(refused(), Ok(()));
    switch.publish(version(21)).expect("a follower");
    assert_eq!(versions(&drain_follower(&mut follower).0), [21]);
}

#[tokio::test]
async fn a_parked_follower_wakes_for_each_of_its_buses_and_for_cutovers() {
    let switch = BusSwitch::new(bus(8));
    let mut follower = switch.follow("f");
    let first = switch.bus();
    switch.cutover(bus(8)).expect("nobody is behind");
    let second = switch.bus();
    switch.cutover(bus(8)).expect("nobody is behind");
    for (v, from) in [
        (1, Some(&first)),
        (2, Some(&second)),
        (3, None),
        (4, Some(&first)),
    ] {
        let parked = tokio::spawn(async move { (follower.next().await, follower) });
        tokio::task::yield_now().await;
        match from {
            Some(kept) => kept.publish(version(v)).expect("the follower listens"),
            None => {
                switch.cutover(bus(8)).expect("two former buses");
                switch.publish(version(v)).expect("a follower")
            }
        };
        let (notice, back) = timeout(GUARD, parked).await.expect("it wakes").expect("no panic");
        assert_eq!(notice, Some(Notice::Event(version(v))));
        follower = back;
    }
}

/// Within a runtime, where tokio makes a future that never waits give way: outside, this test would hang, not fail.
#[tokio::test]
async fn a_follower_without_a_switch_parks_while_a_clone_lives() {
    let switch = BusSwitch::new(bus(8));
    let mut follower = switch.follow("f");
    let kept = switch.bus();
    switch.cutover(bus(8)).expect("nobody is behind");
    drop(switch);
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let mut cx = Context::from_waker(&waker);
    {
        let mut next = pin!(follower.next());
        assert!(next.as_mut().poll(&mut cx).is_pending());
        assert_eq!(wakes.count(), 0, "it waits");
        kept.publish(version(1)).expect("the follower still listens");
        assert_eq!(wakes.count(), 1);
        assert_eq!(
            next.as_mut().poll(&mut cx),
            Poll::Ready(Some(Notice::Event(version(1))))
        );
    }
    let mut next = pin!(follower.next());
    assert!(next.as_mut().poll(&mut cx).is_pending());
    drop(kept);
    assert_eq!(wakes.count(), 2);
    assert_eq!(next.as_mut().poll(&mut cx), Poll::Ready(None));
}

#[test]
fn a_bus_that_the_switch_has_had_does_not_come_back() {
    let first = bus(8);
    let switch = BusSwitch::new(first.clone());
    let mut follower = switch.follow("f");
    switch.publish(version(1)).expect("a follower");
    switch.cutover(bus(64)).expect("nobody is behind");
    switch.publish(version(2)).expect("a follower");
    for _ in 0..2 {
        assert_eq!(
            switch.cutover(first.clone()),
            Err(BusError::Cutover(
                "this switch has had the new bus before: make a new one".into()
            ))
        );
        assert_eq!(switch.bus().capacity(), 64);
    }
    assert_eq!(first.subscribers(), 1, "nobody subscribed to it again");
    switch.publish(version(3)).expect("a follower");
    drop(first);
    assert_eq!(versions(&drain_follower(&mut follower).0), [1, 2, 3]);
    switch
        .cutover(bus(8))
        .expect("another bus of the first one's capacity");
    switch.publish(version(4)).expect("a follower");
    assert_eq!(versions(&drain_follower(&mut follower).0), [4]);
}

#[tokio::test]
async fn a_parked_follower_wakes_for_the_new_bus_though_the_old_one_lives() {
    let switch = BusSwitch::new(bus(8));
    let (mut follower, kept) = (switch.follow("f"), switch.bus());
    let parked = tokio::spawn(async move { (follower.next().await, follower) });
    tokio::task::yield_now().await;
    switch.cutover(bus(8)).expect("nobody is behind");
    switch.publish(version(1)).expect("a follower");
    let (notice, mut follower) = timeout(GUARD, parked).await.expect("it wakes").expect("no panic");
    assert_eq!(notice, Some(Notice::Event(version(1))));
    let parked = tokio::spawn(async move { (follower.next().await, follower) });
    tokio::task::yield_now().await;
    kept.publish(version(2)).expect("a follower");
    let (notice, mut follower) = timeout(GUARD, parked).await.expect("it wakes").expect("no panic");
    assert_eq!(notice, Some(Notice::Event(version(2))));
    drop((switch, kept));
    assert_eq!(timeout(GUARD, follower.next()).await.expect("it ends"), None);
}

#[test]
fn a_follower_four_cutovers_behind_refuses_the_fifth_and_nothing_changes() {
    let switch = BusSwitch::new(bus(8));
    let mut follower = switch.follow("slow");
    for capacity in 2..6 {
        switch.publish(version(capacity)).expect("a follower");
        switch.cutover(bus(capacity as u32)).expect("within the limit");
    }
    assert_eq!(
        switch.cutover(bus(99)),
        Err(BusError::Cutover("slow is still 4 cutovers behind".into()))
    );
    assert_eq!(switch.bus().capacity(), 5);
    let current = switch.bus();
    assert_eq!(
        switch.cutover(current.clone()),
        Err(BusError::Cutover("the new bus is the current one".into()))
    );
    drop(current);
    assert_eq!(versions(&drain_follower(&mut follower).0), [2, 3, 4, 5]);
    switch.cutover(bus(99)).expect("it has caught up");
    drop(follower);
    (0..9).for_each(|_| {
        switch
            .cutover(bus(8))
            .expect("a follower that is gone holds nobody up")
    });
}

#[test]
fn a_lag_on_either_bus_is_exact_and_said() {
    let metrics = Arc::new(BusMetrics::new());
    let with = |capacity: u32| Bus::with_metrics(capacity, Arc::clone(&metrics)).expect("a capacity");
    let switch = BusSwitch::new(with(4));
    let mut follower = switch.follow("slow");
    (0..10).for_each(|i| drop(switch.publish(version(i))));
    switch.cutover(with(2)).expect("nobody is behind");
    (0..6).for_each(|i| drop(switch.publish_batch(vec![report(i), report(i)])));
    let (facts, slots) = drain_follower(&mut follower);
    assert_eq!((facts.len(), slots), (4 + 4, 6 + 4));
    assert_eq!(
        (metrics.received_total(), metrics.overflow_dropped_total()),
        (8, 6 + 8)
    );
}

#[test]
fn no_subscriber_is_lost_from_the_count() {
    let switch = BusSwitch::new(bus(8));
    let (_a, mut b) = (switch.follow("a"), switch.follow("b"));
    let new = bus(8);
    switch.cutover(new.clone()).expect("nobody is behind");
    assert_eq!(new.subscribers(), 2, "subscribed before publishers were swapped");
    assert!(drain_follower(&mut b).0.is_empty());
}

/// As a subscriber: a follower that never gave way would starve everybody else on the worker.
#[tokio::test(flavor = "current_thread")]
async fn a_draining_follower_gives_way_every_128_events() {
    let single = |switch: &BusSwitch, i| switch.publish(version(i));
    let batch = |switch: &BusSwitch, i| switch.publish_batch((0..64).map(|k| report(64 * i + k)).collect());
    for (slots, batches, turns) in [(1_000, false, 7..=8), (100, true, 49..=50)] {
        let switch = BusSwitch::new(bus(1_024));
        let mut follower = switch.follow("busy");
        for i in 0..slots {
            let answer = if batches {
                batch(&switch, i)
            } else {
                single(&switch, i)
            };
            assert_eq!(answer, Ok(1));
        }
        drop(switch);
        let counted = Arc::new(AtomicU64::new(0));
        let other = tokio::spawn({
            let counted = Arc::clone(&counted);
            async move {
                loop {
                    counted.fetch_add(1, Relaxed);
                    tokio::task::yield_now().await;
                }
            }
        });
        while follower.next().await.is_some() {}
        other.abort();
        let seen = counted.load(Relaxed);
        assert!(
            turns.contains(&seen),
            "{seen} turns in {slots} slots, {turns:?} are due"
        );
    }
}

/// Publishers number their events; the high bits name the publisher.
async fn publish_all(switch: BusSwitch, publisher: u64, events: u64, room: usize) {
    for i in 0..events {
        while switch.bus().queue_depth() >= room {
            tokio::task::yield_now().await;
        }
        let event = if i % 3 == 0 {
            report(publisher << 32 | i)
        } else {
            version(publisher << 32 | i)
        };
        let answer = if i % 3 == 0 {
            switch.publish_batch(vec![event])
        } else {
            switch.publish(event)
        };
        answer.expect("followers listen");
    }
}

/// Every publisher's numbers, each once and in order.
async fn follow_all(mut follower: Follower, events: u64) -> u64 {
    let mut next = [0; PUBLISHERS as usize];
    while let Some(notice) = follower.next().await {
        let Notice::Event(event) = notice else {
            panic!("a paced follower lagged: {notice:?}")
        };
        for fact in event.facts() {
            let (publisher, i) = (number(fact) >> 32, number(fact) & 0xffff_ffff);
            assert_eq!(
                i, next[publisher as usize],
                "publisher {publisher}: a gap or a duplicate"
            );
            next[publisher as usize] += 1;
        }
    }
    assert_eq!(next, [events; PUBLISHERS as usize]);
    next.iter().sum()
}

async fn reload_under_load(cutovers: u32, followers: usize) {
    let metrics = Arc::new(BusMetrics::new());
    let with = |capacity: u32| Bus::with_metrics(capacity, Arc::clone(&metrics)).expect("a capacity");
    let switch = BusSwitch::new(with(1_024));
    let events = u64::from(cutovers) * 40;
    let mut readers = JoinSet::new();
    for _ in 0..followers {
        readers.spawn(follow_all(switch.follow("fast"), events));
    }
    let mut publishers = JoinSet::new();
    for publisher in 0..PUBLISHERS {
        // Less than a ring for each of the publishers that may all have looked at once.
        publishers.spawn(publish_all(switch.clone(), publisher, events, 512));
    }
    let mut done = 0;
    while done < cutovers {
        match switch.cutover(with(if done % 2 == 0 { 2_048 } else { 1_024 })) {
            Ok(()) => done += 1,
            Err(BusError::Cutover(_)) => {}
            Err(error) => panic!("{error}"),
        }
        tokio::task::yield_now().await;
    }
    while let Some(publisher) = timeout(GUARD, publishers.join_next())
        .await
        .expect("publishers end")
    {
        publisher.expect("no panic");
    }
    drop(switch);
    let mut seen = 0;
    while let Some(reader) = timeout(GUARD, readers.join_next()).await.expect("followers end") {
        seen += reader.expect("no panic");
    }
    assert_eq!(seen, events * PUBLISHERS * followers as u64);
    assert_eq!(metrics.received_total(), seen);
    assert_eq!(metrics.overflow_dropped_total(), 0, "no drop from migration");
    assert_eq!(metrics.queue_depth(), 0, "depth is back at its baseline");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reload_migration() {
    reload_under_load(1_000, 3).await;
}

#[tokio::test(flavor = "current_thread")]
async fn reload_migration_on_one_thread() {
    reload_under_load(1_000, 3).await;
}

/// The documents' second name for it, with the host's announcement on the old bus.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bus_reload_migration() {
    let switch = BusSwitch::new(bus(256));
    let mut follower = switch.follow("host");
    switch
        .publish(Event::ConfigUpdated { version: 2 })
        .expect("a follower");
    let new = bus(1_024);
    switch.cutover(new).expect("nobody is behind");
    switch
        .publish(Event::Health {
            service: "gateway".into(),
            ok: true,
        })
        .expect("a follower");
    let first = follower.next().await;
    let second = follower.next().await;
    assert_eq!(first, Some(Notice::Event(version(2))));
    assert_eq!(
        second,
        Some(Notice::Event(Event::Health {
            service: "gateway".into(),
            ok: true
        }))
    );
}
