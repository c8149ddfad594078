//! Ed25519 keys: who may sign what, and how many of them it takes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::{
    digest::Digest,
    envelope::Signature,
    refusal::{Reason, Refusal},
};

/// Most keys of one set; verifying a signature without a hint costs at most this many tries.
pub const MAX_KEYS: usize = 32;

/// Why a key is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not 32 bytes in base64.
    #[error("not 32 bytes in standard base64")]
    Encoding,
    /// Not a point, or one of small order.
    #[error("not a usable ed25519 public key")]
    Weak,
    /// The operating system gave no randomness.
    #[error("no randomness: {0}")]
    Random(getrandom::Error),
    /// The file cannot be read.
    #[error("cannot read the key file")]
    Read(#[from] std::io::Error),
}

/// A public key as a config names it: `{ keyid = "ops-1", ed25519 = "<32 bytes base64>" }`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct KeyConfig {
    /// The key's name; in a signature it is a hint and never a reason to trust.
    pub keyid: String,
    /// The 32 bytes, standard base64.
    pub ed25519: String,
}

/// A public key that was checked: a point of large order.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    keyid: String,
    key: VerifyingKey,
}

impl PublicKey {
    /// Reads a configured key.
    ///
    /// # Errors
    ///
    /// [`KeyError::Encoding`] or [`KeyError::Weak`].
    pub fn parse(config: &KeyConfig) -> Result<Self, KeyError> {
        let bytes: [u8; 32] = decode(&config.ed25519)?;
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| KeyError::Weak)?;
        if key.is_weak() {
            return Err(KeyError::Weak);
        }
        Ok(Self {
            keyid: config.keyid.clone(),
            key,
        })
    }

    /// The key's name.
    pub fn keyid(&self) -> &str {
        &self.keyid
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }

    /// As a config names it.
    pub fn to_config(&self) -> KeyConfig {
        KeyConfig {
            keyid: self.keyid.clone(),
            ed25519: BASE64_STANDARD.encode(self.key.as_bytes()),
        }
    }

    /// Strict verification: small-order keys and non-canonical signatures are refused.
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.key
            .verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature))
            .is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_config(), formatter)
    }
}

/// A secret key with its name. `Debug` does not show the secret; it is wiped when dropped.
#[derive(Clone)]
pub struct KeyPair {
    keyid: String,
    key: SigningKey,
}

impl KeyPair {
    /// A new key from the operating system's randomness.
    ///
    /// # Errors
    ///
    /// [`KeyError::Random`].
    pub fn generate(keyid: impl Into<String>) -> Result<Self, KeyError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(KeyError::Random)?;
        Ok(Self::from_seed(keyid, seed))
    }

    /// The key of a 32-byte seed (RFC 8032).
    pub fn from_seed(keyid: impl Into<String>, seed: [u8; 32]) -> Self {
        Self {
            keyid: keyid.into(),
            key: SigningKey::from_bytes(&seed),
        }
    }

    /// Reads a seed file: 32 bytes in standard base64, white space around them.
    ///
    /// # Errors
    ///
    /// [`KeyError::Read`] or [`KeyError::Encoding`].
    pub fn load(keyid: impl Into<String>, path: &Path) -> Result<Self, KeyError> {
        let text = std::fs::read_to_string(path)?;
        Ok(Self::from_seed(keyid, decode(text.trim())?))
    }

    /// The seed as [`load`](Self::load) reads it. Secret.
    pub fn to_seed_text(&self) -> String {
        BASE64_STANDARD.encode(self.key.to_bytes())
    }

    /// The key's name.
    pub fn keyid(&self) -> &str {
        &self.keyid
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey {
            keyid: self.keyid.clone(),
            key: self.key.verifying_key(),
        }
    }

    /// Signs `message`.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message).to_bytes()
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("KeyPair")
            .field("keyid", &self.keyid)
            .finish_non_exhaustive()
    }
}

fn decode(text: &str) -> Result<[u8; 32], KeyError> {
    let bytes = BASE64_STANDARD.decode(text).map_err(|_| KeyError::Encoding)?;
    bytes.try_into().map_err(|_| KeyError::Encoding)
}

/// The keys in force: who signs control messages, stops and proposals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySet {
    /// Number of this set; a rotation raises it by one. The configured set is 1.
    pub epoch: u64,
    /// How many different `keys` a control message needs.
    pub threshold: usize,
    /// Operators.
    pub keys: Vec<PublicKey>,
    /// May sign a stop or a pause alone.
    pub stop_keys: Vec<PublicKey>,
    /// May sign proposals.
    pub node_keys: Vec<PublicKey>,
}

