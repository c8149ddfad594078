//! From bytes to an order: who says what, and may they.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::{
    digest::Digest,
    envelope::{Control, Envelope, Message},
    keys::{KeyConfig, KeySet, MAX_KEYS, PublicKey, Signers},
    latch::Brake,
    record::{Channel, Record},
    refusal::{Reason, Refusal},
    state::{Scope, Seen, State},
    wire::{DownstreamMessage, EnforcementAction, UpstreamMessage},
};

/// Whose counter a message spends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Issuer {
    /// Enough of the operators, together.
    Operators,
    /// One stop key.
    StopKey(String),
    /// A node, or one operator who proposes.
    Node(String),
}

/// A message whose signatures, tenant and channel are good.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) issuer: Issuer,
    pub(crate) signed_by: Vec<String>,
    pub(crate) control: Control,
    pub(crate) payload: Digest,
    /// When the log stored it.
    pub(crate) stored_at_us: u64,
    pub(crate) catalog: Option<Bytes>,
    /// The next key set, for a rotation.
    pub(crate) keys: Option<KeySet>,
}

impl Issuer {
    /// The name its counter is kept under beside the state: the operators together have none.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Operators => "",
            Self::StopKey(keyid) | Self::Node(keyid) => keyid,
        }
    }
}

/// Judges who says a record, against the keys of `state`; whether it is new and in time is for the state to say.
pub(crate) fn authenticate(state: &State, record: &Record) -> Result<Order, Refusal> {
    let envelope = Envelope::parse(&record.envelope)?;
    let control = envelope.control()?;
    let tenant = state.tenant().as_str();
    if control.tenant != tenant || record.channel.tenant().as_str() != tenant {
        let detail = format!(
            "for `{}` on {}, this is `{tenant}`",
            control.tenant, record.channel
        );
        return Err(Refusal::new(Reason::WrongTenant, detail));
    }
    let keys = match &control.message {
        Message::Rotation(rotation) => {
            let (keys, stop_keys) = (parse_keys(&rotation.keys)?, parse_keys(&rotation.stop_keys)?);
            let node_keys = match rotation.node_keys.is_empty() {
                true => state.keys.node_keys.clone(),
                false => parse_keys(&rotation.node_keys)?,
            };
            let epoch = state.keys.epoch.saturating_add(1);
            let next = KeySet {
                epoch,
                threshold: rotation.threshold,
                keys,
                stop_keys,
                node_keys,
            };
            next.check()?;
            Some(next)
        }
        Message::Downstream(_) | Message::Upstream(_) => None,
    };
    let unsigned = envelope.signatures().is_empty();
    if unsigned && !state.policy.allow_unsigned {
        return Err(Refusal::new(
            Reason::Unsigned,
            "no signature, and `allow_unsigned` is off",
        ));
    }
    let signed_bytes = envelope.signed_bytes();
    let signers = match &keys {
        None => state.keys.signers(&signed_bytes, envelope.signatures())?,
        Some(next) => rotation_signers(&state.keys, next, &signed_bytes, &envelope)?,
    };
    let issuer = issuer(state, &record.channel, &control, &signers, unsigned)?;
    let Signers {
        keys: operators,
        stop_keys,
        node_keys,
    } = signers;
    let signed_by = operators.into_iter().chain(stop_keys).chain(node_keys).collect();
    let (payload, catalog) = (envelope.payload_digest(), record.catalog.clone());
    Ok(Order {
        issuer,
        signed_by,
        control,
        payload,
        stored_at_us: record.received_at_us,
        catalog,
        keys,
    })
}

/// A message that was judged before, as who signed it says: nobody checks that again.
pub(crate) fn kept(record: &Record) -> Result<Order, Refusal> {
    let envelope = Envelope::parse(&record.envelope)?;
    let signatures = envelope.signatures().iter();
    let signed_by: Vec<String> = signatures
        .filter_map(|signature| signature.keyid.clone())
        .collect();
    let issuer = signed_by
        .first()
        .cloned()
        .unwrap_or_else(|| "unsigned".to_owned());
    Ok(Order {
        issuer: Issuer::StopKey(issuer),
        signed_by,
        control: envelope.control()?,
        payload: envelope.payload_digest(),
        stored_at_us: record.received_at_us,
        catalog: None,
        keys: None,
    })
}

fn parse_keys(keys: &BTreeMap<String, String>) -> Result<Vec<PublicKey>, Refusal> {
    let parse = |(keyid, ed25519): (&String, &String)| {
        let key = KeyConfig {
            keyid: keyid.clone(),
            ed25519: ed25519.clone(),
        };
        PublicKey::parse(&key)
            .map_err(|error| Refusal::new(Reason::InvalidKeys, format!("key `{keyid}`: {error}")))
    };
    keys.iter().map(parse).collect()
}

