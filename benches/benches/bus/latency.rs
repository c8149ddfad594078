//! B5, B6: publish to receive, open loop: a producer thread that does not wait, one worker, 4 consumers.
//!
//! 256 slots at 400 k/s are 640 us. When the host takes a core away for that long, events are lost whoever receives, and
//! a producer that was away sends what is due at once. So each loss is looked at by itself (`pauses.rs`): `lost_unpaused`
//! is what was lost though the machine ran, the worst run. Which loop keeps up with many subscribers is asked with slots for
//! longer than such a pause: there whatever is lost counts.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use ron_bus::{Bus, BusMetrics, Event, Notice};
use tokio::{
    runtime::Builder,
    sync::broadcast::{self, error::RecvError},
    task::JoinSet,
};

use crate::{
    figures::{Figures, median, percentile},
    pauses::{Loss, Pauses, Watch},
};

const CONSUMERS: usize = 4;
/// Where so many receive, the clock is read at one receive in eight: it costs more than the receive.
const CONSUMERS_MANY: usize = 16;

const SLOTS: u32 = 256;
/// 82 ms at 400 k/s: longer than most pauses of a host, and than the rest that the kernel makes a real-time thread take.
const SLOTS_MANY: u32 = 32_768;
/// A loop that is too slow by a twentieth loses.
const TIME_MANY: Duration = Duration::from_millis(1_800);

struct Run {
    p50_us: f64,
    p95_us: f64,
    p99_us: f64,
    lost: f64,
    /// Lost though the machine ran.
    lost_unpaused: f64,
    /// Of the run's time the worker received nothing or the producer was late, though events were due.
    away: f64,
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
    once_in(SLOTS, way, consumers_wanted, per_second, time)
}

