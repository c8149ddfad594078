//! The operator's side of a running mirror.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use arqon_message::{Fraction, Sampler};
use serde::Serialize;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout_at},
};

use crate::{
    InvalidConfig, OnEvent, Reason, SessionPin, ShadowConfig, ShadowEvent, UnknownRule, copy::Draft,
    mirror::Core, rules::Rules,
};

/// The longest that a shutdown waits.
const SHUTDOWN_MAX: Duration = Duration::from_secs(3_600);

/// Changes and reads a running mirror. Cloning is cheap; the mirror does not stop when the last handle is dropped.
#[derive(Clone)]
pub struct ShadowHandle {
    core: Arc<Core>,
    queue: mpsc::WeakSender<Box<Draft>>,
    orders: Arc<watch::Sender<Option<Instant>>>,
    on_event: Option<OnEvent>,
    editing: Arc<Mutex<()>>,
}

/// What was chosen and what became of it: `sampled` = `mirrored` + the sum of `dropped` + `in_flight`, exactly.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ShadowStats {
    /// Requests chosen to be mirrored.
    pub sampled: u64,
    /// Copies that the sink took.
    pub mirrored: u64,
    /// Chosen requests that have no copy, by reason; every reason is there.
    pub dropped: BTreeMap<Reason, u64>,
    /// Chosen requests whose fate is open: being read, waiting for the primary's answer, queued, being delivered.
    pub in_flight: u64,
    /// Requests under a rule that had no key: never chosen, so not part of the sum.
    pub no_key: u64,
    /// Shadow copies that came in themselves and would have been chosen: not part of the sum either.
    pub loops: u64,
}

impl ShadowStats {
    /// How many were dropped for one reason.
    #[must_use]
    pub fn dropped_by(&self, reason: Reason) -> u64 {
        self.dropped.get(&reason).copied().unwrap_or(0)
    }

    /// How many were dropped.
    #[must_use]
    pub fn dropped_sum(&self) -> u64 {
        self.dropped.values().sum()
    }
}

/// A mirror as `/v1/state` shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ShadowState {
    /// Whether anything is mirrored.
    pub enabled: bool,
    /// The seed of the sample. Not serialized: who knows it can choose keys that are in, or out.
    #[serde(skip)]
    pub seed: u64,
    /// The share of each rule's sample that is kept; below 1.0 overload is being shed.
    pub kept: f64,
    /// The rules, in the order of the config.
    pub rules: Vec<RuleState>,
    /// Copies waiting for the drain task.
    pub queue_messages: usize,
    /// Bytes held for copies.
    pub queue_bytes: usize,
    /// The books.
    #[serde(flatten)]
    pub stats: ShadowStats,
}

/// One rule of a [`ShadowState`].
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RuleState {
    /// The subject pattern.
    pub prefix: String,
    /// The share that is chosen.
    pub percent: f64,
    /// The share that is mirrored now: `percent` less what is shed, nothing when mirroring is not enabled.
    pub effective: f64,
    /// Requests chosen.
    pub sampled: u64,
    /// Copies that the sink took.
    pub mirrored: u64,
}

impl ShadowHandle {
    pub(crate) fn new(
        core: Arc<Core>,
        queue: mpsc::WeakSender<Box<Draft>>,
        orders: watch::Sender<Option<Instant>>,
        on_event: Option<OnEvent>,
    ) -> Self {
        Self {
            core,
            queue,
            orders: Arc::new(orders),
            on_event,
            editing: Arc::default(),
        }
    }

    /// Sets the share of the rule with this pattern, from the next request on. A key stays in or out unless it lies
    /// between the old and the new share.
    ///
    /// # Errors
    /// When no rule has the pattern.
    pub fn set_percent(&self, pattern: &str, percent: Fraction) -> Result<(), UnknownRule> {
        self.edit(|rules| rules.with_fraction(pattern, percent))
    }

