//! Every interleaving of our own locks, atomics and the cutover, with the real types:
//! `RUSTFLAGS="--cfg loom" cargo test -p ron-bus --release --test loom_model`.
//!
//! tokio's channel is not instrumented (loom-tested upstream): in a model each of its operations is one step, and another
//! thread may go first before each (`sync::step`).
#![cfg(loom)]

#[path = "support/drive.rs"]
mod drive;

use std::sync::Arc;

use loom::thread;
use ron_bus::{Bus, BusMetrics, BusSwitch, Event, Notice};

use drive::{drain, drain_follower, drain_follower_to_its_end, number, report, version, versions};

fn model(run: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(5);
    model.check(run);
}

fn bus(capacity: u32) -> Bus {
    Bus::new(capacity).expect("a capacity")
}

#[test]
fn cutover_protocol_eventual_quiescence_and_no_loss_for_fast_sub() {
    model(|| {
        let switch = BusSwitch::new(bus(4));
        let mut follower = switch.follow("fast");
        let publisher = switch.clone();
        let published = thread::spawn(move || {
            for i in 0..2 {
                publisher.publish(version(i)).expect("a follower, always");
            }
        });
        let swapper = switch.clone();
        let swapped = thread::spawn(move || swapper.cutover(bus(2)).expect("nobody is behind"));
        let mut seen: Vec<u64> = drain_follower(&mut follower).0.iter().map(number).collect();
        published.join().unwrap();
        swapped.join().unwrap();
        drop(switch);
        let (rest, lost) = drain_follower_to_its_end(&mut follower);
        seen.extend(rest.iter().map(number));
        assert_eq!((seen, lost), (vec![0, 1], 0), "each once, in order");
    });
}

#[test]
fn two_cutovers_and_a_publisher_lose_nothing() {
    model(|| {
        let switch = BusSwitch::new(bus(2));
        let mut follower = switch.follow("fast");
        let publisher = switch.clone();
        let published = thread::spawn(move || {
            publisher.publish_batch(vec![report(0)]).expect("a follower");
            publisher.publish(version(1)).expect("a follower");
        });
        for _ in 0..2 {
            switch.cutover(bus(2)).expect("nobody is four behind");
        }
        published.join().unwrap();
        let (facts, lost) = drain_follower(&mut follower);
        let facts: Vec<u64> = facts.iter().map(number).collect();
        assert_eq!((facts, lost), (vec![0, 1], 0));
    });
}

#[test]
fn a_kept_clone_hides_no_cutover() {
    model(|| {
        let switch = BusSwitch::new(bus(4));
        let mut follower = switch.follow("fast");
        let kept = switch.bus();
        let swapper = switch.clone();
        let swapped = thread::spawn(move || {
            for i in 0..2 {
                swapper.cutover(bus(2)).expect("nobody is four behind");
                swapper.publish(version(i)).expect("a follower, always");
            }
            drop(kept);
        });
        let mut seen = drain_follower(&mut follower).0;
        swapped.join().unwrap();
        seen.extend(drain_follower(&mut follower).0);
        assert_eq!(
            versions(&seen),
            [0, 1],
            "each once, in order, while its switch lives"
        );
    });
}

#[test]
fn what_a_dropped_subscriber_lost_is_counted_though_a_batch_comes() {
    model(|| {
        let metrics = Arc::new(BusMetrics::new());
        let bus = Bus::with_metrics(2, Arc::clone(&metrics)).expect("a capacity");
        let mut leaving = bus.observe("leaving");
        for i in 0..3 {
            bus.publish_batch(vec![report(i), report(i), report(i)])
                .expect("a subscriber");
        }
        let lost = drive::now(leaving.next());
        assert_eq!(lost, Some(Some(Notice::Resync { lost: 1 })));
        let publisher = thread::spawn(move || {
            drop(bus.publish(version(3)));
        });
        drop(leaving);
        publisher.join().unwrap();
        let dropped = metrics.overflow_dropped_total();
        assert!(dropped == 3 || dropped == 6, "{dropped}: whole batches");
    });
}

#[test]
fn a_follower_that_joins_during_a_cutover_sees_a_suffix() {
    model(|| {
        let switch = BusSwitch::new(bus(4));
        let swapper = switch.clone();
        let swapped = thread::spawn(move || {
            swapper.cutover(bus(4)).expect("nobody is behind");
            drop(swapper.publish(version(0)));
        });
        let mut follower = switch.follow("late");
        swapped.join().unwrap();
        switch.publish(version(1)).expect("a follower");
        let seen: Vec<u64> = drain_follower(&mut follower).0.iter().map(number).collect();
        assert!(seen == [0, 1] || seen == [1], "{seen:?}");
    });
}

