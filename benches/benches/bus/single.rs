//! B1: a single publish against a raw send, and a raw send against itself.
//!
//! Three channels of one shape run in turn, many short rounds in random order: a raw one, its twin (raw too, with code and
//! memory of its own) and a bus with raw receivers. What the twins differ by is what the clock makes of equals; where it is
//! more than the gate's 3 %, the run says nothing about `publish`.

use std::hint::black_box;

use ron_bus::{Bus, Event};
use tokio::{
    runtime::Runtime,
    sync::broadcast::{Receiver, Sender, error::RecvError},
    task::JoinSet,
};

use crate::{
    figures::{Figures, median},
    throughput::{CAPACITY, Clock, SHAPES, Shape, clocks, event, paced, runtime, shuffle},
};

/// The same code for each: one copy is compiled for each type.
trait Channel: Clone + Send + Sync + 'static {
    fn make() -> Self;
    fn receiver(&self) -> Receiver<Event>;
    fn give(&self, event: Event);
    fn waiting(&self) -> usize;
}

macro_rules! channel {
    ($name:ident, $inner:ty, $make:expr, $give:ident, $waiting:ident) => {
        #[derive(Clone)]
        struct $name($inner);

        impl Channel for $name {
            fn make() -> Self {
                Self($make)
            }

            fn receiver(&self) -> Receiver<Event> {
                self.0.subscribe()
            }

            #[inline(always)]
            fn give(&self, event: Event) {
                drop(self.0.$give(event));
            }

            fn waiting(&self) -> usize {
                self.0.$waiting()
            }
        }
    };
}

channel!(Raw, Sender<Event>, Sender::new(CAPACITY), send, len);
channel!(Twin, Sender<Event>, Sender::new(CAPACITY), send, len);
channel!(
    Ours,
    Bus,
    Bus::new(CAPACITY as u32).expect("a capacity"),
    publish,
    queue_depth
);

/// One run of a shape with so many events.
type Way = fn(&Runtime, &Shape, usize, Clock) -> f64;

/// Published events per second of `clock`; asserts that every receiver got every one.
fn once<C: Channel>(rt: &Runtime, shape: &Shape, events: usize, clock: Clock) -> f64 {
    let channel = C::make();
    rt.block_on(async {
        let mut consumers = JoinSet::new();
        for _ in 0..shape.consumers {
            let mut rx = channel.receiver();
            consumers.spawn(async move {
                let mut seen = 0;
                loop {
                    match rx.recv().await {
                        Ok(event) => {
                            black_box(&event);
                            seen += 1;
                        }
                        Err(RecvError::Lagged(n)) => panic!("{n} were lost"),
                        Err(RecvError::Closed) => return seen,
                    }
                }
            });
        }
        let share = events / shape.producers;
        let start = clock();
        let mut producers = JoinSet::new();
        for _ in 0..shape.producers {
            let channel = channel.clone();
            producers.spawn(async move {
                for i in 0..share as u64 {
                    if i % 32 == 0 {
                        paced(|| channel.waiting(), CAPACITY / 2 - 32).await;
                    }
                    channel.give(event(i));
                }
            });
        }
        while let Some(done) = producers.join_next().await {
            done.expect("a producer ends");
        }
        drop(channel);
        let mut accounted = 0;
        while let Some(seen) = consumers.join_next().await {
            accounted += seen.expect("a consumer ends");
        }
        let rate = (share * shape.producers) as f64 / (clock() - start);
        assert_eq!(
            accounted,
            (share * shape.producers * shape.consumers) as u64,
            "every receiver got every one"
        );
        rate
    })
}

pub fn run(figures: &mut Figures, short: bool) {
    println!("-- a single publish against a raw send; twin: a raw send against itself");
    for (workers, suffix, clock) in clocks() {
        let rt = runtime(workers);
        let rounds = match (workers, short) {
            (1, true) => 21,
            (_, true) => 81,
            (1, false) => 41,
            (_, false) => 201,
        };
        for shape in &SHAPES {
            let events = shape.events / 8;
            let ways: [Way; 3] = [once::<Raw>, once::<Twin>, once::<Ours>];
            let (mut order, mut seed) = ([0, 1, 2], 1);
            let mut rates = Vec::with_capacity(rounds);
            for round in 0..=rounds {
                shuffle(&mut order, &mut seed);
                let mut rate = [0.0; 3];
                for way in order {
                    rate[way] = ways[way](&rt, shape, events, clock);
                }
                if round > 0 {
                    rates.push(rate);
                }
            }
            let name = format!("{}{suffix}", shape.name);
            let ratio = |of: fn(&[f64; 3]) -> f64| median(rates.iter().map(of).collect());
            figures.put(
                &format!("b1.twin_over_raw.{name}"),
                ratio(|[raw, twin, _]| twin / raw),
            );
            figures.put(
                &format!("b1.publish_over_raw.{name}"),
                ratio(|[raw, twin, ours]| ours / (raw * twin).sqrt()),
            );
        }
    }
}

/// Sends or publishes, alone on the channel and without a clock, for a count of instructions from outside. With `-held` the
/// event is not made in place: the sender cannot know its variant, and has it in memory already.
pub fn steps(way: &str, times: u64) {
    match way {
        "raw" => send_all::<Raw>(times, event),
        "publish" => send_all::<Ours>(times, event),
        "raw-held" => send_all::<Raw>(times, held),
        "publish-held" => send_all::<Ours>(times, held),
        _ => panic!("raw, publish, raw-held or publish-held, not {way}"),
    }
}

fn held(revision: u64) -> Event {
    black_box(event(revision))
}

#[inline(never)]
fn send_all<C: Channel>(times: u64, event: impl Fn(u64) -> Event) {
    let channel = C::make();
    let _receiver = channel.receiver();
    for i in 0..times {
        channel.give(event(i));
    }
}
