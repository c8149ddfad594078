//! What an approval approves: `sha256:<hex>` of a proposal in its canonical form (DESIGN 8, RFC 8785).
//!
//! The canonical form is the JSON object of exactly `id, timestamp_us, variant_id?, params?, reason,
//! confidence, scope?`; what is absent or null is left out. Any language recomputes it from the JSON.
//!
//! ```
//! use arqon_rollout::Digest;
//!
//! let digest = Digest::of_proposal_json(br#"{"id":"prop_001","timestamp_us":1700000000000000,
//!     "variant_id":42,"params":{"beta":1.0,"alpha":0.25,"gamma":100},
//!     "reason":"Latency regression detected","confidence":0.92}"#)?;
//! assert_eq!(
//!     digest.to_string(),
//!     "sha256:ce9f54e011b55f870abdd9cafa166314b99ebfbb5fbff6c7c3d0f593e61a7d71",
//! );
//! # Ok::<(), arqon_rollout::DigestError>(())
//! ```

use std::fmt;

use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

use crate::{strict, wire::Proposal};

const LABEL: &str = "sha256:";

/// A SHA-256 digest, written `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

/// Why a proposal has no digest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DigestError {
    /// Not the JSON of a proposal: a duplicate, unknown or missing key, or a number out of range.
    #[error("not a proposal: {0}")]
    Malformed(#[source] serde_json::Error),
    /// A number JSON cannot carry exactly.
    #[error("`{field}` is {value}: only finite numbers and integers up to 2^53 have a canonical form")]
    Number {
        /// Which field.
        field: String,
        /// Its value.
        value: String,
    },
}

impl Digest {
    /// The digest of a proposal given as JSON, with or without its `"type":"proposal"` wrapper key.
    ///
    /// # Errors
    ///
    /// [`DigestError`] when the JSON is not exactly a proposal, names a key twice, or holds an integer
    /// above 2^53.
    pub fn of_proposal_json(json: &[u8]) -> Result<Self, DigestError> {
        let mut value = strict::value(json).map_err(DigestError::Malformed)?;
        if let Value::Object(object) = &mut value
            && object.get("type").and_then(Value::as_str) == Some("proposal")
        {
            object.remove("type");
        }
        let proposal = Proposal::deserialize(value).map_err(DigestError::Malformed)?;
        Self::of_proposal(&proposal)
    }

    /// The digest of a proposal.
    ///
    /// # Errors
    ///
    /// [`DigestError::Number`] when a number is not finite or an integer is above 2^53.
    pub fn of_proposal(proposal: &Proposal) -> Result<Self, DigestError> {
        canonical(proposal).map(|bytes| Self::of_bytes(&bytes))
    }

    /// SHA-256 of `bytes`.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    pub(crate) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether `text` is this digest exactly as written by `Display`, compared in constant time.
    /// Upper case, another label and a cut digest are different.
    pub fn matches(&self, text: &str) -> bool {
        self.to_string().as_bytes().ct_eq(text.as_bytes()).into()
    }

