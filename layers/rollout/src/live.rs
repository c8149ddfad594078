//! The live state of a node: what the log says, what is latched here, and how much of it is served.

mod view;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use arqon_message::{SubjectTrie, TenantId};

use self::view::{lane_view, pins};
use crate::{
    apart::{Unsure, Waits},
    apply::Accepted,
    audit::AuditEntry,
    digest::Digest,
    event::{Change, Event},
    latch::{Brake, Latch, LatchKey, Latches},
    metrics::Metrics,
    moment::on_the_beat,
    record::Record,
    refusal::Refusal,
    reports::Reports,
    snapshot::{Snapshot, TenantView},
    spent::{Idle, Spent},
    state::{Lane, MAX_ORDERS, Scope, State},
    status::{DecisionStatus, History},
    table::Phase,
    watch::{Caps, Watch, Watches},
};

/// How many verdicts are kept for the callers that wait for theirs.
const VERDICTS: usize = 1_024;

/// How many decisions are kept for people.
const DECISIONS: usize = 64;

/// Guarded by one lock that is never held across an await.
pub(crate) struct Live {
    pub(crate) states: BTreeMap<TenantId, State>,
    pub(crate) latches: Latches,
    /// The digest of the keys with which the log begins, as this node is configured; None without a tenant.
    pub(crate) first_keys: Option<Digest>,
    /// The last time the log was read to its end.
    pub(crate) contact_us: u64,
    /// Where that was, or where what was recovered ends: what began behind it is not served before the next time.
    pub(crate) contact_seq: u64,
    /// Whether the log was read to its end in this run, whatever holds the shares.
    pub(crate) ended: bool,
    /// When that was in this run by this node's clock, whatever holds the shares; 0 before.
    pub(crate) heard_us: u64,
    /// How far the log's time is ahead of this node's clock, as it last told.
    pub(crate) late_us: u64,
    /// The latest time by which anything was looked at for its end: what has ended does not begin again.
    pub(crate) latest_us: u64,
    /// When the read that is under way began, and when the one that found the last end did.
    pub(crate) asking_us: u64,
    pub(crate) asked_us: u64,
    /// How far the log was looked through for stops and pauses.
    pub(crate) looked: u64,
    /// Behind which position it is read, and from where it has to be read once more.
    pub(crate) at: u64,
    pub(crate) again: Option<u64>,
    /// Where it ended when this run first came to its end.
    pub(crate) backlog_seq: u64,
    /// Only baselines are served of these tenants before the log was read to its end behind that position: keys are replaced on the
    /// way there, or it is read once more.
    pub(crate) unread: BTreeMap<TenantId, u64>,
    /// Why shares are held for the rest of the run: a gap in the log.
    pub(crate) hold: Option<String>,
    /// That this node's clock is ahead of the log's.
    pub(crate) clock_ahead: Option<String>,
    /// Whether people were told that it is behind.
    pub(crate) clock_behind: bool,
    /// The tenants that wait for a catalog.
    pub(crate) waits: Waits,
    /// The tenants of which nobody here knows what others have.
    pub(crate) unsure: BTreeMap<TenantId, Unsure>,
    /// The last position that the audit trail had at start.
    pub(crate) recovered_seq: u64,
    /// What the guard has capped, and of which rollout.
    pub(crate) caps: Caps,
    /// Where the log was known to end, as far as that is kept for a restart.
    pub(crate) kept_seq: u64,
    /// Whether what is kept beside the latches is to be written.
    pub(crate) kept_moved: bool,
    /// Why the audit trail cannot be written; None when it can.
    pub(crate) audit_failed: Option<String>,
    /// Refusals that wait for the audit trail.
    pub(crate) unaudited: VecDeque<AuditEntry>,
    /// What this node refused without the log.
    pub(crate) spent: Spent,
    /// How much more may be refused by the log.
    pub(crate) idle: Idle,
    /// Whether people were told that the wall clock stepped.
    pub(crate) stepped: bool,
    pub(crate) seq: u64,
    pub(crate) verdicts: VecDeque<(u64, Result<(), Refusal>)>,
    pub(crate) metrics: Metrics,
    pub(crate) watches: Watches,
    /// Whether requests are measured.
    pub(crate) measured: bool,
    /// Whether testers' pins count.
    pub(crate) pinned: bool,
    /// What waits to be told upstream.
    pub(crate) reports: Reports,
    /// The last things that were decided.
    pub(crate) decisions: VecDeque<(TenantId, DecisionStatus)>,
    /// How the served shares came about.
    pub(crate) history: BTreeMap<(TenantId, Scope), History>,
    pub(crate) reported_us: u64,
    served: BTreeMap<(TenantId, Scope), (Phase, Option<String>)>,
    /// The idle scopes whose subjects fall to what is around them, at a position of the log: they change with the state alone.
    joined: BTreeMap<TenantId, (Option<u64>, Arc<HashSet<Scope>>)>,
    /// How many stops and pauses hold on this node alone.
    alone: BTreeMap<TenantId, usize>,
    /// What the last snapshot was made of.
    made_of: u64,
}

