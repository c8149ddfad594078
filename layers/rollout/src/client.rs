//! The source's `bus_client` (S0-13, S0-14): a node's end of the governance protocol.

use std::sync::atomic::{AtomicU64, Ordering};

use arqon_message::TenantId;
use tokio::sync::broadcast::{self, error::RecvError};

use crate::{
    apply::Issuer,
    envelope::Control,
    error::{ClientError, SubmitError},
    handle::Handle,
    record::Channel,
    state::State,
    submit::Receipt,
    wire::{DownstreamMessage, Proposal, UpstreamMessage},
};

/// How long a proposal waits for an approval: a day.
pub const PROPOSAL_LIFE_US: u64 = 24 * 60 * 60 * 1_000_000;

/// Most figures of a telemetry message, and entries of an alert's context.
pub const MAX_ENTRIES: usize = 256;

/// Longest name or text in them, in bytes.
const MAX_TEXT: usize = 4_096;

/// Sends what a node has to say, receives what was decided.
///
/// The source's example, repaired where it could not compile (an enum variant has no `..Default::default()`;
/// `recv` yields every decision, also those on other proposals):
///
/// ```
/// # use std::sync::Arc;
/// # use arqon_rollout::*;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let tenant = arqon_message::TenantId::new("default")?;
/// # let ops = KeyPair::generate("ops-1")?;
/// # let catalog = Catalog::parse(br#"{"version":1,"baseline":1,"variants":
/// #     [{"id":1,"name":"stable"},{"id":42,"name":"fast"}]}"#)?;
/// # let config = Config { enabled: true, keys: vec![ops.public().to_config()], ..Config::default() };
/// # let executor = Executor::builder(&config).catalog(catalog).build()?;
/// # let handle = executor.handle();
/// # let run = tokio::spawn(executor.run());
/// # let control_plane = async |message: DownstreamMessage| {
/// #     let control = Control::new("default", SystemClock::new().now_us(), 60_000_000, message);
/// #     handle.submit(control.sign(&[&ops]).unwrap().to_json().as_bytes()).await.unwrap();
/// # };
/// let mut bus_client = handle.client(&tenant);
///
/// // 1. Send proposal to ArqonBus
/// let proposal = Proposal {
///     id: "prop_001".to_string(),
///     variant_id: Some(42),
///     reason: "Latency regression detected".to_string(),
///     confidence: 0.92,
///     ..Default::default()
/// };
/// bus_client.send(proposal).await?;
/// # let digest = handle.status().tenants[0].pending[0].digest.clone();
/// # let rollout = Some(RolloutConfig { initial_percent: 50.0, increment_per_minute: 5.0, max_percent: 50.0 });
/// # control_plane(DownstreamMessage::Approval {
/// #     proposal_id: "prop_001".to_owned(), proposal_digest: digest, rollout }).await;
/// # let requests = [1, 2, 3];
/// # let (apply_new_variant, apply_old_variant) = (|_: i32| {}, |_: i32| {});
///
/// // 2. Receive approval with gradual rollout
/// let approval = bus_client.recv().await?;
/// if let DownstreamMessage::Approval { rollout: Some(rollout), .. } = approval {
///     let mut tracker = RolloutTracker::new(rollout)?;
///
///     // 3. Apply variant gradually
///     for request in requests {
///         if tracker.should_apply() {
///             apply_new_variant(request);
///         } else {
///             apply_old_variant(request);
///         }
///     }
/// }
/// # control_plane(DownstreamMessage::Enforce {
/// #     action: EnforcementAction::EmergencyStop, reason: "drill".to_owned() }).await;
/// # let mut stopped = false;
/// # let mut revert_to_safe_baseline = || stopped = true;
/// # let pause_all_adaptation = || ();
///
/// // 4. Handle emergency stop
/// let msg = bus_client.recv().await?;
/// if let DownstreamMessage::Enforce { action: EnforcementAction::EmergencyStop, .. } = msg {
///     revert_to_safe_baseline();
///     pause_all_adaptation();
/// }
/// # assert!(stopped);
/// # run.abort();
/// # Ok(())
/// # }
/// ```
///
/// A service under [`RolloutLayer`](crate::RolloutLayer) needs none of steps 2 to 4: the layer serves the
/// approved share, sticky, and the stop.
#[derive(Debug)]
pub struct GovernanceClient {
    handle: Handle,
    tenant: TenantId,
    counter: AtomicU64,
    accepted: broadcast::Receiver<(TenantId, DownstreamMessage)>,
}

