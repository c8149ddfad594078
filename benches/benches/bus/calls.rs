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
    throughput::shuffle,
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
    one_call(figures, if short { 61 } else { 201 });
    churn(figures, if short { 600 } else { 6_000 });
}

/// Sums of one round, by way (raw, its twin, a bus with `next`, one with `for_each`): nanoseconds of 128 sends and of
/// receiving them by 4.
#[derive(Default)]
struct Round {
    send: [f64; 4],
    receive: [f64; 4],
}

/// Turns of each way in a round, in random order: each pays as often for the heap that another leaves.
const TURNS: usize = 48;

/// Publishes 128 and drains them, 4 receivers: two raw channels and two buses in turn.
fn one_call(figures: &mut Figures, rounds: u32) {
    let rt = Builder::new_current_thread().build().expect("a runtime");
    let raw = [(); 2].map(|()| broadcast::Sender::<Event>::new(256));
    let mut plain = [&raw[0], &raw[1]].map(|tx| [(); 4].map(|()| tx.subscribe()));
    let buses =
        [(); 2].map(|()| Bus::with_metrics(256, Arc::new(BusMetrics::new())).expect("256 is a capacity"));
    let mut observed: Vec<_> = (0..4).map(|_| buses[0].observe("bench")).collect();
    let mut looping: Vec<_> = (0..4).map(|_| buses[1].observe("bench")).collect();
    let (mut order, mut seed) = ([0, 1, 2, 3], 1);
    let mut sums: Vec<Round> = Vec::new();
    for _ in 0..rounds {
        let mut round = Round::default();
        for _ in 0..TURNS {
            shuffle(&mut order, &mut seed);
            for way in order {
                round.send[way] += if way < 2 {
                    let tx = &raw[way];
                    ns_each(128, || assert!(tx.send(event()).is_ok()))
                } else {
                    let bus = &buses[way - 2];
                    ns_each(128, || assert!(bus.publish(event()).is_ok()))
                };
                let start = Instant::now();
                match way {
                    0 | 1 => rt.block_on(async {
                        for rx in &mut plain[way] {
                            for _ in 0..128 {
                                black_box(rx.recv().await).expect("128 are there");
                            }
                        }
                    }),
                    2 => rt.block_on(async {
                        for subscriber in &mut observed {
                            for _ in 0..128 {
                                let notice = black_box(subscriber.next().await);
                                assert!(matches!(notice, Some(Notice::Event(_))));
                            }
                        }
                    }),
                    _ => rt.block_on(async {
                        let mut cx = Context::from_waker(Waker::noop());
                        let mut seen = 0;
                        for subscriber in &mut looping {
                            let mut run = pin!(subscriber.for_each(|notice| {
                                black_box(&notice);
                                seen += 1;
                            }));
                            // One poll takes 128.
                            assert_eq!(run.as_mut().poll(&mut cx), Poll::Pending);
                        }
                        assert_eq!(seen, 512);
                    }),
                }
                round.receive[way] += start.elapsed().as_nanos() as f64 / 512.0;
            }
        }
        sums.push(round);
    }
    let mut put =
        |name: &str, of: &dyn Fn(&Round) -> f64| figures.put(name, median(sums.iter().map(of).collect()));
    let turns = TURNS as f64;
    let pair = |[one, other, ..]: &[f64; 4]| (one + other) / 2.0;
    let publish = |round: &Round| (round.send[2] + round.send[3]) / 2.0;
    put("call.raw_send_ns", &|round| pair(&round.send) / turns);
    put("call.publish_ns", &|round| publish(round) / turns);
    put("call.twin_over_raw", &|round| round.send[0] / round.send[1]);
    put("call.publish_over_raw", &|round| {
        pair(&round.send) / publish(round)
    });
    put("call.raw_recv_ns", &|round| pair(&round.receive) / turns);
    put("call.next_ns", &|round| round.receive[2] / turns);
    put("call.for_each_ns", &|round| round.receive[3] / turns);
    put("b2.next_extra_ns", &|round| {
        (round.receive[2] - pair(&round.receive)) / turns
    });
    put("b2.observed_extra_ns", &|round| {
        (round.receive[3] - pair(&round.receive)) / turns
    });
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
