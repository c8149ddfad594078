//! The way of a control message into the log: checked, a stop or a pause in force at once, written, awaited.

pub(crate) mod judge;

use std::time::Duration;

use serde::Serialize;
use tokio::time::timeout;

use crate::{
    apply::Order,
    catalog_source::CatalogWanted,
    envelope::{Control, Message},
    error::SubmitError,
    handle::Handle,
    latch::{Brake, MAX_WAITING},
    log::LogError,
    record::Record,
    refusal::{Reason, Refusal},
    state::Scope,
    table::Phase,
    wire::DownstreamMessage,
};

/// How long [`Handle::submit`] waits for the log to take a message, and then for this node to fold it.
pub const APPEND_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a stop or a pause, which is in force already, waits for the log, and then for this node to fold it.
pub const STOP_TIMEOUT: Duration = Duration::from_millis(500);

/// How many refusals wait for an audit trail that cannot be written; the oldest go first.
pub(crate) const MAX_UNAUDITED: usize = 256;

/// A message was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Receipt {
    /// Its position in the log. None for a stop or a pause that is in force here and still on its way there, and for a
    /// duplicate.
    pub seq: Option<u64>,
    /// The state of its scope now.
    pub state: Phase,
    /// Whether nothing happened: it had been taken before, or what it asks for is so already and was asked for too often.
    pub duplicate: bool,
    /// Whether it survives a restart of this node: its record or its latch is on this node's disk, or in a log that is kept
    /// elsewhere.
    pub durable: bool,
    /// After a resume: the scopes of the orders that go on stopping or pausing some of what it was for, until a resume that
    /// names them; empty text is the whole tenant.
    pub held: Vec<String>,
    /// After a stop or a pause: what it found.
    pub reach: Option<Reach>,
    /// Whether this node has judged it, or knows that it is in force. A stop or a pause that it has not is in force here, and the log
    /// may refuse it still, for this node too.
    pub judged: bool,
    /// Whether a stop or a pause holds the whole tenant, because there was no room for one more scope: a resume of the tenant ends
    /// it.
    pub widened: bool,
}

/// What was rolled out where a stop or a pause reaches. When both are empty, nothing: its scope may be mistyped.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Reach {
    /// The scopes it reaches that have a rollout or an enforced variant; empty text is the whole tenant. Those that come
    /// later are reached as well.
    pub scopes: Vec<String>,
    /// A scope with a rollout that its own lies in, when it has none: its subjects are cut out of that one, and get the
    /// baseline by a stop, or are held where they are by a pause.
    pub within: Option<String>,
}

/// A message that was read and not yet judged.
struct Submission {
    control: Control,
    scope: Scope,
    record: Record,
}

/// What this node makes of an authentic message before the log has it.
enum Outlook {
    /// The fold would take it.
    Good,
    /// It was taken before.
    Duplicate,
    /// The fold would refuse it, now and for ever: it need not be told.
    Void(Refusal),
    /// The fold would refuse it now: the log has to spend it, so that no node takes it later.
    Refused(Refusal),
    /// This node cannot judge it, or must not loosen anything.
    Unable(Refusal),
}

impl Handle {
    /// Takes a signed envelope: checks it, writes it to the log, and waits until it is in force here and
    /// audited. A stop or a pause is in force before anything else happens to it.
    ///
    /// An authentic message that this node would refuse goes to the log, too: there it is refused on every node alike and
    /// its counter is spent, so that nobody plays it again at a better moment (ADR 26).
    ///
    /// Cancelling loses only the answer: a stop or a pause stays in force and is written to the log by the executor,
    /// any other message is in the log or is not.
    ///
    /// # Errors
    ///
    /// [`SubmitError::Refused`] when it changes nothing, or is a stop or a pause that holds on this node alone,
    /// [`SubmitError::Log`] when the log is away, [`SubmitError::Pending`] when it is in the log but the executor is late.
    pub async fn submit(&self, envelope: &[u8]) -> Result<Receipt, SubmitError> {
        let shared = &self.shared;
        let mut submission = match shared.read(envelope) {
            Ok(submission) => submission,
            Err(refusal) => return Err(shared.refuse_unread(envelope, refusal).await.into()),
        };
        let order = match shared.authentic(&submission.record) {
            Ok(order) => order,
            Err(refusal) => return Err(shared.refuse(submission.record, refusal).await.into()),
        };
        let brake = Brake::of(&submission.control).map(|(brake, reason)| (brake, reason.to_owned()));
        match shared.outlook(&mut submission, &order).await {
            Outlook::Duplicate => Ok(shared.duplicate(&submission)),
            Outlook::Void(refusal) => Err(shared.refuse(submission.record, refusal).await.into()),
            Outlook::Unable(refusal) => Err(shared
                .refuse_here(submission.record, &order, refusal)
                .await
                .into()),
            Outlook::Refused(refusal) => self.log_refused(submission, &order, refusal).await,
            Outlook::Good => match brake {
                Some((brake, reason)) => self.brake(submission, &order, brake, &reason).await,
                None => self.log_message(submission).await,
            },
        }
    }

