//! Keys that signatures are checked with, read from JSON Web Key Sets (RFC 7517).

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    digest::{Context, SHA256},
    hmac,
    signature::{
        ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
        UnparsedPublicKey,
    },
};
use serde::Deserialize;

/// The longest key set, in bytes.
pub(super) const SET_BYTES_MAX: usize = 256 * 1024;
/// How many keys one set may have.
const KEYS_MAX: usize = 64;
/// The longest `kid`, in bytes.
pub(super) const KID_BYTES_MAX: usize = 256;
/// The shortest secret of HS256, in bytes (RFC 7518, 3.2).
const SECRET_BYTES_MIN: usize = 32;

/// How a token may be signed. The key decides, never the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Hs256,
    Rs256,
    Es256,
    EdDsa,
}

impl Algorithm {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }
}

/// One key, for one algorithm.
pub(super) struct Key {
    pub(super) kid: Option<String>,
    /// Tells it from every other key, one of the same `kid` too.
    pub(super) print: Print,
    material: Material,
}

/// A key's digest.
pub(super) type Print = [u8; 32];

enum Material {
    Hmac(hmac::Key),
    Rsa(RsaPublicKeyComponents<Box<[u8]>>),
    P256(UnparsedPublicKey<Box<[u8]>>),
    Ed25519(UnparsedPublicKey<Box<[u8]>>),
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:?}, {})", self.kid, self.algorithm().as_str())
    }
}

impl Key {
    pub(super) fn algorithm(&self) -> Algorithm {
        match &self.material {
            Material::Hmac(_) => Algorithm::Hs256,
            Material::Rsa(_) => Algorithm::Rs256,
            Material::P256(_) => Algorithm::Es256,
            Material::Ed25519(_) => Algorithm::EdDsa,
        }
    }

    /// Whether `signature` is this key's for `signed`.
    pub(super) fn holds(&self, signed: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Hmac(key) => hmac::verify(key, signed, signature),
            Material::Rsa(key) => key.verify(&RSA_PKCS1_2048_8192_SHA256, signed, signature),
            Material::P256(key) | Material::Ed25519(key) => key.verify(signed, signature),
        }
        .is_ok()
    }
}

/// Where a set came from decides what may be in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The operator's own: everything in it has to hold.
    Own,
    /// Fetched: what we cannot use is left out, and a shared secret is none that everybody can read.
    Fetched,
}

/// Reads a key set: the keys, and what was left out, in words.
///
/// # Errors
/// One sentence, when it is no key set, when it has no usable key, or when an own one has a key that cannot hold.
pub(super) fn read_set(json: &[u8], origin: Origin) -> Result<(Vec<Key>, Vec<String>), String> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }
    if json.len() > SET_BYTES_MAX {
        return Err(format!("is over {SET_BYTES_MAX} bytes"));
    }
    let set: Set =
        serde_json::from_slice(json).map_err(|error| format!("is no JSON Web Key Set: {error}"))?;
    if set.keys.len() > KEYS_MAX {
        return Err(format!("has {} keys, more than {KEYS_MAX}", set.keys.len()));
    }
    let mut keys: Vec<Key> = Vec::new();
    let mut left_out = Vec::new();
    for (at, jwk) in set.keys.into_iter().enumerate() {
        let read = serde_json::from_value::<Jwk>(jwk)
            .map_err(|error| Unusable::Bad(error.to_string()))
            .and_then(|jwk| jwk.read(origin));
        match read {
            Ok(key) if keys.iter().any(|other| other.kid == key.kid) => {
                return Err(format!(
                    "keys[{at}]: the kid {:?} stands twice",
                    key.kid.unwrap_or_default()
                ));
            }
            Ok(key) => keys.push(key),
            Err(Unusable::Bad(why)) if origin == Origin::Own => return Err(format!("keys[{at}] {why}")),
            Err(Unusable::Bad(why) | Unusable::Other(why)) => left_out.push(format!("keys[{at}] {why}")),
        }
    }
    if keys.is_empty() {
        return Err(match left_out.first() {
            Some(why) => format!("has no usable key: {why}"),
            None => "has no key".to_owned(),
        });
    }
    Ok((keys, left_out))
}

enum Unusable {
    /// Meant for us, and wrong.
    Bad(String),
    /// Meant for something else.
    Other(String),
}

/// A key as it is written. Private parts are only looked for, to refuse them.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    k: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    d: Option<serde::de::IgnoredAny>,
}

