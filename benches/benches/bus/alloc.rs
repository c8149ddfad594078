//! B7: allocations of one call, exactly; and what a bus keeps alive.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
};

use ron_bus::{Bus, BusMetrics, Event, Notice, Subscriber};

use crate::figures::Figures;

/// Off while time is measured: two threads that count are two threads that wait for each other.
pub static COUNTING: AtomicBool = AtomicBool::new(false);
pub static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
pub static LIVE_BYTES: AtomicI64 = AtomicI64::new(0);

/// The system's allocator, counted.
pub struct Counting;

// SAFETY: every call goes to the system allocator unchanged; the counters touch no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTING.load(Relaxed) {
            ALLOCATIONS.fetch_add(1, Relaxed);
            LIVE_BYTES.fetch_add(layout.size() as i64, Relaxed);
        }
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        if COUNTING.load(Relaxed) {
            LIVE_BYTES.fetch_sub(layout.size() as i64, Relaxed);
        }
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

fn counted<T>(call: impl FnOnce() -> T) -> (u64, T) {
    let before = ALLOCATIONS.load(Relaxed);
    let answer = call();
    (ALLOCATIONS.load(Relaxed) - before, answer)
}

fn next_now(subscriber: &mut Subscriber) -> Option<Notice> {
    let mut cx = Context::from_waker(Waker::noop());
    match pin!(subscriber.next()).poll(&mut cx) {
        Poll::Ready(notice) => notice,
        Poll::Pending => None,
    }
}

pub fn run(figures: &mut Figures) {
    println!("-- allocations of one call");
    COUNTING.store(true, Relaxed);
    type Make = fn() -> Event;
    let cases: [(&str, Make, u64); 6] = [
        (
            "health",
            || Event::Health {
                service: "gateway".into(),
                ok: true,
            },
            1,
        ),
        (
            "service_crashed",
            || Event::ServiceCrashed {
                service: "gw".into(),
                reason: "panic".into(),
            },
            2,
        ),
        ("config_updated", || Event::ConfigUpdated { version: 1 }, 0),
        ("shutdown", || Event::Shutdown, 0),
        (
            "schema_changed",
            || Event::SchemaChanged {
                schema_id: "v1.a".into(),
                revision: 1,
            },
            1,
        ),
        (
            "policy_reloaded",
            || Event::PolicyReloaded {
                policy: "auth".into(),
                revision: 1,
                ok: true,
            },
            1,
        ),
    ];
    let bus = Bus::with_metrics(16, Arc::new(BusMetrics::new())).expect("16 is a capacity");
    let (mut raw, mut observed) = (bus.subscribe(), bus.observe("bench"));
    for (name, make, expected) in cases {
        let (sent, receivers) = counted(|| bus.publish(make()));
        let (raw_got, event) = counted(|| raw.try_recv());
        let (next_got, notice) = counted(|| next_now(&mut observed));
        assert!(receivers == Ok(2) && event.is_ok() && matches!(notice, Some(Notice::Event(_))));
        figures.put(&format!("allocs.publish.{name}"), sent as f64);
        figures.put(&format!("allocs.recv.{name}"), raw_got as f64);
        figures.must(
            &format!("{name}: {expected} allocations per publish"),
            sent == expected,
        );
        figures.must(
            &format!("{name}: {expected} allocations per recv"),
            raw_got == expected,
        );
        figures.must(
            &format!("{name}: {expected} allocations per next"),
            next_got == expected,
        );
    }
    let reports: Vec<Event> = (0..8).map(|_| cases[4].1()).collect();
    let (sent, receivers) = counted(|| bus.publish_batch(reports));
    let (raw_got, event) = counted(|| raw.try_recv());
    let (next_got, notice) = counted(|| next_now(&mut observed));
    assert!(receivers == Ok(2) && event.is_ok() && matches!(notice, Some(Notice::Event(_))));
    figures.put("allocs.publish_batch", sent as f64);
    figures.put("allocs.recv.batch", raw_got as f64);
    figures.must("one allocation per publish_batch", sent == 1);
    figures.must("no allocation to receive a batch", raw_got == 0 && next_got == 0);
    let (got, notice) = counted(|| next_now(&mut observed));
    figures.must(
        "no allocation to find the bus empty",
        got == 0 && notice.is_none(),
    );
    retention(figures);
    COUNTING.store(false, Relaxed);
}

/// Stalled receivers keep `effective_capacity` events alive, however many they are.
fn retention(figures: &mut Figures) {
    let bus = Bus::new(256).expect("256 is a capacity");
    let start = LIVE_BYTES.load(Relaxed);
    let stalled: Vec<_> = (0..8).map(|_| bus.subscribe()).collect();
    for _ in 0..1_024 {
        let reason = "x".repeat(64 * 1024);
        bus.publish(Event::ServiceCrashed {
            service: String::new(),
            reason,
        })
        .expect("8 receivers");
    }
    let kept = (LIVE_BYTES.load(Relaxed) - start) as f64 / (256.0 * 64.0 * 1024.0);
    figures.put("retention.of_capacity_x_payload", kept);
    figures.must("a bus retains capacity x payload, not more", kept < 1.01);
    drop(stalled);
    let left = LIVE_BYTES.load(Relaxed) - start;
    figures.must("nothing is kept once the receivers are gone", left < 4_096);
}