impl KeySet {
    /// A digest of the whole set, whatever the order of its lists: nodes of one log that begin with two sets fold two states.
    pub fn digest(&self) -> Digest {
        let of = |keys: &[PublicKey]| -> BTreeMap<String, String> {
            let named = |key: &PublicKey| (key.keyid.clone(), key.to_config().ed25519);
            keys.iter().map(named).collect()
        };
        let numbers = (self.epoch, self.threshold);
        let set = (numbers, of(&self.keys), of(&self.stop_keys), of(&self.node_keys));
        let text = serde_json::to_vec(&set).expect("names and numbers");
        Digest::of_bytes(&text)
    }
}

/// Whose signatures an envelope carries, all verified.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Signers {
    pub(crate) keys: BTreeSet<String>,
    pub(crate) stop_keys: BTreeSet<String>,
    pub(crate) node_keys: BTreeSet<String>,
}

impl KeySet {
    /// Whose signatures these are. Every signature must verify. A `keyid` is a hint: it never lets a
    /// signature pass, and one that names another key than the one that signed marks an altered envelope.
    pub(crate) fn signers(&self, message: &[u8], signatures: &[Signature]) -> Result<Signers, Refusal> {
        let mut signers = Signers::default();
        for signature in signatures {
            let hint = signature.keyid.as_deref();
            let hinted = |key: &&PublicKey| hint.is_none_or(|keyid| keyid == key.keyid);
            let mut hints = 0;
            let mut verifies = |key: &&PublicKey| {
                hints += 1;
                key.verify(message, &signature.sig)
            };
            let sets = [
                (&self.keys, &mut signers.keys),
                (&self.stop_keys, &mut signers.stop_keys),
                (&self.node_keys, &mut signers.node_keys),
            ];
            let mut verified = false;
            for (set, found) in sets {
                if let Some(key) = set.iter().filter(hinted).find(&mut verifies) {
                    found.insert(key.keyid.clone());
                    verified = true;
                    break;
                }
            }
            if !verified {
                let reason = if hint.is_some() && hints > 0 {
                    Reason::BadSignature
                } else {
                    Reason::UnknownKey
                };
                return Err(Refusal::new(
                    reason,
                    format!("signature of `{}`", hint.unwrap_or("?")),
                ));
            }
        }
        Ok(signers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_8032_test_1_verifies_and_its_malleated_twin_does_not() {
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
                .collect()
        };
        let public = hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        let config = KeyConfig {
            keyid: "rfc".to_owned(),
            ed25519: BASE64_STANDARD.encode(public),
        };
        let key = PublicKey::parse(&config).unwrap();
        let signature: [u8; 64] = hex(concat!(
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b",
            "d25bf5f0595bbe24655141438e7a100b"
        ))
        .try_into()
        .unwrap();
        assert!(key.verify(b"", &signature));
        assert!(!key.verify(b"x", &signature));

        // S + L is the same signature to a lax verifier.
        let order = hex("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
        let mut twin = signature;
        let mut carry = 0;
        for (byte, add) in twin[32..].iter_mut().zip(order) {
            let sum = u16::from(*byte) + u16::from(add) + carry;
            *byte = sum.to_le_bytes()[0];
            carry = sum >> 8;
        }
        assert!(!key.verify(b"", &twin));
    }

    #[test]
    fn a_weak_or_short_key_is_refused() {
        let parse = |bytes: &[u8]| {
            PublicKey::parse(&KeyConfig {
                keyid: "k".to_owned(),
                ed25519: BASE64_STANDARD.encode(bytes),
            })
        };
        let mut identity = [0; 32];
        identity[0] = 1;
        assert!(matches!(parse(&identity), Err(KeyError::Weak)));
        assert!(matches!(parse(&[0; 32]), Err(KeyError::Weak)));
        assert!(matches!(parse(&[1; 31]), Err(KeyError::Encoding)));
    }

    #[test]
    fn a_seed_survives_its_text_and_is_not_shown() {
        let pair = KeyPair::generate("ops-1").unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{}\n", pair.to_seed_text())).unwrap();
        let again = KeyPair::load("ops-1", file.path()).unwrap();
        assert_eq!(again.public(), pair.public());
        assert!(!format!("{pair:?}").contains(&pair.to_seed_text()));
    }
}