    /// The sampler's seed of the rollout: the first 8 bytes, big endian (DESIGN 4).
    pub fn seed(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

/// The bytes that are hashed: RFC 8785 of the proposal.
///
/// # Errors
///
/// [`DigestError::Number`] as [`Digest::of_proposal`].
pub fn canonical(proposal: &Proposal) -> Result<Vec<u8>, DigestError> {
    if proposal.timestamp_us > strict::MAX_INTEGER {
        return Err(number("timestamp_us", proposal.timestamp_us));
    }
    if !proposal.confidence.is_finite() {
        return Err(number("confidence", proposal.confidence));
    }
    for (name, value) in proposal.params.iter().flatten() {
        if !value.is_finite() {
            return Err(number(&format!("params.{name}"), value));
        }
    }
    serde_jcs::to_vec(proposal).map_err(DigestError::Malformed)
}

fn number(field: &str, value: impl fmt::Display) -> DigestError {
    DigestError::Number {
        field: field.to_owned(),
        value: value.to_string(),
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(LABEL)?;
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn golden() -> Proposal {
        Proposal {
            id: "prop_001".to_owned(),
            timestamp_us: 1_700_000_000_000_000,
            variant_id: Some(42),
            params: Some(HashMap::from([
                ("beta".to_owned(), 1.0),
                ("alpha".to_owned(), 0.25),
                ("gamma".to_owned(), 100.0),
            ])),
            reason: "Latency regression detected".to_owned(),
            confidence: 0.92,
            scope: None,
        }
    }

    #[test]
    fn the_golden_proposal_has_the_golden_form_and_digest() {
        assert_eq!(
            String::from_utf8(canonical(&golden()).unwrap()).unwrap(),
            "{\"confidence\":0.92,\"id\":\"prop_001\",\"params\":{\"alpha\":0.25,\"beta\":1,\"gamma\":100},\
             \"reason\":\"Latency regression detected\",\"timestamp_us\":1700000000000000,\"variant_id\":42}"
        );
        let digest = Digest::of_proposal(&golden()).unwrap();
        assert_eq!(
            digest.to_string(),
            "sha256:ce9f54e011b55f870abdd9cafa166314b99ebfbb5fbff6c7c3d0f593e61a7d71"
        );
        assert_eq!(digest.seed(), 0xce9f_54e0_11b5_5f87);
    }

    #[test]
    fn every_single_bit_flip_of_a_digest_differs() {
        let digest = Digest::of_proposal(&golden()).unwrap();
        let text = digest.to_string();
        assert!(digest.matches(&text));
        for bit in 0..text.len() * 8 {
            let mut bytes = text.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(flipped) = String::from_utf8(bytes) {
                assert!(!digest.matches(&flipped), "bit {bit}");
            }
        }
        assert!(!digest.matches(&text.to_uppercase()));
        assert!(!digest.matches(&text[..text.len() - 1]));
        assert!(!digest.matches(&text.replace("sha256", "blake3")));
        assert!(!digest.matches(""));
    }

    #[test]
    fn the_wrapper_null_and_order_do_not_change_a_digest() {
        let plain = Digest::of_proposal_json(br#"{"id":"a","timestamp_us":1,"reason":"","confidence":0.5}"#);
        let wrapped = Digest::of_proposal_json(
            br#"{"confidence":5e-1,"type":"proposal","reason":"","params":null,"timestamp_us":1,"id":"a"}"#,
        );
        assert_eq!(plain.unwrap(), wrapped.unwrap());
    }

    #[test]
    fn every_field_changes_the_digest() {
        let base = Digest::of_proposal(&golden()).unwrap();
        let edits: [fn(&mut Proposal); 8] = [
            |p| p.id.push('x'),
            |p| p.timestamp_us += 1,
            |p| p.variant_id = Some(43),
            |p| p.variant_id = None,
            |p| p.params = None,
            |p| p.reason.push('.'),
            |p| p.confidence = 0.93,
            |p| p.scope = Some("in.t.default.>".to_owned()),
        ];
        for edit in edits {
            let mut proposal = golden();
            edit(&mut proposal);
            assert_ne!(Digest::of_proposal(&proposal).unwrap(), base);
        }
    }

    #[test]
    fn what_has_no_canonical_form_is_refused() {
        for text in [
            r#"{"id":"a","id":"a","timestamp_us":1,"reason":"","confidence":1}"#,
            r#"{"id":"a","timestamp_us":9007199254740993,"reason":"","confidence":1}"#,
            r#"{"id":"a","timestamp_us":1,"reason":"","confidence":1,"note":""}"#,
            r#"{"id":"a","timestamp_us":1,"reason":"","confidence":1,"type":"approval"}"#,
            r#"{"id":"a","timestamp_us":1,"reason":"","confidence":NaN}"#,
            r#"{"id":"a","timestamp_us":1,"reason":"","confidence":null}"#,
            r#"{"id":"a","timestamp_us":1,"reason":"","confidence":1,"variant_id":4294967296}"#,
            r#"{"id":"a","timestamp_us":1,"reason":"","confidence":1,"params":{"x":9007199254740993}}"#,
            r#"{"id":"a","reason":"","confidence":1}"#,
            "[]",
        ] {
            assert!(Digest::of_proposal_json(text.as_bytes()).is_err(), "{text}");
        }
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let proposal = Proposal {
                confidence: value,
                ..golden()
            };
            assert!(Digest::of_proposal(&proposal).is_err());
            let params = Some(HashMap::from([("x".to_owned(), value)]));
            assert!(Digest::of_proposal(&Proposal { params, ..golden() }).is_err());
        }
    }

    #[test]
    fn numbers_and_keys_are_written_as_rfc_8785_says() {
        let params: [(&str, f64, &str); 8] = [
            ("a", 333_333_333.333_333_3, "333333333.3333333"),
            ("b", 1e30, "1e+30"),
            ("c", 4.50, "4.5"),
            ("d", 2e-3, "0.002"),
            ("e", 1e-27, "1e-27"),
            ("f", -0.0, "0"),
            ("g", 1e-7, "1e-7"),
            ("h", 5e-324, "5e-324"),
        ];
        for (name, value, written) in params {
            let params = Some(HashMap::from([(name.to_owned(), value)]));
            let text = String::from_utf8(canonical(&Proposal { params, ..golden() }).unwrap()).unwrap();
            assert!(text.contains(&format!("{{\"{name}\":{written}}}")), "{text}");
        }
        // U+1F602 is a surrogate pair that sorts before U+FB33 by UTF-16 code units.
        let params = Some(HashMap::from([
            ("\u{fb33}".to_owned(), 1.0),
            ("\u{1f602}".to_owned(), 2.0),
        ]));
        let text = String::from_utf8(canonical(&Proposal { params, ..golden() }).unwrap()).unwrap();
        assert!(text.contains("{\"\u{1f602}\":2,\"\u{fb33}\":1}"), "{text}");
    }
}
