//! What this node makes of a message before the log has it.

use std::{collections::BTreeSet, sync::Arc};

use arqon_message::TenantId;
use bytes::Bytes;

use super::{MAX_UNAUDITED, Outlook, Reach, Receipt, Submission, catalog_wanted};
use crate::{
    apart::newest,
    apply::{Order, authenticate},
    audit::AuditEntry,
    catalog_source::FetchError,
    envelope::{Control, Envelope, MAX_ENVELOPE_BYTES, Message},
    executor::{FETCH_TIMEOUT, no_rollout},
    handle::Shared,
    latch::{self, Brake, Latch},
    live::Live,
    record::{Channel, Record},
    refusal::{Reason, Refusal},
    state::{Scope, State},
    wire::{AlertSeverity, DownstreamMessage, EnforcementAction},
};

/// How long ago a node may have read the log to its end to say that there is something in it.
const FRESH_US: u64 = 3_000_000;

/// What became of a stop or a pause that was sent to this node.
pub(super) struct Latched {
    /// Whether anything holds by it that did not before.
    pub(super) acts: bool,
    /// Whether it is kept until the log has judged it.
    pub(super) kept: bool,
}

impl Shared {
    /// Reads an envelope: whose it is and where it belongs.
    pub(super) fn read(&self, envelope: &[u8]) -> Result<Submission, Refusal> {
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
        match &control.message {
            Message::Upstream(crate::UpstreamMessage::Proposal { scope, .. }) => {
                Scope::parse(scope.as_deref(), tenant)
            }
            Message::Downstream(DownstreamMessage::Enforce { .. }) => {
                Scope::of_order(control.scope.as_deref(), tenant)
            }
            _ => Scope::parse(control.scope.as_deref(), tenant),
        }
    }

    /// What becomes of an authentic message, as far as this node can tell.
    pub(super) async fn outlook(&self, submission: &mut Submission, order: &Order) -> Outlook {
        let record = &submission.record;
        let Some(state) = self.state_at(record) else {
            return Outlook::Void(no_rollout(record.channel.tenant()));
        };
        let tenant = record.channel.tenant();
        let (issuer, epoch) = (order.issuer.name(), state.keys().epoch);
        let spent = self.lock().spent.last(tenant, issuer, epoch);
        // A brake needs no order among others: the state judges a late one by its resumes.
        let scope = Brake::of(&order.control).map(|_| &submission.scope);
        let late = scope.is_some_and(|scope| state.is_after_resumes(scope, order.control.issued_at_us));
        if let Some(last) = spent.filter(|last| order.control.counter <= *last)
            && !state.has_taken(order)
            && !late
        {
            let detail = format!(
                "this node refused it, or a later one of its issuer, before: sign it anew with a counter above {last}"
            );
            return Outlook::Void(Refusal::new(Reason::Spent, detail).after(last));
        }
        if let Err(refusal) = state.check_new(order) {
            return match refusal.reason {
                Reason::Duplicate => Outlook::Duplicate,
                _ => Outlook::Void(refusal),
            };
        }
        if let Err(refusal) = state.check_moment(order) {
            return if state.may_come_true(order) {
                Outlook::Refused(refusal)
            } else {
                Outlook::Void(refusal)
            };
        }
        if self.lock().audit_failed.is_some() && Brake::of(&submission.control).is_none() {
            let detail = "the audit trail cannot be written: only a stop or a pause is taken";
            return Outlook::Unable(Refusal::new(Reason::Audit, detail));
        }
        if let Some(why) = self.lock().beyond(tenant, &submission.control) {
            return Outlook::Unable(Refusal::new(Reason::Held, why));
        }
        if let Some(wanted) = catalog_wanted(&submission.control).filter(|of| of.version > newest(&state)) {
            if wanted.digest.is_none() && self.log.is_durable() {
                let detail = "the update names no digest, so that nodes cannot tell whether they read the same bytes: sign it with --catalog FILE";
                return Outlook::Unable(Refusal::new(Reason::Catalog, detail));
            }
            match self.catalog(wanted, FETCH_TIMEOUT).await {
                Ok(catalog) => submission.record.catalog = Some(catalog),
                // No node follows it, now or later.
                Err(error @ FetchError::Refused(_)) => {
                    return Outlook::Refused(Refusal::new(Reason::Catalog, error.to_string()));
                }
                // Nodes that looked at different moments would disagree: it does not get into the log.
                Err(error) => return Outlook::Unable(Refusal::new(Reason::Catalog, error.to_string())),
            }
        }
        let catalog = submission.record.catalog.clone();
        let verdict = rehearse(state, catalog.clone(), order);
        if let (Ok(()), Some(wanted), Some(bytes)) = (&verdict, catalog_wanted(&submission.control), catalog)
            && let Err(error) = self.catalogs.keep(wanted, bytes).await
        {
            let detail = format!(
                "it could not be kept for nodes that come late, and is not in the log: {error}; sign it anew then"
            );
            return Outlook::Unable(Refusal::new(Reason::Catalog, detail));
        }
        match verdict {
            Ok(()) => Outlook::Good,
            // Nodes that cannot get the same bytes would wait for them.
            Err(refusal) if refusal.reason == Reason::Catalog => Outlook::Unable(refusal),
            Err(refusal) => Outlook::Refused(refusal),
        }
    }

