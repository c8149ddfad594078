//! The bus: a tokio broadcast channel with a number for every batch.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::Instant,
};

use tokio::sync::broadcast;

use crate::{
    ledger::Numbers,
    reports::{Origin, Reports},
    sync::{lock, step, Mutex},
    throttle::Throttle,
    trace, BusConfig, BusError, BusMetrics, Event, Subscriber,
};

/// A bounded, lossy broadcast of [`Event`]s. Cloning costs two reference counts; every clone is the same bus.
#[derive(Clone)]
pub struct Bus {
    tx: broadcast::Sender<Event>,
    shared: Arc<Shared>,
}

/// What the bus and its subscribers share. It holds no sender: the channel closes with the last [`Bus`].
pub(crate) struct Shared {
    pub(crate) config: BusConfig,
    pub(crate) metrics: Arc<BusMetrics>,
    /// Held while a batch is numbered and sent, so that the numbers rise in the channel's order.
    pub(crate) numbers: Mutex<Numbers>,
    pub(crate) origin: Arc<Origin>,
    pub(crate) throttle: Throttle,
    born: Instant,
}

impl Shared {
    /// Nanoseconds since the bus was made.
    pub(crate) fn age_ns(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Bus {
    /// Most reports in one batch.
    pub const BATCH_EVENTS_MAX: usize = 64;
    /// Most bytes (slots and text) in one batch: 64 KiB.
    pub const BATCH_BYTES_MAX: usize = 64 * 1024;

    /// Makes a bus from a [`BusConfig`] or from a capacity alone: `Bus::new(256)`.
    ///
    /// # Errors
    ///
    /// [`BusError::Config`] with the text of [`BusConfig::validate`].
    pub fn new(cfg: impl Into<BusConfig>) -> Result<Self, BusError> {
        Self::with_metrics(cfg, Arc::default())
    }

    /// As [`new`](Self::new), with the host's metrics.
    ///
    /// # Errors
    ///
    /// [`BusError::Config`] with the text of [`BusConfig::validate`].
    pub fn with_metrics(cfg: impl Into<BusConfig>, metrics: Arc<BusMetrics>) -> Result<Self, BusError> {
        let config = cfg.into();
        config.validate().map_err(BusError::Config)?;
        let shared = Shared {
            throttle: Throttle::per_min(config.overflow_warn_rate_per_min),
            numbers: Mutex::new(Numbers::default()),
            origin: Arc::default(),
            born: Instant::now(),
            metrics,
            config,
        };
        let tx = broadcast::Sender::new(shared.config.capacity as usize);
        Ok(Self {
            tx,
            shared: Arc::new(shared),
        })
    }

    /// A tokio sender. Its `send` never waits; `Err` means that nobody subscribes now.
    #[must_use]
    pub fn sender(&self) -> broadcast::Sender<Event> {
        self.tx.clone()
    }

    /// A tokio receiver of its own, for one task; it sees what is sent from now on.
    ///
    /// `recv` gives `Lagged(n)` when `n` slots were lost: count, read your state again, go on. `Closed` ends
    /// the loop. [`observe`](Self::observe) does the counting for you.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.tx.subscribe()
    }

    /// The configured capacity, in slots.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.shared.config.capacity as usize
    }

    /// Slots the channel really keeps: tokio rounds [`capacity`](Self::capacity) up to a power of two.
    #[must_use]
    pub fn effective_capacity(&self) -> usize {
        self.capacity().next_power_of_two()
    }

    /// Receivers alive now, raw ones included: the gauge `bus_subscribers_total`.
    #[must_use]
    pub fn subscribers(&self) -> usize {
        self.tx.receiver_count()
    }

    /// Slots that wait for the slowest receiver, raw ones included. Takes the channel's lock: for a scrape
    /// or a readiness check, not for every event.
    #[must_use]
    pub fn queue_depth(&self) -> usize {
        self.tx.len()
    }

    /// The host's metrics, or the bus's own when it was made by [`new`](Self::new).
    #[must_use]
    pub fn metrics(&self) -> &Arc<BusMetrics> {
        &self.shared.metrics
    }

    /// Labels for the bus's metrics: `amnesia` (where configured and known) and, with the feature
    /// `pq-labels`, the host's `pq`, `kex` and `sig`.
    #[must_use]
    pub fn metric_labels(&self) -> Vec<(&'static str, String)> {
        self.shared.metrics.labels(self.shared.config.emit_amnesia_label)
    }

    /// Sends to every subscriber without waiting; returns how many there are. The event is there for
    /// `try_recv` before this returns.
    ///
    /// A [`Batch`](Event::Batch), taken from another bus, is sent as a new batch of this one.
    ///
    /// # Errors
    ///
    /// [`BusError::Closed`] when nobody subscribes at this moment; counted in
    /// [`BusMetrics::unheard_total`]. Where that is no error, ignore it.
    #[inline]
    pub fn publish(&self, event: Event) -> Result<usize, BusError> {
        if matches!(event, Event::Batch { .. }) {
            return self.renumber(&event);
        }
        let _span = trace::publish(event.kind());
        step();
        match self.tx.send(event) {
            Ok(receivers) => Ok(receivers),
            Err(_) => Err(self.unheard(1)),
        }
    }

