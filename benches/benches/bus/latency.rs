//! B5, B6: publish to receive, open loop: a producer thread that does not wait, one worker, 4 consumers.
//!
//! 256 slots at 400 k/s are 640 us. When the host takes a core away for that long, events are lost whoever receives, and
//! a producer that was away sends what is due at once. So each run notes the longest time that its worker received
//! nothing or its producer was late; `lost_unpaused` is the worst of the runs in which that stayed under the time that half of
//! the slots last.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use ron_bus::{Bus, BusMetrics, Event, Notice};
use tokio::{
    runtime::Builder,
    sync::broadcast::{self, error::RecvError},
    task::JoinSet,
};

use crate::figures::{Figures, median, percentile};

const CONSUMERS: usize = 4;
/// As many as one worker serves at 400 k/s, about: where a plain loop begins to lose.
const CONSUMERS_MANY: usize = 28;

const SLOTS: u32 = 256;

struct Run {
    /// Whether the machine was away for longer than half of the slots last: then it says nothing of losses.
    paused: bool,
    p50_us: f64,
    p95_us: f64,
    p99_us: f64,
    lost: f64,
}

/// The longest time between two receives of the one worker, in nanoseconds.
#[derive(Default)]
struct Watch {
    last: AtomicU64,
    longest: AtomicU64,
}

impl Watch {
    /// Nanoseconds since `origin`.
    fn now(&self, origin: Instant) -> u64 {
        let now = origin.elapsed().as_nanos() as u64;
        let last = self.last.load(Relaxed);
        self.last.store(now, Relaxed);
        if last > 0 && now - last > self.longest.load(Relaxed) {
            self.longest.store(now - last, Relaxed);
        }
        now
    }
}

#[derive(Clone, Copy)]
enum Way {
    Raw,
    Observed,
    Batch(u64),
}

fn event(at: u64) -> Event {
    Event::SchemaChanged {
        schema_id: "v1.events.user".into(),
        revision: at,
    }
}

fn at(event: &Event) -> u64 {
    match event {
        Event::SchemaChanged { revision, .. } => *revision,
        _ => 0,
    }
}

fn once(way: Way, consumers_wanted: usize, per_second: u64, time: Duration) -> Run {
    let bus = Bus::with_metrics(SLOTS, Arc::new(BusMetrics::new())).expect("a capacity");
    let raw = broadcast::Sender::<Event>::new(SLOTS as usize);
    let rt = Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .expect("a runtime");
    let origin = Instant::now();
    let worker = Arc::new(Watch::default());
    let mut consumers = JoinSet::new();
    for _ in 0..consumers_wanted {
        let mut ages: Vec<u64> = Vec::with_capacity((per_second as f64 * time.as_secs_f64() * 1.1) as usize);
        let worker = Arc::clone(&worker);
        match way {
            Way::Raw => {
                let mut rx = raw.subscribe();
                consumers.spawn_on(
                    async move {
                        let mut lost = 0;
                        loop {
                            match rx.recv().await {
                                Ok(event) => ages.push(worker.now(origin) - at(&event)),
                                Err(RecvError::Lagged(n)) => lost += n,
                                Err(RecvError::Closed) => return (ages, lost),
                            }
                        }
                    },
                    rt.handle(),
                );
            }
            Way::Observed | Way::Batch(_) => {
                let mut subscriber = bus.observe("bench");
                consumers.spawn_on(
                    async move {
                        subscriber
                            .for_each(|notice| {
                                if let Notice::Event(event) = notice {
                                    let now = worker.now(origin);
                                    ages.extend(event.facts().iter().map(|fact| now - at(fact)));
                                }
                            })
                            .await;
                        (ages, subscriber.dropped())
                    },
                    rt.handle(),
                );
            }
        }
    }
    let step = match way {
        Way::Batch(n) => n,
        _ => 1,
    };
    let gap = Duration::from_nanos(1_000_000_000 * step / per_second);
    let (sent, late) = thread::spawn(move || {
        let (mut due, end) = (Instant::now(), Instant::now() + time);
        let (mut sent, mut late) = (0, Duration::ZERO);
        while due < end {
            while Instant::now() < due {
                std::hint::spin_loop();
            }
            late = late.max(due.elapsed());
            let now = origin.elapsed().as_nanos() as u64;
            match way {
                Way::Raw => drop(raw.send(event(now))),
                Way::Observed => drop(bus.publish(event(now))),
                Way::Batch(n) => drop(bus.publish_batch((0..n).map(|_| event(now)).collect())),
            }
            sent += step;
            due += gap;
        }
        (sent, late)
    })
    .join()
    .expect("the producer ends");
    let (mut ages, mut lost) = (Vec::new(), 0);
    rt.block_on(async {
        while let Some(done) = consumers.join_next().await {
            let (one, missed) = done.expect("a consumer ends");
            ages.extend(one);
            lost += missed;
        }
    });
    // A real-time run (`chrt -r 20`) that never rests is stopped by the kernel for 50 ms in every second.
    thread::sleep(time / 2);
    assert_eq!(
        ages.len() as u64 + lost,
        sent * consumers_wanted as u64,
        "received + lost = sent x receivers"
    );
    let delivered = ages.len() as u64;
    ages.sort_unstable();
    Run {
        paused: Duration::from_nanos(worker.longest.load(Relaxed)).max(late) > gap * (SLOTS / 2),
        p50_us: percentile(&ages, 0.50) / 1e3,
        p95_us: percentile(&ages, 0.95) / 1e3,
        p99_us: percentile(&ages, 0.99) / 1e3,
        lost: lost as f64 / (delivered + lost) as f64,
    }
}