impl Jwk {
    /// Of all that makes it the key that it is, as it is written.
    fn print(&self) -> Print {
        let mut digest = Context::new(&SHA256);
        let parts = [&self.kid, &self.crv, &self.k, &self.n, &self.e, &self.x, &self.y];
        for part in [Some(&self.kty)].into_iter().chain(parts.map(Option::as_ref)) {
            // No two parts run into each other, and one that is absent is none that is empty.
            let (length, text) = part.map_or((u64::MAX, ""), |text| (text.len() as u64, text));
            digest.update(&length.to_be_bytes());
            digest.update(text.as_bytes());
        }
        digest.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
    }

    fn read(self, origin: Origin) -> Result<Key, Unusable> {
        use Unusable::{Bad, Other};
        if self.usage.as_deref().is_some_and(|usage| usage != "sig")
            || self
                .key_ops
                .as_ref()
                .is_some_and(|ops| !ops.iter().any(|op| op == "verify"))
        {
            return Err(Other("is not for signatures".to_owned()));
        }
        if self.d.is_some() {
            return Err(Bad("is a private key: put only the public one here".to_owned()));
        }
        if self
            .kid
            .as_ref()
            .is_some_and(|kid| kid.is_empty() || kid.len() > KID_BYTES_MAX)
        {
            return Err(Bad(format!("has a kid that is not 1 to {KID_BYTES_MAX} bytes")));
        }
        let print = self.print();
        let material = match (self.kty.as_str(), self.crv.as_deref()) {
            ("oct", _) if origin == Origin::Fetched => {
                return Err(Other(
                    "is a shared secret, which no public set can hold".to_owned(),
                ));
            }
            ("oct", _) => {
                let secret = bytes("k", self.k.as_deref())?;
                if secret.len() < SECRET_BYTES_MIN {
                    return Err(Bad(format!(
                        "is a secret of {} bytes: HS256 needs {SECRET_BYTES_MIN}",
                        secret.len()
                    )));
                }
                Material::Hmac(hmac::Key::new(hmac::HMAC_SHA256, &secret))
            }
            ("RSA", _) => rsa(bytes("n", self.n.as_deref())?, bytes("e", self.e.as_deref())?)?,
            ("EC", Some("P-256")) => {
                let mut point = vec![4];
                for (name, coordinate) in [("x", &self.x), ("y", &self.y)] {
                    point.extend(exactly_32(name, coordinate.as_deref())?);
                }
                Material::P256(UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point.into()))
            }
            ("OKP", Some("Ed25519")) => {
                let point = exactly_32("x", self.x.as_deref())?;
                Material::Ed25519(UnparsedPublicKey::new(&ED25519, point.into()))
            }
            (kty, crv) => {
                return Err(Other(format!(
                    "is of the kind {kty} {}, which is not taken",
                    crv.unwrap_or_default()
                )));
            }
        };
        let key = Key {
            print,
            kid: self.kid,
            material,
        };
        let own = key.algorithm().as_str();
        match self.alg.as_deref() {
            None => Ok(key),
            Some(alg) if alg == own || (alg == "Ed25519" && own == "EdDSA") => Ok(key),
            Some(alg) => Err(Other(format!(
                "is for {alg}, and only {own} is taken with such a key"
            ))),
        }
    }
}

fn bytes(name: &str, text: Option<&str>) -> Result<Vec<u8>, Unusable> {
    let text = text.ok_or_else(|| Unusable::Bad(format!("has no `{name}`")))?;
    URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|error| Unusable::Bad(format!("has a `{name}` that is not base64url: {error}")))
}

fn exactly_32(name: &str, text: Option<&str>) -> Result<Vec<u8>, Unusable> {
    let bytes = bytes(name, text)?;
    if bytes.len() == 32 {
        Ok(bytes)
    } else {
        Err(Unusable::Bad(format!(
            "has a `{name}` of {} bytes instead of 32",
            bytes.len()
        )))
    }
}

