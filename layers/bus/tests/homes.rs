//! Memory that read batches keep until their maker publishes again, by a counting allocator: never more than documented.
#![cfg(not(loom))]

use std::{
    sync::{mpsc, Arc, Barrier},
    thread,
};

use allocation_counter::measure;
use ron_bus::{Bus, Event};

/// A thread's home: batches and their list.
const HOME: i64 = 10 * 1024;
/// All 16 homes.
const BUS: i64 = 16 * HOME;

fn text(len: usize, capacity: usize) -> Event {
    let mut reason = String::with_capacity(capacity);
    reason.extend(std::iter::repeat('x').take(len));
    Event::MirrorDegraded { reason, dropped: 0 }
}

/// Bytes alive after each of `makers` living threads has published `batches` of `make()`, all of them read elsewhere.
fn kept(makers: usize, batches: usize, make: fn() -> Vec<Event>) -> i64 {
    let bus = Bus::new(1 << 12).expect("a capacity");
    let mut rx = bus.subscribe();
    let published = Arc::new(Barrier::new(makers + 1));
    let (told, net) = mpsc::channel();
    let threads: Vec<_> = (0..makers)
        .map(|_| {
            let (bus, published, told) = (bus.clone(), Arc::clone(&published), told.clone());
            thread::spawn(move || {
                let made =
                    measure(|| (0..batches).for_each(|_| assert_eq!(bus.publish_batch(make()), Ok(1))));
                told.send(made.bytes_current).expect("the test lives");
                published.wait();
                published.wait();
            })
        })
        .collect();
    published.wait();
    let read = measure(|| while rx.try_recv().is_ok() {});
    let made: i64 = net.try_iter().sum();
    published.wait();
    threads
        .into_iter()
        .for_each(|thread| thread.join().expect("a maker"));
    made + read.bytes_current
}

#[test]
fn read_batches_that_wait_keep_no_more_than_the_documents_say() {
    // One byte of text in 4 MiB reserved; a vector for 4,096 with one in it; many of the smallest; many of the largest.
    for make in [
        || vec![text(1, 4 << 20)],
        || {
            let mut reports = Vec::with_capacity(4_096);
            reports.push(text(1, 1));
            reports
        },
        || vec![text(1, 1)],
        || (0..64).map(|_| text(64, 64)).collect::<Vec<_>>(),
    ] as [fn() -> Vec<Event>; 4]
    {
        let kept = kept(1, 60, make);
        assert!((0..=HOME).contains(&kept), "{kept} bytes of one thread");
    }
}

#[test]
fn the_homes_of_all_threads_keep_no_more_than_the_documents_say() {
    let kept = kept(40, 60, || (0..8).map(|_| text(64, 64)).collect());
    assert!(kept <= BUS, "{kept} bytes");
    assert!(kept > 4 * HOME, "{kept} bytes: threads have homes of their own");
}