impl Live {
    pub(crate) fn new(states: impl IntoIterator<Item = State>) -> Self {
        let states = states.into_iter().map(|state| (state.tenant().clone(), state));
        let states: BTreeMap<_, _> = states.collect();
        let first_keys = states.values().next().map(|state| state.keys().digest());
        let mut metrics = Metrics::new();
        for variant in states.values().flat_map(|state| state.catalog().variants()) {
            let _registered = metrics.decisions(&variant.name);
        }
        Self {
            states,
            latches: Latches::new(),
            first_keys,
            contact_us: 0,
            contact_seq: 0,
            ended: false,
            heard_us: 0,
            late_us: 0,
            latest_us: 0,
            asking_us: 0,
            asked_us: 0,
            looked: 0,
            at: 0,
            again: None,
            backlog_seq: 0,
            unread: BTreeMap::new(),
            hold: None,
            clock_ahead: None,
            clock_behind: false,
            waits: Waits::new(),
            unsure: BTreeMap::new(),
            recovered_seq: 0,
            caps: Caps::new(),
            kept_seq: 0,
            kept_moved: false,
            audit_failed: None,
            unaudited: VecDeque::new(),
            spent: Spent::default(),
            idle: Idle::default(),
            stepped: false,
            seq: 0,
            verdicts: VecDeque::new(),
            metrics,
            watches: Watches::new(),
            measured: false,
            pinned: false,
            reports: Reports::default(),
            decisions: VecDeque::new(),
            history: BTreeMap::new(),
            reported_us: 0,
            served: BTreeMap::new(),
            joined: BTreeMap::new(),
            alone: BTreeMap::new(),
            made_of: 0,
        }
    }

    /// The log ended at `at_us`, by this node's clock, where it was read to.
    pub(crate) fn contact(&mut self, at_us: u64) {
        if !self.ended {
            self.backlog_seq = self.seq;
        }
        (self.ended, self.asked_us) = (true, self.asking_us);
        self.heard_us = self.heard_us.max(at_us);
        let at = self.at;
        self.unread.retain(|_, seq| *seq > at);
        if self.hold.is_none() && self.clock_ahead.is_none() {
            self.contact_us = self.contact_us.max(at_us);
            self.contact_seq = self.contact_seq.max(self.seq);
            // Few records begin anything.
            if self
                .states
                .values()
                .any(|state| state.has_begun_behind(self.kept_seq))
            {
                let known = self.known_seq().max(self.kept_seq);
                self.kept_moved |= std::mem::replace(&mut self.kept_seq, known) != known;
            }
        }
    }

    /// Behind which position the log is read next.
    pub(crate) fn read_after(&mut self) -> u64 {
        if let Some(seq) = self.again.take() {
            self.at = self.at.min(seq.saturating_sub(1));
            self.recovered_seq = self.recovered_seq.max(self.seq);
            // What is read once more was stored long before.
            self.asked_us = 0;
        }
        self.at
    }

    /// Whether a position is one that this run read, or should have read, before it first came to the log's end.
    pub(crate) fn is_backlog(&self, seq: u64) -> bool {
        !self.ended || seq <= self.backlog_seq
    }

    pub(crate) fn verdict(&mut self, seq: u64, verdict: Result<(), Refusal>) {
        if self.verdicts.len() >= VERDICTS {
            self.verdicts.pop_front();
        }
        self.verdicts.push_back((seq, verdict));
        self.seq = self.seq.max(seq);
    }

    pub(crate) fn verdict_of(&self, seq: u64) -> Option<Result<(), Refusal>> {
        self.verdicts
            .iter()
            .rev()
            .find(|(at, _)| *at == seq)
            .map(|(_, verdict)| verdict.clone())
    }

    /// Remembers what was decided, for people.
    pub(crate) fn decided(&mut self, record: &Record, accepted: &Accepted) {
        if self.decisions.len() >= DECISIONS {
            self.decisions.pop_front();
        }
        let decision = DecisionStatus::of(record, accepted);
        self.decisions
            .push_back((record.channel.tenant().clone(), decision));
    }

