//! B2, B8: the cost of one call, nobody else on the channel; churn.

use std::{
    future::Future,
    hint::black_box,
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, Waker},
    time::Instant,
};

use ron_bus::{Bus, BusMetrics, Event, Notice};
use tokio::{runtime::Builder, sync::broadcast};

use crate::{
    alloc::{COUNTING, LIVE_BYTES},
    figures::{Figures, median},
};

fn event() -> Event {
    Event::Health {
        service: "gateway".into(),
        ok: true,
    }
}

fn ns_each(times: u32, mut call: impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..times {
        call();
    }
    start.elapsed().as_nanos() as f64 / f64::from(times)
}

pub fn run(figures: &mut Figures, short: bool) {
    println!("-- one call, nanoseconds");
    let rounds = if short { 9 } else { 41 };
    let new = median(
        (0..rounds)
            .map(|_| ns_each(500, || drop(black_box(Bus::new(256)))))
            .collect(),
    );
    let raw_new = median(
        (0..rounds)
            .map(|_| ns_each(500, || drop(black_box(broadcast::channel::<Event>(256)))))
            .collect(),
    );
    figures.put("b8.new_256_ns", new);
    figures.put("b8.raw_channel_256_ns", raw_new);
    let bus = Bus::new(256).expect("256 is a capacity");
    figures.put(
        "b8.subscribe_ns",
        median(
            (0..rounds)
                .map(|_| ns_each(2_000, || drop(black_box(bus.subscribe()))))
                .collect(),
        ),
    );
    figures.put(
        "b8.observe_ns",
        median(
            (0..rounds)
                .map(|_| ns_each(2_000, || drop(black_box(bus.observe("b")))))
                .collect(),
        ),
    );
    one_call(figures, rounds);
    churn(figures, if short { 600 } else { 6_000 });
}

/// Publishes 128 and drains them, 4 receivers, plain and observed in turn.
fn one_call(figures: &mut Figures, rounds: u32) {
    let rt = Builder::new_current_thread().build().expect("a runtime");
    let (mut raw_send, mut raw_recv, mut send, mut next, mut each) = (vec![], vec![], vec![], vec![], vec![]);
    let (mut extra, mut next_extra, mut ratio) = (vec![], vec![], vec![]);
    for _ in 0..rounds {
        let (tx, rx) = broadcast::channel::<Event>(256);
        let mut plain: Vec<_> = (0..4).map(|_| rx.resubscribe()).collect();
        drop(rx);
        let bus = Bus::with_metrics(256, Arc::new(BusMetrics::new())).expect("256 is a capacity");
        let mut observed: Vec<_> = (0..4).map(|_| bus.observe("bench")).collect();
        let mut looping: Vec<_> = (0..4).map(|_| bus.observe("bench")).collect();
        let (mut t_send, mut t_recv, mut b_send, mut b_next, mut b_each) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for _ in 0..50 {
            t_send += ns_each(128, || drop(black_box(tx.send(event()))));
            b_send += ns_each(128, || drop(black_box(bus.publish(event()))));
            rt.block_on(async {
                let start = Instant::now();
                for rx in &mut plain {
                    for _ in 0..128 {
                        black_box(rx.recv().await).expect("128 are there");
                    }
                }
                t_recv += start.elapsed().as_nanos() as f64 / 512.0;
                let start = Instant::now();
                for subscriber in &mut observed {
                    for _ in 0..128 {
                        let notice = black_box(subscriber.next().await);
                        assert!(matches!(notice, Some(Notice::Event(_))));
                    }
                }
                b_next += start.elapsed().as_nanos() as f64 / 512.0;
            });
            let mut cx = Context::from_waker(Waker::noop());
            let (start, mut seen) = (Instant::now(), 0);
            for subscriber in &mut looping {
                let mut run = pin!(subscriber.for_each(|notice| {
                    black_box(&notice);
                    seen += 1;
                }));
                // One poll takes 128.
                assert_eq!(run.as_mut().poll(&mut cx), Poll::Pending);
            }
            b_each += start.elapsed().as_nanos() as f64 / 512.0;
            assert_eq!(seen, 512);
        }
        raw_send.push(t_send / 50.0);
        raw_recv.push(t_recv / 50.0);
        send.push(b_send / 50.0);
        next.push(b_next / 50.0);
        each.push(b_each / 50.0);
        ratio.push(t_send / b_send);
        next_extra.push((b_next - t_recv) / 50.0);
        extra.push((b_each - t_recv) / 50.0);
    }
    figures.put("call.raw_send_ns", median(raw_send));
    figures.put("call.publish_ns", median(send));
    figures.put("call.publish_over_raw", median(ratio));
    figures.put("call.raw_recv_ns", median(raw_recv));
    figures.put("call.next_ns", median(next));
    figures.put("call.for_each_ns", median(each));
    figures.put("b2.next_extra_ns", median(next_extra));
    figures.put("b2.observed_extra_ns", median(extra));
}

/// Joins and leaves while events flow (the source's 100 Hz for 60 s is 6,000 joins): no growth.
fn churn(figures: &mut Figures, joins: u32) {
    COUNTING.store(true, Relaxed);
    let bus = Bus::new(256).expect("256 is a capacity");
    let _steady = bus.subscribe();
    let turn = |_| {
        let mut subscriber = bus.observe("flapping");
        for _ in 0..8 {
            bus.publish(Event::ConfigUpdated { version: 1 })
                .expect("two receivers");
        }
        let mut cx = Context::from_waker(Waker::noop());
        assert!(pin!(subscriber.next()).poll(&mut cx).is_ready());
    };
    (0..joins / 10).for_each(turn);
    let before = LIVE_BYTES.load(Relaxed);
    (0..joins).for_each(turn);
    let grown = LIVE_BYTES.load(Relaxed) - before;
    COUNTING.store(false, Relaxed);
    figures.put("b8.churn_joins", f64::from(joins));
    figures.put("b8.churn_grown_bytes", grown as f64);
    figures.must("churn grows nothing", grown == 0 && bus.subscribers() == 1);
}
