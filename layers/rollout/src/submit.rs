//! The way of a control message into the log: checked, a stop in force at once, written, awaited.

use std::time::Duration;

use arqon_message::TenantId;
use bytes::Bytes;
use serde::Serialize;
use tokio::time::timeout;

use crate::{
    apply::{Order, authenticate},
    audit::AuditEntry,
    catalog_source::CatalogWanted,
    envelope::{Control, Envelope, MAX_ENVELOPE_BYTES, Message},
    error::SubmitError,
    handle::{Handle, Shared},
    latch::Latch,
    log::LogError,
    record::{Channel, Record},
    refusal::{Reason, Refusal},
    state::Scope,
    table::Phase,
    wire::{AlertSeverity, DownstreamMessage, EnforcementAction},
};

/// How long [`Handle::submit`] waits for the log to take a message, and then for this node to fold it.
pub const APPEND_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a stop, which is in force already, waits for the log.
pub const STOP_TIMEOUT: Duration = Duration::from_millis(500);

/// A message was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Receipt {
    /// Its position in the log. None for a stop that is in force here and still on its way there, and for a
    /// duplicate.
    pub seq: Option<u64>,
    /// The state of its scope now.
    pub state: Phase,
    /// Whether it had been taken before: nothing happened.
    pub duplicate: bool,
}

/// A message that was read and not yet judged.
struct Submission {
    control: Control,
    scope: Scope,
    record: Record,
}

impl Handle {
    /// Takes a signed envelope: checks it, writes it to the log, and waits until it is in force here and
    /// audited. A stop is in force before anything else happens to it.
    ///
    /// Cancelling loses only the answer: a stop stays in force and is written to the log by the executor,
    /// any other message is in the log or is not.
    ///
    /// # Errors
    ///
    /// [`SubmitError::Refused`] when it changes nothing, [`SubmitError::Log`] when the log is away,
    /// [`SubmitError::Pending`] when it is in the log but the executor is late.
    pub async fn submit(&self, envelope: &[u8]) -> Result<Receipt, SubmitError> {
        let shared = &self.shared;
        let mut submission = match shared.read(envelope) {
            Ok(submission) => submission,
            Err(refusal) => return Err(shared.refuse_unread(envelope, refusal).await.into()),
        };
        let order = match shared.precheck(&submission.record) {
            Ok(order) => order,
            Err(refusal) if refusal.reason == Reason::Duplicate => {
                let state = shared.phase(submission.record.channel.tenant(), &submission.scope);
                return Ok(Receipt {
                    seq: None,
                    state,
                    duplicate: true,
                });
            }
            Err(refusal) => return Err(shared.refuse(submission.record, refusal).await.into()),
        };
        if let Some(reason) = stop_reason(&order.control) {
            let Submission { scope, record, .. } = &submission;
            let unlogged = (record.channel.clone(), record.envelope.clone());
            shared.latch_order(&order, scope, reason, Some(unlogged));
            shared.save_latches_aside().await;
            return Ok(self.log_stop(submission).await);
        }
        if let Err(refusal) = shared.admit(&mut submission, order).await {
            return Err(shared.refuse(submission.record, refusal).await.into());
        }
        self.log_message(submission).await
    }

    /// Writes a stop, which is in force already. What does not succeed soon the executor goes on with.
    async fn log_stop(&self, submission: Submission) -> Receipt {
        let Record {
            channel, envelope, ..
        } = submission.record;
        let stopped = |seq| Receipt {
            seq,
            state: Phase::Stopped,
            duplicate: false,
        };
        let append = self.shared.log.append(channel, envelope);
        let Ok(Ok(appended)) = timeout(STOP_TIMEOUT, append).await else {
            return stopped(None);
        };
        let _ = timeout(STOP_TIMEOUT, self.reached(appended.seq)).await;
        stopped(Some(appended.seq))
    }

    async fn log_message(&self, submission: Submission) -> Result<Receipt, SubmitError> {
        let (shared, Submission { scope, record, .. }) = (&self.shared, submission);
        let tenant = record.channel.tenant().clone();
        let append = shared.log.append(record.channel, record.envelope);
        let seq = match timeout(APPEND_TIMEOUT, append).await {
            Ok(appended) => appended?.seq,
            Err(elapsed) => return Err(LogError::Unavailable(Box::new(elapsed)).into()),
        };
        if timeout(APPEND_TIMEOUT, self.reached(seq)).await.is_err() {
            return Err(SubmitError::Pending { seq });
        }
        match shared.lock().verdict_of(seq) {
            Some(Err(refusal)) => return Err(refusal.into()),
            Some(Ok(())) => {}
            None => return Err(SubmitError::Pending { seq }),
        }
        Ok(Receipt {
            seq: Some(seq),
            state: shared.phase(&tenant, &scope),
            duplicate: false,
        })
    }
}

/// The reason of an emergency stop; None for anything else.
pub(crate) fn stop_reason(control: &Control) -> Option<&str> {
    match &control.message {
        Message::Downstream(DownstreamMessage::Enforce {
            action: EnforcementAction::EmergencyStop,
            reason,
        }) => Some(reason),
        _ => None,
    }
}

/// What a catalog update announces; None for anything else.
pub(crate) fn catalog_wanted(control: &Control) -> Option<CatalogWanted<'_>> {
    match &control.message {
        Message::Downstream(DownstreamMessage::CatalogUpdate {
            version,
            source_uri,
            digest,
        }) => Some(CatalogWanted::new(source_uri, *version, digest.as_deref())),
        _ => None,
    }
}

