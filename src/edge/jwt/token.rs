//! What a token says, and whether it holds: a pure function of token, keys and time.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use arqon_message::{Claims, TenantId};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::{
    json,
    key::{KID_BYTES_MAX, Key, Print},
};

/// The claim that names the tenant (DESIGN 4).
const TENANT: &str = "tenant_id";
/// Integers and times above it are not exact in every reader.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// A token that held: what it says, and until when. An extension of the request; only [`JwtLayer`](super::JwtLayer) can
/// make one. Cloning is a reference count.
#[derive(Clone, Debug)]
pub struct Verified(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    claims: Claims,
    tenant: TenantId,
    not_before: u64,
    /// The last second, the leeway included, is the one before.
    ends: u64,
    /// The key that it was verified with.
    key: Print,
    /// The last generation of keys that this one was seen among.
    generation: AtomicU64,
}

impl Verified {
    /// The print of its key.
    pub(super) fn key(&self) -> &Print {
        &self.0.key
    }

    /// Whether its key was seen among the keys of `generation`.
    pub(super) fn is_of(&self, generation: u64) -> bool {
        self.0.generation.load(Ordering::Relaxed) == generation
    }

    /// Its key was seen there.
    pub(super) fn seen_in(&self, generation: u64) {
        self.0.generation.store(generation, Ordering::Relaxed);
    }

    /// The verified claims.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        &self.0.claims
    }

    /// The tenant of the claim `tenant_id`.
    #[must_use]
    pub fn tenant(&self) -> &TenantId {
        &self.0.tenant
    }

    /// When it ends, the leeway included, in seconds since 1970.
    #[must_use]
    pub fn ends(&self) -> u64 {
        self.0.ends
    }

    /// Whether it holds at `now`, in seconds since 1970.
    #[must_use]
    pub fn holds_at(&self, now: u64) -> bool {
        (self.0.not_before..self.0.ends).contains(&now)
    }
}

/// Why a token is not taken. The client learns less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Missing,
    TooLarge,
    Malformed,
    Issuer,
    Key,
    Algorithm,
    Signature,
    Claims,
    Audience,
    NotYet,
    Expired,
    Tenant,
}

impl Refused {
    pub(super) const ALL: [Self; 12] = [
        Self::Missing,
        Self::TooLarge,
        Self::Malformed,
        Self::Issuer,
        Self::Key,
        Self::Algorithm,
        Self::Signature,
        Self::Claims,
        Self::Audience,
        Self::NotYet,
        Self::Expired,
        Self::Tenant,
    ];

    /// The label of the metric.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::Issuer => "issuer",
            Self::Key => "key",
            Self::Algorithm => "algorithm",
            Self::Signature => "signature",
            Self::Claims => "claims",
            Self::Audience => "audience",
            Self::NotYet => "not_yet",
            Self::Expired => "expired",
            Self::Tenant => "tenant",
        }
    }
}

/// One issuer's rules and the keys it has now.
pub(super) struct IssuerKeys<'a> {
    pub(super) audience: &'a [String],
    pub(super) require: &'a [String],
    pub(super) keys: &'a [Key],
    /// Of these keys, or an older one.
    pub(super) generation: u64,
}

/// What is taken from any issuer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) token_bytes_max: usize,
    pub(super) claims_bytes_max: usize,
    pub(super) leeway: u64,
}

/// A compact JWS taken apart, its signature not checked yet.
pub(super) struct Jws<'a> {
    signed: &'a [u8],
    payload: Vec<u8>,
    signature: Vec<u8>,
    alg: String,
    kid: Option<String>,
}

impl<'a> Jws<'a> {
    /// Takes it apart (RFC 7515, 3.1). Of the header only `alg` and `kid` count: `jku`, `x5u`, `jwk` and the like are never
    /// followed, `crit`, `b64` and encryption are refused.
    pub(super) fn read(token: &'a str, limits: Limits) -> Result<Self, Refused> {
        if token.len() > limits.token_bytes_max {
            return Err(Refused::TooLarge);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Refused::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(Refused::Malformed)?;
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| Refused::Malformed);
        let mut header = json::object(&decode(header)?).ok_or(Refused::Malformed)?;
        if ["crit", "b64", "zip", "enc", "cty"]
            .iter()
            .any(|name| header.contains_key(*name))
        {
            return Err(Refused::Malformed);
        }
        let Some(Value::String(alg)) = header.remove("alg") else {
            return Err(Refused::Malformed);
        };
        let kid = match header.remove("kid") {
            None => None,
            Some(Value::String(kid)) if kid.len() <= KID_BYTES_MAX => Some(kid),
            Some(_) => return Err(Refused::Malformed),
        };
        if !header.get("typ").is_none_or(is_jwt) {
            return Err(Refused::Malformed);
        }
        let payload = decode(payload)?;
        if payload.len() > limits.claims_bytes_max {
            return Err(Refused::TooLarge);
        }
        Ok(Self {
            signed: signed.as_bytes(),
            payload,
            signature: decode(signature)?,
            alg,
            kid,
        })
    }

