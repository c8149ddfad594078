//! Two-bus cutover: replaces a bus by one of another capacity (source: RUNBOOK 6.3, its order repaired).
//!
//! The source cancels old subscribers before it swaps the publishers, and loses what is sent in between.
//! Here: new bus, every follower subscribed to it, publishers swapped under one write lock, then each
//! follower drains the old bus to its end before it reads on.

use std::{
    collections::VecDeque,
    fmt,
    future::{poll_fn, Future},
    pin::pin,
    sync::{Arc, Weak},
    task::Poll,
};

use tokio::sync::Notify;

use crate::{
    bus::FormerBus,
    subscriber::{Taken, YieldOnce},
    sync::{lock, read, step, write, Mutex, RwLock},
    Bus, BusError, Event, Notice, Subscriber,
};

/// Cutovers a follower may be behind: former buses that it has not read to their end.
const PENDING_MAX: usize = 4;
/// Events in a row, reports in batches counted one by one, before the worker gets a turn for others.
const DRAIN_MAX: u32 = 128;

/// A publishing handle whose bus can be replaced while events flow.
///
/// Publishers publish through it, subscribers [`follow`](Self::follow). A follower that does not lag gets
/// every event exactly once, and each publisher's events in order, across any number of cutovers.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), ron_bus::BusError> {
/// use ron_bus::{Bus, BusSwitch, Event, Notice};
///
/// let switch = BusSwitch::new(Bus::new(8)?);
/// let mut follower = switch.follow("audit");
/// switch.publish(Event::ConfigUpdated { version: 1 })?;
/// switch.cutover(Bus::new(1_024)?)?;
/// switch.publish(Event::ConfigUpdated { version: 2 })?;
///
/// for version in [1, 2] {
///     assert_eq!(follower.next().await, Some(Notice::Event(Event::ConfigUpdated { version })));
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct BusSwitch {
    state: Arc<RwLock<State>>,
}

struct State {
    bus: Bus,
    /// Buses before it of which a handle may be left: none of them comes back.
    former: Vec<FormerBus>,
    followers: Vec<(&'static str, Weak<Slot>)>,
}

/// Where a cutover leaves the next subscriber for a follower.
#[derive(Default)]
struct Slot {
    pending: Mutex<Pending>,
    filled: Notify,
}

#[derive(Default)]
struct Pending {
    /// Subscribers of the buses after the follower's current one.
    queue: VecDeque<Subscriber>,
    /// Former buses that the follower still reads.
    old: usize,
}

impl Pending {
    /// Former buses that are not read to their end: those before the newest.
    fn behind(&self) -> usize {
        self.old + self.queue.len()
    }
}

impl BusSwitch {
    /// Starts with this bus.
    #[must_use]
    pub fn new(bus: Bus) -> Self {
        Self {
            state: Arc::new(RwLock::new(State {
                bus,
                former: Vec::new(),
                followers: Vec::new(),
            })),
        }
    }

    /// The bus of this moment. What is published on a kept clone after cutovers still reaches followers,
    /// until the clone is dropped, but in no order with what the switch publishes. Clones of four former buses
    /// hold up the next [`cutover`](Self::cutover).
    #[must_use]
    pub fn bus(&self) -> Bus {
        read(&self.state).bus.clone()
    }

    /// As [`Bus::publish`], on the bus of this moment.
    ///
    /// # Errors
    ///
    /// As [`Bus::publish`].
    pub fn publish(&self, event: Event) -> Result<usize, BusError> {
        read(&self.state).bus.publish(event)
    }

    /// As [`Bus::publish_batch`], on the bus of this moment.
    ///
    /// # Errors
    ///
    /// As [`Bus::publish_batch`].
    pub fn publish_batch(&self, reports: Vec<Event>) -> Result<usize, BusError> {
        read(&self.state).bus.publish_batch(reports)
    }

    /// A subscriber that moves on with each cutover; for one task.
    #[must_use]
    pub fn follow(&self, name: &'static str) -> Follower {
        let slot = Arc::new(Slot::default());
        let mut state = write(&self.state);
        state.followers.retain(|(_, slot)| slot.strong_count() > 0);
        state.followers.push((name, Arc::downgrade(&slot)));
        let current = state.bus.observe(name);
        Follower {
            slot,
            old: Vec::new(),
            current,
            run: 0,
        }
    }

    /// Puts `new` in the place of the current bus: subscribes every follower to it, then swaps. Publishers
    /// wait for neither; raw receivers of the old bus see its end.
    ///
    /// # Errors
    ///
    /// [`BusError::Cutover`] when `new` is the current bus or one that this switch has had (its followers may
    /// still read that one: to go back to a capacity, make a new bus of it), or when a follower is still
    /// four cutovers behind: it has not read four former buses to their end, be it that it is slow or that
    /// clones of them are kept. Then nothing has changed.
    pub fn cutover(&self, new: Bus) -> Result<(), BusError> {
        let mut state = write(&self.state);
        if state.bus.is(&new) {
            return Err(BusError::Cutover("the new bus is the current one".to_owned()));
        }
        state.former.retain(FormerBus::may_have_handles);
        if state.former.iter().any(|former| former.is(&new)) {
            let text = "this switch has had the new bus before: make a new one";
            return Err(BusError::Cutover(text.to_owned()));
        }
        state.followers.retain(|(_, slot)| slot.strong_count() > 0);
        let followers: Vec<_> = state
            .followers
            .iter()
            .filter_map(|(name, slot)| Some((*name, slot.upgrade()?)))
            .collect();
        if let Some((name, _)) = followers
            .iter()
            .find(|(_, slot)| lock(&slot.pending).behind() >= PENDING_MAX)
        {
            return Err(BusError::Cutover(format!(
                "{name} is still {PENDING_MAX} cutovers behind"
            )));
        }
        for (name, slot) in &followers {
            lock(&slot.pending).queue.push_back(new.observe(name));
        }
        let old = std::mem::replace(&mut state.bus, new);
        state.former.push(old.former());
        drop(state);
        drop(old);
        for (_, slot) in followers {
            slot.filled.notify_one();
        }
        Ok(())
    }
}

impl fmt::Debug for BusSwitch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BusSwitch")
            .field("bus", &read(&self.state).bus)
            .finish_non_exhaustive()
    }
}