fn rsa(n: Vec<u8>, e: Vec<u8>) -> Result<Material, Unusable> {
    let trimmed = |number: Vec<u8>| -> Box<[u8]> {
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        number[zeros..].into()
    };
    let (n, e) = (trimmed(n), trimmed(e));
    let bits = n
        .first()
        .map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
    if !(2_048..=8_192).contains(&bits) {
        return Err(Unusable::Bad(format!(
            "is an RSA key of {bits} bits: RS256 needs 2048 to 8192"
        )));
    }
    let exponent = e.iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
    if e.len() > 4 || exponent < 3 || exponent.is_multiple_of(2) {
        return Err(Unusable::Bad(
            "has an exponent that is not odd and 3 to 4294967295".to_owned(),
        ));
    }
    Ok(Material::Rsa(RsaPublicKeyComponents { n, e }))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(keys: Value, origin: Origin) -> Result<(Vec<Key>, Vec<String>), String> {
        read_set(json!({ "keys": keys }).to_string().as_bytes(), origin)
    }

    fn text(bytes: usize) -> String {
        URL_SAFE_NO_PAD.encode(vec![0xff; bytes])
    }

    #[test]
    fn each_kind_pins_its_algorithm() {
        let (keys, left_out) = read(
            json!([
                { "kty": "oct", "kid": "h", "k": text(32) },
                { "kty": "RSA", "kid": "r", "n": text(256), "e": "AQAB", "use": "sig" },
                { "kty": "EC", "kid": "e", "crv": "P-256", "x": text(32), "y": text(32), "alg": "ES256" },
                { "kty": "OKP", "kid": "o", "crv": "Ed25519", "x": text(32), "key_ops": ["verify"] },
            ]),
            Origin::Own,
        )
        .expect("a set");
        let algorithms: Vec<_> = keys.iter().map(|key| key.algorithm().as_str()).collect();
        assert_eq!(
            (algorithms, left_out.len()),
            (vec!["HS256", "RS256", "ES256", "EdDSA"], 0)
        );
    }

    #[test]
    fn an_own_key_that_cannot_hold_refuses_the_set() {
        for (key, said) in [
            (json!({ "kty": "oct", "k": text(31) }), "31 bytes: HS256 needs 32"),
            (json!({ "kty": "oct" }), "no `k`"),
            (json!({ "kty": "oct", "k": "a=" }), "not base64url"),
            (json!({ "kty": "RSA", "n": text(255), "e": "AQAB" }), "2040 bits"),
            (
                json!({ "kty": "RSA", "n": text(1_025), "e": "AQAB" }),
                "8200 bits",
            ),
            (json!({ "kty": "RSA", "n": text(256), "e": "AQ" }), "exponent"),
            (json!({ "kty": "RSA", "n": text(256), "e": "BA" }), "exponent"),
            (
                json!({ "kty": "EC", "crv": "P-256", "x": text(31), "y": text(32) }),
                "31 bytes instead of 32",
            ),
            (
                json!({ "kty": "OKP", "crv": "Ed25519", "x": text(32), "d": text(32) }),
                "private key",
            ),
            (
                json!({ "kty": "OKP", "crv": "Ed25519", "x": text(32), "kid": "" }),
                "kid",
            ),
            (json!({ "kty": 7 }), "keys[0]"),
        ] {
            let error = read(json!([key]), Origin::Own).expect_err("refused");
            assert!(error.contains(said), "{said} in {error}");
        }
        let twice = json!({ "kty": "oct", "kid": "a", "k": text(32) });
        assert!(
            read(json!([twice, twice]), Origin::Own)
                .expect_err("refused")
                .contains("stands twice")
        );
    }

    #[test]
    fn what_is_meant_for_others_is_left_out_and_a_set_of_nothing_else_is_refused() {
        let good = json!({ "kty": "OKP", "kid": "o", "crv": "Ed25519", "x": text(32) });
        for other in [
            json!({ "kty": "RSA", "n": text(256), "e": "AQAB", "use": "enc" }),
            json!({ "kty": "RSA", "n": text(256), "e": "AQAB", "alg": "RS512" }),
            json!({ "kty": "EC", "crv": "P-384", "x": text(48), "y": text(48) }),
            json!({ "kty": "OKP", "crv": "Ed25519", "x": text(32), "key_ops": ["sign"] }),
        ] {
            let (keys, left_out) = read(json!([other, good]), Origin::Own).expect("a set");
            assert_eq!((keys.len(), left_out.len()), (1, 1));
            assert!(read(json!([other]), Origin::Own).is_err());
        }
        let secret = json!({ "kty": "oct", "kid": "h", "k": text(32) });
        let (keys, left_out) =
            read(json!([secret, good, { "kty": "oct", "k": "" }]), Origin::Fetched).expect("a set");
        assert_eq!((keys.len(), left_out.len()), (1, 2));
        assert!(read(json!([]), Origin::Fetched).is_err());
    }

    #[test]
    fn a_set_is_bounded() {
        let key = |n: usize| json!({ "kty": "OKP", "kid": n.to_string(), "crv": "Ed25519", "x": text(32) });
        let set = |n: usize| (0..n).map(key).collect::<Vec<_>>().into();
        assert_eq!(read(set(KEYS_MAX), Origin::Own).expect("a set").0.len(), KEYS_MAX);
        assert!(read(set(KEYS_MAX + 1), Origin::Own).is_err());
        assert!(read_set(&vec![b' '; SET_BYTES_MAX + 1], Origin::Own).is_err());
    }
}
