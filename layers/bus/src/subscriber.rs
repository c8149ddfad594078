//! The observed receive loop: drains, counts, samples, and says when to read the state again.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::sync::broadcast::{
    self,
    error::{RecvError, TryRecvError},
};

use crate::{
    bus::Shared,
    ledger::{Ledger, Numbers},
    metrics::Meter,
    patience::Patience,
    sync::{lock, step, try_lock},
    trace, Event, OverflowWarning,
};

/// Events taken in a row, reports in batches counted one by one, before the worker gets a turn for others.
const DRAIN_MAX: u32 = 128;
/// A depth sample takes the channel's lock, which slows publishers: one for so many events, shared among the
/// subscribers. (A subscriber that keeps up finds the channel empty, and knows its depth without asking.)
const SAMPLE_EVERY: u32 = 32;
/// However many they are, each samples at least every 1,024th of its own.
const SAMPLE_SHARED_MAX: u32 = 32;

/// Looks for what a dropped subscriber lost, while other threads publish batches.
const SETTLE_LOOKS: u32 = 3;

/// What a [`Subscriber`] is given next.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// The next event; [`Event::facts`] walks a batch.
    Event(Event),
    /// Slots were lost, each at least one event. What you derived from events may be wrong: read the state
    /// itself again, then go on.
    Resync {
        /// Slots lost now.
        lost: u64,
    },
}

/// A receiver that counts for the host; from [`Bus::observe`](crate::Bus::observe). It belongs to one task.
pub struct Subscriber {
    rx: broadcast::Receiver<Event>,
    shared: Arc<Shared>,
    name: &'static str,
    ledger: Ledger,
    meter: Arc<Meter>,
    received: u64,
    dropped: u64,
    until_sample: u32,
    patience: Patience,
    run: u32,
}

/// What is there without waiting.
pub(crate) enum Taken {
    Notice(Notice),
    Empty,
    Closed,
}

impl Subscriber {
    pub(crate) fn new(
        rx: broadcast::Receiver<Event>,
        start: Numbers,
        shared: Arc<Shared>,
        name: &'static str,
    ) -> Self {
        let ledger = Ledger::starting_at(start);
        let meter = shared.metrics.begin();
        Self {
            rx,
            shared,
            name,
            ledger,
            meter,
            received: 0,
            dropped: 0,
            until_sample: SAMPLE_EVERY,
            patience: Patience::default(),
            run: 0,
        }
    }

    /// Waits for the next notice; `None` when every handle of the bus is gone and nothing is left.
    ///
    /// Takes what is there without parking, up to 128 in a row, then lets other tasks run. Works on any
    /// executor.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses nothing.
    #[inline]
    pub async fn next(&mut self) -> Option<Notice> {
        // 1 to DRAIN_MAX - 1 taken since it last gave way.
        if self.run.wrapping_sub(1) < DRAIN_MAX - 1 {
            step();
            match self.rx.try_recv() {
                Ok(event) => {
                    self.run += self.count(&event);
                    return Some(Notice::Event(event));
                }
                Err(error) => match self.nothing(error) {
                    Taken::Notice(notice) => return Some(notice),
                    Taken::Closed => return None,
                    Taken::Empty => {}
                },
            }
        }
        self.next_slowly().await
    }

    /// Nothing was there, or it is time to give way.
    async fn next_slowly(&mut self) -> Option<Notice> {
        if self.run >= DRAIN_MAX {
            self.run = 1; // It is not caught up until it has found nothing.
            YieldOnce(false).await;
            match self.take() {
                Taken::Notice(notice) => return Some(notice),
                Taken::Closed => return None,
                Taken::Empty => {}
            }
        }
        while self.patience.look() {
            YieldOnce(false).await;
            match self.take() {
                Taken::Notice(notice) => {
                    self.patience.found();
                    return Some(notice);
                }
                Taken::Closed => return None,
                Taken::Empty => {}
            }
        }
        self.run = 0;
        step();
        let answer = self.rx.recv().await;
        self.resolve(answer)
    }

