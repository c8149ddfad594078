//! The executor: the only writer of live state (S0-1).
//!
//! It reads the log, folds it, audits, and publishes what requests read. It is one future without tasks of
//! its own: spawn [`Executor::run`], and drop it to stop. Without it nothing rises: a stop still acts
//! ([`Handle::submit`](crate::Handle::submit)), shares stay where they are.

mod ahead;
mod due;
mod recover;
#[cfg(test)]
mod tests;
mod waits;

use std::{convert::Infallible, sync::Arc, time::Duration};

use arqon_message::TenantId;
use bytes::Bytes;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
pub(crate) use waits::FETCH_TIMEOUT;

use crate::{
    apart::Unsure,
    apply::Accepted,
    audit::AuditEntry,
    builder::ExecutorBuilder,
    catalog::Catalog,
    catalog_source::{CatalogWanted, FetchError},
    clock::Uptime,
    config::Config,
    envelope::{Envelope, Message},
    event::Event,
    handle::{Handle, Shared},
    latch::{self, Brake},
    live::Live,
    log::Batch,
    record::{Channel, Record, Recovered},
    refusal::{Reason, Refusal},
    state::{Scope, State},
    submit::{catalog_wanted, judge::precheck},
    wire::{AlertSeverity, UpstreamMessage},
};

/// How often the share is computed anew.
pub const TICK: Duration = Duration::from_millis(250);

/// A wall clock that stepped further than this is told to people.
const STEP_ALERT: Duration = Duration::from_secs(30);

/// How old an answer may be that says where the log ends. A node that stood still asks again: only baselines are served of what began
/// in what it reads before that.
pub const CURRENT: Duration = Duration::from_secs(1);

/// Waiting after the log or the audit trail failed: doubled each time.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Folds the control log of a node's tenants and publishes what is served.
pub struct Executor {
    pub(crate) shared: Arc<Shared>,
}

impl std::fmt::Debug for Executor {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Executor")
            .field("node", &self.shared.node)
            .finish_non_exhaustive()
    }
}

impl Executor {
    /// Puts an executor together.
    pub fn builder(config: &Config) -> ExecutorBuilder {
        ExecutorBuilder::new(config.clone())
    }

    /// What layers and clients hold.
    pub fn handle(&self) -> Handle {
        Handle {
            shared: self.shared.clone(),
        }
    }

    /// The state of a tenant, as the log says.
    pub fn state(&self, tenant: &TenantId) -> Option<State> {
        self.shared.lock().states.get(tenant).cloned()
    }

    /// Sets the catalog that every tenant starts with, for a program that has to fetch it first. It has to
    /// come before [`recover`](Self::recover) and [`run`](Self::run): a state that has folded a record keeps
    /// its own.
    pub fn start_with(&self, catalog: &Catalog) {
        let mut live = self.shared.lock();
        for state in live.states.values_mut().filter(|state| state.seq() == 0) {
            let (policy, keys) = (state.policy.as_ref().clone(), state.keys().clone());
            *state = State::genesis(policy, keys, catalog.clone());
        }
        self.shared.publish(live);
    }

    /// Runs until dropped.
    pub async fn run(self) {
        // Side by side, the log first: what is due every tick waits for others, and no stop may wait for that.
        tokio::select! {
            biased;
            never = self.follow() => match never {},
            never = self.keep_asking() => match never {},
            never = self.keep_time() => match never {},
        }
    }

    /// Reads the log for ever.
    async fn follow(&self) -> Infallible {
        let shared = &self.shared;
        let mut backoff = BACKOFF.0;
        loop {
            let after = {
                let mut live = shared.lock();
                live.asking_us = shared.clock.now_us();
                live.read_after()
            };
            match shared.log.read(after).await {
                Ok(batch) => {
                    backoff = BACKOFF.0;
                    self.take(batch).await;
                }
                Err(error) => {
                    if backoff == BACKOFF.0 {
                        shared.alert(AlertSeverity::Warning, format!("{error}; shares are held"));
                    }
                    sleep(backoff).await;
                    // A healed node is to be right within a tick.
                    backoff = (backoff * 2).min(TICK);
                }
            }
        }
    }

