//! Batches: what travels in them, and that a loss is exact in events.
#![cfg(not(loom))]

#[path = "support/drive.rs"]
mod drive;

use std::{
    future::Future,
    pin::pin,
    sync::{mpsc, Arc, Mutex},
    task::{Context, Wake, Waker},
    thread,
    time::Duration,
};

use ron_bus::{Bus, BusError, BusMetrics, Event, Notice, Subscriber};
use tokio::sync::broadcast::error::TryRecvError;

use drive::{drain, now, report, version, versions};

fn reports(first: u64, len: u64) -> Vec<Event> {
    (first..first + len).map(report).collect()
}

fn refused(answer: Result<usize, BusError>) -> String {
    match answer {
        Err(BusError::Batch(reason)) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_batch_is_numbered_by_batch_and_by_report() {
    let bus = Bus::new(8).expect("a capacity");
    let mut rx = bus.subscribe();
    bus.publish_batch(reports(0, 3)).expect("a receiver");
    bus.publish(version(7)).expect("a receiver");
    bus.publish_batch(reports(3, 64)).expect("a receiver");
    for expected in [Some((0, 0, 3)), None, Some((1, 3, 64))] {
        let event = rx.try_recv().expect("three slots");
        match (&event, expected) {
            (
                Event::Batch {
                    batch_index,
                    first_seq,
                    len,
                    reports,
                    ..
                },
                Some(numbers),
            ) => {
                assert_eq!((*batch_index, *first_seq, *len), numbers);
                assert_eq!(
                    versions(reports),
                    (numbers.1..numbers.1 + reports.len() as u64).collect::<Vec<_>>()
                );
            }
            (event, expected) => assert_eq!((event.facts(), expected), (&[version(7)][..], None)),
        }
    }
}

#[test]
fn only_reports_travel_in_batches_and_batches_never_nest() {
    let bus = Bus::new(8).expect("a capacity");
    let mut rx = bus.subscribe();
    for event in [
        Event::Health {
            service: "a".into(),
            ok: true,
        },
        version(1),
        Event::ServiceCrashed {
            service: "a".into(),
            reason: "b".into(),
        },
        Event::Shutdown,
    ] {
        let reason = refused(bus.publish_batch(vec![report(1), event.clone()]));
        assert_eq!(
            reason,
            format!("{} is not a report: publish it alone", event.kind())
        );
    }
    bus.publish_batch(reports(0, 1)).expect("a receiver");
    let batch = rx.try_recv().expect("one slot");
    assert_eq!(
        refused(bus.publish_batch(vec![batch])),
        "batch is not a report: publish it alone"
    );
    assert_eq!(
        rx.try_recv(),
        Err(TryRecvError::Empty),
        "nothing refused was sent"
    );
}

#[test]
fn a_batch_is_bounded_in_events_and_in_bytes() {
    let bus = Bus::new(8).expect("a capacity");
    let _rx = bus.subscribe();
    assert_eq!(
        refused(bus.publish_batch(Vec::new())),
        "0 events, allowed are 1 to 64"
    );
    assert_eq!(
        refused(bus.publish_batch(reports(0, 65))),
        "65 events, allowed are 1 to 64"
    );
    let wide = |bytes| {
        vec![Event::MirrorDegraded {
            reason: "x".repeat(bytes),
            dropped: 0,
        }]
    };
    assert_eq!(
        refused(bus.publish_batch(wide(64 * 1024))),
        "65584 bytes, allowed are 65536"
    );
    assert_eq!(bus.publish_batch(wide(64 * 1024 - 48)), Ok(1));
}

#[test]
fn a_raw_receiver_counts_slots_and_a_subscriber_events() {
    let metrics = Arc::new(BusMetrics::new());
    let bus = Bus::with_metrics(4, Arc::clone(&metrics)).expect("a capacity");
    let (mut raw, mut observed) = (bus.subscribe(), bus.observe("slow"));
    for i in 0..10 {
        bus.publish_batch(reports(i * 8, 8)).expect("two receivers");
    }
    assert_eq!(raw.try_recv(), Err(TryRecvError::Lagged(6)));
    assert_eq!(now(observed.next()), Some(Some(Notice::Resync { lost: 6 })));
    assert_eq!(metrics.overflow_dropped_total(), 6, "at once: one for each slot");
    assert!(matches!(now(observed.next()), Some(Some(Notice::Event(_)))));
    assert_eq!(metrics.overflow_dropped_total(), 48, "with the next batch: exact");
    drain(&mut observed);
    assert_eq!((observed.received(), observed.dropped()), (32, 48));
}

#[test]
fn a_loss_is_exact_once_caught_up_though_no_batch_follows() {
    let bus = Bus::new(2).expect("a capacity");
    let mut slow = bus.observe("slow");
    bus.publish_batch(reports(0, 40)).expect("a subscriber");
    (0..3).for_each(|i| drop(bus.publish(version(i))));
    assert_eq!(drain(&mut slow).1, 2, "slots");
    assert_eq!((slow.received(), slow.dropped()), (2, 41), "events");
}

#[test]
fn a_loss_is_exact_at_the_end_of_the_bus() {
    let bus = Bus::new(2).expect("a capacity");
    let mut slow = bus.observe("slow");
    bus.publish_batch(reports(0, 64)).expect("a subscriber");
    (0..2).for_each(|i| drop(bus.publish(version(i))));
    drop(bus);
    while let Some(Some(_)) = now(slow.next()) {}
    assert_eq!((slow.received(), slow.dropped()), (2, 64));
}

#[test]
fn who_subscribes_later_owes_nothing_for_earlier_batches() {
    let bus = Bus::new(2).expect("a capacity");
    let _early = bus.subscribe();
    bus.publish_batch(reports(0, 50)).expect("a receiver");
    let mut late = bus.observe("late");
    (0..4).for_each(|i| drop(bus.publish_batch(reports(50 + i, 1))));
    drain(&mut late);
    assert_eq!((late.received(), late.dropped()), (2, 2));
}

#[test]
fn another_bus_s_batch_is_renumbered_by_publish_and_taken_as_it_is_from_a_raw_sender() {
    let (a, b) = (Bus::new(2).expect("a capacity"), Bus::new(2).expect("a capacity"));
    let mut from_a = a.subscribe();
    (0..9).for_each(|i| drop(a.publish_batch(reports(i * 5, 5))));
    assert_eq!(from_a.try_recv(), Err(TryRecvError::Lagged(7)));
    let foreign = from_a.try_recv().expect("a slot");
    assert!(matches!(foreign, Event::Batch { batch_index: 7, .. }));
    let (mut raw, mut observed) = (b.subscribe(), b.observe("b"));
    b.sender().send(foreign.clone()).expect("two receivers");
    b.publish(foreign.clone()).expect("two receivers");
    assert_eq!(raw.try_recv(), Ok(foreign));
    assert!(matches!(
        raw.try_recv(),
        Ok(Event::Batch {
            batch_index: 0,
            first_seq: 0,
            len: 5,
            ..
        })
    ));
    assert_eq!(drain(&mut observed).0.len(), 10);
    assert_eq!(
        (observed.received(), observed.dropped()),
        (10, 0),
        "foreign numbers lose nothing"
    );
}

#[test]
fn numbers_that_a_receiver_changed_count_for_nothing() {
    let metrics = Arc::new(BusMetrics::new());
    let bus = Bus::with_metrics(8, Arc::clone(&metrics)).expect("a capacity");
    let (mut subscriber, mut raw) = (bus.observe("books"), bus.subscribe());
    bus.publish_batch(reports(0, 4)).expect("receivers");
    let mut forged = raw.try_recv().expect("the batch");
    if let Event::Batch {
        batch_index,
        first_seq,
        len,
        ..
    } = &mut forged
    {
        (*batch_index, *first_seq, *len) = (10, 1_000_000, u32::MAX);
    }
    bus.sender().send(forged).expect("receivers");
    bus.publish_batch(reports(4, 4)).expect("receivers");
    let (facts, lost) = drain(&mut subscriber);
    assert_eq!(
        (facts.len(), lost),
        (12, 0),
        "the copy is received, and nothing else is"
    );
    assert_eq!((subscriber.received(), subscriber.dropped()), (12, 0));
    assert_eq!(metrics.overflow_dropped_total(), 0);
}

#[test]
fn reports_are_shared_not_copied() {
    let bus = Bus::new(4).expect("a capacity");
    let (mut a, mut b) = (bus.subscribe(), bus.subscribe());
    bus.publish_batch(reports(0, 8)).expect("two receivers");
    let (a, b) = (a.try_recv().expect("a slot"), b.try_recv().expect("a slot"));
    assert_eq!(a, b);
    assert!(std::ptr::eq(a.facts(), b.facts()));
}

/// Numbers rise in the channel's order though many publish at once.
#[test]
fn concurrent_batches_are_numbered_in_the_order_they_arrive() {
    let bus = Bus::new(1 << 14).expect("a capacity");
    let mut rx = bus.subscribe();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..1_000).for_each(|i| drop(bus.publish_batch(reports(i, 1 + i % 64)))));
        }
    });
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
    assert_eq!(index, 4_000);
}