    /// Turns mirroring on or off, from the next request on. What is chosen already is delivered.
    pub fn set_enabled(&self, enabled: bool) {
        let Ok(()) = self.edit::<std::convert::Infallible>(|rules| {
            Ok(Rules::new(enabled, rules.sampler, rules.list.clone()))
        });
    }

    /// Takes over `enabled`, `seed` and `rules` of another table; rules whose pattern stays go on counting. The queue,
    /// the timeout and the shedding stay as they were built.
    ///
    /// # Errors
    /// Everything that is wrong with the table; then nothing changes.
    pub fn reload(&self, config: &ShadowConfig) -> Result<(), InvalidConfig> {
        let terms = config.compile()?.terms;
        self.edit(|rules| Ok(rules.replaced(config.enabled, Sampler::new(config.seed), terms)))
    }

    fn edit<E>(&self, change: impl FnOnce(&Rules) -> Result<Rules, E>) -> Result<(), E> {
        let editing = self.editing.lock().unwrap_or_else(PoisonError::into_inner);
        let rules = change(&self.core.rules.load())?;
        let count = rules.list.len();
        self.core.replace(rules);
        drop(editing);
        if let Some(on_event) = &self.on_event {
            on_event(ShadowEvent::RulesChanged { rules: count });
        }
        Ok(())
    }

    /// Pins a session that begins now (a WebSocket, at its upgrade) to the rules in force: put a clone into the extensions
    /// of every request made of its frames, and a change of percent moves the border for later sessions only.
    #[must_use]
    pub fn session(&self) -> SessionPin {
        SessionPin::now(&self.core)
    }

    /// The books, read at one moment.
    #[must_use]
    pub fn stats(&self) -> ShadowStats {
        let ledger = &self.core.ledger;
        let (mirrored, dropped, sampled) = ledger.read();
        let settled = mirrored + dropped.iter().sum::<u64>();
        ShadowStats {
            sampled,
            mirrored,
            dropped: Reason::ALL.into_iter().zip(dropped).collect(),
            in_flight: sampled - settled,
            no_key: ledger.no_key.load(Ordering::Relaxed),
            loops: ledger.looped.load(Ordering::Relaxed),
        }
    }

    /// The whole state.
    #[must_use]
    pub fn state(&self) -> ShadowState {
        let rules = self.core.rules.load();
        let kept = self.core.shed.kept();
        let live = if rules.enabled { kept } else { 0.0 };
        let each = |rule: &Arc<crate::rule::Rule>| {
            let percent = rule.terms.fraction.get();
            let (sampled, mirrored) = rule.counts();
            RuleState {
                prefix: rule.terms.pattern.to_string(),
                percent,
                effective: percent * live,
                sampled,
                mirrored,
            }
        };
        ShadowState {
            enabled: rules.enabled,
            seed: rules.sampler.seed(),
            kept,
            rules: rules.list.iter().map(each).collect(),
            queue_messages: self
                .queue
                .upgrade()
                .map_or(0, |queue| queue.max_capacity() - queue.capacity()),
            queue_bytes: self.core.ledger.bytes().0,
            stats: self.stats(),
        }
    }

    /// Closes the queue, delivers what is in it until `limit` is over, counts the rest as `shutdown`, and returns the
    /// books. Requests chosen later are counted as `shutdown` too. Returns at once when the drain task has ended.
    ///
    /// # Cancellation
    /// Dropping this future leaves the shutdown under way.
    pub async fn shutdown(&self, limit: Duration) -> ShadowStats {
        let deadline = Instant::now() + limit.min(SHUTDOWN_MAX);
        self.orders.send_replace(Some(deadline));
        // A task that was never spawned does not hold up anyone longer than that.
        let grace = Duration::from_millis(100);
        let _ = timeout_at(deadline + grace, self.orders.closed()).await;
        self.stats()
    }
}

impl fmt::Debug for ShadowHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShadowHandle")
            .field("core", &self.core)
            .finish_non_exhaustive()
    }
}
