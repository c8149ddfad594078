//! The handle: read the live state, submit control messages, stop.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use arqon_message::TenantId;
use tokio::sync::{broadcast, watch};

use crate::{
    apply::Issuer,
    assignment::{Cohort, Key, Sampling},
    audit::{AuditSink, NoAudit},
    catalog_source::{CatalogSource, NoCatalogs},
    client::GovernanceClient,
    clock::{Clock, SystemClock},
    config::Config,
    event::{Event, OnEvent},
    guard::GuardConfig,
    keys::{KeyPair, PublicKey},
    latch::{Brake, Latch, LatchFile},
    live::Live,
    log::{ControlLog, MemoryLog},
    pin::PinToken,
    record::NodeId,
    refusal::Refusal,
    snapshot::Snapshot,
    state::Scope,
    status::Status,
    table::Phase,
    wire::{AlertSeverity, DownstreamMessage, UpstreamMessage},
};

/// How many accepted messages wait for a slow [`GovernanceClient`].
pub const CLIENT_BUFFER: usize = 256;

/// Reads what the executor publishes and gives it messages. Cloning costs one reference count.
#[derive(Clone)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) live: Mutex<Live>,
    pub(crate) snapshot: ArcSwap<Snapshot>,
    /// The snapshot serves nobody: all that a request looks at then.
    pub(crate) idle: AtomicBool,
    pub(crate) position: watch::Sender<u64>,
    pub(crate) accepted: broadcast::Sender<(TenantId, DownstreamMessage)>,
    pub(crate) log: Arc<dyn ControlLog>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) audit: Arc<dyn AuditSink>,
    pub(crate) catalogs: Arc<dyn CatalogSource>,
    pub(crate) on_event: Option<OnEvent>,
    pub(crate) node: NodeId,
    pub(crate) node_key: Option<KeyPair>,
    pub(crate) key: Key,
    pub(crate) sampling: Sampling,
    pub(crate) latch_file: Option<LatchFile>,
    pub(crate) guard: Option<GuardConfig>,
    pub(crate) telemetry: Option<Duration>,
    pub(crate) cohort: Cohort,
    pub(crate) pin_keys: Vec<PublicKey>,
}

impl Handle {
    pub(crate) fn new(shared: Shared) -> Self {
        Self {
            shared: Arc::new(shared),
        }
    }

    /// A handle of no tenant: every request passes without a variant.
    pub fn disabled() -> Self {
        Self::new(Shared {
            live: Mutex::new(Live::new([])),
            snapshot: ArcSwap::from_pointee(Snapshot::default()),
            idle: AtomicBool::new(true),
            position: watch::Sender::new(0),
            accepted: broadcast::Sender::new(1),
            log: Arc::new(MemoryLog::new()),
            clock: Arc::new(SystemClock::new()),
            audit: Arc::new(NoAudit),
            catalogs: Arc::new(NoCatalogs),
            on_event: None,
            node: Config::default().node(),
            node_key: None,
            key: Key::default(),
            sampling: Sampling::default(),
            latch_file: None,
            guard: None,
            telemetry: None,
            cohort: Cohort::All,
            pin_keys: Vec::new(),
        })
    }

    /// What decisions are sticky by.
    pub fn key(&self) -> &Key {
        &self.shared.key
    }

    /// How decisions are made.
    pub fn sampling(&self) -> Sampling {
        self.shared.sampling
    }

    pub(crate) fn cohort(&self) -> Cohort {
        self.shared.cohort
    }

    pub(crate) fn verify_pin(&self, header: &str) -> Option<PinToken> {
        PinToken::verify(header, &self.shared.pin_keys, self.shared.clock.now_us())
    }

    /// The state of this node.
    pub fn status(&self) -> Status {
        Status::of(&self.shared.lock(), self.shared.clock.now_us())
    }