impl GovernanceClient {
    pub(crate) fn new(handle: Handle, tenant: TenantId) -> Self {
        let accepted = handle.shared.accepted.subscribe();
        Self {
            handle,
            tenant,
            counter: AtomicU64::new(0),
            accepted,
        }
    }

    /// Sends a message. A proposal is signed with the node's key, written to the log and judged by this node
    /// before this returns; telemetry and alerts are not kept and yield no receipt.
    ///
    /// # Errors
    ///
    /// [`ClientError::Submit`] when a proposal is refused or the log is away, [`ClientError::Report`] for
    /// figures that are not finite or too many, [`ClientError::Log`] when a report was not taken.
    pub async fn send(&self, message: impl Into<UpstreamMessage>) -> Result<Option<Receipt>, ClientError> {
        let shared = &self.handle.shared;
        let message = message.into();
        check(&message)?;
        if !matches!(message, UpstreamMessage::Proposal { .. }) {
            let from = Channel::Up(self.tenant.clone(), shared.node.clone());
            shared.log.report(from, message).await?;
            return Ok(None);
        }
        let Some(mut proposal) = message.into_proposal() else {
            return Ok(None);
        };
        let now_us = shared.clock.now_us();
        if proposal.timestamp_us == 0 {
            proposal.timestamp_us = now_us;
        }
        let counter = self.next_counter(now_us);
        let epoch = shared
            .lock()
            .states
            .get(&self.tenant)
            .map_or(1, |state| state.keys().epoch);
        let control = Control::new(self.tenant.as_str(), now_us, PROPOSAL_LIFE_US, proposal)
            .with_counter(counter)
            .with_epoch(epoch);
        let keys: Vec<_> = shared.node_key.iter().collect();
        let envelope = control.sign(&keys).map_err(SubmitError::from)?;
        let receipt = self.handle.submit(envelope.to_json().as_bytes()).await?;
        Ok(Some(receipt))
    }

    /// The next decision that was accepted for this tenant. Dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// [`ClientError::Lagged`] when decisions came faster than they were received, then the next one;
    /// [`ClientError::Closed`] when the executor is gone.
    pub async fn recv(&mut self) -> Result<DownstreamMessage, ClientError> {
        loop {
            match self.accepted.recv().await {
                Ok((tenant, message)) if tenant == self.tenant => return Ok(message),
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => return Err(ClientError::Lagged(missed)),
                Err(RecvError::Closed) => return Err(ClientError::Closed),
            }
        }
    }

    /// Above the last one of this node by the log, and of this client; the time, if that is higher.
    fn next_counter(&self, now_us: u64) -> u64 {
        let shared = &self.handle.shared;
        let issuer = match shared.node_issuer() {
            Issuer::Node(issuer) | Issuer::StopKey(issuer) => issuer,
            Issuer::Operators => State::node_issuer(None),
        };
        let last = shared
            .lock()
            .states
            .get(&self.tenant)
            .map_or(0, |state| state.issuer_counter(&issuer));
        let floor = now_us.max(last.saturating_add(1));
        let before = self.counter.fetch_max(floor, Ordering::Relaxed);
        if before >= floor {
            self.counter.fetch_add(1, Ordering::Relaxed) + 1
        } else {
            floor
        }
    }
}

/// Reports are bounded, and what JSON cannot carry is refused.
fn check(message: &UpstreamMessage) -> Result<(), ClientError> {
    let report = |text: String| Err(ClientError::Report(text));
    match message {
        UpstreamMessage::Telemetry { metrics, .. } => {
            if let Some((name, value)) = metrics.iter().find(|(_, value)| !value.is_finite()) {
                return report(format!("`{name}` = {value} is not finite"));
            }
            if metrics.len() > MAX_ENTRIES || metrics.keys().any(|name| name.len() > MAX_TEXT) {
                return report(format!(
                    "more than {MAX_ENTRIES} figures, or a name above {MAX_TEXT} bytes"
                ));
            }
        }
        UpstreamMessage::Alert { message, context, .. } => {
            let long = |text: &String| text.len() > MAX_TEXT;
            if context.len() > MAX_ENTRIES
                || long(message)
                || context.iter().any(|(name, value)| long(name) || long(value))
            {
                return report(format!(
                    "more than {MAX_ENTRIES} entries, or a text above {MAX_TEXT} bytes"
                ));
            }
        }
        UpstreamMessage::Proposal { .. } => {}
    }
    Ok(())
}

/// The digest an approval of `proposal` must name, once `timestamp_us` is set.
impl TryFrom<&Proposal> for crate::Digest {
    type Error = crate::DigestError;

    fn try_from(proposal: &Proposal) -> Result<Self, Self::Error> {
        Self::of_proposal(proposal)
    }
}
