//! What the drain task tells: gauges, log lines and events. Each log line stands for a second's drops of one reason.

use std::{error::Error, fmt, panic::AssertUnwindSafe, time::Duration};

use tokio::time::Instant;

use super::Outcome;
use crate::{OnEvent, Reason, ShadowEvent, SinkError, mirror::Core};

/// At most one line per reason in this time.
const LOG_EVERY: Duration = Duration::from_secs(1);
/// While the mirror is degraded one event in this time; as long without a fault makes it well again.
const EVENT_EVERY: Duration = Duration::from_secs(10);

pub(super) struct Report {
    on_event: Option<OnEvent>,
    logged: Option<Instant>,
    /// The latest error of the sink, for the next log line.
    error: Option<SinkError>,
    fault: Option<Fault>,
}

/// A mirror that loses copies.
struct Fault {
    told: Instant,
    latest: Instant,
    untold: u64,
}

impl Report {
    pub(super) fn new(on_event: Option<OnEvent>) -> Self {
        Self {
            on_event,
            logged: None,
            error: None,
            fault: None,
        }
    }

    pub(super) fn delivered(&mut self, outcome: Outcome) {
        if let Err((_, Some(error))) = outcome {
            self.error = Some(error);
        }
    }

    /// `suffering`: copies are shed, or the sink does not go on.
    pub(super) fn tell(&mut self, core: &Core, queued: usize, suffering: bool) {
        let (mirrored, dropped, sampled) = core.ledger.read();
        let metrics = &core.ledger.metrics;
        metrics.queued.set(queued as f64);
        metrics.bytes.set(core.ledger.bytes().0 as f64);
        metrics
            .in_flight
            .set(sampled.saturating_sub(mirrored + dropped.iter().sum::<u64>()) as f64);
        let kept = core.shed.kept();
        core.rules.load().tell_effective(kept);
        if self.logged.is_none_or(|logged| logged.elapsed() >= LOG_EVERY) {
            self.tell_all(core);
        }
        if let Some(fault) = &self.fault
            && !suffering
            && fault.latest.elapsed() >= EVENT_EVERY
        {
            self.fault = None;
            self.emit(ShadowEvent::Recovered);
        }
    }

    /// Logs every drop that no line has told yet, and says when the mirror is degraded.
    pub(super) fn tell_all(&mut self, core: &Core) {
        let mut worst: Option<(Reason, u64)> = None;
        let mut faults = 0;
        for untold in core.ledger.untold() {
            self.logged = Some(Instant::now());
            let rule = untold
                .example
                .as_ref()
                .map(|(rule, _)| rule.terms.pattern.as_str());
            let trace = untold.example.as_ref().map(|(_, key)| key.as_str());
            let failed = matches!(
                untold.reason,
                Reason::PublishError | Reason::Disconnected | Reason::MaxPayload
            );
            let error = self
                .error
                .as_ref()
                .filter(|error| failed && error.reason() == untold.reason);
            tracing::warn!(
                component = "shadow",
                reason = untold.reason.as_str(),
                dropped = untold.count,
                rule,
                trace,
                error = error.map(|error| tracing::field::display(Chain(error))),
                "requests were not mirrored"
            );
            if untold.reason.is_fault() {
                faults += untold.count;
                if worst.is_none_or(|(_, most)| untold.count > most) {
                    worst = Some((untold.reason, untold.count));
                }
            }
        }
        let Some((reason, _)) = worst else { return };
        let now = Instant::now();
        let fault = self.fault.get_or_insert(Fault {
            told: now - EVENT_EVERY,
            latest: now,
            untold: 0,
        });
        fault.latest = now;
        fault.untold += faults;
        if fault.told.elapsed() >= EVENT_EVERY {
            fault.told = now;
            let dropped = std::mem::take(&mut fault.untold);
            self.emit(ShadowEvent::Degraded {
                reason,
                dropped,
                kept: core.shed.kept(),
            });
        }
    }

    /// A callback that panics must not end the deliveries.
    fn emit(&self, event: ShadowEvent) {
        if let Some(on_event) = &self.on_event {
            let _ = std::panic::catch_unwind(AssertUnwindSafe(|| on_event(event)));
        }
    }
}

/// An error with its causes in one line: formatters of log lines leave them out.
struct Chain<'a>(&'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            write!(f, ": {cause}")?;
            next = cause.source();
        }
        Ok(())
    }
}