    /// Waits until this node has come to position `seq` of the log.
    pub async fn reached(&self, seq: u64) {
        let mut position = self.shared.position.subscribe();
        // The sender lives in `shared`, which `self` holds.
        let _ = position.wait_for(|at| *at >= seq).await;
    }

    /// What this node made of position `seq` of the log; None when it has not come to it, or more than 1,024 have come since.
    pub fn verdict(&self, seq: u64) -> Option<Result<(), Refusal>> {
        self.shared.lock().verdict_of(seq)
    }

    /// Waits until this node has read the log to its end once.
    pub async fn contacted(&self) {
        let mut position = self.shared.position.subscribe();
        while !self.shared.lock().ended {
            if position.changed().await.is_err() {
                return;
            }
        }
    }

    /// A client for a tenant: sends this node's proposals, telemetry and alerts, receives what was decided.
    pub fn client(&self, tenant: &TenantId) -> GovernanceClient {
        GovernanceClient::new(self.clone(), tenant.clone())
    }

    /// Stops a tenant on this node, at once, without a signature: for the program itself. The next decision
    /// is the baseline. A resume that is signed after now ends it. Overwrites a slot of a file when the config
    /// has an audit trail: true when it is on disk, and in force after a restart, too.
    pub fn stop(&self, tenant: &TenantId, reason: &str) -> bool {
        let shared = &self.shared;
        let mut live = shared.lock();
        let now_us = shared.clock.now_us();
        let latch = Latch {
            payload: None,
            message: None,
            logged: true,
            waiting: Vec::new(),
            program: true,
            at_seq: 0,
            local: true,
            refused: None,
            freed: Vec::new(),
            floor: Some(live.seq),
            since_us: now_us,
            last_us: now_us,
            reason: reason.to_owned(),
            by: Vec::new(),
            saved: false,
        };
        let key = (tenant.clone(), Scope::TENANT, Brake::Stop);
        // A signed stop that the log has not judged holds as well, and still has to be told to the other nodes.
        match live.latches.get_mut(&key) {
            Some(unjudged) if unjudged.floor.is_none() => {
                (unjudged.last_us, unjudged.saved) = (unjudged.last_us.max(now_us), false);
                unjudged.program = true;
                // It is for what was resumed before, too.
                unjudged.freed.clear();
            }
            known => {
                let waiting = known.map_or_else(Vec::new, |known| std::mem::take(&mut known.waiting));
                live.latches.insert(key, Latch { waiting, ..latch });
            }
        }
        shared.publish(live);
        shared.latch_file.is_some() && shared.save_latches()
    }

    /// The tenants of this node.
    pub fn tenants(&self) -> Vec<TenantId> {
        self.shared.lock().states.keys().cloned().collect()
    }

    /// Whether control actions can be audited now; else why not. Nothing is loosened while they cannot.
    ///
    /// # Errors
    ///
    /// Why the trail could not be written, for people.
    pub fn audited(&self) -> Result<(), String> {
        self.shared.lock().audit_failed.clone().map_or(Ok(()), Err)
    }

    /// Whether shares may rise on this node; else why not.
    ///
    /// # Errors
    ///
    /// What holds them, for people, as [`Status::hold`].
    pub fn held(&self) -> Result<(), String> {
        self.shared.lock().held_because().map_or(Ok(()), Err)
    }

