//! Polls by hand, so that a test decides every step itself.
#![allow(dead_code, reason = "each test file uses its part")]

use std::{
    future::Future,
    pin::pin,
    sync::{
        atomic::{AtomicU64, Ordering::Relaxed},
        Arc,
    },
    task::{Context, Poll, Wake, Waker},
};

use ron_bus::{Event, Follower, Notice, Subscriber};

struct Ignore;

impl Wake for Ignore {
    fn wake(self: Arc<Self>) {}
}

/// What is there now. A `next` gives way once when it drained, and at most 48 times before it parks; dropping a parked
/// one loses nothing.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    let waker = Waker::from(Arc::new(Ignore));
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    for _ in 0..50 {
        if let Poll::Ready(value) = future.as_mut().poll(&mut cx) {
            return Some(value);
        }
    }
    None
}

/// Everything a subscriber can get now: facts, and slots lost.
pub(crate) fn drain(subscriber: &mut Subscriber) -> (Vec<Event>, u64) {
    let (mut facts, mut lost) = (Vec::new(), 0);
    while let Some(Some(notice)) = now(subscriber.next()) {
        account(notice, &mut facts, &mut lost);
    }
    (facts, lost)
}

/// As [`drain`], for a follower that must not end: its switch lives.
pub(crate) fn drain_follower(follower: &mut Follower) -> (Vec<Event>, u64) {
    let (mut facts, mut lost) = (Vec::new(), 0);
    while let Some(answer) = now(follower.next()) {
        let notice = answer.expect("a follower ended though its switch lives");
        account(notice, &mut facts, &mut lost);
    }
    (facts, lost)
}

/// As [`drain`], for a follower that must end: its switch is gone.
pub(crate) fn drain_follower_to_its_end(follower: &mut Follower) -> (Vec<Event>, u64) {
    let (mut facts, mut lost) = (Vec::new(), 0);
    while let Some(notice) = now(follower.next()).expect("a follower waits though its switch is gone") {
        account(notice, &mut facts, &mut lost);
    }
    (facts, lost)
}

/// Counts how often it is woken.
#[derive(Default)]
pub(crate) struct Wakes(AtomicU64);

impl Wakes {
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

fn account(notice: Notice, facts: &mut Vec<Event>, lost: &mut u64) {
    match notice {
        Notice::Event(event) => facts.extend_from_slice(event.facts()),
        Notice::Resync { lost: slots } => *lost += slots,
        other => panic!("a new notice: {other:?}"),
    }
}

pub(crate) fn version(version: u64) -> Event {
    Event::ConfigUpdated { version }
}

pub(crate) fn versions(facts: &[Event]) -> Vec<u64> {
    facts.iter().map(number).collect()
}

/// The number a test put into an event.
pub(crate) fn number(event: &Event) -> u64 {
    match event {
        Event::ConfigUpdated { version: number } | Event::SchemaChanged { revision: number, .. } => *number,
        other => panic!("no number in {other:?}"),
    }
}

pub(crate) fn report(revision: u64) -> Event {
    Event::SchemaChanged {
        schema_id: "v1.a".to_owned(),
        revision,
    }
}

/// The long form runs with `RON_BUS_LONG=1`.
pub(crate) fn scale(short: u64, long: u64) -> u64 {
    if std::env::var_os("RON_BUS_LONG").is_some() {
        long
    } else {
        short
    }
}
