//! B2, B3, B4, B9, B10: lossless throughput of one shape, ways of publishing and receiving in turn. Producers
//! look every 32 sends whether there is room; nothing may be lost.

use std::sync::Arc;

use ron_bus::{Bus, BusMetrics, Event};
use tokio::{
    runtime::{Builder, Runtime},
    sync::broadcast::{self, error::RecvError},
    task::JoinSet,
};

use crate::figures::{Figures, cpu_seconds, median, wall_seconds};

pub const CAPACITY: usize = 256;

/// How events are published and received.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// tokio alone.
    Raw,
    /// `publish`, raw receivers.
    Publish,
    /// `publish`, `Subscriber::for_each`.
    Observed,
    /// `publish`, `Subscriber::next`.
    Next,
    /// `publish_batch` of so many, `Subscriber::for_each`.
    Batch(usize),
}

pub struct Shape {
    pub name: &'static str,
    pub producers: usize,
    pub consumers: usize,
    pub events: usize,
}

pub const SHAPES: [Shape; 3] = [
    Shape {
        name: "1x4",
        producers: 1,
        consumers: 4,
        events: 256 * 1_200,
    },
    Shape {
        name: "4x8",
        producers: 4,
        consumers: 8,
        events: 256 * 600,
    },
    Shape {
        name: "1x32",
        producers: 1,
        consumers: 32,
        events: 256 * 240,
    },
];

pub fn event(revision: u64) -> Event {
    Event::SchemaChanged {
        schema_id: "v1.events.user".into(),
        revision,
    }
}

pub async fn paced(len: impl Fn() -> usize, room: usize) {
    while len() > room {
        tokio::task::yield_now().await;
    }
}

/// Published events per second of `clock`; asserts that every consumer got every one.
fn once(rt: &Runtime, way: Way, shape: &Shape, clock: Clock) -> f64 {
    let events = shape.events / shape.producers * shape.producers;
    let bus = Bus::with_metrics(CAPACITY as u32, Arc::new(BusMetrics::new())).expect("a capacity");
    let raw = broadcast::Sender::<Event>::new(CAPACITY);
    rt.block_on(async {
        let mut consumers = JoinSet::new();
        for _ in 0..shape.consumers {
            if matches!(way, Way::Observed | Way::Batch(_)) {
                let mut subscriber = bus.observe("bench");
                consumers.spawn(async move {
                    subscriber
                        .for_each(|notice| {
                            std::hint::black_box(&notice);
                        })
                        .await;
                    (subscriber.received(), subscriber.dropped())
                });
            } else if way == Way::Next {
                let mut subscriber = bus.observe("bench");
                consumers.spawn(async move {
                    while let Some(notice) = subscriber.next().await {
                        std::hint::black_box(&notice);
                    }
                    (subscriber.received(), subscriber.dropped())
                });
            } else {
                let mut rx = if way == Way::Raw {
                    raw.subscribe()
                } else {
                    bus.subscribe()
                };
                consumers.spawn(async move {
                    let (mut seen, mut lost) = (0, 0);
                    loop {
                        match rx.recv().await {
                            Ok(event) => {
                                std::hint::black_box(&event);
                                seen += 1;
                            }
                            Err(RecvError::Lagged(n)) => lost += n,
                            Err(RecvError::Closed) => return (seen, lost),
                        }
                    }
                });
            }
        }
        let start = clock();
        let mut producers = JoinSet::new();
        for _ in 0..shape.producers {
            let (bus, raw, share) = (bus.clone(), raw.clone(), events / shape.producers);
            producers.spawn(async move {
                let step = if let Way::Batch(n) = way { n } else { 1 };
                for (send, i) in (0..share as u64).step_by(step).enumerate() {
                    if send % 32 == 0 {
                        match way {
                            Way::Raw => paced(|| raw.len(), CAPACITY / 2 - 32).await,
                            _ => paced(|| bus.queue_depth(), CAPACITY / 2 - 32).await,
                        }
                    }
                    match way {
                        Way::Raw => drop(raw.send(event(i))),
                        Way::Publish | Way::Observed | Way::Next => drop(bus.publish(event(i))),
                        Way::Batch(n) => {
                            drop(bus.publish_batch((0..n as u64).map(|k| event(i + k)).collect()));
                        }
                    }
                }
            });
        }
        while let Some(done) = producers.join_next().await {
            done.expect("a producer ends");
        }
        drop((bus, raw));
        let (mut received, mut lost) = (0, 0);
        while let Some(one) = consumers.join_next().await {
            let (seen, missed) = one.expect("a consumer ends");
            received += seen;
            lost += missed;
        }
        let rate = events as f64 / (clock() - start);
        let sent = (events * shape.consumers) as u64;
        assert_eq!((received, lost), (sent, 0), "every consumer got every one");
        rate
    })
}