    /// Sends 1 to 64 reports in one slot; returns how many subscribers there are.
    ///
    /// For a producer that already has a burst: a report waits for nothing here. Only reports
    /// ([`Event::is_report`]) travel so. They are shared between the subscribers, not copied. What a batch held is freed
    /// on the thread that published it, with its next batch; up to 160 KiB wait for that in one bus, counted with what
    /// texts and vectors have reserved.
    ///
    /// # Errors
    ///
    /// [`BusError::Batch`] when it is empty, holds more than [`BATCH_EVENTS_MAX`](Self::BATCH_EVENTS_MAX)
    /// events or [`BATCH_BYTES_MAX`](Self::BATCH_BYTES_MAX) bytes, or an event that is not a report.
    /// [`BusError::Closed`] when nobody subscribes; each report is counted.
    pub fn publish_batch(&self, reports: Vec<Event>) -> Result<usize, BusError> {
        let (len, held) = check_batch(&reports)?;
        let _span = trace::publish("batch");
        let reports = Reports::new(reports, held, &self.shared.origin);
        let mut numbers = lock(&self.shared.numbers);
        let Numbers {
            batches: batch_index,
            reports: first_seq,
        } = *numbers;
        reports.number(*numbers);
        let event = Event::Batch {
            batch_index,
            first_seq,
            len,
            reports,
        };
        step();
        let receivers = self.tx.send(event).map_err(|_| self.unheard(u64::from(len)))?;
        *numbers = Numbers {
            batches: batch_index + 1,
            reports: first_seq + u64::from(len),
        };
        Ok(receivers)
    }

    /// A subscriber that counts for the host and says when it lost something; for one task. The name goes
    /// into warnings only, never into a label.
    #[must_use]
    pub fn observe(&self, name: &'static str) -> Subscriber {
        let numbers = lock(&self.shared.numbers);
        step();
        let rx = self.tx.subscribe();
        Subscriber::new(rx, *numbers, Arc::clone(&self.shared), name)
    }

    /// Whether both are handles of one bus.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.tx.same_channel(&other.tx)
    }

    /// To know this bus again without keeping it.
    pub(crate) fn former(&self) -> FormerBus {
        FormerBus(Arc::downgrade(&self.shared))
    }

    #[cold]
    fn renumber(&self, batch: &Event) -> Result<usize, BusError> {
        self.publish_batch(batch.facts().to_vec())
    }

    #[cold]
    fn unheard(&self, events: u64) -> BusError {
        self.shared.metrics.add_unheard(events);
        BusError::Closed
    }
}

/// A bus that a switch has had.
pub(crate) struct FormerBus(Weak<Shared>);

impl FormerBus {
    /// Whether this is a handle of it.
    pub(crate) fn is(&self, bus: &Bus) -> bool {
        std::ptr::eq(self.0.as_ptr(), Arc::as_ptr(&bus.shared))
    }

    /// False once no [`Bus`] of it and no subscriber is left.
    pub(crate) fn may_have_handles(&self) -> bool {
        self.0.strong_count() > 0
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus")
            .field("capacity", &self.capacity())
            .field("subscribers", &self.subscribers())
            .finish_non_exhaustive()
    }
}

/// The batch's length and the bytes it keeps from the allocator, if it is one that may be sent.
fn check_batch(reports: &Vec<Event>) -> Result<(u32, usize), BusError> {
    if reports.is_empty() || reports.len() > Bus::BATCH_EVENTS_MAX {
        let text = format!(
            "{} events, allowed are 1 to {}",
            reports.len(),
            Bus::BATCH_EVENTS_MAX
        );
        return Err(BusError::Batch(text));
    }
    if let Some(event) = reports.iter().find(|event| !event.is_report()) {
        return Err(BusError::Batch(format!(
            "{} is not a report: publish it alone",
            event.kind()
        )));
    }
    let (mut bytes, mut spare) = (0, (reports.capacity() - reports.len()) * size_of::<Event>());
    for size in reports.iter().map(Event::size) {
        bytes += size.used;
        spare += size.spare;
    }
    if bytes > Bus::BATCH_BYTES_MAX {
        return Err(BusError::Batch(format!(
            "{bytes} bytes, allowed are {}",
            Bus::BATCH_BYTES_MAX
        )));
    }
    let len = u32::try_from(reports.len()).map_err(|_| BusError::Batch("too long".to_owned()))?;
    Ok((len, bytes + spare))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{Bus, BusConfig, BusError, Event};

    #[test]
    fn bus_new_capacity_must_be_ge_2() {
        for capacity in [0, 1] {
            let error = Bus::new(BusConfig::new(capacity)).unwrap_err();
            assert_eq!(
                error,
                BusError::Config("bus.capacity must be >= 2 (recommended >= 8)".into())
            );
        }
        assert_eq!(Bus::new(2).unwrap().capacity(), 2);
    }

    #[test]
    fn subscribe_returns_unique_receivers() {
        let bus = Bus::new(8).unwrap();
        let (mut a, mut b) = (bus.subscribe(), bus.subscribe());
        assert_eq!(bus.sender().send(Event::Shutdown).unwrap(), 2);
        assert_eq!(a.try_recv().unwrap(), Event::Shutdown);
        assert!(a.try_recv().is_err());
        assert_eq!(b.try_recv().unwrap(), Event::Shutdown);
    }

    #[test]
    fn sender_persists_across_clones() {
        let bus = Bus::new(8).unwrap();
        let sender = bus.sender().clone();
        let mut rx = bus.subscribe();
        drop(bus);
        sender.send(Event::Shutdown).unwrap();
        assert_eq!(rx.try_recv().unwrap(), Event::Shutdown);
    }

    #[test]
    fn tokio_rounds_the_capacity_up() {
        for (asked, kept) in [(2, 2), (3, 4), (5, 8), (8, 8), (100, 128), (250, 256), (300, 512)] {
            let bus = Bus::new(asked).unwrap();
            assert_eq!((bus.capacity(), bus.effective_capacity()), (asked as usize, kept));
        }
    }

    #[test]
    fn an_event_is_six_words() {
        assert_eq!(size_of::<Event>(), 48);
    }
}