    /// The state of a record's tenant, with the clock at the record's time.
    fn state_at(&self, record: &Record) -> Option<State> {
        let mut state = self.lock().states.get(record.channel.tenant()).cloned()?;
        state.clock_us = state.clock_us.max(record.received_at_us);
        Some(state)
    }

    /// Whether a message is signed by whom it takes.
    pub(super) fn authentic(&self, record: &Record) -> Result<Order, Refusal> {
        let tenant = record.channel.tenant();
        let Some(state) = self.state_at(record) else {
            return Err(no_rollout(tenant));
        };
        authenticate(&state, record)
    }

    /// Whether a message is authentic, new and in time, at this moment and on this node.
    pub(crate) fn precheck(&self, record: &Record) -> Result<Order, Refusal> {
        precheck(&self.lock(), record)
    }

    /// Whether the very message was accepted.
    pub(super) fn was_taken(&self, record: &Record) -> bool {
        let order = self.authentic(record);
        order.is_ok_and(|order| self.state_at(record).is_some_and(|state| state.has_taken(&order)))
    }

    pub(super) fn duplicate(&self, submission: &Submission) -> Receipt {
        let tenant = submission.record.channel.tenant();
        let saved = {
            let live = self.lock();
            live.braked(tenant, &submission.scope)
                .is_none_or(|latch| latch.saved)
        };
        Receipt {
            seq: None,
            state: self.phase(tenant, &submission.scope),
            duplicate: true,
            durable: saved && (self.log.is_durable() || self.audit.is_durable()),
            held: Vec::new(),
            reach: Brake::of(&submission.control).map(|_| self.reach(tenant, &submission.scope)),
            judged: true,
            widened: Brake::of(&submission.control)
                .is_some_and(|(brake, _)| self.widened(tenant, &submission.scope, brake)),
        }
    }

    /// Whether a stop or a pause of a scope holds the whole tenant for want of room: the scope has none of its own.
    pub(super) fn widened(&self, tenant: &TenantId, scope: &Scope, brake: Brake) -> bool {
        let live = self.lock();
        let ordered = |of: &Scope| {
            let latched = live.latches.contains_key(&(tenant.clone(), of.clone(), brake));
            let state = live.states.get(tenant);
            latched || state.is_some_and(|state| state.has_order(of, brake))
        };
        !ordered(scope) && ordered(&Scope::TENANT)
    }

    /// What is rolled out where a stop or a pause of a scope reaches.
    pub(super) fn reach(&self, tenant: &TenantId, scope: &Scope) -> Reach {
        let live = self.lock();
        let Some(state) = live.states.get(tenant) else {
            return Reach::default();
        };
        let used = state.lanes().iter().filter(|(_, lane)| lane.is_used());
        let scopes: Vec<String> = used
            .filter(|(of, _)| scope.reaches(of))
            .map(|(of, _)| of.to_string())
            .collect();
        let around = state.around(scope).filter(|(_, lane)| lane.is_used());
        let within = around.filter(|_| scopes.is_empty() && !state.lanes().contains_key(scope));
        Reach {
            within: within.map(|(of, _)| of.to_string()),
            scopes,
        }
    }