    /// Hands every notice to `each`, until every handle of the bus is gone and nothing is left: the observed
    /// loop for a subscriber that does not wait for anything else. What is there is taken without a future
    /// per event, so this costs less than a loop on `recv`; it drains and gives way as
    /// [`next`](Self::next) does.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), ron_bus::BusError> {
    /// use ron_bus::{Bus, Event, Notice};
    ///
    /// let bus = Bus::new(8)?;
    /// let mut subscriber = bus.observe("versions");
    /// bus.publish(Event::ConfigUpdated { version: 3 })?;
    /// drop(bus);
    ///
    /// let mut newest = 0;
    /// subscriber
    ///     .for_each(|notice| match notice {
    ///         Notice::Event(Event::ConfigUpdated { version }) => newest = version,
    ///         Notice::Resync { .. } => { /* read the version where it is kept */ }
    ///         _ => {}
    ///     })
    ///     .await;
    /// assert_eq!(newest, 3);
    /// # Ok(()) }
    /// ```
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses nothing: what `each` was not given is there for the next call.
    pub async fn for_each(&mut self, mut each: impl FnMut(Notice)) {
        loop {
            let mut left = DRAIN_MAX;
            let ended = loop {
                step();
                let taken = match self.rx.try_recv() {
                    Ok(event) => {
                        let events = self.count(&event);
                        each(Notice::Event(event));
                        events
                    }
                    Err(TryRecvError::Lagged(slots)) => {
                        each(self.lagged(slots));
                        1
                    }
                    Err(TryRecvError::Empty) => break false,
                    Err(TryRecvError::Closed) => break true,
                };
                left = left.saturating_sub(taken);
                if left == 0 {
                    YieldOnce(false).await;
                    left = DRAIN_MAX;
                }
            };
            if ended {
                return self.closed();
            }
            self.caught_up();
            match self.next_slowly().await {
                Some(notice) => each(notice),
                None => return,
            }
        }
    }

    /// Events received so far, reports in batches counted one by one.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Events lost so far; exact as [`BusMetrics::overflow_dropped_total`] is.
    ///
    /// [`BusMetrics::overflow_dropped_total`]: crate::BusMetrics::overflow_dropped_total
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Slots that wait for this subscriber, lost ones included. Takes the channel's lock.
    #[must_use]
    pub fn backlog(&self) -> usize {
        step();
        self.rx.len()
    }

