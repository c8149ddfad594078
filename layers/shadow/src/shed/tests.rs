use std::collections::{HashMap, VecDeque};

use arqon_message::{Fraction, Sampler};
use proptest::prelude::*;

use super::*;

#[test]
fn nothing_is_shed_below_the_mark() {
    let shed = Shedder::new(0.5, 300);
    for fill in 0..512 {
        shed.filled(fill);
        assert!(!shed.tick(fill, fill));
    }
    assert!(shed.keeps(Threshold::Always, u64::MAX));
    assert_eq!(shed.kept(), 1.0);
}

#[test]
fn each_mark_halves_once() {
    let shed = Shedder::new(0.5, 300);
    for (fill, kept) in [
        (512, 0.5),
        (600, 0.5),
        (640, 0.25),
        (768, 0.125),
        (896, 0.0625),
        (1024, 0.0625),
        (512, 0.0625),
    ] {
        shed.filled(fill);
        assert!((shed.kept() - kept).abs() < 1e-9, "{fill}: {}", shed.kept());
    }
}

#[test]
fn a_queue_that_stays_full_sheds_on_and_a_low_one_gives_back() {
    let shed = Shedder::new(0.5, 300);
    for _ in 0..400 {
        assert!(shed.tick(FULL, FULL));
    }
    assert!(shed.kept() < 1e-9);
    let ticks = (0..).take_while(|_| shed.tick(0, 0)).count();
    assert!((298..=301).contains(&ticks), "{ticks}");
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

/// Ten times more than the sink takes, for a minute of model time: 20 messages a trace over 8 connections.
#[test]
fn at_ten_times_the_load_kept_traces_are_whole() {
    const CAPACITY: usize = 4_096;
    const PER_MILLI: usize = 10;
    let shed = Shedder::new(0.5, 300);
    let mut queue = VecDeque::new();
    let mut delivered: HashMap<u64, u32> = HashMap::new();
    let (mut full, mut before, mut trace) = (0_u32, 0, 0_u64);
    let fill = |queue: &VecDeque<u64>| (queue.len() * 1024 / CAPACITY) as u32;
    // Eight connections, each in the middle of one trace: its id and the messages left.
    let mut open = [(0_u64, 0_u32); 8];
    for milli in 0..60_000_usize {
        for n in 0..PER_MILLI * 10 {
            let slot = &mut open[n % 8];
            if slot.1 == 0 {
                trace += 1;
                *slot = (trace, 20);
            }
            slot.1 -= 1;
            let hash = Sampler::new(0).hash(format!("{:032x}", slot.0).as_bytes());
            if !shed.keeps(Threshold::Always, hash) {
                continue;
            }
            if queue.len() == CAPACITY {
                full += 1;
                continue;
            }
            queue.push_back(slot.0);
            shed.filled(fill(&queue));
        }
        for done in queue.drain(..PER_MILLI.min(queue.len())) {
            *delivered.entry(done).or_default() += 1;
        }
        if milli % 100 == 99 {
            shed.tick(fill(&queue), before);
            before = fill(&queue);
        }
    }
    let whole = delivered.values().filter(|&&n| n == 20).count();
    let ratio = whole as f64 / delivered.len() as f64;
    assert!(
        ratio >= 0.99,
        "{whole} of {} traces whole ({ratio}), {full} lost to a full queue",
        delivered.len()
    );
    // The sink is kept busy all the while: at least 80 % of what it could have taken.
    let sum: u32 = delivered.values().sum();
    assert!(sum as usize >= 60_000 * PER_MILLI * 8 / 10, "{sum}");
}
