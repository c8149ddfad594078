//! What waits to be told upstream: bounded, the same thing once, resent when the log is back.

use std::collections::VecDeque;

use arqon_message::TenantId;

use crate::wire::UpstreamMessage;

/// How many reports wait while the log is away.
pub(crate) const MAX_REPORTS: usize = 256;

/// For how long the same alert is not told again, microseconds: somebody who sends garbage in a loop is one alert.
const QUIET_US: u64 = 60_000_000;

/// How many alerts are remembered for that.
const MAX_TOLD: usize = 256;

/// A bounded queue. When it is full the oldest figures give way, and only then the oldest alert.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    waiting: VecDeque<(TenantId, UpstreamMessage)>,
    told: VecDeque<(TenantId, String, u64)>,
}

impl Reports {
    /// Keeps a report until it is sent.
    pub(crate) fn push(&mut self, tenant: TenantId, report: UpstreamMessage) {
        if let UpstreamMessage::Alert {
            timestamp_us,
            message,
            ..
        } = &report
            && self.is_told(&tenant, message, *timestamp_us)
        {
            return;
        }
        if self.waiting.len() >= MAX_REPORTS {
            let figures = |(_, report): &(_, _)| matches!(report, UpstreamMessage::Telemetry { .. });
            let oldest = self.waiting.iter().position(figures).unwrap_or(0);
            self.waiting.remove(oldest);
        }
        self.waiting.push_back((tenant, report));
    }

    fn is_told(&mut self, tenant: &TenantId, message: &str, now_us: u64) -> bool {
        self.told
            .retain(|(_, _, at)| now_us.saturating_sub(*at) < QUIET_US);
        if self
            .told
            .iter()
            .any(|(of, text, _)| of == tenant && text == message)
        {
            return true;
        }
        if self.told.len() >= MAX_TOLD {
            self.told.pop_front();
        }
        self.told.push_back((tenant.clone(), message.to_owned(), now_us));
        false
    }

    /// The report that is to be sent next.
    pub(crate) fn next(&self) -> Option<&(TenantId, UpstreamMessage)> {
        self.waiting.front()
    }

    /// The report was taken.
    pub(crate) fn sent(&mut self, report: &(TenantId, UpstreamMessage)) {
        // A full queue may have dropped it meanwhile.
        if self.waiting.front() == Some(report) {
            self.waiting.pop_front();
        }
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::wire::AlertSeverity;

    fn alert(message: &str, timestamp_us: u64) -> UpstreamMessage {
        UpstreamMessage::Alert {
            timestamp_us,
            severity: AlertSeverity::Error,
            message: message.to_owned(),
            context: HashMap::new(),
        }
    }

    fn figures(timestamp_us: u64) -> UpstreamMessage {
        UpstreamMessage::Telemetry {
            timestamp_us,
            node_id: "n".to_owned(),
            metrics: HashMap::new(),
        }
    }

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    #[test]
    fn the_same_alert_is_told_once_a_minute_and_to_each_tenant() {
        let mut reports = Reports::default();
        for at in 0..100 {
            reports.push(tenant("a"), alert("refused: stale", at));
        }
        reports.push(tenant("b"), alert("refused: stale", 1));
        assert_eq!(reports.len(), 2);
        reports.push(tenant("a"), alert("refused: stale", QUIET_US));
        assert_eq!(reports.len(), 3);
    }

    #[test]
    fn a_full_queue_drops_the_oldest_figures_before_an_alert() {
        let mut reports = Reports::default();
        reports.push(tenant("a"), alert("first", 0));
        for at in 1..MAX_REPORTS as u64 {
            reports.push(tenant("a"), figures(at));
        }
        for at in 0..10 {
            reports.push(tenant("a"), figures(1_000 + at));
            assert_eq!(reports.len(), MAX_REPORTS);
        }
        assert_eq!(reports.next(), Some(&(tenant("a"), alert("first", 0))));
        let first = reports.next().unwrap().clone();
        reports.sent(&first);
        assert_eq!(
            reports.next(),
            Some(&(tenant("a"), figures(11))),
            "the oldest ten are gone"
        );
    }
}
