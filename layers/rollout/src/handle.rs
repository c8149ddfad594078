//! The handle: read the live state, submit control messages, stop.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use arqon_message::TenantId;
use bytes::Bytes;
use serde::Serialize;
use tokio::{
    sync::{broadcast, watch},
    time::timeout,
};

use crate::{
    apply::{Issuer, Order, authenticate},
    assignment::{Key, Sampling},
    audit::{AuditEntry, AuditSink, NoAudit},
    catalog_source::{CatalogSource, NoCatalogs},
    client::GovernanceClient,
    clock::{Clock, SystemClock},
    config::Config,
    envelope::{Envelope, Message},
    error::SubmitError,
    event::{Event, OnEvent},
    keys::KeyPair,
    live::{Latch, Live},
    log::{ControlLog, LogError, MemoryLog},
    record::{Channel, NodeId, Record},
    refusal::{Reason, Refusal},
    snapshot::Snapshot,
    state::Scope,
    status::Status,
    table::Phase,
    wire::{AlertSeverity, DownstreamMessage, EnforcementAction},
};

/// How long [`Handle::submit`] waits for the log to take a message.
pub const APPEND_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a stop, which is in force already, waits for the log.
pub const STOP_TIMEOUT: Duration = Duration::from_millis(500);

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
}