    /// Checks the signature with the one key that its `kid` names, and says which it was.
    pub(super) fn check<'k>(&self, keys: &'k [Key]) -> Result<&'k Key, Refused> {
        let key = match &self.kid {
            Some(kid) => keys.iter().find(|key| key.kid.as_ref() == Some(kid)),
            // Without a name there must be no choice.
            None => Some(keys).filter(|keys| keys.len() == 1).map(|keys| &keys[0]),
        };
        let key = key.ok_or(Refused::Key)?;
        if key.algorithm().as_str() != self.alg {
            return Err(Refused::Algorithm);
        }
        if !key.holds(self.signed, &self.signature) {
            return Err(Refused::Signature);
        }
        Ok(key)
    }
}

/// A token whose claims are read and not to be believed yet.
pub(super) struct Unverified<'a> {
    jws: Jws<'a>,
    claims: Map<String, Value>,
}

impl<'a> Unverified<'a> {
    /// Takes a token apart: a compact JWS whose payload is a JSON object.
    pub(super) fn read(token: &'a str, limits: Limits) -> Result<Self, Refused> {
        let jws = Jws::read(token, limits)?;
        let claims = json::object(&jws.payload).ok_or(Refused::Malformed)?;
        Ok(Self { jws, claims })
    }

    /// The claim `iss`, to choose the keys with; nothing may be believed yet.
    pub(super) fn issuer(&self) -> Option<&str> {
        self.claims.get("iss")?.as_str()
    }

    /// Checks the signature with the one key that its `kid` names, then the claims.
    pub(super) fn verify(
        self,
        issuer: &IssuerKeys<'_>,
        limits: Limits,
        now: u64,
    ) -> Result<Verified, Refused> {
        let key = self.jws.check(issuer.keys)?.print;
        let claims = self.claims;
        let time = |name: &str| {
            claims
                .get(name)
                .map(|value| seconds(value).ok_or(Refused::Claims))
                .transpose()
        };
        let (expires, not_before, _) = (time("exp")?, time("nbf")?, time("iat")?);
        let ends = expires.ok_or(Refused::Claims)?.saturating_add(limits.leeway);
        let not_before = not_before.unwrap_or(0).saturating_sub(limits.leeway);
        if !issuer
            .require
            .iter()
            .all(|name| claims.get(name).is_some_and(|value| !value.is_null()))
        {
            return Err(Refused::Claims);
        }
        let is_for_us = match claims.get("aud") {
            Some(Value::String(one)) => issuer.audience.contains(one),
            Some(Value::Array(all)) if all.iter().all(Value::is_string) => all
                .iter()
                .filter_map(Value::as_str)
                .any(|one| issuer.audience.iter().any(|ours| ours == one)),
            _ => false,
        };
        if !is_for_us {
            return Err(Refused::Audience);
        }
        if now < not_before {
            return Err(Refused::NotYet);
        }
        if now >= ends {
            return Err(Refused::Expired);
        }
        let tenant = claims.get(TENANT).and_then(Value::as_str);
        let tenant = tenant
            .and_then(|name| TenantId::new(name).ok())
            .ok_or(Refused::Tenant)?;
        Ok(Verified(Arc::new(Inner {
            claims: Claims::new(claims),
            tenant,
            not_before,
            ends,
            key,
            generation: AtomicU64::new(issuer.generation),
        })))
    }
}

/// A NumericDate (RFC 7519, 2): seconds since 1970, maybe with a fraction, which is dropped.
fn seconds(value: &Value) -> Option<u64> {
    if let Some(whole) = value.as_u64() {
        return Some(whole).filter(|whole| *whole <= EXACT_MAX as u64);
    }
    let seconds = value.as_f64()?;
    (0.0..=EXACT_MAX).contains(&seconds).then_some(seconds as u64)
}

/// `JWT`, or an access token of RFC 9068.
fn is_jwt(typ: &Value) -> bool {
    typ.as_str().is_some_and(|typ| {
        let typ = typ.to_ascii_lowercase();
        matches!(typ.strip_prefix("application/").unwrap_or(&typ), "jwt" | "at+jwt")
    })
}
