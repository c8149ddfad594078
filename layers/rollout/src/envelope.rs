//! What travels: a DSSE envelope around one governance message (DESIGN 8).
//!
//! ```text
//! {"payload":"<base64>","payloadType":"application/vnd.arqon.control.v1+json",
//!  "signatures":[{"keyid":"ops-1","sig":"<base64>"}]}
//! payload = {"v":1,"tenant":"default","epoch":1,"counter":7,"issued_at_us":..,"expires_at_us":..,"message":{..}}
//! ```
//!
//! The signature covers `DSSEv1 <len> <payloadType> <len> <payload>` (DSSE's PAE), so the ramp, the
//! tenant and the expiry are signed as much as the digest.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    digest::Digest,
    keys::KeyPair,
    refusal::{Reason, Refusal},
    strict,
    wire::{DownstreamMessage, Proposal, UpstreamMessage},
};

/// The only payload type that is accepted.
pub const PAYLOAD_TYPE: &str = "application/vnd.arqon.control.v1+json";

/// The only version of the payload that is accepted.
pub const VERSION: u32 = 1;

/// Largest envelope that is read.
pub const MAX_ENVELOPE_BYTES: usize = 64 * 1024;

/// Most signatures of one envelope.
pub const MAX_SIGNATURES: usize = 16;

/// One message with all that bounds its meaning: the signed payload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// [`VERSION`].
    pub v: u32,
    /// Whom it is for.
    pub tenant: String,
    /// The number of the key set it is signed for.
    pub epoch: u64,
    /// Strictly increasing per issuer: the tenant's operators together, each stop key, each node. At most the log's time plus
    /// the accepted skew.
    pub counter: u64,
    /// When it was signed, microseconds since the Unix epoch.
    pub issued_at_us: u64,
    /// When it may no longer be recorded.
    pub expires_at_us: u64,
    /// When what it starts ends by itself, back to baseline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_until_us: Option<u64>,
    /// Limits an enforcement to one scope; without it the whole tenant is meant. An approval that names
    /// one must name its proposal's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Lets an approval replace the rollout that runs.
    #[serde(default, skip_serializing_if = "is_false")]
    pub supersede: bool,
    /// The message.
    pub message: Message,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_false(value: &bool) -> bool {
    !value
}

impl Control {
    /// A payload of version [`VERSION`] for epoch 1, valid for `valid_for_us` from `issued_at_us`. The
    /// counter is `issued_at_us`: it rises by itself, over restarts and between operators.
    pub fn new(
        tenant: impl Into<String>,
        issued_at_us: u64,
        valid_for_us: u64,
        message: impl Into<Message>,
    ) -> Self {
        Self {
            v: VERSION,
            tenant: tenant.into(),
            epoch: 1,
            counter: issued_at_us,
            issued_at_us,
            expires_at_us: issued_at_us.saturating_add(valid_for_us),
            effective_until_us: None,
            scope: None,
            supersede: false,
            message: message.into(),
        }
    }

    /// Replaces the counter.
    #[must_use]
    pub fn with_counter(mut self, counter: u64) -> Self {
        self.counter = counter;
        self
    }

    /// Replaces the epoch.
    #[must_use]
    pub fn with_epoch(mut self, epoch: u64) -> Self {
        self.epoch = epoch;
        self
    }

    /// Limits an enforcement to one scope.
    #[must_use]
    pub fn with_scope(mut self, scope: impl Into<String>) -> Self {
        self.scope = Some(scope.into());
        self
    }

    /// Ends what it starts at this time.
    #[must_use]
    pub fn with_effective_until_us(mut self, until_us: u64) -> Self {
        self.effective_until_us = Some(until_us);
        self
    }

    /// Lets an approval replace the rollout that runs.
    #[must_use]
    pub fn superseding(mut self) -> Self {
        self.supersede = true;
        self
    }

    /// Signs with every key of `keys`; none makes an unsigned envelope.
    ///
    /// # Errors
    ///
    /// [`Refusal`] with [`Reason::Malformed`] when a number is not finite, which JSON cannot carry.
    pub fn sign(&self, keys: &[&KeyPair]) -> Result<Envelope, Refusal> {
        let malformed = |error: serde_json::Error| Refusal::new(Reason::Malformed, error.to_string());
        let payload = serde_json::to_vec(self).map_err(malformed)?;
        // serde_json writes null for NaN; what cannot be read back must not be signed.
        strict::from_slice::<Self>(&payload).map_err(malformed)?;
        Ok(Envelope::sign(payload, keys))
    }
}

/// What a payload may carry. The messages of both directions have different `type`s.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Message {
    /// From the control plane.
    Downstream(DownstreamMessage),
    /// From a node.
    Upstream(UpstreamMessage),
    /// The next key set.
    Rotation(Rotation),
}

