//! Testers see a variant before everybody else: a signed pin, `x-arqon-pin`.
//!
//! A pin is `<base64url payload>.<base64url signature>`, payload `{"tenant","variant","expires_at_us"}`, the
//! signature over DSSE's encoding of it. It takes a key of `pin_keys`, which may sign nothing else. It serves
//! any variant of the catalog, counts in no rollout, and does nothing while a scope is stopped or forced.
//!
//! ```
//! use arqon_rollout::{KeyPair, PinToken};
//!
//! let key = KeyPair::generate("testers")?;
//! let token = PinToken { tenant: "default".to_owned(), variant: 42, expires_at_us: 1_000 };
//! let header = token.sign(&key);
//! assert_eq!(PinToken::verify(&header, &[key.public()], 999).as_ref(), Some(&token));
//! assert_eq!(PinToken::verify(&header, &[key.public()], 1_000), None);
//! # Ok::<(), arqon_rollout::KeyError>(())
//! ```

use std::fmt;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use crate::{
    envelope::pae,
    keys::{KeyPair, PublicKey},
    strict,
    wire::VariantId,
};

/// The payload type of a pin: its signature is worth nothing elsewhere.
pub const PIN_TYPE: &str = "application/vnd.arqon.pin.v1+json";

/// Carries a pin.
pub const PIN_HEADER: HeaderName = HeaderName::from_static("x-arqon-pin");

/// Longest pin that is read.
const MAX_PIN_BYTES: usize = 1_024;

/// A client's `x-arqon-pin`, unchecked, in a request's extensions: an edge that strips reserved headers puts
/// it there. [`RolloutLayer`](crate::RolloutLayer) reads it, else the header itself, and verifies.
#[derive(Clone, PartialEq, Eq)]
pub struct Pin(pub HeaderValue);

impl fmt::Debug for Pin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Pin(..)")
    }
}

/// What a pin says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinToken {
    /// Whose traffic.
    pub tenant: String,
    /// The variant of the catalog to serve.
    pub variant: VariantId,
    /// When it ends, microseconds since the Unix epoch.
    pub expires_at_us: u64,
}

impl PinToken {
    /// The value of the header.
    pub fn sign(&self, key: &KeyPair) -> String {
        let payload = serde_json::to_vec(self).expect("strings and integers always serialise");
        let signature = key.sign(&pae(PIN_TYPE, &payload));
        format!(
            "{}.{}",
            BASE64_URL_SAFE_NO_PAD.encode(&payload),
            BASE64_URL_SAFE_NO_PAD.encode(signature)
        )
    }

    /// A pin that one of `keys` signed and that has not expired. None for anything else: a bad pin is no pin.
    pub fn verify(header: &str, keys: &[PublicKey], now_us: u64) -> Option<Self> {
        if header.len() > MAX_PIN_BYTES {
            return None;
        }
        let (payload, signature) = header.split_once('.')?;
        let payload = BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?;
        let signature: [u8; 64] = BASE64_URL_SAFE_NO_PAD.decode(signature).ok()?.try_into().ok()?;
        // Cheap refusals first: a signature costs 50 µs a key.
        let token: Self = strict::from_slice(&payload).ok()?;
        if token.expires_at_us <= now_us {
            return None;
        }
        let message = pae(PIN_TYPE, &payload);
        keys.iter()
            .any(|key| key.verify(&message, &signature))
            .then_some(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::PAYLOAD_TYPE;

    #[test]
    fn every_single_bit_flip_of_a_pin_is_no_pin() {
        let key = KeyPair::from_seed("testers", [1; 32]);
        let header = PinToken {
            tenant: "t".to_owned(),
            variant: 2,
            expires_at_us: 9,
        }
        .sign(&key);
        for bit in 0..header.len() * 8 {
            let mut bytes = header.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(flipped) = String::from_utf8(bytes) {
                assert_eq!(PinToken::verify(&flipped, &[key.public()], 0), None, "bit {bit}");
            }
        }
    }

    #[test]
    fn a_signature_over_another_type_or_by_another_key_is_no_pin() {
        let (key, other) = (
            KeyPair::from_seed("testers", [1; 32]),
            KeyPair::from_seed("eve", [2; 32]),
        );
        let token = PinToken {
            tenant: "t".to_owned(),
            variant: 2,
            expires_at_us: 9,
        };
        assert_eq!(PinToken::verify(&token.sign(&other), &[key.public()], 0), None);
        assert_eq!(PinToken::verify(&token.sign(&key), &[], 0), None);
        let payload = serde_json::to_vec(&token).unwrap();
        let signature = key.sign(&pae(PAYLOAD_TYPE, &payload));
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let control = format!("{}.{}", encode(&payload), encode(&signature));
        assert_eq!(PinToken::verify(&control, &[key.public()], 0), None);
        for text in ["", ".", "a.b", &"x".repeat(2_000)] {
            assert_eq!(PinToken::verify(text, &[key.public()], 0), None);
        }
    }
}
