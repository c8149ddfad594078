//! Any history of cutovers, with clones of former buses that are kept, used and dropped: each event once, in order.
#![cfg(not(loom))]

#[path = "support/drive.rs"]
mod drive;

use proptest::{collection::vec, prelude::*};
use ron_bus::{Bus, BusError, BusSwitch, Follower, Notice};

use drive::{drain_follower, drain_follower_to_its_end, now, number, version, versions};

/// More than a history publishes: nothing lags.
const CAPACITY: u32 = 128;
/// Former buses that a follower may not have read to their end.
const BEHIND_MAX: usize = 4;

#[derive(Clone, Debug)]
enum Step {
    Publish,
    Keep,
    PublishKept(usize),
    DropKept(usize),
    Cutover,
    GoBack(usize),
    Receive,
    Drain,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Publish),
        2 => Just(Step::Keep),
        4 => any::<usize>().prop_map(Step::PublishKept),
        2 => any::<usize>().prop_map(Step::DropKept),
        4 => Just(Step::Cutover),
        1 => any::<usize>().prop_map(Step::GoBack),
        4 => Just(Step::Receive),
        2 => Just(Step::Drain),
    ]
}

struct Play {
    switch: BusSwitch,
    follower: Follower,
    /// Clones with the number of their bus; the current bus is the last one made.
    kept: Vec<(usize, Bus)>,
    current: usize,
    /// Buses the follower may not have seen the end of.
    open: Vec<usize>,
    /// For each event: its bus, and whether the switch published it.
    sent: Vec<(usize, bool)>,
    seen: Vec<u64>,
}

impl Play {
    fn new() -> Self {
        let switch = BusSwitch::new(bus());
        Self {
            follower: switch.follow("model"),
            switch,
            kept: Vec::new(),
            current: 0,
            open: Vec::new(),
            sent: Vec::new(),
            seen: Vec::new(),
        }
    }

    /// Former buses of which a clone is kept.
    fn held(&self) -> Vec<usize> {
        let mut held: Vec<usize> = self.kept.iter().map(|(of, _)| *of).collect();
        held.retain(|of| *of != self.current);
        held.sort_unstable();
        held.dedup();
        held
    }

    fn cutover(&mut self) {
        let answer = self.switch.cutover(bus());
        match answer {
            Ok(()) => {
                assert!(self.held().len() < BEHIND_MAX, "four former buses live");
                self.open.push(self.current);
                self.current += 1;
            }
            Err(error) => {
                assert_eq!(
                    error,
                    BusError::Cutover("model is still 4 cutovers behind".into())
                );
                assert!(self.open.len() >= BEHIND_MAX, "only {:?} may be open", self.open);
            }
        }
    }

    fn step(&mut self, step: Step) {
        let kept = self.kept.len();
        match step {
            Step::Publish => {
                let event = version(self.sent.len() as u64);
                assert_eq!(self.switch.publish(event), Ok(1), "one follower, subscribed once");
                self.sent.push((self.current, true));
            }
            Step::Keep => self.kept.push((self.current, self.switch.bus())),
            Step::PublishKept(k) if kept > 0 => {
                let (of, bus) = &self.kept[k % kept];
                let event = version(self.sent.len() as u64);
                assert_eq!(
                    bus.publish(event),
                    Ok(1),
                    "the follower listens to every former bus"
                );
                self.sent.push((*of, false));
            }
            Step::DropKept(k) if kept > 0 => drop(self.kept.swap_remove(k % kept)),
            Step::Cutover => self.cutover(),
            Step::GoBack(k) if kept > 0 => {
                let bus = self.kept[k % kept].1.clone();
                assert!(self.switch.cutover(bus).is_err(), "the switch has had it");
            }
            Step::Receive => match now(self.follower.next()) {
                Some(Some(Notice::Event(event))) => self.seen.push(number(&event)),
                None => assert_eq!(
                    self.seen.len(),
                    self.sent.len(),
                    "it waits though something is there"
                ),
                other => panic!("a follower that does not lag, of a switch that lives: {other:?}"),
            },
            Step::Drain => {
                let (facts, lost) = drain_follower(&mut self.follower);
                assert_eq!(lost, 0);
                self.seen.extend(versions(&facts));
                assert_eq!(self.seen.len(), self.sent.len(), "all of it");
                self.open = self.held();
            }
            _ => {}
        }
    }

    fn end(mut self) {
        drop((self.switch, self.kept));
        let (facts, lost) = drain_follower_to_its_end(&mut self.follower);
        assert_eq!(lost, 0);
        self.seen.extend(versions(&facts));
        let mut sorted = self.seen.clone();
        sorted.sort_unstable();
        assert!(
            sorted.into_iter().eq(0..self.sent.len() as u64),
            "each exactly once: {:?}",
            self.seen
        );
        let rises = |of: &dyn Fn(&(usize, bool)) -> bool| {
            let picked: Vec<u64> = self
                .seen
                .iter()
                .copied()
                .filter(|n| of(&self.sent[*n as usize]))
                .collect();
            picked.windows(2).all(|pair| pair[0] < pair[1])
        };
        assert!(
            rises(&|(_, by_switch)| *by_switch),
            "the switch's order: {:?}",
            self.seen
        );
        for bus in 0..=self.current {
            assert!(
                rises(&|(of, _)| *of == bus),
                "the order of bus {bus}: {:?}",
                self.seen
            );
        }
    }
}

fn bus() -> Bus {
    Bus::new(CAPACITY).expect("a capacity")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_of_cutovers_gives_each_event_once_and_in_order(steps in vec(step(), 1..100)) {
        let mut play = Play::new();
        for step in steps {
            play.step(step);
        }
        play.end();
    }
}
