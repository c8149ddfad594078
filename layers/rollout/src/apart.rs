//! What sets one tenant of a node apart from the other nodes: it waits for a catalog, or nobody here knows its state.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use arqon_message::TenantId;
use tokio::time::Instant;

use crate::{
    catalog_source::FetchError,
    envelope::{Control, Envelope, Message},
    latch::Brake,
    live::Live,
    record::{Record, Recovered},
    refusal::{Reason, Refusal},
    state::State,
    submit::{catalog_wanted, judge::precheck},
    wire::{DownstreamMessage, EnforcementAction},
};

/// Most records of a node, of all its tenants together, that wait behind catalogs that are not there; what an audit trail brings
/// at a start comes on top of that, and takes up its room. Of a tenant with one more than fits only baselines are served: the rest
/// is read again once its turn has come.
pub const MAX_WAITING_RECORDS: usize = 1_024;

/// Most bytes of their envelopes.
const MAX_WAITING_BYTES: usize = 64 * 1024 * 1024;

/// The pauses between two questions for a catalog: doubled each time.
const ASK: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// How long a catalog is not there before a newer one may take its place.
const GIVE_UP: Duration = Duration::from_secs(60);

/// A record that waits for its turn.
#[derive(Debug, Clone)]
pub(crate) struct Queued {
    pub(crate) record: Record,
    /// What the audit trail has of it.
    pub(crate) known: Option<Recovered>,
    /// Whether it was read before this run had come to the end of the log.
    pub(crate) backlog: bool,
}

/// A tenant waits for the catalog of the first record in its queue. All of its records behind it wait, in order.
#[derive(Debug)]
pub(crate) struct Wait {
    /// Empty once all of it is folded and the log is read once more for the rest.
    pub(crate) queue: VecDeque<Queued>,
    /// The version that the first one announces.
    pub(crate) version: u64,
    /// The last contact before it: no share of this tenant rises above what was known then.
    contact: (u64, u64),
    /// Why it is not there.
    why: String,
    /// Since when it is not there, as the source says; None when that does not answer.
    absent: Option<Instant>,
    next: Instant,
    backoff: Duration,
    /// Whether people were told.
    told: bool,
    /// Whether its records are being folded right now.
    pub(crate) busy: bool,
    /// Whether keys are replaced behind it: who may sign a stop now is not known here.
    pub(crate) rotates: bool,
    /// The first position behind it for which there was no room: from there on the log is read once more.
    pub(crate) over: Option<u64>,
    /// The last catalog update from there on: a newer one may take the place of the one that is not there.
    pub(crate) newer: Option<Record>,
}

/// Nobody here knows what others have: only baselines are served of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unsure {
    /// The position since which it is so.
    pub(crate) seq: u64,
    /// Why, and what to do.
    pub(crate) why: String,
}

/// What a record of the log comes to.
pub(crate) enum Place {
    /// It was folded before: the log is read again from where the audit trail has a hole.
    Folded,
    /// There was no room for it to wait, nor for all behind it: they are read again.
    Full,
    /// It is the next one to be folded.
    Now,
    /// Its catalog has to be fetched: its tenant waits from now on.
    Waits,
    /// Its tenant waits, and it with it.
    Queued,
}

/// The catalog update that a record is.
pub(crate) fn update(record: &Record) -> Option<Control> {
    let control = Envelope::parse(&record.envelope).ok()?.control().ok()?;
    catalog_wanted(&control).is_some().then_some(control)
}

/// Whether a refusal is for who signed, and not for what the state has.
pub(crate) fn is_of_keys(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Unsigned
            | Reason::BadSignature
            | Reason::UnknownKey
            | Reason::Threshold
            | Reason::Role
            | Reason::Epoch
            | Reason::InvalidKeys
            | Reason::UnknownProposal
            | Reason::KeyGone
    )
}

impl Wait {
    fn behind(first: Queued, version: u64, contact: (u64, u64)) -> Self {
        Self {
            queue: VecDeque::from([first]),
            version,
            contact,
            why: "it is asked for".to_owned(),
            absent: None,
            next: Instant::now(),
            backoff: ASK.0,
            told: false,
            busy: false,
            rotates: false,
            over: None,
            newer: None,
        }
    }

    /// The position that it waits at.
    pub(crate) fn seq(&self) -> u64 {
        let first = self.queue.front().map(|first| first.record.seq);
        first.or(self.over).unwrap_or_default()
    }

    fn last_seq(&self) -> u64 {
        self.queue.back().map_or(0, |last| last.record.seq)
    }