/// A message was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Receipt {
    /// Its position in the log. None for a stop that is in force here and still on its way there.
    pub seq: Option<u64>,
    /// The state of its scope now.
    pub state: Phase,
    /// Whether it had been taken before: nothing happened.
    pub duplicate: bool,
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

    /// A client for a tenant: sends this node's proposals, telemetry and alerts, receives what was decided.
    pub fn client(&self, tenant: &TenantId) -> GovernanceClient {
        GovernanceClient::new(self.clone(), tenant.clone())
    }

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
        let bytes = Bytes::copy_from_slice(envelope);
        let read = Envelope::parse(envelope).and_then(|envelope| envelope.control());
        let control = read.inspect_err(|refusal| shared.refused(None, None, refusal))?;
        let tenant = TenantId::new(&control.tenant)
            .map_err(|error| Refusal::new(Reason::WrongTenant, error.to_string()))
            .inspect_err(|refusal| shared.refused(None, None, refusal))?;
        let channel = match &control.message {
            Message::Upstream(_) => Channel::Up(tenant.clone(), shared.node.clone()),
            Message::Downstream(_) | Message::Rotation(_) => Channel::Down(tenant.clone()),
        };
        let mut record = Record {
            seq: 0,
            received_at_us: shared.clock.now_us(),
            channel: channel.clone(),
            envelope: bytes.clone(),
            catalog: None,
        };
        let order = match shared.precheck(&record) {
            Ok(order) => order,
            Err(refusal) if refusal.reason == Reason::Duplicate => {
                let scope = Scope::parse(control.scope.as_deref(), &tenant)?;
                return Ok(Receipt {
                    seq: None,
                    state: shared.phase(&tenant, &scope),
                    duplicate: true,
                });
            }
            Err(refusal) => return Err(shared.refuse(record, refusal).await.into()),
        };
        let scope = Scope::parse(control.scope.as_deref(), &tenant)?;
        let stop = stop_reason(&order).map(str::to_owned);
        if let Some(reason) = &stop {
            shared.latch_order(&order, &scope, reason, Some((channel.clone(), bytes.clone())));
        } else {
            if let Message::Downstream(DownstreamMessage::CatalogUpdate { source_uri, .. }) = &control.message
            {
                match shared.catalogs.fetch(source_uri).await {
                    Ok(catalog) => record.catalog = Some(catalog),
                    Err(error) => {
                        let refusal = Refusal::new(Reason::Catalog, error.to_string());
                        return Err(shared.refuse(record, refusal).await.into());
                    }
                }
            }
            if let Err(refusal) = shared.rehearse(&record, order) {
                return Err(shared.refuse(record, refusal).await.into());
            }
        }
        let patience = if stop.is_some() {
            STOP_TIMEOUT
        } else {
            APPEND_TIMEOUT
        };
        let logged = async {
            let appended = shared.log.append(channel, bytes).await?;
            Ok::<_, LogError>(appended.seq)
        };
        let seq = match timeout(patience, logged).await {
            Ok(Ok(seq)) => seq,
            Ok(Err(_)) | Err(_) if stop.is_some() => {
                return Ok(Receipt {
                    seq: None,
                    state: Phase::Stopped,
                    duplicate: false,
                });
            }
            Ok(Err(error)) => return Err(error.into()),
            Err(elapsed) => return Err(LogError::Unavailable(Box::new(elapsed)).into()),
        };
        if timeout(patience, self.reached(seq)).await.is_err() {
            if stop.is_some() {
                return Ok(Receipt {
                    seq: Some(seq),
                    state: Phase::Stopped,
                    duplicate: false,
                });
            }
            return Err(SubmitError::Pending { seq });
        }
        let verdict = shared
            .lock()
            .verdicts
            .iter()
            .rev()
            .find(|(at, _)| *at == seq)
            .map(|(_, of)| of.clone());
        match verdict {
            Some(Err(refusal)) if stop.is_none() => Err(refusal.into()),
            Some(_) => Ok(Receipt {
                seq: Some(seq),
                state: shared.phase(&tenant, &scope),
                duplicate: false,
            }),
            None => Err(SubmitError::Pending { seq }),
        }
    }

    /// Stops a tenant on this node, at once, without a signature: for the program itself. The next decision
    /// is the baseline. A resume that comes to the log after now ends it.
    pub fn stop(&self, tenant: &TenantId, reason: &str) {
        let shared = &self.shared;
        let mut live = shared.lock();
        let latch = Latch {
            payload: None,
            unlogged: None,
            floor: Some(live.seq),
            since_us: shared.clock.now_us(),
            reason: reason.to_owned(),
        };
        live.latches.insert((tenant.clone(), Scope::TENANT), latch);
        shared.publish(live);
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

/// The reason of an emergency stop; None for anything else.
pub(crate) fn stop_reason(order: &Order) -> Option<&str> {
    match &order.control.message {
        Message::Downstream(DownstreamMessage::Enforce {
            action: EnforcementAction::EmergencyStop,
            reason,
        }) => Some(reason),
        _ => None,
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
        self.snapshot.store(Arc::new(snapshot));
        drop(live);
        changes
            .into_iter()
            .for_each(|change| self.emit(Event::Changed(change)));
    }

    pub(crate) fn emit(&self, event: Event) {
        match &event {
            Event::Refused { tenant, seq, refusal } => {
                tracing::warn!(component = "rollout", tenant_id = %tenant, seq, %refusal, "control message refused");
            }
            Event::Changed(change) => tracing::info!(
                component = "rollout", tenant_id = %change.tenant, scope = change.scope, from = %change.from,
                to = %change.to, percent = change.percent, "rollout changed"
            ),
            Event::Alert { severity, message } => {
                tracing::error!(component = "rollout", ?severity, message, "alert");
            }
            Event::Accepted { .. } => {}
        }
        if let Some(on_event) = &self.on_event {
            on_event(event);
        }
    }

    pub(crate) fn alert(&self, severity: AlertSeverity, message: impl Into<String>) {
        self.emit(Event::Alert {
            severity,
            message: message.into(),
        });
    }

    /// Counts and tells a refusal.
    pub(crate) fn refused(&self, tenant: Option<&TenantId>, seq: Option<u64>, refusal: &Refusal) {
        self.lock().metrics.refused(refusal.reason);
        if let Some(tenant) = tenant {
            let (tenant, refusal) = (tenant.clone(), refusal.clone());
            self.emit(Event::Refused { tenant, seq, refusal });
        } else {
            tracing::warn!(component = "rollout", seq, %refusal, "control message refused");
        }
    }

    /// Audits, counts and tells the refusal of a message that did not get to the log.
    async fn refuse(&self, record: Record, refusal: Refusal) -> Refusal {
        self.refused(Some(record.channel.tenant()), None, &refusal);
        let entry = AuditEntry {
            seq: None,
            received_at_us: record.received_at_us,
            channel: record.channel.to_string(),
            envelope: record.envelope,
            catalog: record.catalog,
            refusal: Some(refusal.clone()),
        };
        if let Err(error) = self.audit.append(entry).await {
            self.alert(
                AlertSeverity::Critical,
                format!("a refusal could not be audited: {error}"),
            );
        }
        refusal
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