impl Shared {
    /// Reads an envelope: whose it is and where it belongs.
    fn read(&self, envelope: &[u8]) -> Result<Submission, Refusal> {
        let control = Envelope::parse(envelope)?.control()?;
        let tenant = TenantId::new(&control.tenant)
            .map_err(|error| Refusal::new(Reason::WrongTenant, error.to_string()))?;
        let scope = self.scope(&tenant, &control)?;
        let channel = match &control.message {
            Message::Upstream(_) => Channel::Up(tenant, self.node.clone()),
            Message::Downstream(_) | Message::Rotation(_) => Channel::Down(tenant),
        };
        let received_at_us = self.clock.now_us();
        let envelope = Bytes::copy_from_slice(envelope);
        let record = Record {
            seq: 0,
            received_at_us,
            channel,
            envelope,
            catalog: None,
        };
        Ok(Submission {
            control,
            scope,
            record,
        })
    }

    /// The scope a message is about: its own, else its proposal's.
    fn scope(&self, tenant: &TenantId, control: &Control) -> Result<Scope, Refusal> {
        let proposal = match &control.message {
            Message::Downstream(DownstreamMessage::Approval { proposal_id, .. }) => Some(proposal_id),
            _ => None,
        };
        if let Some(id) = proposal {
            let live = self.lock();
            let pending = live.states.get(tenant).and_then(|state| state.pending().get(id));
            if let Some(pending) = pending {
                return Ok(pending.scope.clone());
            }
        }
        let text = match &control.message {
            Message::Upstream(crate::UpstreamMessage::Proposal { scope, .. }) => scope.as_deref(),
            _ => control.scope.as_deref(),
        };
        Scope::parse(text, tenant)
    }

    /// Whether the fold would accept a message now.
    async fn admit(&self, submission: &mut Submission, order: Order) -> Result<(), Refusal> {
        if self.lock().audit_failed && !tightens(&submission.control) {
            let detail = "the audit trail cannot be written: only a stop or a pause is taken";
            return Err(Refusal::new(Reason::Audit, detail));
        }
        if let Some(wanted) = catalog_wanted(&submission.control) {
            let fetched = self.catalogs.fetch(wanted).await;
            let catalog = fetched.map_err(|error| Refusal::new(Reason::Catalog, error.to_string()))?;
            submission.record.catalog = Some(catalog);
        }
        self.rehearse(&submission.record, order)
    }

    /// Audits, counts and tells the refusal of a message that did not get to the log.
    async fn refuse(&self, record: Record, refusal: Refusal) -> Refusal {
        self.refused(Some(record.channel.tenant()), None, &refusal);
        self.audit_refusal(AuditEntry {
            seq: None,
            received_at_us: record.received_at_us,
            channel: record.channel.to_string(),
            envelope: record.envelope,
            catalog: record.catalog,
            refusal: Some(refusal.clone()),
        })
        .await;
        refusal
    }

    /// The same for what could not even be read: nobody knows whose it was.
    async fn refuse_unread(&self, envelope: &[u8], refusal: Refusal) -> Refusal {
        self.refused(None, None, &refusal);
        let kept = if envelope.len() > MAX_ENVELOPE_BYTES {
            &[]
        } else {
            envelope
        };
        self.audit_refusal(AuditEntry {
            seq: None,
            received_at_us: self.clock.now_us(),
            channel: "unread".to_owned(),
            envelope: Bytes::copy_from_slice(kept),
            catalog: None,
            refusal: Some(refusal.clone()),
        })
        .await;
        refusal
    }

    async fn audit_refusal(&self, entry: AuditEntry) {
        if let Err(error) = self.audit.append(entry).await {
            self.alert(
                AlertSeverity::Critical,
                format!("a refusal could not be audited: {error}"),
            );
        }
    }

    /// Whether a message is authentic and new, at this moment and on this node.
    pub(crate) fn precheck(&self, record: &Record) -> Result<Order, Refusal> {
        let live = self.lock();
        let tenant = record.channel.tenant();
        let Some(state) = live.states.get(tenant) else {
            return Err(Refusal::new(
                Reason::WrongTenant,
                format!("tenant `{tenant}` has no rollout here"),
            ));
        };
        let mut state = state.clone();
        drop(live);
        state.clock_us = state.clock_us.max(record.received_at_us);
        let order = authenticate(&state, record)?;
        state.check_counter(&order)?;
        Ok(order)
    }

    /// Whether a message would be accepted now.
    fn rehearse(&self, record: &Record, mut order: Order) -> Result<(), Refusal> {
        let Some(mut state) = self.lock().states.get(record.channel.tenant()).cloned() else {
            return Err(Refusal::new(Reason::WrongTenant, "no rollout here"));
        };
        state.clock_us = state.clock_us.max(record.received_at_us);
        state.settle();
        order.catalog.clone_from(&record.catalog);
        state.obey(order).map(drop)
    }

    /// Puts a stop in force before the log knows of it.
    pub(crate) fn latch_order(
        &self,
        order: &Order,
        scope: &Scope,
        reason: &str,
        unlogged: Option<(Channel, Bytes)>,
    ) {
        let Ok(tenant) = TenantId::new(&order.control.tenant) else {
            return;
        };
        let mut live = self.lock();
        let key = (tenant, scope.clone());
        let known = live
            .latches
            .get(&key)
            .is_some_and(|latch| latch.payload == Some(order.payload));
        if !known {
            let latch = Latch {
                payload: Some(order.payload),
                unlogged,
                floor: None,
                since_us: self.clock.now_us(),
                reason: reason.to_owned(),
            };
            live.latches.insert(key, latch);
        }
        self.publish(live);
    }
}

/// Whether a message only ever lowers what is served.
fn tightens(control: &Control) -> bool {
    matches!(
        &control.message,
        Message::Downstream(DownstreamMessage::Enforce {
            action: EnforcementAction::EmergencyStop | EnforcementAction::PauseAdaptation,
            ..
        })
    )
}