    /// The next one has its turn.
    pub(crate) fn pop(&mut self) {
        self.queue.pop_front();
        (self.absent, self.backoff, self.told) = (None, ASK.0, false);
        self.why.clear();
    }

    /// It could not be fetched; true if people are to be told now.
    pub(crate) fn missed(&mut self, error: &FetchError, version: u64, tell: bool) -> bool {
        let now = Instant::now();
        self.version = version;
        self.why = error.to_string();
        self.absent = match error {
            FetchError::Read { .. } => Some(self.absent.unwrap_or(now)),
            _ => None,
        };
        self.next = now + self.backoff;
        self.backoff = (self.backoff * 2).min(ASK.1);
        tell && !std::mem::replace(&mut self.told, true)
    }

    /// Whether it was not there for so long that a newer one may take its place.
    pub(crate) fn is_given_up(&self) -> bool {
        self.absent.is_some_and(|since| since.elapsed() >= GIVE_UP)
    }
}

impl Live {
    /// The last contact, and its position, as far as a tenant is concerned: nothing is known of one that is `unsure`, or that waits with
    /// other keys behind it, and no more than before of another that waits.
    pub(crate) fn contact_of(&self, tenant: &TenantId) -> (u64, u64) {
        if self.has_baselines_alone(tenant) || self.unread.contains_key(tenant) {
            return (0, 0);
        }
        let wait = self.waits.get(tenant);
        let (us, seq) = (self.contact_us, self.contact_seq);
        wait.map_or((us, seq), |wait| {
            (us.min(wait.contact.0), seq.min(wait.contact.1))
        })
    }

    /// Whether only baselines are served of a tenant, until it is known what others have.
    pub(crate) fn has_baselines_alone(&self, tenant: &TenantId) -> bool {
        let wait = self.waits.get(tenant);
        self.unsure.contains_key(tenant) || wait.is_some_and(|wait| wait.rotates || wait.over.is_some())
    }

    /// Why nobody can say here what becomes of a message: of its tenant only baselines are served, since what others have is not known.
    /// Stops and pauses act, what ends them and what mends that goes to the log.
    pub(crate) fn beyond(&self, tenant: &TenantId, control: &Control) -> Option<String> {
        let enforces = |action: &EnforcementAction| {
            matches!(
                action,
                EnforcementAction::SetVariant(_) | EnforcementAction::SetParams(_)
            )
        };
        let loosens = match &control.message {
            Message::Upstream(_) | Message::Downstream(DownstreamMessage::Approval { .. }) => true,
            Message::Downstream(DownstreamMessage::Enforce { action, .. }) => enforces(action),
            _ => false,
        };
        let why = self
            .apart(tenant)
            .filter(|_| loosens && self.has_baselines_alone(tenant))?;
        Some(format!("{why}; send it to another gateway"))
    }

    /// The position up to which the log is known for good, for a restart.
    pub(crate) fn known_seq(&self) -> u64 {
        let waiting = self.waits.values().map(|wait| wait.contact.1);
        waiting.fold(self.contact_seq, u64::min)
    }

    /// The position up to which all is folded.
    pub(crate) fn position(&self) -> u64 {
        let waiting = self.waits.values().map(|wait| wait.seq().saturating_sub(1));
        waiting.fold(self.seq, u64::min)
    }

    /// The position up to which a tenant is folded.
    pub(crate) fn position_of(&self, tenant: &TenantId) -> u64 {
        let wait = self.waits.get(tenant).map(|wait| wait.seq().saturating_sub(1));
        wait.map_or(self.seq, |wait| wait.min(self.seq))
    }

    /// Why a tenant's shares are held, for people.
    pub(crate) fn apart(&self, tenant: &TenantId) -> Option<String> {
        if let Some(unsure) = self.unsure.get(tenant) {
            return Some(format!(
                "tenant `{tenant}`: {}: only baselines are served",
                unsure.why
            ));
        }
        let wait = self.waits.get(tenant)?;
        if let (Some(over), true) = (wait.over, wait.queue.is_empty()) {
            return Some(format!(
                "tenant `{tenant}`: the log is read once more from position {over}: only baselines are served"
            ));
        }
        Some(format!(
            "catalog {} of tenant `{tenant}`, announced at position {}, is not here yet ({}): {}",
            wait.version,
            wait.seq(),
            wait.why,
            if wait.rotates {
                "keys are replaced behind it, so only baselines are served"
            } else if wait.over.is_some() {
                "more came behind it than is kept, so only baselines are served"
            } else {
                "its shares are held"
            }
        ))
    }

