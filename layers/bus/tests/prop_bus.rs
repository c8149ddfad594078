//! Any history against a naive model: order, conservation, exact lag, in events.
#![cfg(not(loom))]

#[path = "support/drive.rs"]
mod drive;

use std::sync::Arc;

use proptest::{collection::vec, prelude::*};
use ron_bus::{Bus, BusMetrics, Event, Notice, Subscriber};
use tokio::sync::broadcast::{error::TryRecvError, Receiver};

use drive::{drain, now, number, report, version};

/// 10,000 cases, or as many as `PROPTEST_CASES` says.
fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok());
    ProptestConfig {
        cases: cases.unwrap_or(10_000),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Publish,
    Batch(u64),
    Subscribe,
    Receive(usize),
    Drain(usize),
    /// As `Drain`, by the observed loop.
    Loop(usize),
    Leave(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => Just(Step::Publish),
        4 => (1u64..=64).prop_map(Step::Batch),
        1 => Just(Step::Subscribe),
        6 => any::<usize>().prop_map(Step::Receive),
        1 => any::<usize>().prop_map(Step::Drain),
        1 => any::<usize>().prop_map(Step::Loop),
        1 => any::<usize>().prop_map(Step::Leave),
    ]
}

/// A subscriber, a raw receiver beside it, and where the model has them.
struct Reader {
    observed: Subscriber,
    raw: Receiver<Event>,
    joined: usize,
    at: usize,
    received: u64,
    /// A loss since the last batch or the last time that nothing was left.
    open_loss: bool,
}

/// Every slot ever sent: the numbers in it.
#[derive(Default)]
struct Model {
    slots: Vec<Vec<u64>>,
    next: u64,
    ring: usize,
}

impl Model {
    fn fill(&mut self, len: u64) -> Vec<u64> {
        let numbers: Vec<u64> = (self.next..self.next + len).collect();
        self.next += len;
        numbers
    }

    fn events(&self, from: usize, to: usize) -> u64 {
        self.slots[from..to].iter().map(|slot| slot.len() as u64).sum()
    }

    /// Steps one reader once; both handles must answer as the model says.
    fn receive(&self, reader: &mut Reader) {
        let oldest = self.slots.len().saturating_sub(self.ring);
        if reader.at < oldest {
            let lost = (oldest - reader.at) as u64;
            reader.at = oldest;
            reader.open_loss = true;
            assert_eq!(reader.raw.try_recv(), Err(TryRecvError::Lagged(lost)));
            assert_eq!(now(reader.observed.next()), Some(Some(Notice::Resync { lost })));
        } else if let Some(slot) = self.slots.get(reader.at) {
            reader.at += 1;
            reader.received += slot.len() as u64;
            let raw = reader.raw.try_recv().expect("a slot");
            reader.open_loss &= !matches!(raw, Event::Batch { .. });
            assert_eq!(raw.facts().iter().map(number).collect::<Vec<_>>(), *slot);
            assert_eq!(now(reader.observed.next()), Some(Some(Notice::Event(raw))));
        } else {
            assert_eq!(reader.raw.try_recv(), Err(TryRecvError::Empty));
            assert_eq!(now(reader.observed.next()), None);
            reader.open_loss = false;
        }
        assert_eq!(reader.observed.received(), reader.received);
    }

    /// All of it; then received and lost are exact.
    fn drain(&self, reader: &mut Reader) {
        while reader.at < self.slots.len() {
            self.receive(reader);
        }
        self.receive(reader);
        self.settled(reader);
    }

    /// All of it, by `for_each`: the same notices as `next` would have given, then exact books.
    fn drain_by_loop(&self, reader: &mut Reader) {
        let mut expected = Vec::new();
        let oldest = self.slots.len().saturating_sub(self.ring);
        if reader.at < oldest {
            let lost = (oldest - reader.at) as u64;
            expected.push(Err(lost));
            assert_eq!(reader.raw.try_recv(), Err(TryRecvError::Lagged(lost)));
            reader.at = oldest;
        }
        for slot in &self.slots[reader.at..] {
            expected.push(Ok(slot.clone()));
            reader.received += slot.len() as u64;
            reader.raw.try_recv().expect("a slot");
        }
        reader.at = self.slots.len();
        let mut given = Vec::new();
        let ended = now(reader.observed.for_each(|notice| {
            given.push(match notice {
                Notice::Event(event) => Ok(event.facts().iter().map(number).collect::<Vec<_>>()),
                Notice::Resync { lost } => Err(lost),
                other => panic!("a new notice: {other:?}"),
            });
        }));
        assert_eq!((ended, given), (None, expected));
        assert_eq!(reader.observed.received(), reader.received);
        reader.open_loss = false;
        self.settled(reader);
    }