impl<'de> Deserialize<'de> for Message {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let mut value = Value::deserialize(deserializer)?;
        let kind = value
            .get("type")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        if kind == "rotation"
            && let Value::Object(object) = &mut value
        {
            // A struct's tag is written by serde and not read by it.
            object.remove("type");
        }
        match kind.as_str() {
            "telemetry" | "proposal" | "alert" => UpstreamMessage::deserialize(value).map(Self::Upstream),
            "rotation" => Rotation::deserialize(value).map(Self::Rotation),
            _ => DownstreamMessage::deserialize(value).map(Self::Downstream),
        }
        .map_err(D::Error::custom)
    }
}

impl Message {
    /// What it is, such as `approval` or `emergency_stop`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Upstream(UpstreamMessage::Proposal { .. }) => "proposal",
            Self::Upstream(UpstreamMessage::Telemetry { .. }) => "telemetry",
            Self::Upstream(UpstreamMessage::Alert { .. }) => "alert",
            Self::Rotation(_) => "rotation",
            Self::Downstream(DownstreamMessage::Approval { .. }) => "approval",
            Self::Downstream(DownstreamMessage::Enforce { action, .. }) => action.as_str(),
            Self::Downstream(DownstreamMessage::CatalogUpdate { .. }) => "catalog_update",
        }
    }

    /// Reads a message as strictly as a payload is read: a duplicate or unknown key is refused.
    ///
    /// # Errors
    ///
    /// [`Refusal`] with [`Reason::Malformed`].
    pub fn from_json(json: &[u8]) -> Result<Self, Refusal> {
        strict::from_slice(json).map_err(|error| Refusal::new(Reason::Malformed, error.to_string()))
    }
}

impl From<DownstreamMessage> for Message {
    fn from(message: DownstreamMessage) -> Self {
        Self::Downstream(message)
    }
}

impl From<UpstreamMessage> for Message {
    fn from(message: UpstreamMessage) -> Self {
        Self::Upstream(message)
    }
}

impl From<Proposal> for Message {
    fn from(proposal: Proposal) -> Self {
        Self::Upstream(proposal.into())
    }
}

impl From<Rotation> for Message {
    fn from(rotation: Rotation) -> Self {
        Self::Rotation(rotation)
    }
}

/// Replaces the key set; signed by enough keys of the old set and enough of the new one (TUF's root rule).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "rotation", deny_unknown_fields)]
pub struct Rotation {
    /// How many of the new keys a message needs.
    pub threshold: usize,
    /// The new operators: 32 bytes in base64 by keyid.
    pub keys: BTreeMap<String, String>,
    /// The new stop keys.
    #[serde(default)]
    pub stop_keys: BTreeMap<String, String>,
    /// The new node keys; empty: they stay as they are (additive).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_keys: BTreeMap<String, String>,
}

/// A payload's bytes with the signatures over them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    payload_type: String,
    payload: Vec<u8>,
    signatures: Vec<Signature>,
}

/// One signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// Names the key; a hint.
    pub keyid: Option<String>,
    /// The 64 bytes.
    pub sig: [u8; 64],
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EnvelopeJson {
    payload: String,
    #[serde(rename = "payloadType")]
    payload_type: String,
    signatures: Vec<SignatureJson>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignatureJson {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keyid: Option<String>,
    sig: String,
}

impl Envelope {
    /// Signs any payload bytes as a control message.
    pub fn sign(payload: Vec<u8>, keys: &[&KeyPair]) -> Self {
        let message = pae(PAYLOAD_TYPE, &payload);
        let sign = |key: &&KeyPair| Signature {
            keyid: Some(key.keyid().to_owned()),
            sig: key.sign(&message),
        };
        let signatures = keys.iter().map(sign).collect();
        Self {
            payload_type: PAYLOAD_TYPE.to_owned(),
            payload,
            signatures,
        }
    }

    /// Adds the signatures of `other`, which must be of the same payload: how operators in different
    /// places reach the threshold.
    ///
    /// # Errors
    ///
    /// [`Reason::Equivocation`] when the payloads differ.
    pub fn join(mut self, other: Self) -> Result<Self, Refusal> {
        if (&self.payload_type, &self.payload) != (&other.payload_type, &other.payload) {
            return Err(Refusal::new(
                Reason::Equivocation,
                "the envelopes hold different payloads",
            ));
        }
        for signature in other.signatures {
            if !self.signatures.contains(&signature) {
                self.signatures.push(signature);
            }
        }
        Ok(self)
    }

    /// Reads an envelope.
    ///
    /// # Errors
    ///
    /// [`Reason::Oversize`], [`Reason::Malformed`] or [`Reason::PayloadType`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let malformed = |detail: String| Refusal::new(Reason::Malformed, detail);
        if bytes.len() > MAX_ENVELOPE_BYTES {
            let detail = format!("{} bytes, at most {MAX_ENVELOPE_BYTES}", bytes.len());
            return Err(Refusal::new(Reason::Oversize, detail));
        }
        let json: EnvelopeJson = strict::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
        if json.payload_type != PAYLOAD_TYPE {
            return Err(Refusal::new(
                Reason::PayloadType,
                format!("`{}`", json.payload_type),
            ));
        }
        if json.signatures.len() > MAX_SIGNATURES {
            return Err(malformed(format!(
                "{} signatures, at most {MAX_SIGNATURES}",
                json.signatures.len()
            )));
        }
        let decode = |text: &str| {
            BASE64_STANDARD
                .decode(text)
                .map_err(|error| malformed(format!("base64: {error}")))
        };
        let payload = decode(&json.payload)?;
        let mut signatures = Vec::with_capacity(json.signatures.len());
        for SignatureJson { keyid, sig } in json.signatures {
            let sig = decode(&sig)?
                .try_into()
                .map_err(|_| malformed("a signature is 64 bytes".to_owned()))?;
            signatures.push(Signature { keyid, sig });
        }
        Ok(Self {
            payload_type: json.payload_type,
            payload,
            signatures,
        })
    }

    /// The envelope as JSON.
    pub fn to_json(&self) -> String {
        let sign = |signature: &Signature| SignatureJson {
            keyid: signature.keyid.clone(),
            sig: BASE64_STANDARD.encode(signature.sig),
        };
        let json = EnvelopeJson {
            payload: BASE64_STANDARD.encode(&self.payload),
            payload_type: self.payload_type.clone(),
            signatures: self.signatures.iter().map(sign).collect(),
        };
        serde_json::to_string(&json).expect("strings always serialise")
    }

    /// Reads the payload. What it says is only as good as the signatures.
    ///
    /// # Errors
    ///
    /// [`Reason::Malformed`].
    pub fn control(&self) -> Result<Control, Refusal> {
        let malformed = |detail: String| Refusal::new(Reason::Malformed, detail);
        let control: Control =
            strict::from_slice(&self.payload).map_err(|error| malformed(error.to_string()))?;
        if control.v != VERSION {
            return Err(malformed(format!(
                "version {}, only {VERSION} is known",
                control.v
            )));
        }
        Ok(control)
    }

    /// The payload's bytes.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The signatures.
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// What is signed.
    pub(crate) fn signed_bytes(&self) -> Vec<u8> {
        pae(&self.payload_type, &self.payload)
    }

    /// Names the payload, whoever signed it.
    pub fn payload_digest(&self) -> Digest {
        Digest::of_bytes(&self.payload)
    }
}