#[test]
fn two_publishers_two_subscribers_capacity_two() {
    model(|| {
        let metrics = Arc::new(BusMetrics::new());
        let bus = Bus::with_metrics(2, Arc::clone(&metrics)).expect("a capacity");
        let (mut a, mut b) = (bus.observe("a"), bus.observe("b"));
        let other = bus.clone();
        let published = thread::spawn(move || {
            other
                .publish_batch(vec![report(0), report(1)])
                .expect("two subscribers");
            other.publish(version(2)).expect("two subscribers");
        });
        let reading = thread::spawn(move || {
            drain(&mut b);
            b
        });
        bus.publish_batch(vec![report(3), report(4), report(5)])
            .expect("two subscribers");
        bus.publish(Event::Shutdown).expect("two subscribers");
        published.join().unwrap();
        let mut b = reading.join().unwrap();
        drop(bus);
        for subscriber in [&mut a, &mut b] {
            drain(subscriber);
            assert_eq!(
                subscriber.received() + subscriber.dropped(),
                7,
                "received + lost = sent"
            );
        }
        assert!(
            a.dropped() >= 2,
            "four slots into two: the one that did not read lagged"
        );
        assert_eq!(metrics.received_total(), a.received() + b.received());
        assert_eq!(metrics.overflow_dropped_total(), a.dropped() + b.dropped());
    });
}

#[test]
fn a_batch_that_comes_while_a_loss_is_settled_is_counted_once() {
    model(|| {
        let bus = bus(2);
        let mut subscriber = bus.observe("s");
        for i in 0..3 {
            bus.publish(version(i)).expect("a subscriber");
        }
        let publisher = thread::spawn(move || {
            bus.publish_batch(vec![report(3), report(4), report(5)])
                .expect("a subscriber");
        });
        drain(&mut subscriber);
        publisher.join().unwrap();
        drain(&mut subscriber);
        assert_eq!(
            subscriber.received() + subscriber.dropped(),
            6,
            "received + lost = sent"
        );
    });
}

#[test]
fn who_joins_during_a_batch_answers_for_it_whole_or_not_at_all() {
    model(|| {
        let bus = bus(2);
        let _always = bus.subscribe();
        let other = bus.clone();
        let publisher = thread::spawn(move || {
            other
                .publish_batch(vec![report(0), report(1), report(2)])
                .expect("a receiver");
        });
        let mut joining = bus.observe("joining");
        publisher.join().unwrap();
        let before = joining.backlog() as u64;
        assert!(before <= 1);
        for i in 3..6 {
            bus.publish(version(i)).expect("two receivers");
        }
        drain(&mut joining);
        assert_eq!(
            joining.received() + joining.dropped(),
            3 * before + 3,
            "received + lost = what was sent since it joined"
        );
    });
}

#[test]
fn batches_are_numbered_in_the_order_of_the_channel() {
    model(|| {
        let bus = bus(4);
        let mut rx = bus.subscribe();
        let other = bus.clone();
        let theirs = thread::spawn(move || other.publish_batch(vec![report(0); 3]).map(drop));
        bus.publish_batch(vec![report(0); 2]).expect("a receiver");
        theirs.join().unwrap().expect("a receiver");
        let (mut index, mut seq) = (0, 0);
        while let Ok(Event::Batch {
            batch_index,
            first_seq,
            len,
            ..
        }) = rx.try_recv()
        {
            assert_eq!((batch_index, first_seq), (index, seq));
            index += 1;
            seq += u64::from(len);
        }
        assert_eq!((index, seq), (2, 5));
    });
}

#[test]
fn shutdown_before_the_end_is_never_missed() {
    model(|| {
        let bus = bus(2);
        let mut subscriber = bus.observe("s");
        let stopping = thread::spawn(move || {
            bus.publish_batch(vec![report(0)]).expect("a subscriber");
            bus.publish(Event::Shutdown).expect("a subscriber");
        });
        let mut seen = drain(&mut subscriber).0;
        stopping.join().unwrap();
        seen.extend(drain(&mut subscriber).0);
        assert_eq!(seen.last(), Some(&Event::Shutdown));
    });
}

#[test]
fn a_scrape_never_sees_the_received_total_fall() {
    model(|| {
        let metrics = Arc::new(BusMetrics::new());
        let bus = Bus::with_metrics(4, Arc::clone(&metrics)).expect("a capacity");
        let mut subscriber = bus.observe("ending");
        bus.publish(version(1)).expect("a subscriber");
        let ending = thread::spawn(move || {
            drain(&mut subscriber);
            drop(subscriber);
        });
        let (first, second) = (metrics.received_total(), metrics.received_total());
        assert!(first <= second);
        ending.join().unwrap();
        assert_eq!(metrics.received_total(), 1);
    });
}
