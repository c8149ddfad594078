//! Tells a loss of the loop from one of the machine.
//!
//! A subscriber loses a slot when, from the moment the last event it got was sent, more than a ring's worth was sent before it
//! came back. Of that time some may be the machine's: the one worker received nothing for any subscriber, for 20 us longer
//! than events are apart, or the producer was late by as much. What is left is the loop's own time. A loss is the machine's when the loop itself took less
//! than half of the time for which the slots last, and the loop's in any other case.
//!
//! A loop that stalls looks like a machine that is away, so what all runs lose, and how long they are away, has gates of its own.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Shorter ones are the loop's: a wake-up takes as long.
const PAUSE_MIN: Duration = Duration::from_micros(20);

/// Times of one thread in which it did nothing, in nanoseconds since the run's origin; disjoint and in order.
#[derive(Default)]
pub struct Pauses(Vec<(u64, u64)>);

impl Pauses {
    /// Takes note of it if it is one. `from` does not fall.
    pub fn note(&mut self, from: u64, to: u64, usual: Duration) {
        if to.saturating_sub(from) < (PAUSE_MIN + usual).as_nanos() as u64 {
            return;
        }
        match self.0.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => self.0.push((from, to)),
        }
    }

    /// The times in which either was away.
    pub fn joined(self, other: Self) -> Self {
        let mut all = self.0;
        all.extend(other.0);
        all.sort_unstable();
        let mut joined = Self::default();
        for (from, to) in all {
            match joined.0.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(to),
                _ => joined.0.push((from, to)),
            }
        }
        joined
    }

    pub fn total(&self) -> Duration {
        Duration::from_nanos(self.0.iter().map(|(from, to)| to - from).sum())
    }

    fn within(&self, from: u64, to: u64) -> u64 {
        let cut = |pause: &(u64, u64)| pause.1.min(to).saturating_sub(pause.0.max(from));
        self.0.iter().map(cut).sum()
    }

    /// Events that were lost though the machine ran, since events flow from `begin` on.
    pub fn unexcused(&self, losses: &[Loss], begin: u64, slots_last: Duration) -> u64 {
        let half = slots_last.as_nanos() as u64 / 2;
        let unexcused = losses.iter().filter(|loss| {
            let from = loss.from.max(begin);
            (loss.to - from) - self.within(from, loss.to) >= half
        });
        unexcused.map(|loss| loss.events).sum()
    }
}

/// What one subscriber lost at once.
pub struct Loss {
    /// When the last event was sent that it got before.
    from: u64,
    /// When it was told.
    to: u64,
    events: u64,
}

impl Loss {
    pub fn new(from: u64, to: u64, events: u64) -> Self {
        Self { from, to, events }
    }
}

/// The receives of the one worker.
pub struct Watch {
    origin: Instant,
    usual: Duration,
    last: AtomicU64,
    pauses: Mutex<Pauses>,
}

impl Watch {
    /// Events are `usual` apart.
    pub fn new(origin: Instant, usual: Duration) -> Self {
        Self {
            origin,
            usual,
            last: AtomicU64::new(0),
            pauses: Mutex::default(),
        }
    }

    /// Something is received: nanoseconds since the origin.
    pub fn now(&self) -> u64 {
        let now = self.origin.elapsed().as_nanos() as u64;
        let last = self.last.load(Relaxed);
        self.last.store(now, Relaxed);
        if last > 0 && now - last >= PAUSE_MIN.as_nanos() as u64 {
            let mut pauses = self.pauses.lock().expect("nobody panics with it");
            pauses.note(last, now, self.usual);
        }
        now
    }

    pub fn pauses(&self) -> Pauses {
        std::mem::take(&mut self.pauses.lock().expect("nobody panics with it"))
    }
}