#[test]
fn what_a_dropped_subscriber_lost_is_counted_in_events() {
    let cases: [(&[u64], u64); 4] = [
        (&[8, 8, 8, 8, 8], 24),
        (&[8, 8, 8, 1, 1], 24),
        (&[8, 1, 8, 1, 8], 17),
        (&[8, 8, 8, 1, 8], 24),
    ];
    for (slots, lost) in cases {
        let metrics = Arc::new(BusMetrics::new());
        let bus = Bus::with_metrics(2, Arc::clone(&metrics)).unwrap();
        let mut subscriber = bus.observe("leaving");
        for (i, len) in (0..).zip(slots) {
            match len {
                1 => bus.publish(version(i)).unwrap(),
                len => bus.publish_batch((0..*len).map(report).collect()).unwrap(),
            };
        }
        assert_eq!(now(subscriber.next()), Some(Some(Notice::Resync { lost: 3 })));
        assert_eq!(metrics.overflow_dropped_total(), 3, "slots, so far");
        drop(subscriber);
        assert_eq!(metrics.overflow_dropped_total(), lost, "{slots:?}");
        assert_eq!((metrics.received_total(), bus.subscribers()), (0, 0));
    }
}

#[test]
fn what_is_overwritten_between_a_loss_and_the_drop_is_lost_too() {
    let metrics = Arc::new(BusMetrics::new());
    let bus = Bus::with_metrics(2, Arc::clone(&metrics)).unwrap();
    let mut subscriber = bus.observe("leaving");
    (0..5).for_each(|_| drop(bus.publish_batch(vec![report(0); 8])));
    assert_eq!(now(subscriber.next()), Some(Some(Notice::Resync { lost: 3 })));
    (0..3).for_each(|_| drop(bus.publish_batch(vec![report(0); 4])));
    bus.publish(version(0)).unwrap();
    bus.publish(version(1)).unwrap();
    drop(subscriber);
    assert_eq!(metrics.overflow_dropped_total(), 5 * 8 + 3 * 4);
}