/// The signatures of a rotation: each by a key of the old or the new set, and enough of both.
fn rotation_signers(
    old: &KeySet,
    new: &KeySet,
    signed_bytes: &[u8],
    envelope: &Envelope,
) -> Result<Signers, Refusal> {
    if envelope.signatures().is_empty() {
        return Ok(Signers::default());
    }
    let mut signers = Signers::default();
    let mut new_signers = BTreeSet::new();
    for signature in envelope.signatures() {
        let one = std::slice::from_ref(signature);
        let by_old = old.signers(signed_bytes, one);
        let by_new = new.signers(signed_bytes, one);
        match (by_old, by_new) {
            (Err(refusal), Err(_)) => return Err(refusal),
            (by_old, by_new) => {
                signers.keys.extend(by_old.unwrap_or_default().keys);
                new_signers.extend(by_new.unwrap_or_default().keys);
            }
        }
    }
    if new_signers.len() < new.threshold {
        let detail = format!(
            "{} of the new keys signed, {} must",
            new_signers.len(),
            new.threshold
        );
        return Err(Refusal::new(Reason::Threshold, detail));
    }
    Ok(signers)
}

fn issuer(
    state: &State,
    channel: &Channel,
    control: &Control,
    signers: &Signers,
    unsigned: bool,
) -> Result<Issuer, Refusal> {
    let threshold = state.keys.threshold;
    match (&control.message, channel) {
        (Message::Upstream(UpstreamMessage::Proposal { .. }), Channel::Up(_, node)) => {
            if unsigned {
                return Ok(Issuer::Node(State::node_issuer(Some(node))));
            }
            if let Some(keyid) = signers.node_keys.first() {
                if keyid != node.as_str() {
                    let detail = format!("signed by node `{keyid}` on the channel of `{node}`");
                    return Err(Refusal::new(Reason::Channel, detail));
                }
                return Ok(Issuer::Node(keyid.clone()));
            }
            match signers.keys.first() {
                Some(keyid) => Ok(Issuer::Node(format!("operator:{keyid}"))),
                None => Err(Refusal::new(Reason::Role, "a stop key may not propose")),
            }
        }
        (Message::Upstream(UpstreamMessage::Telemetry { .. } | UpstreamMessage::Alert { .. }), _) => {
            Err(Refusal::new(
                Reason::Channel,
                "telemetry and alerts are not kept in the control log",
            ))
        }
        (Message::Upstream(_), Channel::Down(_))
        | (Message::Downstream(_) | Message::Rotation(_), Channel::Up(..)) => Err(Refusal::new(
            Reason::Channel,
            format!("not a message of {channel}"),
        )),
        (Message::Downstream(_) | Message::Rotation(_), Channel::Down(_)) => {
            if unsigned || signers.keys.len() >= threshold {
                return Ok(Issuer::Operators);
            }
            match signers.stop_keys.first() {
                Some(keyid) if may_stop(&control.message) => Ok(Issuer::StopKey(keyid.clone())),
                None if !signers.keys.is_empty() => {
                    let detail = format!("{} of the keys signed, {threshold} must", signers.keys.len());
                    Err(Refusal::new(Reason::Threshold, detail))
                }
                Some(keyid) => {
                    let detail = format!("stop key `{keyid}` may sign only a stop or a pause");
                    Err(Refusal::new(Reason::Role, detail))
                }
                None => Err(Refusal::new(Reason::Role, "a node may only propose")),
            }
        }
    }
}

fn may_stop(message: &Message) -> bool {
    matches!(
        message,
        Message::Downstream(DownstreamMessage::Enforce {
            action: EnforcementAction::EmergencyStop | EnforcementAction::PauseAdaptation,
            ..
        })
    )
}

impl State {
    /// Whether a message is in time and for the key set in force. Expiry goes by the record's own time, never by the replay
    /// clock nor by another record's: one that was stored with a clock that was ahead does not make all that follow late.
    pub(crate) fn check_moment(&self, order: &Order) -> Result<(), Refusal> {
        let (now, control) = (self.clock_us.max(order.stored_at_us), &order.control);
        if control.expires_at_us <= order.stored_at_us {
            let detail = format!(
                "expired at {}, recorded at {}",
                control.expires_at_us, order.stored_at_us
            );
            return Err(Refusal::new(Reason::Expired, detail).at(order.stored_at_us));
        }
        if control.issued_at_us > now.saturating_add(self.policy.skew_us) {
            let ahead = (control.issued_at_us - now) / 1_000_000;
            let detail = format!(
                "issued at {}, recorded at {now}: the clock of who signed is {ahead} s ahead",
                control.issued_at_us
            );
            return Err(Refusal::new(Reason::NotYetValid, detail).at(order.stored_at_us));
        }
        // One far ahead would make everything that its issuer signs later stale. Whoever is told `stale` can sign one more.
        if control.counter > now.saturating_add(self.policy.skew_us) {
            let detail = format!(
                "counter {} is more than {} s ahead of the log's time {now} in microseconds",
                control.counter,
                self.policy.skew_us / 1_000_000
            );
            return Err(Refusal::new(Reason::NotYetValid, detail).at(order.stored_at_us));
        }
        if !matches!(order.issuer, Issuer::StopKey(_)) && control.epoch != self.keys.epoch {
            let detail = format!(
                "signed for epoch {}, in force is {}",
                control.epoch, self.keys.epoch
            );
            return Err(Refusal::new(Reason::Epoch, detail));
        }
        Ok(())
    }