    /// Whether one more scope may be latched: as many as may have orders of their own, those of the log included.
    pub(crate) fn has_room_for_latch(&self, tenant: &TenantId, scope: &Scope) -> bool {
        let latched = self.latches.keys().filter(|(of, ..)| of == tenant);
        let latched: BTreeSet<&Scope> = latched.map(|(_, scope, _)| scope).collect();
        if *scope == Scope::TENANT || latched.contains(scope) {
            return true;
        }
        let Some(state) = self.states.get(tenant) else {
            return true;
        };
        let ordered = state.scopes_with_orders();
        let (mut more, mut known) = (latched.len(), false);
        for of in ordered {
            known |= of == scope;
            more += usize::from(!latched.contains(of));
        }
        known || more < MAX_ORDERS
    }

    /// The latch of a kind that holds a scope; of several the earliest.
    pub(crate) fn latch(&self, tenant: &TenantId, scope: &Scope, brake: Brake) -> Option<&Latch> {
        // Nearly always there is none: no key has to be made.
        if self.latches.is_empty() {
            return None;
        }
        let reaching = self.latches.iter().filter(|((of, latched, kind), latch)| {
            of == tenant && *kind == brake && latch.holds(latched, scope)
        });
        reaching
            .map(|(_, latch)| latch)
            .min_by_key(|latch| latch.since_us)
    }

    /// The scopes whose latches hold this one.
    pub(crate) fn latched_by(&self, tenant: &TenantId, scope: &Scope) -> impl Iterator<Item = &Scope> {
        let latches = self.latches.iter();
        latches
            .filter(move |((of, latched, _), latch)| of == tenant && latch.holds(latched, scope))
            .map(|((_, latched, _), _)| latched)
    }

    /// The latch that counts for a scope: a stop before a pause.
    pub(crate) fn braked(&self, tenant: &TenantId, scope: &Scope) -> Option<&Latch> {
        let of = |brake| self.latch(tenant, scope, brake);
        of(Brake::Stop).or_else(|| of(Brake::Pause))
    }

    /// Whether a scope is latched by an order that was not given for the whole tenant.
    pub(crate) fn braked_alone(&self, tenant: &TenantId, scope: &Scope) -> bool {
        self.latched_by(tenant, scope)
            .any(|order| !order.contains(&Scope::TENANT))
    }

    /// The state of a scope as served here.
    pub(crate) fn phase(&self, tenant: &TenantId, scope: &Scope, lane: &Lane, now_us: u64) -> Phase {
        match lane.phase_at(self.moment(now_us)) {
            _ if self.latch(tenant, scope, Brake::Stop).is_some() => Phase::Stopped,
            phase @ (Phase::Stopped | Phase::Forced) => phase,
            _ if self.latch(tenant, scope, Brake::Pause).is_some() => Phase::Paused,
            phase => phase,
        }
    }

    /// The percent of a scope as served here: the log's, never above what contact and guard allow.
    pub(crate) fn percent(&self, tenant: &TenantId, scope: &Scope, lane: &Lane, now_us: u64) -> f64 {
        let (contact_us, contact_seq) = self.contact_of(tenant);
        if self.latch(tenant, scope, Brake::Stop).is_some() || !lane.is_known(contact_seq) {
            return 0.0;
        }
        let pause = self.latch(tenant, scope, Brake::Pause);
        let paused = pause.map_or(100.0, |latch| lane.percent(latch.since_us));
        let limit = self
            .watches
            .get(&(tenant.clone(), scope.clone()))
            .map_or(100.0, Watch::limit);
        let served = lane.served_at(self.moment(now_us).on_the_beat(), on_the_beat(contact_us));
        served.min(limit).min(paused)
    }

    /// What a paused scope without a rollout of its own is held at, of which scope's: no more than what that serves.
    pub(crate) fn held_around(
        &self,
        state: &State,
        scope: &Scope,
        lane: &Lane,
        phase: Phase,
        now_us: u64,
    ) -> Option<(Scope, Lane, f64)> {
        let tenant = state.tenant();
        if phase != Phase::Paused || lane.is_used() {
            return None;
        }
        let latched = || {
            let latch = self.latch(tenant, scope, Brake::Pause)?;
            state.share_around(scope, lane, latch.since_us)
        };
        let share = lane.holds.clone().or_else(latched)?;
        let around = state.lanes().get(&share.of)?;
        let same =
            around.rollout()?.digest == share.digest && self.latch(tenant, &share.of, Brake::Stop).is_none();
        let percent = self.percent(tenant, &share.of, around, now_us).min(share.percent);
        same.then(|| (share.of, around.clone(), percent))
    }