    /// After a resume: what of it orders of other scopes go on holding.
    pub(super) fn held(&self, tenant: &TenantId, submission: &Submission) -> Vec<String> {
        let resume = matches!(
            &submission.control.message,
            Message::Downstream(DownstreamMessage::Enforce {
                action: EnforcementAction::ResumeAdaptation,
                ..
            })
        );
        if !resume {
            return Vec::new();
        }
        let live = self.lock();
        let state = live.states.get(tenant);
        let lanes = state.into_iter().flat_map(State::lanes);
        let mut orders = BTreeSet::new();
        for (scope, lane) in lanes.filter(|(scope, _)| submission.scope.reaches(scope)) {
            orders.extend(lane.held_by().map(|(_, order, _)| order.clone()));
            orders.extend(live.latched_by(tenant, scope).cloned());
        }
        orders.iter().map(Scope::to_string).collect()
    }

    /// Audits, counts and tells the refusal of a message that did not get to the log.
    pub(super) async fn refuse(&self, record: Record, refusal: Refusal) -> Refusal {
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

    /// The same for an authentic message that the log cannot judge: this node at least never takes it later.
    pub(super) async fn refuse_here(
        self: &Arc<Self>,
        record: Record,
        order: &Order,
        refusal: Refusal,
    ) -> Refusal {
        self.spend_here(order).await;
        self.refuse(record, refusal).await
    }

    pub(super) async fn spend_here(self: &Arc<Self>, order: &Order) {
        let Ok(tenant) = TenantId::new(&order.control.tenant) else {
            return;
        };
        let new = {
            let mut live = self.lock();
            let epoch = live.states.get(&tenant).map_or(0, |state| state.keys().epoch);
            live.spent
                .note(&tenant, order.issuer.name(), epoch, order.control.counter)
        };
        if new && self.latch_file.is_some() {
            self.save_latches_aside().await;
        }
    }

    /// The same for what could not even be read: nobody knows whose it was.
    pub(super) async fn refuse_unread(&self, envelope: &[u8], refusal: Refusal) -> Refusal {
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
        let Err(error) = self.audit.append(entry.clone()).await else {
            return;
        };
        let mut live = self.lock();
        if live.unaudited.len() >= MAX_UNAUDITED {
            live.unaudited.pop_front();
        }
        live.unaudited.push_back(entry);
        live.audit_failed = Some(error.to_string());
        drop(live);
        self.alert(
            AlertSeverity::Critical,
            format!("a refusal could not be audited: {error}"),
        );
    }

    /// Whether one more message of its issuer that changes nothing may get to the log.
    pub(super) fn may_idle(&self, order: &Order) -> bool {
        let now_us = self.clock.now_us();
        TenantId::new(&order.control.tenant)
            .is_ok_and(|tenant| self.lock().idle.take(&tenant, order.issuer.name(), now_us))
    }

    /// Whether a stop or a pause asks for what the log has already, as this node read it a moment ago. What is latched here alone
    /// does not count: the log may hold less, and the other nodes nothing.
    pub(super) fn is_moot(&self, order: &Order, scope: &Scope, brake: Brake) -> bool {
        let Ok(tenant) = TenantId::new(&order.control.tenant) else {
            return false;
        };
        let now_us = self.clock.now_us();
        let live = self.lock();
        let Some(state) = live.states.get(&tenant) else {
            return false;
        };
        // One for which the log has no room asks for the whole tenant.
        let widened = || !state.has_room_for_order(scope) && state.is_braked(&Scope::TENANT, brake);
        // What waits for a catalog is not in the state, and may be a resume.
        let known = live.apart(&tenant).is_none();
        let fresh = known && live.ended && now_us.saturating_sub(live.heard_us) <= FRESH_US;
        fresh && (state.is_braked(scope, brake) || widened())
    }

    /// Puts a stop or a pause that was sent to this node in force before its turn in the log.
    pub(super) fn latch_order(
        &self,
        order: &Order,
        scope: &Scope,
        brake: (Brake, &str),
        message: (Channel, Bytes),
    ) -> Latched {
        let mut live = self.lock();
        let acts = self.latch(&mut live, order, scope, brake, message.clone(), None);
        let kept = live.latches.values().any(|latch| latch.keeps(&message));
        if acts {
            self.publish(live);
        }
        Latched { acts, kept }
    }

    /// Latches an order; true if anything is another than before. `at_seq`: where it is in the log; None for one that was sent to
    /// this node.
    ///
    /// At 64 scopes with orders the next one latches the whole tenant, as the state does. One that was sent here holds that on this
    /// node alone, until a resume of it: what the log makes of it may be less, and a later one may not get there.
    pub(crate) fn latch(
        &self,
        live: &mut Live,
        order: &Order,
        scope: &Scope,
        (brake, reason): (Brake, &str),
        message: (Channel, Bytes),
        at_seq: Option<u64>,
    ) -> bool {
        let local = at_seq.is_none();
        let Ok(tenant) = TenantId::new(&order.control.tenant) else {
            return false;
        };
        let now_us = self.clock.now_us();
        let crowded = !live.has_room_for_latch(&tenant, scope);
        let scope = if crowded { &Scope::TENANT } else { scope };
        let key = (tenant, scope.clone(), brake);
        if crowded && local {
            let waits = (order.payload, message);
            return live.latch_crowded(key, waits, (reason, &order.signed_by), now_us);
        }
        let many = latch::is_crowded(&live.latches, &key.0);
        let known = live.latches.get_mut(&key);
        let since_us = known.as_ref().map_or(now_us, |latch| latch.since_us);
        match known {
            Some(latch) if latch.payload == Some(order.payload) => {
                latch.logged |= !local;
                latch.local |= local;
                return false;
            }
            // The first one is what was braked at; a later one that the log has not judged either adds nothing to it here,
            // but goes on when the first one is judged.
            Some(latch) if local && latch.local && latch.floor.is_none() => {
                return latch.wait_for(order.payload, true, message, now_us, many);
            }
            // What was sent here holds whatever becomes of what the log has.
            Some(latch) if !local && latch.local => return false,
            Some(latch) if !local && latch.floor.is_none() => {
                // Until the last one that is ahead is folded: what is in front of it may be resumed in between.
                if at_seq > Some(latch.at_seq) {
                    (latch.payload, latch.message, latch.saved) = (Some(order.payload), Some(message), false);
                    (latch.reason, latch.by) = (reason.to_owned(), order.signed_by.clone());
                    latch.at_seq = at_seq.unwrap_or_default();
                }
                return false;
            }
            // What the log refused holds until a resume.
            Some(latch) if latch.floor.is_some() && !local => return false,
            _ => {}
        }
        let known = live.latches.get_mut(&key);
        let latch = Latch {
            payload: Some(order.payload),
            message: Some(message),
            logged: !local,
            program: known.as_ref().is_some_and(|latch| latch.program),
            waiting: known.map_or_else(Vec::new, |latch| std::mem::take(&mut latch.waiting)),
            at_seq: at_seq.unwrap_or_default(),
            local,
            refused: None,
            freed: Vec::new(),
            floor: None,
            since_us,
            last_us: now_us,
            reason: reason.to_owned(),
            by: order.signed_by.clone(),
            saved: false,
        };
        live.latches.insert(key, latch);
        true
    }

    /// The log has a message: the executor need not see to it.
    pub(super) fn logged(&self, message: &(Channel, Bytes)) {
        let mut live = self.lock();
        let latches = live.latches.values_mut();
        latches.for_each(|latch| latch.mark_logged(message, true));
    }
}

/// Whether a message is authentic, new and in time as far as a node's state goes.
pub(crate) fn precheck(live: &Live, record: &Record) -> Result<Order, Refusal> {
    let tenant = record.channel.tenant();
    let state = live.states.get(tenant).ok_or_else(|| no_rollout(tenant))?;
    let order = authenticate(state, record)?;
    state.check_new(&order)?;
    state.check_moment(&order)?;
    Ok(order)
}

/// Whether a message would be accepted now.
fn rehearse(mut state: State, catalog: Option<Bytes>, order: &Order) -> Result<(), Refusal> {
    let mut order = order.clone();
    order.catalog = catalog;
    state.settle();
    state.obey(order).map(drop)
}
