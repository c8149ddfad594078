//! What is due every tick and goes elsewhere: reports upstream, what is latched to the log, refusals to the audit trail.

use super::*;

/// How long a report upstream may take before it waits for the next tick.
const REPORT_TIMEOUT: Duration = Duration::from_millis(200);

impl Executor {
    /// Sends what waits to be told upstream; what is not taken waits on.
    pub(super) async fn send_reports(&self) {
        let shared = &self.shared;
        loop {
            let Some(waiting) = shared.lock().reports.next().cloned() else {
                return;
            };
            let (tenant, report) = waiting.clone();
            let from = Channel::Up(tenant, shared.node.clone());
            let sent = timeout(REPORT_TIMEOUT, shared.log.report(from, report)).await;
            if !matches!(sent, Ok(Ok(()))) {
                return;
            }
            shared.lock().reports.sent(&waiting);
        }
    }

    /// Writes what is latched here to the log, if its caller did not.
    pub(super) async fn log_latches(&self) {
        const GRACE_US: u64 = 2_000_000;
        let shared = &self.shared;
        let now_us = shared.clock.now_us();
        let mut due: Vec<_> = {
            let mut live = shared.lock();
            let latches = live.latches.values_mut();
            latches
                .flat_map(|latch| latch.take_due(now_us, GRACE_US))
                .collect()
        };
        // As they came: a later one of the same issuer makes an earlier one stale.
        due.sort_by_key(|(since_us, ..)| *since_us);
        for (_, _, message) in due {
            let (channel, envelope) = message.clone();
            let append = shared.log.append(channel, envelope);
            if !matches!(timeout(Duration::from_secs(1), append).await, Ok(Ok(_))) {
                let mut live = shared.lock();
                let latches = live.latches.values_mut();
                latches.for_each(|latch| latch.mark_logged(&message, false));
            }
        }
    }

    /// Writes the refusals that the audit trail did not take.
    pub(super) async fn audit_refusals(&self) {
        let shared = &self.shared;
        loop {
            let Some(entry) = shared.lock().unaudited.front().cloned() else {
                return;
            };
            let written = shared.audit.append(entry.clone()).await;
            let mut live = shared.lock();
            match written {
                Ok(()) => {
                    // A full queue may have dropped it meanwhile.
                    if live.unaudited.front() == Some(&entry) {
                        live.unaudited.pop_front();
                    }
                    if live.unaudited.is_empty() {
                        live.audit_failed = None;
                    }
                }
                Err(error) => {
                    live.audit_failed = Some(error.to_string());
                    return;
                }
            }
        }
    }
}