pub fn run(figures: &mut Figures, short: bool) {
    println!("-- publish to receive, microseconds; lost is a share of deliveries");
    let (rounds, time) = if short { (3, 300) } else { (9, 600) };
    let time = Duration::from_millis(time);
    for per_second in [10_000, 50_000, 200_000, 400_000, 800_000] {
        let (mut raw, mut ours) = (vec![], vec![]);
        // Losses are rare and come in lumps: more rounds where they are compared.
        let times = match per_second {
            200_000 | 400_000 => 4,
            50_000 => 2,
            _ => 1,
        };
        for _ in 0..times * rounds {
            raw.push(once(Way::Raw, CONSUMERS, per_second, time));
            ours.push(once(Way::Observed, CONSUMERS, per_second, time));
        }
        let k = per_second / 1_000;
        put(figures, &format!("b6.raw.{k}k"), &raw);
        put(figures, &format!("b6.observed.{k}k"), &ours);
        let ratio = raw
            .iter()
            .zip(&ours)
            .map(|(raw, ours)| ours.p95_us / raw.p95_us)
            .collect();
        figures.put(&format!("b6.p95_over_raw.{k}k"), median(ratio));
    }
    let (mut raw, mut ours) = (vec![], vec![]);
    for _ in 0..4 * rounds {
        raw.push(once(Way::Raw, CONSUMERS_MANY, 400_000, time));
        ours.push(once(Way::Observed, CONSUMERS_MANY, 400_000, time));
    }
    put(figures, "b2.raw.400k.x28", &raw);
    put(figures, "b2.observed.400k.x28", &ours);
    for (name, batch, per_second) in [("b5.batch8.400k", 8, 400_000), ("b5.batch32.800k", 32, 800_000)] {
        let runs: Vec<Run> = (0..rounds)
            .map(|_| once(Way::Batch(batch), CONSUMERS, per_second, time))
            .collect();
        put(figures, name, &runs);
    }
    if !short {
        let run = once(Way::Batch(32), CONSUMERS, 800_000, Duration::from_secs(10));
        put(figures, "b5.batch32.800k.10s", &[run]);
    }
}

fn put(figures: &mut Figures, name: &str, runs: &[Run]) {
    figures.put(
        &format!("{name}.p50_us"),
        median(runs.iter().map(|run| run.p50_us).collect()),
    );
    figures.put(
        &format!("{name}.p95_us"),
        median(runs.iter().map(|run| run.p95_us).collect()),
    );
    figures.put(
        &format!("{name}.p99_us"),
        median(runs.iter().map(|run| run.p99_us).collect()),
    );
    figures.put(
        &format!("{name}.lost"),
        median(runs.iter().map(|run| run.lost).collect()),
    );
    figures.put(
        &format!("{name}.lost_mean"),
        runs.iter().map(|run| run.lost).sum::<f64>() / runs.len() as f64,
    );
    figures.put(
        &format!("{name}.lost_worst"),
        runs.iter().map(|run| run.lost).fold(0.0, f64::max),
    );
    let unpaused: Vec<f64> = runs
        .iter()
        .filter(|run| !run.paused)
        .map(|run| run.lost)
        .collect();
    figures.put(&format!("{name}.runs"), runs.len() as f64);
    figures.put(&format!("{name}.unpaused_runs"), unpaused.len() as f64);
    figures.put(
        &format!("{name}.lost_unpaused"),
        unpaused.into_iter().fold(0.0, f64::max),
    );
}
