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
        shed.filled(fill, Fate::Below);
        assert!(!shed.tick(full_to(fill), full_to(fill)));
    }
    assert_eq!(shed.fate(Threshold::Always, u64::MAX, 0), Fate::Below);
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
        shed.filled(fill, Fate::Below);
        assert!((shed.kept() - kept).abs() < 1e-9, "{fill}: {}", shed.kept());
    }
}

#[test]
fn a_tick_cuts_to_what_the_sink_took_of_what_came_in() {
    let shed = Shedder::new(0.5, 300);
    (0..1_000).for_each(|_| shed.filled(600, Fate::Below));
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

/// A share of a half from here on: 640 is the second mark.
fn cut() -> Shedder {
    let shed = Shedder::new(0.5, 300);
    shed.filled(640, Fate::Below);
    assert!((shed.kept() - 0.5).abs() < 1e-9);
    shed
}

/// A place in the range, 0.0 to 1.0.
fn at(place: f64) -> u64 {
    (place * 18_446_744_073_709_551_616.0) as u64
}

#[test]
fn a_trace_under_way_keeps_its_fate_while_the_share_moves() {
    let shed = Shedder::new(0.5, 300);
    let fate = |place| shed.fate(Threshold::Always, at(place), 0);
    assert_eq!(fate(0.6), Fate::Below);
    shed.filled(640, Fate::Below);
    assert_eq!((fate(0.6), fate(0.61)), (Fate::UnderWay, Fate::Shed));
    // It is held for a hundred ticks, and grows after as many.
    let mut low = 0;
    while shed.kept() < 0.62 {
        shed.tick(full_to(0), full_to(0));
        low += 1;
        if low == 100 {
            assert_eq!((fate(0.6), fate(0.61)), (Fate::UnderWay, Fate::Shed));
        }
    }
    assert!((100..200).contains(&low), "{low}");
    // A trace that came while it was shed stays shed for its time, and the border is above it then.
    let shed = cut();
    for _ in 0..90 {
        shed.tick(full_to(0), full_to(0));
    }
    let fate = |place| shed.fate(Threshold::Always, at(place), 0);
    assert_eq!((fate(0.51), fate(0.52)), (Fate::Shed, Fate::Shed));
    for _ in 0..90 {
        shed.tick(full_to(0), full_to(0));
    }
    assert!(shed.kept() > 0.53);
    assert_eq!((fate(0.51), fate(0.515)), (Fate::Shed, Fate::Below));
    for _ in 0..20 {
        shed.tick(full_to(0), full_to(0));
    }
    assert_eq!((fate(0.51), fate(0.52)), (Fate::Below, Fate::Below));
}

#[test]
fn above_the_mark_no_new_trace_is_let_in_and_those_under_way_go_on() {
    let shed = Shedder::new(0.5, 300);
    let fate = |place, fill| shed.fate(Threshold::Always, at(place), fill);
    assert_eq!(fate(0.1, 511), Fate::Below);
    assert_eq!((fate(0.1, 512), fate(0.2, 512)), (Fate::Below, Fate::Shed));
    assert_eq!(fate(0.2, 0), Fate::Shed, "it has a gap already");
    assert_eq!((fate(0.1, FULL), fate(0.3, 0)), (Fate::Below, Fate::Below));
}

#[test]
fn a_mark_cuts_no_further_than_the_sink_needs() {
    let shed = Shedder::new(0.5, 300);
    // 1,000 came and 800 left, below the first mark.
    (0..1_000).for_each(|_| shed.filled(500, Fate::Below));
    let (was, is) = (
        Level {
            fill: 450,
            queued: 1_800,
        },
        Level {
            fill: 500,
            queued: 2_000,
        },
    );
    shed.tick(is, was);
    assert_eq!(shed.kept(), 1.0);
    // 1,000 more before the next tick.
    (0..999).for_each(|_| shed.filled(500, Fate::Below));
    shed.filled(640, Fate::Below);
    assert!((shed.kept() - 0.8).abs() < 1e-9, "{}", shed.kept());
    // Then only traces under way.
    shed.filled(768, Fate::UnderWay);
    assert!((shed.kept() - 0.8).abs() < 1e-9, "{}", shed.kept());
}

#[test]
fn a_trace_that_lost_a_copy_loses_the_rest() {
    let shed = Shedder::new(0.5, 300);
    let fate = |place| shed.fate(Threshold::Always, at(place), 0);
    assert_eq!((fate(0.1), fate(0.2)), (Fate::Below, Fate::Below));
    shed.lost(Threshold::Always, at(0.1));
    assert_eq!((fate(0.1), fate(0.2)), (Fate::Shed, Fate::Below));
}

#[test]
fn rules_of_other_shares_decide_for_themselves() {
    let shed = cut();
    let (less, more) = (
        Fraction::new(0.5).expect("share").threshold(),
        Fraction::new(0.9).expect("share").threshold(),
    );
    let hash = at(0.3);
    for _ in 0..3 {
        assert_eq!(shed.fate(less, hash, 0), Fate::Shed);
        assert_eq!(shed.fate(more, hash, 0), Fate::Below);
    }
}

#[test]
fn traces_under_way_do_not_cut_the_share_again() {
    let shed = cut();
    shed.tick(full_to(640), full_to(600));
    // 100 come below the border and 400 of traces under way; the sink takes 200.
    (0..100).for_each(|_| shed.filled(650, Fate::Below));
    (0..400).for_each(|_| shed.filled(650, Fate::UnderWay));
    let before = shed.kept();
    let (was, is) = (
        Level {
            fill: 640,
            queued: 2_560,
        },
        Level {
            fill: 715,
            queued: 2_860,
        },
    );
    shed.tick(is, was);
    assert_eq!(shed.kept(), before);
    // All 500 below the border: 200 of them is what the sink takes.
    (0..500).for_each(|_| shed.filled(650, Fate::Below));
    shed.tick(is, was);
    let cut = 0.4 * MARGIN;
    assert!((shed.kept() / before - cut).abs() < 1e-9);
}

/// Ten times more than the sink takes, for 45 seconds of model time, with 20 messages a trace of which `open` are under way at
/// once: how many traces are whole of those of which anything was kept, and how much of what the sink could take it got. Those
/// that began in the first second do not count: more may be under way when overload begins than the queue has room for.
fn overload(open: usize) -> (f64, f64) {
    const CAPACITY: usize = 4_096;
    const PER_MILLI: usize = 10;
    const MILLIS: usize = 45_000;
    let shed = Shedder::new(0.5, 300);
    let mut queue = VecDeque::new();
    let mut delivered: HashMap<u64, u32> = HashMap::new();
    let (mut before, mut trace, mut first) = (Level::default(), 0_u64, 0);
    let level = |queue: &VecDeque<u64>| Level {
        fill: (queue.len() * 1024 / CAPACITY) as u32,
        queued: queue.len(),
    };
    // Each is in the middle of one trace: its id, where its key lies, and the messages left.
    let mut slots: Vec<_> = (0..open).map(|n| (0_u64, 0_u64, n as u32 % 20)).collect();
    let (messages, mut last) = (MILLIS * PER_MILLI * 10, u64::MAX);
    for message in 0..messages {
        if message == 1_000 * PER_MILLI * 10 {
            first = trace;
        }
        let slot = &mut slots[message % open];
        if slot.2 == 0 {
            trace += 1;
            if message > messages - 20 * open {
                last = last.min(trace);
            }
            *slot = (
                trace,
                Sampler::new(0).hash(format!("{trace:032x}").as_bytes()),
                20,
            );
        }
        slot.2 -= 1;
        let fate = shed.fate(Threshold::Always, slot.1, level(&queue).fill);
        if fate != Fate::Shed {
            if queue.len() == CAPACITY {
                shed.overflowed();
                shed.lost(Threshold::Always, slot.1);
            } else {
                queue.push_back(slot.0);
                shed.filled(level(&queue).fill, fate);
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
    for waiting in queue {
        *delivered.entry(waiting).or_default() += 1;
    }
    delivered.retain(|trace, _| *trace > first && *trace < last);
    let whole = delivered.values().filter(|&&n| n == 20).count();
    (
        whole as f64 / delivered.len() as f64,
        f64::from(sum) / (MILLIS * PER_MILLI) as f64,
    )
}

#[test]
fn at_ten_times_the_load_kept_traces_are_whole() {
    // 8 connections with one trace each; 500 traces at once, of a tenth of a second each; and 5,000, of a second.
    for open in [8, 500, 5_000] {
        let (whole, taken) = overload(open);
        println!("{open} open: {whole} whole, {taken} taken");
        assert!(whole >= 0.999, "{open} open: {whole} whole");
        assert!(
            taken >= 0.8,
            "{open} open: the sink got {taken} of what it could take"
        );
    }
}
