//! Catalogs that are not there yet: their tenants wait, and nobody else.

use super::*;
use crate::apart::{Place, Queued, Unsure, update};

/// How long the log waits for a catalog that is there: then its tenant waits alone.
const AT_ONCE: Duration = TICK;

/// How long a source may take otherwise.
pub(crate) const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

impl Executor {
    /// Folds a record of the log, or lets it wait with its tenant.
    pub(super) async fn take_one(&self, record: Record) {
        let shared = &self.shared;
        // Not in the scrutinee: the lock would be held in the arms.
        let place = shared.lock().place(&record);
        match place {
            Place::Folded | Place::Queued => {}
            Place::Now => {
                let backlog = shared.lock().is_backlog(record.seq);
                self.fold(record, None, backlog).await;
            }
            Place::Waits => {
                self.show();
                self.go_on(record.channel.tenant(), AT_ONCE).await;
            }
            Place::Full => {
                let tenant = record.channel.tenant();
                let message = format!(
                    "{} records wait for catalogs that are not there: those of tenant `{tenant}` from position {} on are read again when \
                     they have their turn, and only baselines are served of it before",
                    crate::MAX_WAITING_RECORDS,
                    record.seq
                );
                shared.alert(AlertSeverity::Critical, message);
                self.show();
            }
        }
    }

    /// Asks for what tenants wait for, for ever.
    pub(super) async fn keep_asking(&self) -> Infallible {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let due = self.shared.lock().due();
            for tenant in due {
                self.go_on(&tenant, FETCH_TIMEOUT).await;
            }
        }
    }

    /// Folds what waits of a tenant, in order, as far as its catalogs are there.
    async fn go_on(&self, tenant: &TenantId, patience: Duration) {
        let shared = &self.shared;
        match shared.lock().waits.get_mut(tenant) {
            Some(wait) if !wait.busy => wait.busy = true,
            _ => return,
        }
        while let Some(mut next) = self.first_of(tenant) {
            let lacks = shared.lock().lacks_bytes(&next.record);
            if let Some(wanted) = lacks.as_ref().and_then(catalog_wanted) {
                next.record.catalog = match shared.catalog(wanted, patience).await {
                    Ok(bytes) => Some(bytes),
                    // No node follows it.
                    Err(FetchError::Refused(_)) => None,
                    Err(error) => {
                        let tell = patience > AT_ONCE;
                        if !self.do_without(tenant, (&error, wanted.version), tell).await {
                            if let Some(wait) = shared.lock().waits.get_mut(tenant) {
                                wait.busy = false;
                            }
                            return self.show();
                        }
                        None
                    }
                };
            }
            let Queued {
                record,
                known,
                backlog,
            } = next;
            self.fold(record, known.as_ref(), backlog).await;
            if let Some(wait) = shared.lock().waits.get_mut(tenant) {
                wait.pop();
            }
        }
        self.show();
    }

    /// The next one that waits; without any the wait is over, or the log is read again for the rest.
    fn first_of(&self, tenant: &TenantId) -> Option<Queued> {
        let mut live = self.shared.lock();
        let wait = live.waits.get_mut(tenant)?;
        let first = wait.queue.front().cloned();
        if first.is_none() {
            wait.busy = false;
            match wait.over {
                None => drop(live.waits.remove(tenant)),
                over => live.again = live.again.min(over).or(over),
            }
        }
        first
    }

    /// A catalog is not there. True if its tenant goes on without it: it has not been there for a minute, and a newer one of the
    /// tenant is. Then nobody here knows what the others have made of it, and only baselines are served.
    async fn do_without(&self, tenant: &TenantId, (error, version): (&FetchError, u64), tell: bool) -> bool {
        let shared = &self.shared;
        let (told, given_up, behind, rotates) = {
            let mut live = shared.lock();
            let Some(wait) = live.waits.get_mut(tenant) else {
                return false;
            };
            let told = wait.missed(error, version, tell);
            let behind = wait.queue.iter().skip(1).map(|of| &of.record);
            let behind: Vec<Record> = behind.chain(&wait.newer).cloned().collect();
            let rotates = wait.rotates;
            let why = told.then(|| live.apart(tenant)).flatten();
            let given_up = live
                .waits
                .get(tenant)
                .is_some_and(crate::apart::Wait::is_given_up);
            (why, given_up, behind, rotates)
        };
        if let Some(why) = told {
            let message = format!(
                "{why}; put it there, or send an update to a newer one: without it this node serves only baselines of the tenant then"
            );
            shared.alert(AlertSeverity::Critical, message);
        }
        if !given_up {
            return false;
        }
        let Some(newer) = self.newer_one(&behind, version, rotates).await else {
            return false;
        };
        let mut live = shared.lock();
        let Some(wait) = live.waits.get_mut(tenant) else {
            return false;
        };
        let seq = wait.seq();
        // What was found stays found.
        let at = wait.queue.iter_mut().find(|of| of.record.seq == newer.0);
        if let Some(at) = at {
            at.record.catalog = Some(newer.1);
        }
        let why = format!(
            "catalog {version} of position {seq} never came here, and what it did is not known ({error}): put it there and start \
             again"
        );
        let unsure = Unsure { seq, why };
        live.be_unsure(tenant, unsure);
        let why = live.apart(tenant).unwrap_or_default();
        shared.publish(live);
        shared.alert(AlertSeverity::Critical, why);
        true
    }

    /// Without a digest nobody can tell whether all nodes read the same bytes.
    pub(super) fn tell_of_no_digest(&self, record: &Record) {
        let update = crate::apart::update(record);
        if let Some(wanted) = update.as_ref().and_then(catalog_wanted)
            && wanted.digest.is_none()
        {
            let message = format!(
                "the update to catalog {} at position {} names no digest: that all nodes have the same bytes is not known",
                wanted.version, record.seq
            );
            self.shared.alert(AlertSeverity::Warning, message);
        }
    }

    /// The first update among records that is newer than `version` and whose catalog is there: its position, and the bytes. Behind a
    /// rotation its keys are not asked: only baselines are served already, and the fold judges it.
    async fn newer_one(&self, records: &[Record], version: u64, rotates: bool) -> Option<(u64, Bytes)> {
        for record in records {
            let Some(control) = update(record).filter(|_| rotates || self.shared.precheck(record).is_ok())
            else {
                continue;
            };
            let Some(wanted) = catalog_wanted(&control).filter(|of| of.version > version) else {
                continue;
            };
            if let Some(bytes) = record
                .catalog
                .as_ref()
                .filter(|bytes| wanted.check(bytes).is_ok())
            {
                return Some((record.seq, bytes.clone()));
            }
            if let Ok(bytes) = self.shared.catalog(wanted, FETCH_TIMEOUT).await {
                return Some((record.seq, bytes));
            }
        }
        None
    }
}

impl Shared {
    /// The bytes that an update announces; others are not there.
    pub(crate) async fn catalog(
        &self,
        wanted: CatalogWanted<'_>,
        patience: Duration,
    ) -> Result<Bytes, FetchError> {
        let fetched = timeout(patience, self.catalogs.fetch(wanted)).await;
        let bytes = fetched.map_err(|elapsed| FetchError::Unavailable {
            uri: wanted.uri.chars().take(256).collect(),
            source: elapsed.into(),
        })??;
        wanted.check(&bytes)?;
        Ok(bytes)
    }
}