    /// Sees every tick to what is due, for ever.
    async fn keep_time(&self) -> Infallible {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.tick().await;
        }
    }

    /// Publishes the shares of this moment, and sees to what is due.
    async fn tick(&self) {
        let shared = &self.shared;
        let step = shared.clock.step();
        let stepped = step > STEP_ALERT;
        let told = std::mem::replace(&mut shared.lock().stepped, stepped);
        if stepped && !told {
            let message = format!(
                "the wall clock stepped by {} s; the ramp does not follow it",
                step.as_secs()
            );
            shared.alert(AlertSeverity::Error, message);
        }
        self.watch();
        shared.publish(shared.lock());
        let moved = std::mem::take(&mut shared.lock().kept_moved);
        if moved {
            shared.save_latches_aside().await;
        }
        self.log_latches().await;
        self.audit_refusals().await;
        self.send_reports().await;
    }

    /// Lets the guard judge, and takes the figures that are due.
    fn watch(&self) {
        let shared = &self.shared;
        let now_us = shared.clock.now_us();
        let mut live = shared.lock();
        let mut reports = Vec::new();
        if let Some(guard) = &shared.guard {
            reports = live.guard(guard, now_us);
        }
        if let Some(every) = shared.telemetry
            && Duration::from_micros(now_us.saturating_sub(live.reported_us)) >= every
        {
            live.reported_us = now_us;
            reports.extend(live.telemetry(shared.node.as_str(), now_us));
        }
        reports
            .iter()
            .for_each(|(tenant, report)| live.reports.push(tenant.clone(), report.clone()));
        drop(live);
        for (_, report) in reports {
            if let UpstreamMessage::Alert {
                severity, message, ..
            } = report
            {
                shared.emit(Event::Alert { severity, message });
            }
        }
    }

    /// Folds what the log gave.
    async fn take(&self, batch: Batch) {
        let shared = &self.shared;
        if batch.gap {
            self.hold("a gap in the control log");
        }
        self.compare_clocks(&batch);
        // A stop far back in a long batch, or behind it, acts before what is in front of it.
        let latched = self.latch_brakes(&batch.records, batch.more);
        if latched && (batch.more || batch.records.len() > 1 || !shared.lock().waits.is_empty()) {
            // Its turn may not come before a restart; the turn of a single one is now, and it is saved then.
            shared.save_latches_aside().await;
        }
        if batch.more {
            self.look_ahead(&batch).await;
        }
        let last = batch.records.last().map(|record| record.seq);
        for record in batch.records {
            self.take_one(record).await;
        }
        let (seq, moved) = {
            let mut live = shared.lock();
            live.at = last.unwrap_or(live.at);
            // What follows may be a stop or a pause: no share rises on half a log, or on what a process that stood still was told
            // before that.
            let age = batch.asked.map_or(Duration::ZERO, Uptime::elapsed);
            if !batch.more && age <= CURRENT {
                let age_us = u64::try_from(age.as_micros()).unwrap_or(u64::MAX);
                live.contact(shared.clock.now_us().saturating_sub(age_us));
            }
            let seen = (live.position(), std::mem::take(&mut live.kept_moved));
            shared.publish(live);
            seen
        };
        if moved {
            // Before anybody is told that it is in force: a restart is to know that, too.
            shared.save_latches_aside().await;
        }
        // Whoever waits for contact looks again, too.
        shared.position.send_replace(seq);
    }

    /// Publishes what is folded so far, before something that takes its time.
    fn show(&self) {
        let live = self.shared.lock();
        let seq = live.position();
        self.shared.publish(live);
        self.shared.position.send_replace(seq);
    }

    /// Keeps every share from rising until the program is started again.
    fn hold(&self, why: &str) {
        let mut live = self.shared.lock();
        if live.hold.replace(why.to_owned()).is_none() {
            drop(live);
            self.shared
                .alert(AlertSeverity::Critical, format!("{why}: shares are held"));
        }
    }

    /// Judges one record, audits it, and only then puts it in force. `known`: what the audit trail has of it; `backlog`: it was
    /// read before the end of the log was.
    async fn fold(&self, record: Record, known: Option<&Recovered>, backlog: bool) {
        let shared = &self.shared;
        let tenant = record.channel.tenant().clone();
        let Some(mut next) = self.state(&tenant) else {
            // Somebody expects it to act: it is in the trail and counted as any other that does not.
            let refusal = no_rollout(&tenant);
            self.audit(&record, Some(&refusal)).await;
            shared.lock().verdict(record.seq, Err(refusal.clone()));
            return shared.refused(Some(&tenant), Some(record.seq), &refusal);
        };
        let before = known.and_then(|known| known.verdict.clone());
        let (mut verdict, said) = recover::judge(&mut next, &record, before, shared.log.is_durable());
        let gone = verdict.as_ref().err().and_then(|refusal| {
            let backlog = backlog && shared.log.is_durable();
            shared.lock().may_be_in_force(&record, refusal, backlog)
        });
        if let Some(gone) = &gone {
            verdict = Err(gone.clone());
        }
        if !known.is_some_and(|known| known.says(&record, verdict.as_ref().err())) {
            self.audit(&record, verdict.as_ref().err()).await;
        }
        // The trail was written in another state than the one that is folded now: only who may sign is to be the same.
        let lost = gone.or_else(|| said.lost().filter(|lost| crate::apart::is_of_keys(lost.reason)));
        let lost = lost.map(|lost| crate::apart::unsure_of(&record, &lost));

        if self.put_in_force(&record, next, verdict.as_ref(), lost) {
            shared.save_latches_aside().await;
        }
        match verdict {
            Ok(accepted) => self.accepted(&tenant, record.seq, accepted),
            // The same message once more is nothing to tell anyone.
            Err(refusal) if refusal.reason == Reason::Duplicate => {
                shared.lock().metrics.refused(refusal.reason)
            }
            Err(refusal) => shared.refused(Some(&tenant), Some(record.seq), &refusal),
        }
    }

    /// Replaces the state of a tenant; true if something else is latched by it than what is on disk.
    fn put_in_force(
        &self,
        record: &Record,
        next: State,
        verdict: Result<&Accepted, &Refusal>,
        lost: Option<Unsure>,
    ) -> bool {
        let mut live = self.shared.lock();
        live.states.insert(next.tenant().clone(), next);
        let on_disk = |live: &Live| live.latches.values().filter(|latch| latch.saved).count();
        let before = on_disk(&live);
        let alone = latch::settle(&mut live.latches, record, verdict);
        let released = on_disk(&live) != before;
        if let Ok(accepted) = verdict {
            live.decided(record, accepted);
        }
        let tenant = record.channel.tenant();
        let apart = lost.and_then(|unsure| {
            live.be_unsure(tenant, unsure);
            live.apart(tenant)
        });
        live.verdict(record.seq, verdict.map(drop).map_err(Clone::clone));
        drop(live);
        if let Some(apart) = apart {
            self.shared.alert(AlertSeverity::Critical, apart);
        }
        if verdict.is_ok() && self.shared.log.is_durable() {
            self.tell_of_no_digest(record);
        }
        for (brake, scope) in alone {
            let why = verdict.err().map_or_else(String::new, ToString::to_string);
            let message = format!(
                "a {} of {} that was sent to this node was refused by the log ({why}): it holds here alone, until a resume",
                brake.as_str(),
                scope.to_name()
            );
            self.shared.alert(AlertSeverity::Critical, message);
        }
        released
    }

    /// Returns when the record is on disk. While it cannot be written nothing is loosened: this record waits
    /// and with it all behind it, and shares are held; a stop or a pause acts all the same, this one and what is further
    /// on in the log, and is kept in slots that need no room.
    async fn audit(&self, record: &Record, refusal: Option<&Refusal>) {
        let shared = &self.shared;
        let (mut backoff, mut scanned) = (BACKOFF.0, record.seq);
        loop {
            let entry = AuditEntry {
                seq: Some(record.seq),
                received_at_us: record.received_at_us,
                channel: record.channel.to_string(),
                envelope: record.envelope.clone(),
                catalog: record.catalog.clone(),
                refusal: refusal.cloned(),
            };
            let written = shared.audit.append(entry).await;
            let Err(error) = written else {
                let mut live = shared.lock();
                if live.unaudited.is_empty() {
                    live.audit_failed = None;
                }
                return;
            };
            let failed_before = shared.lock().audit_failed.replace(error.to_string()).is_some();
            if !failed_before {
                shared.alert(
                    AlertSeverity::Critical,
                    format!("{error}: nothing is loosened until it can be"),
                );
                // What is latched meanwhile has nothing but its slot.
                shared.save_latches_aside().await;
            }
            // What is folded before it is in force, and what is due goes on beside.
            self.show();
            let again = Instant::now() + backoff;
            while Instant::now() < again {
                let before = self.latched();
                self.wait_for_brakes(TICK.min(backoff), &mut scanned).await;
                if self.latched() != before {
                    shared.save_latches_aside().await;
                }
            }
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    /// How many are latched.
    fn latched(&self) -> usize {
        self.shared.lock().latches.len()
    }

    fn accepted(&self, tenant: &TenantId, seq: u64, accepted: Accepted) {
        let Accepted {
            control, signed_by, ..
        } = accepted;
        let kind = control.message.kind();
        self.shared.emit(Event::Accepted {
            tenant: tenant.clone(),
            seq,
            kind,
            signed_by,
        });
        if let Message::Downstream(message) = control.message {
            // No client listens, or a slow one is told what it missed.
            let _ = self.shared.accepted.send((tenant.clone(), message));
        }
    }
}

/// Why a message for a tenant that this node does not serve changes nothing.
pub(crate) fn no_rollout(tenant: &TenantId) -> Refusal {
    Refusal::new(
        Reason::WrongTenant,
        format!("tenant `{tenant}` has no rollout here"),
    )
}
