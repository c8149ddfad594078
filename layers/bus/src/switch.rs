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

use tokio::sync::{
    broadcast::{self, error::RecvError},
    Notify,
};

use crate::{
    bus::FormerBus,
    subscriber::{Taken, YieldOnce},
    sync::{lock, read, step, write, Mutex, RwLock},
    Bus, BusError, Event, Notice, Subscriber,
};

/// Cutovers a follower may be behind.
const PENDING_MAX: usize = 4;
/// Notices in a row before the worker gets a turn for others.
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
    queue: Mutex<VecDeque<Subscriber>>,
    filled: Notify,
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

    /// The bus of this moment. What is published on a kept clone after a cutover still reaches followers,
    /// until the clone is dropped, but in no order with what the switch publishes.
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
            old: None,
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
    /// four cutovers behind; then nothing has changed.
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
            .find(|(_, slot)| lock(&slot.queue).len() >= PENDING_MAX)
        {
            return Err(BusError::Cutover(format!(
                "{name} is still {PENDING_MAX} cutovers behind"
            )));
        }
        for (name, slot) in &followers {
            lock(&slot.queue).push_back(new.observe(name));
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
    /// The bus before, until every handle of it is gone; always read first.
    old: Option<Subscriber>,
    current: Subscriber,
    run: u32,
}

impl Follower {
    /// Waits for the next notice; `None` when the switch and every handle of its bus are gone and nothing is
    /// left. Drains and yields as [`Subscriber::next`] does.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Notice> {
        if self.run >= DRAIN_MAX {
            self.run = 0;
            YieldOnce(false).await;
        }
        self.run += 1;
        loop {
            if self.old.is_none() {
                if let Some(next) = lock(&self.slot.queue).pop_front() {
                    self.old = Some(std::mem::replace(&mut self.current, next));
                }
            }
            if let Some(old) = &mut self.old {
                match old.take() {
                    Taken::Notice(notice) => return Some(notice),
                    Taken::Closed => {
                        self.old = None;
                        continue;
                    }
                    Taken::Empty => {}
                }
            }
            let ended = match self.current.take() {
                Taken::Notice(notice) => return Some(notice),
                Taken::Closed => true,
                Taken::Empty => false,
            };
            if ended && self.old.is_none() {
                if lock(&self.slot.queue).is_empty() {
                    return None;
                }
                continue;
            }
            self.run = 1;
            if let Some(notice) = self.wait(ended).await {
                return Some(notice);
            }
        }
    }

    /// Waits for either bus or a cutover; `None` asks for another look.
    async fn wait(&mut self, current_ended: bool) -> Option<Notice> {
        step();
        match &mut self.old {
            Some(old) if current_ended => {
                let answer = old.receiver().recv().await;
                old.resolve(answer)
            }
            Some(old) => match either(old.receiver(), self.current.receiver()).await {
                (true, answer) => old.resolve(answer),
                (false, answer) => self.current.resolve(answer),
            },
            None => {
                let mut filled = pin!(self.slot.filled.notified());
                let answer = {
                    let mut recv = pin!(self.current.receiver().recv());
                    poll_fn(|cx| match recv.as_mut().poll(cx) {
                        Poll::Ready(answer) => Poll::Ready(Some(answer)),
                        Poll::Pending => filled.as_mut().poll(cx).map(|()| None),
                    })
                    .await
                };
                answer.and_then(|answer| self.current.resolve(answer))
            }
        }
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

/// The first answer, the old bus's first; `true` names the old one.
async fn either(
    old: &mut broadcast::Receiver<Event>,
    current: &mut broadcast::Receiver<Event>,
) -> (bool, Result<Event, RecvError>) {
    let (mut old, mut current) = (pin!(old.recv()), pin!(current.recv()));
    poll_fn(|cx| match old.as_mut().poll(cx) {
        Poll::Ready(answer) => Poll::Ready((true, answer)),
        Poll::Pending => current.as_mut().poll(cx).map(|answer| (false, answer)),
    })
    .await
}
