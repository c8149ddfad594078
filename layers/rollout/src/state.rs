//! What the log says: the state of one tenant, and the share it yields at a time.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use arqon_message::TenantId;

use crate::{
    catalog::Catalog,
    digest::Digest,
    keys::KeySet,
    latch::Brake,
    moment::Moment,
    record::NodeId,
    refusal::Refusal,
    table::Phase,
    variant::Variant,
    wire::{Proposal, RolloutConfig, VariantId},
};

pub(crate) use crate::held::Held;
pub use crate::{held::Cause, scope::Scope};

/// Most pending proposals of one issuer; another's are never evicted for them.
pub const MAX_PENDING: usize = 16;

/// Most tombstones; the oldest go first. Counters refuse replays for ever, tombstones re-used ids.
pub const MAX_TOMBSTONES: usize = 4_096;

/// Most messages that are remembered because they were refused for coming too early; those that expire first go first.
pub(crate) const MAX_EARLY: usize = 1_024;

/// Most scopes of one tenant. A stop or a pause for which there is no room is one of the whole tenant.
pub const MAX_SCOPES: usize = 1_024;

/// Most scopes of one tenant with a stop or a pause of their own; the next one is of the whole tenant.
pub const MAX_ORDERS: usize = 64;

/// What an operator decided about trust before the first record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Whose state it is.
    pub tenant: TenantId,
    /// Accepts envelopes without any signature.
    pub allow_unsigned: bool,
    /// Accepts approvals without a ramp: everyone at once.
    pub allow_unramped: bool,
    /// How far in the future a message may have been issued, microseconds.
    pub skew_us: u64,
}

impl Policy {
    /// Everything signed, everything ramped, 30 s of clock skew.
    pub fn strict(tenant: TenantId) -> Self {
        Self {
            tenant,
            allow_unsigned: false,
            allow_unramped: false,
            skew_us: 30_000_000,
        }
    }
}

/// A variant with the parameters somebody chose for it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Choice {
    pub(crate) id: Option<VariantId>,
    pub(crate) params: Option<HashMap<String, f64>>,
    pub(crate) variant: Arc<Variant>,
    /// The position of the record since which it may be served to anyone by this choice; 0 before it is chosen.
    pub(crate) since_seq: u64,
}

impl Choice {
    pub(crate) fn of(
        catalog: &Catalog,
        id: Option<VariantId>,
        params: Option<&HashMap<String, f64>>,
    ) -> Result<Self, Refusal> {
        let variant = catalog.resolve(id, params)?;
        Ok(Self {
            id,
            params: params.cloned(),
            variant,
            since_seq: 0,
        })
    }

    /// The same choice out of another catalog.
    pub(crate) fn again(&self, catalog: &Catalog) -> Result<Self, Refusal> {
        Ok(Self {
            since_seq: self.since_seq,
            ..Self::of(catalog, self.id, self.params.as_ref())?
        })
    }
}

/// A proposal that waits for an approval.
#[derive(Debug, Clone, PartialEq)]
pub struct Pending {
    /// What is proposed.
    pub proposal: Arc<Proposal>,
    /// What an approval must name.
    pub digest: Digest,
    /// Who proposed.
    pub issuer: String,
    /// When it is forgotten.
    pub expires_at_us: u64,
    pub(crate) scope: Scope,
}

/// A rollout that was approved.
#[derive(Debug, Clone, PartialEq)]
pub struct ApprovedRollout {
    /// What was approved.
    pub proposal: Arc<Proposal>,
    /// Its digest.
    pub digest: Digest,
    /// Its ramp.
    pub config: RolloutConfig,
    /// Who approved: the names of the keys.
    pub approved_by: Vec<String>,
    /// When, by the log.
    pub approved_at_us: u64,
    /// When it ends by itself.
    pub until_us: Option<u64>,
    pub(crate) supersede: bool,
    pub(crate) choice: Choice,
    pub(crate) active_us: u64,
    pub(crate) running_since_us: Option<u64>,
}