    /// The first tenant that is apart.
    fn first_apart(&self) -> Option<&TenantId> {
        self.unsure.keys().chain(self.waits.keys()).min()
    }

    /// The tenant that is held, where the node is not.
    pub(crate) fn held_alone(&self) -> Option<&TenantId> {
        self.first_apart()
            .filter(|_| self.hold.is_none() && self.clock_ahead.is_none())
    }

    /// Why no share rises here; None when nothing holds them.
    pub(crate) fn held_because(&self) -> Option<String> {
        let audit = || {
            let failed = self.audit_failed.as_ref()?;
            Some(format!("{failed}: nothing is loosened until it can be"))
        };
        let hold = self.hold.clone().or_else(|| self.clock_ahead.clone());
        let apart = || self.first_apart().and_then(|tenant| self.apart(tenant));
        hold.or_else(apart).or_else(audit)
    }

    /// Whether a catalog update is newer than what its tenant has: an older one is refused without its bytes.
    fn lacks_catalog(&self, tenant: &TenantId, version: u64) -> bool {
        let state = self.states.get(tenant);
        state.is_some_and(|state| version > newest(state))
    }

    /// The update that a record is, if its bytes have to be fetched before it is folded.
    pub(crate) fn lacks_bytes(&self, record: &Record) -> Option<Control> {
        let control = update(record)?;
        let wanted = catalog_wanted(&control)?;
        let has = record.catalog.as_ref();
        let has = has.is_some_and(|bytes| wanted.check(bytes).is_ok());
        let lacks = !has
            && precheck(self, record).is_ok()
            && self.lacks_catalog(record.channel.tenant(), wanted.version);
        lacks.then_some(control)
    }

    /// What is to be done with the next record of the log.
    pub(crate) fn place(&mut self, record: &Record) -> Place {
        let tenant = record.channel.tenant();
        let queued = |live: &Self| Queued {
            record: record.clone(),
            known: None,
            backlog: live.is_backlog(record.seq),
        };
        let ends = self
            .waits
            .get(tenant)
            .map(|wait| (wait.over, wait.queue.is_empty()));
        if ends == Some((Some(record.seq), true)) {
            // What it waited for is folded: the rest follows. Before its end it is as unknown as any backlog.
            self.waits.remove(tenant);
            let at = self.unread.entry(tenant.clone()).or_default();
            *at = self.seq.max(*at);
        } else if let Some(wait) = self.waits.get(tenant) {
            let (known, over) = (record.seq <= wait.last_seq(), wait.over);
            if !known && (over.is_some() || self.is_full()) {
                self.seq = self.seq.max(record.seq);
                let newer = update(record).map(|_| record.clone());
                self.waits.entry(tenant.clone()).and_modify(|wait| {
                    wait.over = over.or(Some(record.seq));
                    wait.newer = newer.or(wait.newer.take());
                });
                return if over.is_some() {
                    Place::Folded
                } else {
                    Place::Full
                };
            }
            if known {
                self.seq = self.seq.max(record.seq);
                return Place::Folded;
            }
            let (queued, rotates) = (queued(self), self.rotates(record));
            self.seq = self.seq.max(record.seq);
            self.waits.entry(tenant.clone()).and_modify(|wait| {
                wait.queue.push_back(queued);
                wait.rotates |= rotates;
            });
            return Place::Queued;
        }
        let folded = self.states.get(tenant).map_or(self.recovered_seq, State::seq);
        if record.seq <= folded {
            self.seq = self.seq.max(record.seq);
            return Place::Folded;
        }
        let Some(version) = self
            .lacks_bytes(record)
            .as_ref()
            .and_then(catalog_wanted)
            .map(|of| of.version)
        else {
            return Place::Now;
        };
        self.seq = self.seq.max(record.seq);
        let wait = Wait::behind(queued(self), version, self.contact_of(tenant));
        self.waits.insert(tenant.clone(), wait);
        Place::Waits
    }

    /// Whether a record replaces the keys, by those of before the wait.
    fn rotates(&self, record: &Record) -> bool {
        let order = precheck(self, record);
        order.is_ok_and(|order| matches!(order.control.message, Message::Rotation(_)))
    }

    fn is_full(&self) -> bool {
        let queued = || self.waits.values().flat_map(|wait| &wait.queue);
        let records = self.waits.values().map(|wait| wait.queue.len()).sum::<usize>();
        records >= MAX_WAITING_RECORDS
            || queued().map(|of| of.record.envelope.len()).sum::<usize>() >= MAX_WAITING_BYTES
    }