pub fn runtime(workers: usize) -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_time()
        .build()
        .expect("a runtime")
}

/// Seconds.
pub type Clock = fn() -> f64;

/// Worker threads, the suffix of their figures, and their clock. One worker: no hand-off of locks between cores, and CPU
/// time does not hear the neighbours, so the steadiest ratios. Two: what a host has.
pub fn clocks() -> [(usize, &'static str, Clock); 2] {
    [(1, ".w1", cpu_seconds), (2, "", wall_seconds)]
}

/// Another order each round: what one way leaves in the heap, the next one pays for.
pub fn shuffle(order: &mut [usize], seed: &mut u64) {
    for k in (1..order.len()).rev() {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        order.swap(k, (*seed % (k as u64 + 1)) as usize);
    }
}

pub fn run(figures: &mut Figures, short: bool) {
    let rounds = if short { 11 } else { 31 };
    for (workers, suffix, clock) in clocks() {
        println!("-- lossless throughput, published events per second, {workers} worker(s)");
        let rt = runtime(workers);
        for shape in &SHAPES {
            compare(figures, &rt, shape, suffix, rounds, clock);
        }
    }
    let rt = runtime(2);
    println!("-- worker threads");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    for workers in [1, 2, 4, 8].into_iter().filter(|n| *n <= cores) {
        let rt = runtime(workers);
        let rates = (0..rounds)
            .map(|_| once(&rt, Way::Observed, &SHAPES[0], wall_seconds))
            .collect();
        figures.put(&format!("b10.observed.1x4.workers{workers}"), median(rates));
    }
    subscribers(figures, &rt, rounds);
}

/// Every way in each round, so that rounds are paired.
fn compare(figures: &mut Figures, rt: &Runtime, shape: &Shape, suffix: &str, rounds: usize, clock: Clock) {
    let ways = [
        Way::Raw,
        Way::Publish,
        Way::Observed,
        Way::Next,
        Way::Batch(8),
        Way::Batch(32),
    ];
    let mut rates: Vec<Vec<f64>> = vec![vec![]; ways.len()];
    let mut order: Vec<usize> = (0..ways.len()).collect();
    let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
    for round in 0..=rounds {
        shuffle(&mut order, &mut seed);
        for &way in &order {
            let rate = once(rt, ways[way], shape, clock);
            if round > 0 {
                rates[way].push(rate);
            }
        }
    }
    let ratio = |a: usize, b: usize| median(rates[a].iter().zip(&rates[b]).map(|(a, b)| a / b).collect());
    let name = format!("{}{suffix}", shape.name);
    figures.put(&format!("b3.raw.{name}"), median(rates[0].clone()));
    figures.put(&format!("b3.publish.{name}"), median(rates[1].clone()));
    figures.put(&format!("b3.observed.{name}"), median(rates[2].clone()));
    figures.put(&format!("b2.observed_over_plain.{name}"), ratio(2, 1));
    figures.put(&format!("b2.next_over_plain.{name}"), ratio(3, 1));
    // Like for like: both received by the observed loop.
    figures.put(&format!("b4.batch8_over_single.{name}"), ratio(4, 2));
    figures.put(&format!("b4.batch32_over_single.{name}"), ratio(5, 2));
}

/// The cost of one delivery must not rise from 1 to 32 subscribers.
fn subscribers(figures: &mut Figures, rt: &Runtime, rounds: usize) {
    println!("-- deliveries per second");
    for consumers in [1, 2, 4, 8, 16, 32, 64] {
        let shape = Shape {
            name: "",
            producers: 1,
            consumers,
            events: 256 * 2_400 / (consumers + 3),
        };
        let rates = (0..rounds)
            .map(|_| once(rt, Way::Observed, &shape, wall_seconds) * consumers as f64)
            .collect();
        figures.put(&format!("deliveries.{consumers:02}"), median(rates));
    }
}
