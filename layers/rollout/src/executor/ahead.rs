//! What acts ahead of its turn in the log: stops and pauses, while something in front of them takes its time.

use super::*;

impl Executor {
    /// The bytes of a catalog update. A source that does not answer is asked again for a while, since a node
    /// that gives up has another catalog than the others; stops further on in the log act meanwhile.
    pub(super) async fn fetch(&self, wanted: CatalogWanted<'_>, seq: u64) -> Option<Bytes> {
        let shared = &self.shared;
        let mut scanned = seq;
        for attempt in 1..=FETCH_ATTEMPTS {
            match shared.catalogs.fetch(wanted).await {
                Ok(bytes) => return Some(bytes),
                Err(FetchError::Unavailable { .. }) if attempt < FETCH_ATTEMPTS => {
                    self.wait_for_brakes(BACKOFF.0 * attempt, &mut scanned).await;
                }
                Err(error) => {
                    shared.alert(AlertSeverity::Critical, format!("{error}: the old catalog stays"));
                    break;
                }
            }
        }
        None
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
                    self.latch_brakes(&batch.records);
                    *scanned = batch.records.last().map_or(*scanned, |record| record.seq);
                }
            }
        }
    }

    /// Puts the stops and pauses among records in force ahead of their turn; anything else waits for it.
    pub(super) fn latch_brakes(&self, records: &[Record]) {
        let mut moved = false;
        for record in records {
            let read = Envelope::parse(&record.envelope).and_then(|envelope| envelope.control());
            // Signatures are only checked of what claims to be one.
            let Some(brake) = read.as_ref().ok().and_then(Brake::of) else {
                continue;
            };
            let mut live = self.shared.lock();
            let Ok(order) = precheck(&live, record) else {
                continue;
            };
            if let Ok(scope) = Scope::of_order(order.control.scope.as_deref(), record.channel.tenant()) {
                let message = (record.channel.clone(), record.envelope.clone());
                moved |= self
                    .shared
                    .latch(&mut live, &order, &scope, brake, message, false);
            }
        }
        if moved {
            self.shared.publish(self.shared.lock());
        }
    }
}