    /// A record of the audit trail waits, with all that the trail has behind it; true if it does.
    pub(crate) fn waits_again(&mut self, known: &Recovered) -> bool {
        let record = known.record.clone();
        let tenant = record.channel.tenant().clone();
        let queued = Queued {
            record,
            known: Some(known.clone()),
            backlog: false,
        };
        if self.waits.contains_key(&tenant) {
            let rotates = self.rotates(&queued.record);
            self.waits.entry(tenant).and_modify(|wait| {
                wait.queue.push_back(queued);
                wait.rotates |= rotates;
            });
            return true;
        }
        // Others may have taken it: it was not here, its tenant was not served here, or its keys were not known.
        let refused = known.verdict.as_ref().and_then(|verdict| verdict.as_ref().err());
        let missed = refused.is_some_and(|reason| {
            let elsewhere = [Reason::Catalog, Reason::WrongTenant];
            Reason::ALL
                .iter()
                .any(|of| of.as_str() == reason && (elsewhere.contains(of) || is_of_keys(*of)))
        });
        let Some(control) = missed.then(|| self.lacks_bytes(&known.record)).flatten() else {
            return false;
        };
        let Some(wanted) = catalog_wanted(&control).filter(|wanted| wanted.is_followed()) else {
            return false;
        };
        // What of the state it had was not the others': nothing of it counts as known.
        self.waits
            .insert(tenant, Wait::behind(queued, wanted.version, (0, 0)));
        true
    }

    /// The tenants whose catalogs are to be asked for now.
    pub(crate) fn due(&self) -> Vec<TenantId> {
        let now = Instant::now();
        let due = self
            .waits
            .iter()
            .filter(|(_, wait)| wait.next <= now && !wait.busy && !wait.queue.is_empty());
        due.map(|(tenant, _)| tenant.clone()).collect()
    }

    /// From `unsure.seq` on nobody here knows what others have of a tenant. Nothing in the log ends that: what was missed may have
    /// made them accept or refuse anything behind it.
    pub(crate) fn be_unsure(&mut self, tenant: &TenantId, unsure: Unsure) {
        self.unsure.entry(tenant.clone()).or_insert(unsure);
    }

    /// A stop or a pause of before this node's first contact that it refuses for the keys of its configuration: others may have it in
    /// force.
    pub(crate) fn may_be_in_force(
        &self,
        record: &Record,
        refusal: &Refusal,
        backlog: bool,
    ) -> Option<Refusal> {
        let configured = |state: &State| is_of_configured_keys(state, refusal);
        let configured = self.states.get(record.channel.tenant()).is_some_and(configured);
        if !backlog || !configured {
            return None;
        }
        key_gone(record)
    }
}

/// Whether a refusal is for keys that the configuration has, or has not: after a rotation they are the log's, and so the same
/// everywhere.
pub(crate) fn is_of_configured_keys(state: &State, refusal: &Refusal) -> bool {
    state.keys().epoch == 1 && is_of_keys(refusal.reason)
}

/// Why a stop or a pause may be in force on other nodes; None for anything else.
pub(crate) fn key_gone(record: &Record) -> Option<Refusal> {
    let envelope = Envelope::parse(&record.envelope).ok()?;
    let control = envelope.control().ok()?;
    // No node has taken one that was too late then.
    let (brake, _) = Brake::of(&control).filter(|_| control.expires_at_us > record.received_at_us)?;
    let signatures = envelope.signatures().iter();
    let signed_by: Vec<_> = signatures.filter_map(|of| of.keyid.clone()).collect();
    // Without the words after which a log takes what follows for a secret.
    let detail = format!(
        "a {} signed by `{:.80}`, whom this configuration does not let sign one",
        brake.as_str(),
        signed_by.join("`, `")
    );
    Some(Refusal::new(Reason::KeyGone, detail))
}

/// The newest catalog of a state, in force or waiting.
pub(crate) fn newest(state: &State) -> u64 {
    state.parked_catalog().unwrap_or(state.catalog()).version()
}

/// What is made of a tenant by a refused record of its own audit trail or of its log.
pub(crate) fn unsure_of(record: &Record, refusal: &Refusal) -> Unsure {
    let (seq, gone) = (record.seq, refusal.reason == Reason::KeyGone);
    let why = if gone {
        format!(
            "position {seq} of the log is {refusal}: other nodes may have it in force; put the key back and start again"
        )
    } else {
        format!(
            "the audit trail has position {seq} as accepted, and this configuration refuses it ({refusal}): put back what it was \
             accepted with and start again"
        )
    };
    Unsure { seq, why }
}

pub(crate) type Waits = BTreeMap<TenantId, Wait>;