    /// Whether a message that is not in time now could be later: one of tomorrow, or of the next key set.
    pub(crate) fn may_come_true(&self, order: &Order) -> bool {
        let ahead = matches!(order.issuer, Issuer::StopKey(_)) || order.control.epoch >= self.keys.epoch;
        ahead && order.control.expires_at_us > order.stored_at_us && !self.early.contains_key(&order.payload)
    }

    fn seen(&self, issuer: &Issuer) -> Option<&Seen> {
        match issuer {
            Issuer::Operators => self.operators.as_ref(),
            Issuer::StopKey(keyid) | Issuer::Node(keyid) => self.issuers.get(keyid),
        }
    }

    /// Whether the very message was accepted, and none of its issuer since.
    pub(crate) fn has_taken(&self, order: &Order) -> bool {
        let seen = self.seen(&order.issuer);
        seen.is_some_and(|seen| seen.accepted && seen.payload == order.payload)
    }

    /// A message is new, the very last one again, or refused.
    pub(crate) fn check_new(&self, order: &Order) -> Result<(), Refusal> {
        if self.early.contains_key(&order.payload) {
            return Err(Refusal::new(
                Reason::Spent,
                "it was refused before, for coming too early",
            ));
        }
        let Some(seen) = self.seen(&order.issuer) else {
            return Ok(());
        };
        let counter = order.control.counter;
        if counter > seen.counter {
            return Ok(());
        }
        if order.payload != seen.payload
            && let Some((brake, _)) = Brake::of(&order.control)
        {
            return self.check_late_brake(brake, order, seen.counter);
        }
        let reason = match (counter == seen.counter, order.payload == seen.payload) {
            (true, true) if seen.accepted => Reason::Duplicate,
            (true, true) => Reason::Spent,
            (true, false) => Reason::Equivocation,
            (false, _) => Reason::Stale,
        };
        let detail = format!(
            "counter {counter}, the last was {}: sign it anew with a higher one",
            seen.counter
        );
        Err(Refusal::new(reason, detail).after(seen.counter))
    }
}

impl State {
    /// Whether a stop or a pause comes after a later message of its issuer.
    pub(crate) fn is_late(&self, order: &Order) -> bool {
        let overtaken = |seen: &Seen| order.control.counter <= seen.counter && order.payload != seen.payload;
        Brake::of(&order.control).is_some() && self.seen(&order.issuer).is_some_and(overtaken)
    }

    /// A stop or a pause needs no order among others: it is taken after a later counter, unless a resume of the same was signed
    /// since, or one that was signed no earlier is in force (ADR 45).
    fn check_late_brake(&self, brake: Brake, order: &Order, last: u64) -> Result<(), Refusal> {
        let control = &order.control;
        let scope = Scope::of_order(control.scope.as_deref(), self.tenant())?;
        self.check_not_resumed(&scope, order, last)?;
        if self.has_newer(&scope, brake, control.issued_at_us) {
            let detail = format!("{}: in force already", scope.to_name());
            return Err(Refusal::new(Reason::Duplicate, detail));
        }
        Ok(())
    }

    fn check_not_resumed(&self, scope: &Scope, order: &Order, last: u64) -> Result<(), Refusal> {
        let issued_us = order.control.issued_at_us;
        if self.is_after_resumes(scope, issued_us) {
            return Ok(());
        }
        let detail = format!(
            "signed at {issued_us}, and {} was resumed since: sign it anew with a counter above {last}",
            scope.to_name()
        );
        Err(Refusal::new(Reason::Stale, detail).after(last))
    }

    /// A late brake for which there is no room holds the whole tenant; where that was resumed since it would hold nothing.
    pub(crate) fn check_late_and_widened(&self, order: &Order) -> Result<(), Refusal> {
        let last = self.seen(&order.issuer).map_or(0, |seen| seen.counter);
        self.check_not_resumed(&Scope::TENANT, order, last)
    }
}

impl KeySet {
    /// Whether the set can be used: a reachable threshold, and no name or key twice.
    ///
    /// # Errors
    ///
    /// [`Reason::InvalidKeys`], naming the rule.
    pub fn check(&self) -> Result<(), Refusal> {
        let invalid = |detail: String| Err(Refusal::new(Reason::InvalidKeys, detail));
        if self.threshold == 0 || self.threshold > self.keys.len() {
            return invalid(format!(
                "threshold {} of {} keys",
                self.threshold,
                self.keys.len()
            ));
        }
        let all = || self.keys.iter().chain(&self.stop_keys).chain(&self.node_keys);
        if all().count() > 3 * MAX_KEYS {
            return invalid(format!("more than {MAX_KEYS} keys in a set"));
        }
        for (at, key) in all().enumerate() {
            for other in all().take(at) {
                if key.keyid() == other.keyid() || key.as_bytes() == other.as_bytes() {
                    return invalid(format!(
                        "keys `{}` and `{}` are the same",
                        other.keyid(),
                        key.keyid()
                    ));
                }
            }
        }
        Ok(())
    }
}