    /// Tells people something about this node's governance: in the log, to the program, and upstream.
    pub fn alert(&self, severity: AlertSeverity, message: impl Into<String>) {
        self.shared.alert(severity, message);
    }

    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.shared.idle.load(Ordering::Acquire)
    }

    pub(crate) fn snapshot(&self) -> Guard<Arc<Snapshot>> {
        self.shared.snapshot.load()
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Handle")
            .field("node", &self.shared.node)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Live> {
        // Every change under the lock is whole before it is published.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes what `live` says now, and then tells what changed.
    pub(crate) fn publish(&self, mut live: MutexGuard<'_, Live>) {
        let (snapshot, changes) = live.snapshot(self.clock.now_us());
        if let Some(snapshot) = snapshot {
            let idle = snapshot.is_empty();
            self.snapshot.store(Arc::new(snapshot));
            self.idle.store(idle, Ordering::Release);
        }
        drop(live);
        changes.into_iter().for_each(|change| self.emit(change));
    }

    pub(crate) fn emit(&self, event: Event) {
        match &event {
            Event::Refused { tenant, seq, refusal } => {
                let Refusal { reason, detail, .. } = refusal;
                tracing::warn!(component = "rollout", tenant_id = %tenant, seq, %reason, detail, "control message refused");
            }
            Event::Changed(change) => tracing::info!(
                component = "rollout", tenant_id = %change.tenant, scope = change.scope, from = %change.from,
                to = %change.to, percent = change.percent, "rollout changed"
            ),
            Event::Alert { severity, message } => {
                tracing::error!(component = "rollout", ?severity, message, "alert");
            }
            Event::Alone { tenant, orders } => tracing::warn!(
                component = "rollout", tenant_id = %tenant, orders, "stops and pauses hold on this node alone"
            ),
            Event::Accepted { .. } => {}
        }
        if let Some(on_event) = &self.on_event {
            on_event(event);
        }
    }

    /// Tells people, here and upstream: what is wrong with a node concerns all its tenants.
    pub(crate) fn alert(&self, severity: AlertSeverity, message: impl Into<String>) {
        let message = message.into();
        let timestamp_us = self.clock.now_us();
        let mut live = self.lock();
        let tenants: Vec<TenantId> = live.states.keys().cloned().collect();
        for tenant in tenants {
            let alert = UpstreamMessage::Alert {
                timestamp_us,
                severity,
                message: message.clone(),
                context: HashMap::new(),
            };
            live.reports.push(tenant, alert);
        }
        drop(live);
        self.emit(Event::Alert { severity, message });
    }

    /// Counts and tells a refusal, here and upstream.
    pub(crate) fn refused(&self, tenant: Option<&TenantId>, seq: Option<u64>, refusal: &Refusal) {
        let mut live = self.lock();
        live.metrics.refused(refusal.reason);
        let Some(tenant) = tenant else {
            drop(live);
            let Refusal { reason, detail, .. } = refusal;
            tracing::warn!(component = "rollout", seq, %reason, detail, "control message refused");
            return;
        };
        if live.states.contains_key(tenant) {
            let seq = seq.map_or_else(|| "none".to_owned(), |seq| seq.to_string());
            let alert = UpstreamMessage::Alert {
                timestamp_us: self.clock.now_us(),
                severity: refusal.reason.severity(),
                message: format!("refused: {refusal}"),
                context: HashMap::from([("seq".to_owned(), seq)]),
            };
            live.reports.push(tenant.clone(), alert);
        }
        drop(live);
        self.emit(Event::Refused {
            tenant: tenant.clone(),
            seq,
            refusal: refusal.clone(),
        });
    }

    /// What this node makes of position `seq`, once it has. The tenant it is for may wait for a catalog.
    pub(crate) async fn judged(&self, seq: u64) -> Result<(), Refusal> {
        let mut position = self.position.subscribe();
        loop {
            let verdict = self.lock().verdict_of(seq);
            match verdict {
                Some(verdict) => return verdict,
                // The sender is in `self`.
                None => drop(position.changed().await),
            }
        }
    }

    pub(crate) fn phase(&self, tenant: &TenantId, scope: &Scope) -> Phase {
        let live = self.lock();
        let lane = live.states.get(tenant).map(|state| state.lane(scope));
        lane.map_or(Phase::Idle, |lane| {
            live.phase(tenant, scope, &lane, self.clock.now_us())
        })
    }

    /// Who signs what this node says.
    pub(crate) fn node_issuer(&self) -> Issuer {
        Issuer::Node(self.node.as_str().to_owned())
    }
}
