use std::collections::{HashMap, VecDeque};

use arqon_message::{Fraction, Sampler};
use proptest::prelude::*;

use super::*;

fn full_to(fill: u32) -> Level {
    Level {
        fill,
        queued: fill as usize * 4,
    }
}

#[test]
fn nothing_is_shed_below_the_mark() {
    let shed = Shedder::new(0.5, 300);
    for fill in 0..512 {
        shed.filled(fill);
        assert!(!shed.tick(full_to(fill), full_to(fill)));
    }
    assert!(shed.keeps(Threshold::Always, u64::MAX));
    assert_eq!(shed.kept(), 1.0);
}

#[test]
fn each_mark_above_the_first_halves_once() {
    let shed = Shedder::new(0.5, 300);
    for (fill, kept) in [
        (512, 1.0),
        (600, 1.0),
        (640, 0.5),
        (768, 0.25),
        (896, 0.125),
        (1024, 0.125),
        (512, 0.125),
    ] {
        shed.filled(fill);
        assert!((shed.kept() - kept).abs() < 1e-9, "{fill}: {}", shed.kept());
    }
}

#[test]
fn a_tick_cuts_to_what_the_sink_took_of_what_came_in() {
    let shed = Shedder::new(0.5, 300);
    (0..1_000).for_each(|_| shed.filled(600));
    // 1,000 came, the queue grew by 600: the sink took 400.
    let (before, now) = (
        Level {
            fill: 500,
            queued: 2_000,
        },
        Level {
            fill: 600,
            queued: 2_600,
        },
    );
    assert!(shed.tick(now, before));
    let cut = 0.4 * MARGIN;
    assert!((shed.kept() - cut).abs() < 1e-9, "{}", shed.kept());
    // It shrinks: nothing more is cut, and nothing given back.
    let lower = Level {
        fill: 590,
        queued: 2_500,
    };
    assert!(shed.tick(lower, now));
    assert!((shed.kept() - cut).abs() < 1e-9);
}

#[test]
fn a_queue_that_stays_full_sheds_on_and_a_low_one_gives_back_after_a_while() {
    let shed = Shedder::new(0.5, 300);
    for _ in 0..400 {
        assert!(shed.tick(full_to(FULL), full_to(FULL)));
    }
    assert!((shed.kept() - 1.0 / 256.0).abs() < 1e-9, "{}", shed.kept());
    for _ in 0..100 {
        assert!(shed.tick(full_to(0), full_to(0)));
    }
    assert!((shed.kept() - 1.0 / 256.0).abs() < 1e-9, "held");
    let ticks = (0..).take_while(|_| shed.tick(full_to(0), full_to(0))).count();
    // 256-fold, at tenfold in 300 ticks.
    assert!((700..=740).contains(&ticks), "{ticks}");
    assert_eq!(shed.kept(), 1.0);
}

proptest! {
    #[test]
    fn what_is_kept_is_a_subset_of_the_sample_and_shrinks_with_the_share(
        share in 0.0..=1.0_f64, a: u64, b: u64, hash: u64,
    ) {
        let threshold = Fraction::new(share).expect("share").threshold();
        let (less, more) = (a.min(b), a.max(b));
        let kept = |share| hash < border(threshold, share);
        prop_assert!(!kept(less) || kept(more));
        prop_assert!(!kept(more) || threshold.contains(hash));
    }
}

/// Ten times more than the sink takes, for a minute of model time, with 20 messages a trace of which `open` are under way at
/// once: how many traces are whole of those of which anything was kept, and how much of what the sink could take it got. Those
/// that began in the first second do not count: what is under way when overload begins is split.
fn overload(open: usize) -> (f64, f64) {
    const CAPACITY: usize = 4_096;
    const PER_MILLI: usize = 10;
    let shed = Shedder::new(0.5, 300);
    let mut queue = VecDeque::new();
    let mut delivered: HashMap<u64, u32> = HashMap::new();
    let (mut before, mut trace, mut first) = (Level::default(), 0_u64, 0);
    let level = |queue: &VecDeque<u64>| Level {
        fill: (queue.len() * 1024 / CAPACITY) as u32,
        queued: queue.len(),
    };
    // Each is in the middle of one trace: its id, where its key lies, and the messages left.
    let mut slots = vec![(0_u64, 0_u64, 0_u32); open];
    for message in 0..60_000 * PER_MILLI * 10 {
        if message == 1_000 * PER_MILLI * 10 {
            first = trace;
        }
        let slot = &mut slots[message % open];
        if slot.2 == 0 {
            trace += 1;
            *slot = (
                trace,
                Sampler::new(0).hash(format!("{trace:032x}").as_bytes()),
                20,
            );
        }
        slot.2 -= 1;
        if shed.keeps(Threshold::Always, slot.1) {
            if queue.len() == CAPACITY {
                shed.overflowed();
            } else {
                queue.push_back(slot.0);
                shed.filled(level(&queue).fill);
            }
        }
        if message % (PER_MILLI * 10) == 0 {
            for done in queue.drain(..PER_MILLI.min(queue.len())) {
                *delivered.entry(done).or_default() += 1;
            }
        }
        if message % (100 * PER_MILLI * 10) == 0 {
            shed.tick(level(&queue), before);
            before = level(&queue);
        }
    }
    let sum: u32 = delivered.values().sum();
    delivered.retain(|trace, _| *trace > first);
    let whole = delivered.values().filter(|&&n| n == 20).count();
    (
        whole as f64 / delivered.len() as f64,
        f64::from(sum) / (60_000 * PER_MILLI) as f64,
    )
}

#[test]
fn at_ten_times_the_load_kept_traces_are_whole() {
    // 8 connections with one trace each; and 500 traces at once, which take a tenth of a second each.
    for open in [8, 500] {
        let (whole, taken) = overload(open);
        assert!(whole >= 0.99, "{open} open: {whole} whole");
        assert!(
            taken >= 0.8,
            "{open} open: the sink got {taken} of what it could take"
        );
    }
}