impl ApprovedRollout {
    /// What is rolled out.
    pub fn variant(&self) -> &Arc<Variant> {
        &self.choice.variant
    }

    /// Active time until `now_us`, microseconds; a pause is not active.
    pub fn active_us(&self, now_us: u64) -> u64 {
        let running = self
            .running_since_us
            .map_or(0, |since| now_us.saturating_sub(since));
        self.active_us.saturating_add(running)
    }

    /// The percent at `now_us`, whatever the scope's state.
    pub fn percent(&self, now_us: u64) -> f64 {
        self.config.percent_at(self.active_us(now_us))
    }

    fn phase(&self, now_us: u64) -> Phase {
        let RolloutConfig {
            increment_per_minute,
            max_percent,
            ..
        } = self.config;
        let percent = self.percent(now_us);
        if percent >= 100.0 {
            Phase::Complete
        } else if percent >= max_percent || increment_per_minute <= 0.0 {
            Phase::Holding
        } else {
            Phase::Ramping
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Mode {
    Idle,
    Rollout(ApprovedRollout),
    Forced { choice: Choice, until_us: Option<u64> },
    Stopped,
}

/// A share of the rollout of another scope.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Share {
    pub(crate) of: Scope,
    /// Of the rollout: another one is not held.
    pub(crate) digest: Digest,
    pub(crate) percent: f64,
}

/// The state of one scope.
#[derive(Debug, Clone, PartialEq)]
pub struct Lane {
    pub(crate) mode: Mode,
    /// Who has paused it.
    pub(crate) paused: Held,
    /// Who has stopped it, in [`Mode::Stopped`].
    pub(crate) stopped: Held,
    /// The variant a finished rollout left behind; None is the catalog's baseline.
    pub(crate) promoted: Option<Choice>,
    pub(crate) parked: Option<ApprovedRollout>,
    /// What was signed before the last stop no longer acts.
    pub(crate) not_before_us: u64,
    /// When it last went back to nothing: what was approved around it before is not for it.
    pub(crate) closed_us: u64,
    /// While it is paused and has nothing of its own: what its subjects had of a rollout around it then.
    pub(crate) holds: Option<Share>,
    /// What brought it here, unless it is stopped or paused, for people.
    pub(crate) cause: Arc<Cause>,
}

impl Lane {
    pub(crate) fn idle() -> Self {
        Self {
            mode: Mode::Idle,
            paused: Held::default(),
            stopped: Held::default(),
            promoted: None,
            parked: None,
            not_before_us: 0,
            closed_us: 0,
            holds: None,
            cause: Arc::default(),
        }
    }

    /// The state at `now_us`.
    pub fn phase(&self, now_us: u64) -> Phase {
        self.phase_at(now_us.into())
    }

    pub(crate) fn phase_at(&self, at: Moment) -> Phase {
        match &self.mode {
            Mode::Stopped => Phase::Stopped,
            Mode::Forced { until_us, .. } if !lapsed(*until_us, at.ends_us) => Phase::Forced,
            _ if self.paused.any() => Phase::Paused,
            Mode::Rollout(rollout) if !lapsed(rollout.until_us, at.ends_us) => rollout.phase(at.now_us),
            Mode::Idle | Mode::Rollout(_) | Mode::Forced { .. } => Phase::Idle,
        }
    }

    /// The rollout that runs or is held.
    pub fn rollout(&self) -> Option<&ApprovedRollout> {
        match &self.mode {
            Mode::Rollout(rollout) => Some(rollout),
            Mode::Idle | Mode::Forced { .. } | Mode::Stopped => None,
        }
    }

    /// Whether it is stopped or paused by an order that was not given for the whole tenant, which a resume of that does not
    /// end.
    pub fn is_held_alone(&self) -> bool {
        self.stopped.outlasts_tenant() || self.paused.outlasts_tenant()
    }

    /// The orders that stop it, then those that pause it: the scope each was given for, and why.
    pub fn held_by(&self) -> impl Iterator<Item = (Brake, &Scope, &Cause)> {
        let of = |brake| move |(order, cause)| (brake, order, cause);
        let stops = self.stopped.iter().map(of(Brake::Stop));
        stops.chain(self.paused.iter().map(of(Brake::Pause)))
    }

    /// Whether its clock stands still. A pause of what is stopped waits for the end of the stop.
    pub(crate) fn is_paused(&self) -> bool {
        self.mode != Mode::Stopped && self.paused.any()
    }

    /// Whether anybody may get something else than the catalog's baseline by it, now or after a resume.
    pub(crate) fn is_used(&self) -> bool {
        let rolled = matches!(self.mode, Mode::Rollout(_) | Mode::Forced { .. });
        rolled || self.promoted.is_some() || self.parked.is_some()
    }

    /// The approval that waits for the resume.
    pub fn parked(&self) -> Option<&ApprovedRollout> {
        self.parked.as_ref()
    }

    /// Why it is so.
    pub fn cause(&self) -> &Cause {
        let held = match self.mode {
            Mode::Stopped => self.stopped.first(),
            Mode::Idle | Mode::Rollout(_) => self.paused.first(),
            Mode::Forced { .. } => None,
        };
        held.unwrap_or(&self.cause)
    }

    /// The share of keys that get the rollout's variant at `now_us`, in percent: `f(log, now)`.
    pub fn percent(&self, now_us: u64) -> f64 {
        self.percent_at(now_us.into())
    }

    pub(crate) fn percent_at(&self, at: Moment) -> f64 {
        match &self.mode {
            Mode::Rollout(rollout) if !lapsed(rollout.until_us, at.ends_us) => rollout.percent(at.now_us),
            _ => 0.0,
        }
    }

    /// What a node serves of a rollout that it knew at its last contact: `min(f(log, now), f(log, last_contact))`, in percent.
    /// Of one that began behind that it serves nothing.
    pub fn served_percent(&self, now_us: u64, last_contact_us: u64) -> f64 {
        self.served_at(now_us.into(), last_contact_us)
    }

    pub(crate) fn served_at(&self, at: Moment, last_contact_us: u64) -> f64 {
        self.percent_at(at).min(self.percent(last_contact_us))
    }

    /// Whether the rollout began no later than at `contact_seq`, where this node last stood at the end of the log: what began
    /// behind that may have been stopped since, by what is not read yet.
    pub(crate) fn is_known(&self, contact_seq: u64) -> bool {
        self.rollout()
            .is_none_or(|rollout| rollout.choice.since_seq <= contact_seq)
    }

    /// Whether anything that it serves began behind `seq`.
    pub(crate) fn has_begun_behind(&self, seq: u64) -> bool {
        let forced = match &self.mode {
            Mode::Forced { choice, .. } => Some(choice),
            _ => None,
        };
        let rollout = self.rollout().map(|rollout| &rollout.choice);
        let choices = [forced, rollout, self.promoted.as_ref()];
        choices.into_iter().flatten().any(|choice| choice.since_seq > seq)
    }

    /// Who is not in the rollout gets this; of what began behind `contact_seq`, as [`is_known`](Self::is_known), nothing.
    pub(crate) fn base(&self, catalog: &Catalog, at: Moment, contact_seq: u64) -> Arc<Variant> {
        let is_known = |choice: &Choice| choice.since_seq <= contact_seq;
        match (&self.mode, &self.promoted) {
            (Mode::Stopped, _) => catalog.baseline(),
            (Mode::Forced { choice, until_us }, _) if !lapsed(*until_us, at.ends_us) && is_known(choice) => {
                choice.variant.clone()
            }
            (_, Some(promoted)) if is_known(promoted) => promoted.variant.clone(),
            _ => catalog.baseline(),
        }
    }
}

pub(crate) fn lapsed(until_us: Option<u64>, now_us: u64) -> bool {
    until_us.is_some_and(|until| now_us >= until)
}

/// The last message of an issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) counter: u64,
    pub(crate) payload: Digest,
    /// Whether it was accepted; a refused one is spent as well.
    pub(crate) accepted: bool,
}

/// The state of one tenant: a pure fold over its control log.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    pub(crate) policy: Arc<Policy>,
    pub(crate) keys: Arc<KeySet>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) parked_catalog: Option<Arc<Catalog>>,
    pub(crate) operators: Option<Seen>,
    pub(crate) issuers: BTreeMap<String, Seen>,
    /// What was refused for coming too early, and until when it could come true.
    pub(crate) early: BTreeMap<Digest, u64>,
    pub(crate) pending: BTreeMap<String, Pending>,
    pub(crate) tombstones: BTreeMap<String, u64>,
    pub(crate) lanes: BTreeMap<Scope, Lane>,
    /// When the newest resume of each scope was signed: a stop or a pause of before is not taken late.
    pub(crate) resumed: BTreeMap<Scope, u64>,
    pub(crate) clock_us: u64,
    pub(crate) seq: u64,
}