/// A [`Subscriber`] that survives cutovers; from [`BusSwitch::follow`].
pub struct Follower {
    slot: Arc<Slot>,
    /// Former buses, oldest first, each until every handle of it is gone; always read before the current one.
    old: Vec<Subscriber>,
    current: Subscriber,
    run: u32,
}

impl Follower {
    /// Waits for the next notice; `None` when the switch and every handle of its buses are gone and nothing is
    /// left. Drains and yields as [`Subscriber::next`] does; parks at once where that looks again first.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Notice> {
        if self.run >= DRAIN_MAX {
            self.run = 0;
            YieldOnce(false).await;
        }
        loop {
            // First: once a next bus is known, the switch sends nothing more on those before it.
            self.move_on();
            if let Some(notice) = self.take_old() {
                return Some(self.counted(notice));
            }
            let ended = match self.current.take() {
                Taken::Notice(notice) => return Some(self.counted(notice)),
                Taken::Closed => true,
                Taken::Empty => false,
            };
            if ended {
                // A cutover hands the next bus over before it lets go of this one.
                if !lock(&self.slot.pending).queue.is_empty() {
                    continue;
                }
                if self.old.is_empty() {
                    return None;
                }
            }
            self.run = 0;
            if let Some(notice) = self.wait(ended).await {
                return Some(self.counted(notice));
            }
        }
    }

    /// Counts it towards the end of the run: reports in a batch one by one.
    fn counted(&mut self, notice: Notice) -> Notice {
        let events = match &notice {
            Notice::Event(event) => u32::try_from(event.facts().len()).unwrap_or(DRAIN_MAX),
            Notice::Resync { .. } => 1,
        };
        self.run = self.run.saturating_add(events);
        notice
    }

    /// Takes the buses that cutovers have left; those before the newest become old.
    fn move_on(&mut self) {
        let mut pending = lock(&self.slot.pending);
        while let Some(next) = pending.queue.pop_front() {
            self.old.push(std::mem::replace(&mut self.current, next));
            pending.old += 1;
        }
    }

    /// The next notice of a former bus, the oldest first; lets go of those that have ended.
    fn take_old(&mut self) -> Option<Notice> {
        let mut at = 0;
        while let Some(old) = self.old.get_mut(at) {
            match old.take() {
                Taken::Notice(notice) => return Some(notice),
                Taken::Empty => at += 1,
                Taken::Closed => {
                    self.old.remove(at);
                    lock(&self.slot.pending).old -= 1;
                }
            }
        }
        None
    }

    /// Waits for any of its buses or a cutover; `None` asks for another look.
    async fn wait(&mut self, current_ended: bool) -> Option<Notice> {
        step();
        let (from, answer) = {
            let mut filled = pin!(self.slot.filled.notified());
            // One that has ended answers at once, each time.
            let current = if current_ended {
                None
            } else {
                Some(self.current.receiver().recv())
            };
            let mut current = pin!(current);
            // At most four, and none where no former bus lives: then nothing is allocated.
            let mut old: Vec<_> = self
                .old
                .iter_mut()
                .map(|old| Box::pin(old.receiver().recv()))
                .collect();
            poll_fn(|cx| {
                for (at, old) in old.iter_mut().enumerate() {
                    if let Poll::Ready(answer) = old.as_mut().poll(cx) {
                        return Poll::Ready((Some(at), Some(answer)));
                    }
                }
                if let Some(current) = current.as_mut().as_pin_mut() {
                    if let Poll::Ready(answer) = current.poll(cx) {
                        return Poll::Ready((None, Some(answer)));
                    }
                }
                filled.as_mut().poll(cx).map(|()| (None, None))
            })
            .await
        };
        let subscriber = match from {
            Some(at) => self.old.get_mut(at)?,
            None => &mut self.current,
        };
        subscriber.resolve(answer?)
    }
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower")
            .field("old", &self.old)
            .field("current", &self.current)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{read, Bus, BusSwitch};

    #[test]
    fn a_bus_of_which_nothing_is_left_is_forgotten() {
        let bus = || Bus::new(2).expect("a capacity");
        let switch = BusSwitch::new(bus());
        let kept = switch.bus();
        for _ in 0..100 {
            switch.cutover(bus()).expect("nobody follows");
            let former = read(&switch.state).former.len();
            assert!(former <= 2, "the kept one, and the last: not {former}");
        }
        drop(kept);
        switch.cutover(bus()).expect("nobody follows");
        assert_eq!(read(&switch.state).former.len(), 1);
    }
}