    /// The name it was given.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn receiver(&mut self) -> &mut broadcast::Receiver<Event> {
        &mut self.rx
    }

    /// The next notice if one is there.
    pub(crate) fn take(&mut self) -> Taken {
        step();
        match self.rx.try_recv() {
            Ok(event) => {
                self.run = self.run.wrapping_add(self.count(&event));
                Taken::Notice(Notice::Event(event))
            }
            Err(error) => self.nothing(error),
        }
    }

    /// No event was there to take: why.
    #[cold]
    fn nothing(&mut self, why: TryRecvError) -> Taken {
        match why {
            TryRecvError::Empty => {
                self.caught_up();
                Taken::Empty
            }
            TryRecvError::Lagged(slots) => {
                self.run = self.run.wrapping_add(1);
                Taken::Notice(self.lagged(slots))
            }
            TryRecvError::Closed => {
                self.closed();
                Taken::Closed
            }
        }
    }

    /// What an awaited `recv` answered.
    #[inline]
    pub(crate) fn resolve(&mut self, answer: Result<Event, RecvError>) -> Option<Notice> {
        match answer {
            Ok(event) => {
                self.run = self.run.wrapping_add(self.count(&event));
                Some(Notice::Event(event))
            }
            Err(RecvError::Lagged(slots)) => {
                self.run = self.run.wrapping_add(1);
                Some(self.lagged(slots))
            }
            Err(RecvError::Closed) => {
                self.closed();
                None
            }
        }
    }

    /// Counts what was received; returns how many events that is.
    #[inline(always)]
    fn count(&mut self, event: &Event) -> u32 {
        let _span = trace::recv(event.kind());
        let events = match event {
            // The event's own numbers are for readers, and who forwards it may have changed them.
            Event::Batch { reports, .. } => {
                let len = reports.count();
                if reports.is_from(&self.shared.origin) {
                    let extra = self.ledger.batch(reports.numbers(), len);
                    self.add_dropped(extra);
                }
                len
            }
            _ => 1,
        };
        self.received += u64::from(events);
        self.until_sample -= 1;
        if self.until_sample == 0 {
            self.sample();
        }
        events
    }

    #[cold]
    fn sample(&mut self) {
        self.until_sample = SAMPLE_EVERY * self.shared.metrics.subscribers().clamp(1, SAMPLE_SHARED_MAX);
        self.meter.set_received(self.received);
        step();
        self.meter.set_depth(self.rx.len() as u64);
    }

    #[cold]
    fn lagged(&mut self, slots: u64) -> Notice {
        self.ledger.lost();
        self.add_dropped(slots);
        let metrics = &self.shared.metrics;
        step();
        let depth = self.rx.len() as u64;
        metrics.add_lag();
        self.meter.set_depth(depth);
        if let Some(sink) = metrics.warning() {
            if let Some(held_back) = self.shared.throttle.admit(self.shared.age_ns()) {
                sink(&OverflowWarning {
                    subscriber: self.name,
                    lost: slots,
                    dropped_total: metrics.overflow_dropped_total(),
                    held_back,
                    depth,
                });
            }
        }
        Notice::Resync { lost: slots }
    }

    /// Nothing is left to take.
    fn caught_up(&mut self) {
        self.meter.set_received(self.received);
        self.meter.set_depth(0);
        if self.run > 0 {
            self.run = 0;
            self.patience.begin(self.shared.metrics.subscribers());
        }
        if self.ledger.is_unsettled() {
            self.settle();
        }
    }

    fn closed(&mut self) {
        self.meter.set_received(self.received);
        self.meter.set_depth(0);
        self.settle();
    }

    /// Counts a past loss in events, if nothing is unread: no batch can be sent meanwhile.
    fn settle(&mut self) {
        let shared = Arc::clone(&self.shared);
        let numbers = lock(&shared.numbers);
        step();
        if self.rx.is_empty() {
            let extra = self.ledger.settle(*numbers);
            self.add_dropped(extra);
        }
    }

    /// As [`settle`](Self::settle), with slots unread: what was sent before them is known from the first batch
    /// among them, or, where there is none, from what the bus had sent before the look at them. They are given
    /// up, not lost. (The channel walks them once more when its receiver goes.)
    ///
    /// The lock is not waited for: a waker may drop the last handle of a task, and this subscriber with it,
    /// under the lock that its publisher holds.
    #[cold]
    fn settle_at_the_end(&mut self) {
        let shared = Arc::clone(&self.shared);
        for _ in 0..SETTLE_LOOKS {
            let mut numbers = try_lock(&shared.numbers).map(|numbers| *numbers);
            step();
            let mut unread = self.rx.len() as u64;
            while unread > 0 {
                step();
                let gone = match self.rx.try_recv() {
                    Ok(Event::Batch { reports, .. }) if reports.is_from(&shared.origin) => {
                        let extra = self.ledger.batch(reports.numbers(), reports.count());
                        self.add_dropped(extra);
                        if !self.ledger.is_unsettled() {
                            return;
                        }
                        1
                    }
                    Ok(_) => 1,
                    Err(TryRecvError::Lagged(slots)) => {
                        self.add_dropped(slots);
                        numbers = None; // Some of these may have been sent since.
                        slots
                    }
                    Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                };
                unread = unread.saturating_sub(gone);
            }
            if let Some(numbers) = numbers {
                let extra = self.ledger.settle(numbers);
                self.add_dropped(extra);
                return;
            }
        }
    }

    fn add_dropped(&mut self, events: u64) {
        if events > 0 {
            self.dropped += events;
            self.shared.metrics.add_dropped(events);
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        if self.ledger.is_unsettled() {
            self.settle_at_the_end();
        }
        self.meter.set_received(self.received);
        self.shared.metrics.end(&self.meter);
    }
}

impl fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber")
            .field("name", &self.name)
            .field("received", &self.received)
            .field("dropped", &self.dropped)
            .finish_non_exhaustive()
    }
}

/// Pending once, woken at once: the executor puts the task behind the others.
pub(crate) struct YieldOnce(pub(crate) bool);

impl Future for YieldOnce {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.0 {
            return Poll::Ready(());
        }
        self.0 = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