impl State {
    /// Whether anything that is served began behind `seq`.
    pub(crate) fn has_begun_behind(&self, seq: u64) -> bool {
        self.seq > seq && self.lanes.values().any(|lane| lane.has_begun_behind(seq))
    }

    /// Before the first record.
    pub fn genesis(policy: Policy, keys: KeySet, catalog: Catalog) -> Self {
        Self {
            policy: Arc::new(policy),
            keys: Arc::new(keys),
            catalog: Arc::new(catalog),
            parked_catalog: None,
            operators: None,
            issuers: BTreeMap::new(),
            early: BTreeMap::new(),
            pending: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            lanes: BTreeMap::from([(Scope::TENANT, Lane::idle())]),
            resumed: BTreeMap::new(),
            clock_us: 0,
            seq: 0,
        }
    }

    /// Whose state it is.
    pub fn tenant(&self) -> &TenantId {
        &self.policy.tenant
    }

    /// The position of the last record that was looked at.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The latest time the log has told.
    pub fn clock_us(&self) -> u64 {
        self.clock_us
    }

    /// The keys in force.
    pub fn keys(&self) -> &KeySet {
        &self.keys
    }

    /// The catalog in force.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The catalog that waits for a resume.
    pub fn parked_catalog(&self) -> Option<&Catalog> {
        self.parked_catalog.as_deref()
    }