/// An executor may let go of a task where it is woken: under the lock that the publisher of a batch holds.
#[test]
fn a_waker_of_a_batch_may_drop_a_subscriber_that_lost_something() {
    struct Drops(Mutex<Option<Subscriber>>);
    impl Wake for Drops {
        fn wake(self: Arc<Self>) {
            drop(self.0.lock().unwrap().take());
        }
    }
    let metrics = Arc::new(BusMetrics::new());
    let bus = Bus::with_metrics(2, Arc::clone(&metrics)).unwrap();
    let mut leaving = bus.observe("leaving");
    (0..5).for_each(|_| drop(bus.publish_batch(reports(0, 8))));
    assert_eq!(now(leaving.next()), Some(Some(Notice::Resync { lost: 3 })));
    let waker = Waker::from(Arc::new(Drops(Mutex::new(Some(leaving)))));
    let (done, finished) = mpsc::channel();
    thread::spawn(move || {
        let mut rx = bus.subscribe();
        let mut woken = pin!(rx.recv());
        assert!(woken.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        bus.publish_batch(reports(0, 8)).unwrap();
        done.send(bus.subscribers()).unwrap();
    });
    let left = finished.recv_timeout(Duration::from_secs(60));
    assert_eq!(left, Ok(1), "no deadlock, and it is gone");
    // What was sent pushed one more out; the next two were given up.
    assert_eq!(metrics.overflow_dropped_total(), 4 * 8);
}