    /// Puts a stop or a pause in force, then on disk, then into the log.
    async fn brake(
        &self,
        submission: Submission,
        order: &Order,
        brake: Brake,
        reason: &str,
    ) -> Result<Receipt, SubmitError> {
        let (shared, Submission { scope, record, .. }) = (&self.shared, &submission);
        let moot = shared.is_moot(order, scope, brake);
        if moot && !shared.may_idle(order) {
            // The log has it as they want it, and that has been said often enough: it must not fill up with it.
            shared.spend_here(order).await;
            shared.lock().metrics.refused(Reason::Rate);
            return Ok(shared.duplicate(&submission));
        }
        let message = (record.channel.clone(), record.envelope.clone());
        let latched = shared.latch_order(order, scope, (brake, reason), message);
        let reach = shared.reach(record.channel.tenant(), scope);
        let saved = shared.save_latches_aside().await;
        // What holds already must not fill the log, either: it waits with the others for the executor to send it.
        let waits = !moot && !latched.acts && !shared.may_idle(order);
        self.log_brake(submission, brake, (saved, latched.kept, waits), reach)
            .await
    }

    /// Writes a stop or a pause, which is in force already, unless it `waits`. What does not succeed soon the executor goes on
    /// with, if it was `kept` for that; else it holds on this node alone, as one that the log refuses: neither is a success.
    async fn log_brake(
        &self,
        submission: Submission,
        brake: Brake,
        (saved, kept, waits): (bool, bool, bool),
        reach: Reach,
    ) -> Result<Receipt, SubmitError> {
        let shared = &self.shared;
        let Submission { scope, record, .. } = submission;
        let tenant = record.channel.tenant().clone();
        let message = (record.channel.clone(), record.envelope.clone());
        let mut seq = None;
        if !waits {
            let append = shared.log.append(message.0.clone(), message.1.clone());
            let appended = timeout(STOP_TIMEOUT, append).await;
            seq = appended.ok().and_then(Result::ok).map(|appended| appended.seq);
        }
        let (mut durable, mut judged) = (saved, false);
        if let Some(seq) = seq {
            shared.logged(&message);
            let verdict = timeout(STOP_TIMEOUT, shared.judged(seq)).await.ok();
            durable |= shared.log.is_durable() || (verdict.is_some() && shared.audit.is_durable());
            judged = verdict.is_some();
            if let Some(Err(refusal)) = verdict
                && refusal.reason != Reason::Duplicate
            {
                let detail = format!("{}; it holds on this node alone, until a resume", refusal.detail);
                return Err(Refusal { detail, ..refusal }.into());
            }
        }
        if seq.is_none() && !kept {
            let detail = format!(
                "the {} of {} holds on this node alone, and will not get to the log: {MAX_WAITING} others wait for it already; send it again when the log is back",
                brake.as_str(),
                scope.to_name()
            );
            let refusal = Refusal::new(Reason::Crowded, detail);
            return Err(shared.refuse(record, refusal).await.into());
        }
        Ok(Receipt {
            seq,
            state: shared.phase(&tenant, &scope),
            duplicate: false,
            durable,
            held: Vec::new(),
            reach: Some(reach),
            judged,
            widened: shared.widened(&tenant, &scope, brake),
        })
    }

    async fn log_message(&self, submission: Submission) -> Result<Receipt, SubmitError> {
        let shared = &self.shared;
        let record = submission.record.clone();
        let append = shared.log.append(record.channel, record.envelope);
        let seq = match timeout(APPEND_TIMEOUT, append).await {
            Ok(appended) => appended?.seq,
            Err(elapsed) => return Err(LogError::Unavailable(Box::new(elapsed)).into()),
        };
        let judged = timeout(APPEND_TIMEOUT, shared.judged(seq)).await;
        match judged.ok() {
            Some(Ok(())) => {}
            Some(Err(refusal)) if refusal.reason == Reason::Duplicate => {
                // The very bytes came to the log by another way, too; another message about the same is refused.
                return if shared.was_taken(&submission.record) {
                    Ok(shared.duplicate(&submission))
                } else {
                    Err(refusal.into())
                };
            }
            Some(Err(refusal)) => return Err(refusal.into()),
            None => return Err(SubmitError::Pending { seq }),
        }
        let tenant = submission.record.channel.tenant();
        Ok(Receipt {
            seq: Some(seq),
            state: shared.phase(tenant, &submission.scope),
            duplicate: false,
            durable: shared.log.is_durable() || shared.audit.is_durable(),
            held: shared.held(tenant, &submission),
            reach: None,
            judged: true,
            widened: false,
        })
    }

    /// Lets the log refuse a message, so that it is spent everywhere.
    async fn log_refused(
        &self,
        submission: Submission,
        order: &Order,
        refusal: Refusal,
    ) -> Result<Receipt, SubmitError> {
        let (shared, record) = (&self.shared, submission.record.clone());
        if !shared.may_idle(order) {
            let detail = format!("too many refused messages of one issuer; this one would be: {refusal}");
            let refusal = Refusal::new(Reason::Rate, detail);
            return Err(shared.refuse_here(record, order, refusal).await.into());
        }
        match self.log_message(submission).await {
            Err(SubmitError::Log(_)) => Err(shared.refuse_here(record, order, refusal).await.into()),
            judged => judged,
        }
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