/// DSSE's pre-authentication encoding.
pub(crate) fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::EnforcementAction;

    fn stop() -> Control {
        let action = EnforcementAction::EmergencyStop;
        Control::new(
            "default",
            1,
            10,
            DownstreamMessage::Enforce {
                action,
                reason: String::new(),
            },
        )
    }

    #[test]
    fn the_pae_is_dsse_s() {
        assert_eq!(
            pae("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
    }

    #[test]
    fn an_envelope_survives_its_json() {
        let pair = KeyPair::generate("ops-1").unwrap();
        let envelope = stop().sign(&[&pair]).unwrap();
        let again = Envelope::parse(envelope.to_json().as_bytes()).unwrap();
        assert_eq!(again, envelope);
        assert_eq!(again.control().unwrap(), stop());
        assert!(
            pair.public()
                .verify(&again.signed_bytes(), &again.signatures()[0].sig)
        );
    }

    #[test]
    fn what_is_not_exactly_an_envelope_is_refused() {
        let reason = |bytes: &[u8]| Envelope::parse(bytes).unwrap_err().reason;
        assert_eq!(reason(&vec![b' '; MAX_ENVELOPE_BYTES + 1]), Reason::Oversize);
        assert_eq!(reason(b"{}"), Reason::Malformed);
        let other = br#"{"payload":"","payloadType":"application/json","signatures":[]}"#;
        assert_eq!(reason(other), Reason::PayloadType);
        let twice =
            format!(r#"{{"payload":"","payload":"","payloadType":"{PAYLOAD_TYPE}","signatures":[]}}"#);
        assert_eq!(reason(twice.as_bytes()), Reason::Malformed);
        let short =
            format!(r#"{{"payload":"","payloadType":"{PAYLOAD_TYPE}","signatures":[{{"sig":"AAAA"}}]}}"#);
        assert_eq!(reason(short.as_bytes()), Reason::Malformed);
    }

    #[test]
    fn nan_is_never_signed() {
        let params = std::collections::HashMap::from([("x".to_owned(), f64::NAN)]);
        let action = EnforcementAction::SetParams(params);
        let message = DownstreamMessage::Enforce {
            action,
            reason: String::new(),
        };
        assert_eq!(
            Control::new("t", 1, 1, message).sign(&[]).unwrap_err().reason,
            Reason::Malformed
        );
    }

    #[test]
    fn signatures_join_only_over_one_payload() {
        let (first, second) = (KeyPair::generate("a").unwrap(), KeyPair::generate("b").unwrap());
        let one = stop().sign(&[&first]).unwrap();
        let joined = one.clone().join(stop().sign(&[&second]).unwrap()).unwrap();
        assert_eq!(joined.signatures().len(), 2);
        assert!(
            one.join(stop().with_counter(9).sign(&[&second]).unwrap())
                .is_err()
        );
    }
}