    /// The operators' last counter; the next message needs a higher one.
    pub fn counter(&self) -> u64 {
        self.operators.map_or(0, |seen| seen.counter)
    }

    /// The last counter of a stop key or a node.
    pub fn issuer_counter(&self, keyid: &str) -> u64 {
        self.issuers.get(keyid).map_or(0, |seen| seen.counter)
    }

    /// The proposals that wait, by id.
    pub fn pending(&self) -> &BTreeMap<String, Pending> {
        &self.pending
    }

    /// Whether a proposal id may never run again.
    pub fn is_tombstoned(&self, id: &str) -> bool {
        self.tombstones.contains_key(id)
    }

    /// The scopes; the whole tenant's comes first and is always there.
    pub fn lanes(&self) -> &BTreeMap<Scope, Lane> {
        &self.lanes
    }

    /// What `propose`d messages of a node are counted under.
    pub(crate) fn node_issuer(node: Option<&NodeId>) -> String {
        node.map_or_else(|| "unsigned".to_owned(), |node| node.as_str().to_owned())
    }

    pub(crate) fn bury(&mut self, id: &str) {
        if self.tombstones.len() >= MAX_TOMBSTONES {
            let oldest = self
                .tombstones
                .iter()
                .min_by_key(|(_, seq)| **seq)
                .map(|(id, _)| id.clone());
            if let Some(oldest) = oldest {
                self.tombstones.remove(&oldest);
            }
        }
        self.tombstones.insert(id.to_owned(), self.seq);
    }
}