    /// What requests read from now on, unless it is what they read already, and what has changed by it.
    pub(crate) fn snapshot(&mut self, now_us: u64) -> (Option<Snapshot>, Vec<Event>) {
        self.sync_watches(now_us);
        let mut metrics = std::mem::replace(&mut self.metrics, Metrics::empty());
        let mut changes = Vec::new();
        let mut views = Vec::new();
        // Open sessions hold on to the snapshot they began with: the same one for all, as long as nothing moves.
        let mut made_of = DefaultHasher::new();
        for (tenant, state) in &self.states {
            let alone = alone(&self.latches, tenant);
            metrics.alone(tenant, alone);
            if self.alone.insert(tenant.clone(), alone).unwrap_or_default() != alone {
                changes.push(Event::Alone {
                    tenant: tenant.clone(),
                    orders: alone,
                });
            }
            let mut scopes: Vec<Scope> = state.lanes().keys().cloned().collect();
            let latched = self
                .latches
                .keys()
                .filter(|(of, scope, _)| of == tenant && !state.lanes().contains_key(scope));
            scopes.extend(latched.map(|(_, scope, _)| scope.clone()));
            scopes.dedup();
            let joined = self.joined.entry(tenant.clone()).or_default();
            if joined.0 != Some(state.seq()) {
                *joined = (Some(state.seq()), state.joined());
            }
            let joined = joined.1.clone();
            let mut scoped = SubjectTrie::new();
            let mut whole = None;
            for scope in scopes {
                let lane = state.lane(&scope);
                let (phase, percent) = (
                    self.phase(tenant, &scope, &lane, now_us),
                    self.percent(tenant, &scope, &lane, now_us),
                );
                let id = lane
                    .rollout()
                    .filter(|_| phase != Phase::Stopped)
                    .map(|of| of.proposal.id.clone());
                metrics.scope(tenant, &scope, percent / 100.0, phase == Phase::Stopped);
                let key = (tenant.clone(), scope.clone());
                self.history
                    .entry(key.clone())
                    .or_default()
                    .push(now_us, percent, phase);
                let before = self.served.insert(key, (phase, id.clone()));
                let from = before.as_ref().map_or(Phase::Idle, |(phase, _)| *phase);
                if before.map_or(phase != Phase::Idle, |before| before != (phase, id.clone())) {
                    let (tenant, scope) = (tenant.clone(), scope.to_string());
                    changes.push(Event::Changed(Change {
                        tenant,
                        scope,
                        from,
                        to: phase,
                        percent,
                        proposal_id: id,
                    }));
                }
                if state.catalog().is_empty() {
                    continue;
                }
                let (place, held) = (
                    scope.clone(),
                    self.held_around(state, &scope, &lane, phase, now_us),
                );
                // What is held of a rollout around it is served as that is, to no more.
                let (scope, lane, percent) = match &held {
                    Some((of, around, percent)) => (of.clone(), around.clone(), *percent),
                    None => (scope, lane, percent),
                };
                let key = (tenant.clone(), scope.clone());
                let watch = self.watches.get(&key).map(|watch| (watch, self.measured));
                (tenant, &scope, phase, percent.to_bits(), self.measured).hash(&mut made_of);
                let base = lane.base(state.catalog(), self.moment(now_us), self.contact_of(tenant).1);
                (state.catalog().version(), base.id).hash(&mut made_of);
                lane.cause().seq.hash(&mut made_of);
                if let Some(rollout) = lane.rollout() {
                    rollout.digest.hash(&mut made_of);
                }
                let view = Arc::new(lane_view(state, &lane, phase, percent, base, watch, &mut metrics));
                match place.pattern() {
                    // Its subjects fall to what is around it.
                    Some(_) if phase == Phase::Idle && joined.contains(&place) => {}
                    Some(pattern) => drop(scoped.insert(pattern, view)),
                    None => whole = Some(view),
                }
            }
            if let Some(whole) = whole {
                let scoped = Arc::new(scoped);
                let pins = if self.pinned { pins(state) } else { HashMap::new() };
                let view = TenantView {
                    tenant: tenant.clone(),
                    pins: Arc::new(pins),
                    whole,
                    scoped,
                };
                // The states are in the order of their tenants' names.
                views.push(view);
            }
        }
        self.metrics = metrics;
        let made_of = made_of.finish();
        let moved = std::mem::replace(&mut self.made_of, made_of) != made_of;
        (moved.then(|| Snapshot::new(views)), changes)
    }
}

/// How many of a tenant's latches hold on this node alone.
pub(crate) fn alone(latches: &Latches, tenant: &TenantId) -> usize {
    let of = |((of, ..), latch): &(&LatchKey, &Latch)| of == tenant && latch.refused.is_some();
    latches.iter().filter(of).count()
}