    /// What it has lost when it leaves: what it was told of, and with an open loss what was overwritten since.
    fn lost(&self, reader: &Reader) -> u64 {
        let oldest = self.slots.len().saturating_sub(self.ring);
        let to = if reader.open_loss {
            reader.at.max(oldest)
        } else {
            reader.at
        };
        self.events(reader.joined, to) - reader.received
    }

    fn settled(&self, reader: &Reader) {
        let sent = self.events(reader.joined, self.slots.len());
        assert_eq!(
            reader.received + reader.observed.dropped(),
            sent,
            "received + lost = sent"
        );
    }
}

fn play(capacity: u32, steps: Vec<Step>) {
    let metrics = Arc::new(BusMetrics::new());
    let bus = Bus::with_metrics(capacity, Arc::clone(&metrics)).expect("a capacity");
    let mut model = Model {
        ring: bus.effective_capacity(),
        ..Model::default()
    };
    let mut readers: Vec<Reader> = Vec::new();
    let (mut unheard, mut gone) = (0, (0, 0));
    for step in steps {
        match step {
            Step::Publish | Step::Batch(_) => {
                let numbers = model.fill(if let Step::Batch(len) = step { len } else { 1 });
                let answer = match step {
                    Step::Batch(_) => bus.publish_batch(numbers.iter().map(|n| report(*n)).collect()),
                    _ => bus.publish(version(numbers[0])),
                };
                assert_eq!(answer.ok(), Some(2 * readers.len()).filter(|n| *n > 0));
                if readers.is_empty() {
                    unheard += numbers.len() as u64;
                } else {
                    model.slots.push(numbers);
                }
            }
            Step::Subscribe if readers.len() < 4 => {
                let (observed, raw) = (bus.observe("model"), bus.subscribe());
                let at = model.slots.len();
                readers.push(Reader {
                    observed,
                    raw,
                    joined: at,
                    at,
                    received: 0,
                    open_loss: false,
                });
            }
            Step::Receive(k) if !readers.is_empty() => {
                let k = k % readers.len();
                model.receive(&mut readers[k]);
            }
            Step::Drain(k) if !readers.is_empty() => {
                let k = k % readers.len();
                model.drain(&mut readers[k]);
            }
            Step::Loop(k) if !readers.is_empty() => {
                let k = k % readers.len();
                model.drain_by_loop(&mut readers[k]);
            }
            Step::Leave(k) if !readers.is_empty() => {
                let reader = readers.swap_remove(k % readers.len());
                gone = (gone.0 + reader.received, gone.1 + model.lost(&reader));
                drop(reader);
                let living: u64 = readers.iter().map(|reader| reader.observed.dropped()).sum();
                assert_eq!(metrics.overflow_dropped_total(), living + gone.1);
            }
            _ => {}
        }
    }
    for reader in &mut readers {
        model.drain(reader);
    }
    let received: u64 = readers.iter().map(|reader| reader.received).sum();
    let dropped: u64 = readers.iter().map(|reader| reader.observed.dropped()).sum();
    assert_eq!(metrics.received_total(), received + gone.0);
    assert_eq!(metrics.overflow_dropped_total(), dropped + gone.1);
    assert_eq!(metrics.unheard_total(), unheard);
    assert_eq!(metrics.queue_depth(), 0);
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_history_is_the_models(capacity in 2u32..40, steps in vec(step(), 1..120)) {
        play(capacity, steps);
    }

    #[test]
    fn boundedness_never_exceeds_published(capacity in 2u32..256, published in 1u64..2_000) {
        let bus = Bus::new(capacity).expect("a capacity");
        let mut slow = bus.observe("slow");
        (0..published).for_each(|i| drop(bus.publish(version(i))));
        let (facts, lost) = drain(&mut slow);
        prop_assert!(facts.len() <= bus.effective_capacity());
        prop_assert_eq!(facts.len() as u64 + lost, published);
    }

    /// The bus keeps the order it is given; a host whose versions never fall is seen never to fall.
    #[test]
    fn config_updated_versions_are_monotonic(steps in vec(0u64..1_000_000, 1..50), capacity in 2u32..64) {
        let bus = Bus::new(capacity).expect("a capacity");
        let mut rx = bus.observe("config");
        let mut sent = Vec::new();
        for step in steps {
            sent.push(sent.last().copied().unwrap_or(0) + step % 3);
            bus.publish(version(*sent.last().expect("just pushed"))).expect("a subscriber");
        }
        let seen: Vec<u64> = drain(&mut rx).0.iter().map(number).collect();
        prop_assert!(seen.windows(2).all(|pair| pair[0] <= pair[1]));
        prop_assert_eq!(&seen[..], &sent[sent.len() - seen.len()..], "the newest, in the order sent");
    }
}