fn once_in(slots_wanted: u32, way: Way, consumers_wanted: usize, per_second: u64, time: Duration) -> Run {
    let bus = Bus::with_metrics(slots_wanted, Arc::new(BusMetrics::new())).expect("a capacity");
    let raw = broadcast::Sender::<Event>::new(slots_wanted as usize);
    let rt = Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .expect("a runtime");
    let origin = Instant::now();
    let step = match way {
        Way::Batch(n) => n,
        _ => 1,
    };
    let gap = Duration::from_nanos(1_000_000_000 * step / per_second);
    let worker = Arc::new(Watch::new(origin, gap));
    let mut consumers = JoinSet::new();
    let clocked_every = if consumers_wanted < CONSUMERS_MANY { 1 } else { 8 };
    for consumer in 0..consumers_wanted as u64 {
        // Written once, so that no page of it is fetched while the clock runs.
        let mut ages = vec![1_u64; (per_second as f64 * time.as_secs_f64() * 1.1) as usize];
        ages.clear();
        let mut losses = Vec::new();
        let worker = Arc::clone(&worker);
        match way {
            Way::Raw => {
                let mut rx = raw.subscribe();
                consumers.spawn_on(
                    async move {
                        let (mut received, mut lost, mut last) = (0, 0, 0);
                        loop {
                            match rx.recv().await {
                                Ok(event) => {
                                    last = at(&event);
                                    received += 1;
                                    if (received + consumer) % clocked_every == 0 {
                                        ages.push(worker.now() - last);
                                    }
                                }
                                Err(RecvError::Lagged(slots)) => {
                                    lost += slots;
                                    losses.push(Loss::new(last, worker.now(), slots));
                                }
                                Err(RecvError::Closed) => return (ages, received, lost, losses),
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
                        let (mut slots, mut last) = (0, 0);
                        subscriber
                            .for_each(|notice| match notice {
                                Notice::Event(event) => {
                                    last = at(&event.facts()[0]);
                                    slots += 1;
                                    if (slots + consumer) % clocked_every == 0 {
                                        ages.push(worker.now() - last);
                                    }
                                }
                                Notice::Resync { lost } => {
                                    losses.push(Loss::new(last, worker.now(), lost * step));
                                }
                                _ => {}
                            })
                            .await;
                        (ages, subscriber.received(), subscriber.dropped(), losses)
                    },
                    rt.handle(),
                );
            }
        }
    }
    let (sent, begin, late) = thread::spawn(move || {
        let mut late = Pauses::default();
        let begin = Instant::now();
        let (mut due, end) = (begin, begin + time);
        let mut sent = 0;
        while due < end {
            while Instant::now() < due {
                std::hint::spin_loop();
            }
            let now = origin.elapsed().as_nanos() as u64;
            let was_due = due.duration_since(origin).as_nanos() as u64;
            late.note(was_due, now, Duration::ZERO);
            match way {
                Way::Raw => drop(raw.send(event(now))),
                Way::Observed => drop(bus.publish(event(now))),
                Way::Batch(n) => drop(bus.publish_batch((0..n).map(|_| event(now)).collect())),
            }
            sent += step;
            due += gap;
        }
        (sent, begin.duration_since(origin).as_nanos() as u64, late)
    })
    .join()
    .expect("the producer ends");
    let (mut ages, mut delivered, mut lost, mut losses) = (Vec::new(), 0, 0, Vec::new());
    rt.block_on(async {
        while let Some(done) = consumers.join_next().await {
            let (one, received, missed, when) = done.expect("a consumer ends");
            ages.extend(one);
            delivered += received;
            lost += missed;
            losses.extend(when);
        }
    });
    // A real-time run (`chrt -r 20`) that never rests is stopped by the kernel for 50 ms in every second.
    thread::sleep(time / 2);
    assert_eq!(
        delivered + lost,
        sent * consumers_wanted as u64,
        "received + lost = sent x receivers"
    );
    ages.sort_unstable();
    let pauses = worker.pauses().joined(late);
    let unpaused = pauses.unexcused(&losses, begin, gap * slots_wanted);
    Run {
        lost_unpaused: unpaused as f64 / (delivered + lost) as f64,
        away: pauses.total().as_secs_f64() / time.as_secs_f64(),
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

/// Both loops in turn with as many subscribers as are just too many for a plain loop on one worker at 400 k/s. How many that
/// are is a matter of the moment: by what the plain loop lost in a pair, the next pair has one more or one less.
pub fn many(figures: &mut Figures, short: bool) {
    println!(
        "-- as many subscribers at 400 k/s as are just too many for a plain loop; lost is a share of deliveries"
    );
    let pairs = if short { 8 } else { 24 };
    let run = |way, consumers| once_in(SLOTS_MANY, way, consumers, 400_000, TIME_MANY);
    let mut consumers = (CONSUMERS_MANY..96)
        .step_by(2)
        .find(|consumers| run(Way::Raw, *consumers).lost > 1e-3)
        .unwrap_or(96);
    let (mut raw, mut ours, mut served) = (vec![], vec![], vec![]);
    for pair in 0..pairs {
        let (plain, observed) = if pair % 2 == 0 {
            let plain = run(Way::Raw, consumers);
            (plain, run(Way::Observed, consumers))
        } else {
            let observed = run(Way::Observed, consumers);
            (run(Way::Raw, consumers), observed)
        };
        println!(
            "{consumers:3} subscribers: plain loses {:.6}, observed {:.6}",
            plain.lost, observed.lost
        );
        let lost = plain.lost;
        if lost > 1e-3 {
            served.push(consumers as f64);
            raw.push(plain);
            ours.push(observed);
        }
        if lost < 5e-3 {
            consumers += 1;
        } else if lost > 6e-2 {
            consumers -= 1;
        }
    }
    figures.put("b2.many.pairs", pairs as f64);
    // In the others the plain loop kept up, too.
    figures.put("b2.many.pairs_lost", raw.len() as f64);
    if raw.is_empty() {
        return;
    }
    figures.put("b2.many.subscribers", median(served));
    let lossless = ours.iter().filter(|run| run.lost == 0.0).count();
    figures.put("b2.many.lossless_share", lossless as f64 / ours.len() as f64);
    put(figures, "b2.raw.400k.many", &raw);
    put(figures, "b2.observed.400k.many", &ours);
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
    figures.put(&format!("{name}.runs"), runs.len() as f64);
    figures.put(
        &format!("{name}.lost_unpaused"),
        runs.iter().map(|run| run.lost_unpaused).fold(0.0, f64::max),
    );
    figures.put(
        &format!("{name}.lost_unpaused_middle"),
        median(runs.iter().map(|run| run.lost_unpaused).collect()),
    );
    figures.put(
        &format!("{name}.away"),
        median(runs.iter().map(|run| run.away).collect()),
    );
}
