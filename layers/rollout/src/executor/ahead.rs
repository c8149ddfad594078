//! What acts ahead of its turn in the log: stops and pauses, while something in front of them takes its time.

use super::*;

/// How long what follows a batch is looked through.
const LOOK_AHEAD: Duration = Duration::from_secs(10);

impl Executor {
    /// Looks through what follows a batch for stops and pauses, once: a node that was away acts by them before it has folded
    /// all that is in front of them.
    pub(super) async fn look_ahead(&self, batch: &Batch) {
        let shared = &self.shared;
        let Some(last) = batch.records.last().map(|record| record.seq) else {
            return;
        };
        let mut at = last.max(shared.lock().looked);
        if at > last {
            return;
        }
        let look = async {
            while let Ok(next) = shared.log.read(at).await {
                if self.latch_brakes(&next.records, true) {
                    // What is in front of them may take longer than this process lives.
                    shared.save_latches_aside().await;
                }
                let Some(end) = next.records.last() else { return };
                at = end.seq;
                shared.lock().looked = at;
                if !next.more || next.gap {
                    return;
                }
            }
        };
        // What is there already comes at once.
        let _ = timeout(LOOK_AHEAD, look).await;
    }

    /// Compares this node's clock with the log's, by what the log says is the time, and by when it stored what comes after its
    /// end was seen: both are later than the moment of the question. When the log's time is long before that moment, this
    /// clock is ahead, and by it shares would be higher than they are. One that is behind serves less of a ramp; what has an
    /// end ends by the log's time ([`Live::log_tells`]). More than 30 s of it are told.
    pub(super) fn compare_clocks(&self, batch: &Batch) {
        let mut live = self.shared.lock();
        let now_us = self.shared.clock.now_us();
        let stored = batch.records.iter().map(|record| record.received_at_us).max();
        if let Some(log_us) = batch.log_time_us.max(stored) {
            // With records it was told before the first of them came.
            let fresh = batch.log_time_us.is_some() && batch.records.is_empty();
            live.log_tells(log_us, now_us, fresh);
        }
        if batch.gap || live.hold.is_some() {
            return;
        }
        let behind = batch
            .log_time_us
            .map(|log_us| Duration::from_micros(log_us.saturating_sub(now_us)));
        if let Some(behind) = behind {
            let told = std::mem::replace(&mut live.clock_behind, behind > STEP_ALERT);
            if behind > STEP_ALERT && !told {
                drop(live);
                let message = format!(
                    "this node's clock is {} s or more behind the control log's: it serves lower shares of a ramp than the others; what has an end ends by the log's time",
                    behind.as_secs()
                );
                return self.shared.alert(AlertSeverity::Error, message);
            }
        }
        let told = batch
            .log_time_us
            .map(|log_us| live.asking_us.saturating_sub(log_us));
        let first = batch.records.first();
        let stored = first.map(|first| live.asked_us.saturating_sub(first.received_at_us));
        let Some(ahead) = told.max(stored).map(Duration::from_micros) else {
            return;
        };
        if ahead <= STEP_ALERT {
            // A record may have come long after the question: that it shows nothing does not say that nothing is wrong.
            if told.is_some() {
                live.clock_ahead = None;
            }
            return;
        }
        let why = format!(
            "this node's clock is {} s or more ahead of the control log's: set it right, and start again",
            ahead.as_secs()
        );
        if live.clock_ahead.replace(why.clone()).is_none() {
            // What was served by this clock before it was known.
            let ahead_us = u64::try_from(ahead.as_micros()).unwrap_or(u64::MAX);
            live.contact_us = live.contact_us.saturating_sub(ahead_us);
            drop(live);
            self.shared
                .alert(AlertSeverity::Critical, format!("{why}; shares are held"));
        }
    }

    /// Waits; a stop or a pause that comes to the log meanwhile acts.
    pub(super) async fn wait_for_brakes(&self, time: Duration, scanned: &mut u64) {
        let again = sleep(time);
        tokio::pin!(again);
        loop {
            tokio::select! {
                () = &mut again => return,
                read = self.shared.log.read(*scanned) => {
                    let Ok(batch) = read else { return again.await };
                    if self.latch_brakes(&batch.records, true) {
                        self.shared.save_latches_aside().await;
                    }
                    *scanned = batch.records.last().map_or(*scanned, |record| record.seq);
                }
            }
        }
    }

    /// Puts the stops and pauses among records in force ahead of their turn; anything else waits for it. Whether any was new. Where
    /// keys are replaced `ahead`, in front of more than a batch, a stop by a new key cannot be told from a stranger's: of that tenant
    /// only baselines are served before the end of the log.
    pub(super) fn latch_brakes(&self, records: &[Record], ahead: bool) -> bool {
        let (mut moved, mut unread) = (false, false);
        for record in records {
            let read = Envelope::parse(&record.envelope).and_then(|envelope| envelope.control());
            let Ok(control) = read else { continue };
            // Signatures are only checked of what claims to be one.
            let (brake, rotates) = (
                Brake::of(&control),
                ahead && matches!(control.message, Message::Rotation(_)),
            );
            if brake.is_none() && !rotates {
                continue;
            }
            let mut live = self.shared.lock();
            let Ok(order) = precheck(&live, record) else {
                continue;
            };
            let tenant = record.channel.tenant();
            let Some(brake) = brake else {
                let at = live.unread.entry(tenant.clone()).or_default();
                (*at, unread) = (record.seq.max(*at), true);
                continue;
            };
            if let Ok(scope) = Scope::of_order(order.control.scope.as_deref(), tenant) {
                let message = (record.channel.clone(), record.envelope.clone());
                moved |= self
                    .shared
                    .latch(&mut live, &order, &scope, brake, message, Some(record.seq));
            }
        }
        if moved || unread {
            self.shared.publish(self.shared.lock());
        }
        moved
    }
}
