//! Who gets which variant: by a key that stays the same for a user, a session or a trace.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering},
};

use arqon_message::{Claims, TraceKey};
use http::{Extensions, HeaderMap, HeaderName, header::COOKIE};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What makes a decision sticky. Without the key a request gets the baseline.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(try_from = "String", into = "String")]
pub enum Key {
    /// The trace, else the connection: [`TraceKey`].
    #[default]
    Trace,
    /// A verified claim, `sub` for short: a string or an integer.
    Claim(String),
    /// The first value of a request header.
    Header(HeaderName),
    /// A cookie.
    Cookie(String),
}

/// A key that is none of `sub`, `trace`, `header:<name>`, `cookie:<name>`, `claim:<name>`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not `sub`, `trace`, `header:<name>`, `cookie:<name>` or `claim:<name>`")]
pub struct InvalidKey(String);

impl Key {
    /// Calls `decide` with the key's bytes, if the request has it. Does not allocate.
    pub(crate) fn with<T>(
        &self,
        headers: &HeaderMap,
        extensions: &Extensions,
        decide: impl FnOnce(&[u8]) -> T,
    ) -> Option<T> {
        match self {
            Self::Trace => TraceKey::read(headers, extensions, |key, _| decide(key)),
            Self::Claim(name) => match extensions.get::<Claims>()?.get(name)? {
                Value::String(text) => given(text.as_bytes()).map(decide),
                Value::Number(number) => {
                    let mut digits = Digits::default();
                    fmt::Write::write_fmt(&mut digits, format_args!("{number}")).ok()?;
                    Some(decide(digits.as_bytes()))
                }
                Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
            },
            Self::Header(name) => headers
                .get(name)
                .and_then(|value| given(value.as_bytes()))
                .map(decide),
            Self::Cookie(name) => cookie(headers, name).and_then(given).map(decide),
        }
    }
}

fn given(bytes: &[u8]) -> Option<&[u8]> {
    (!bytes.is_empty()).then_some(bytes)
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let pairs = headers
        .get_all(COOKIE)
        .into_iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    pairs
        .map(<[u8]>::trim_ascii)
        .find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

/// Room for any JSON number, on the stack.
#[derive(Default)]
struct Digits {
    bytes: [u8; 32],
    len: usize,
}

impl Digits {
    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl fmt::Write for Digits {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.len + text.len();
        self.bytes
            .get_mut(self.len..end)
            .ok_or(fmt::Error)?
            .copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

impl FromStr for Key {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let invalid = || InvalidKey(text.chars().take(128).collect());
        let name = |name: &str| {
            if name.is_empty() {
                Err(invalid())
            } else {
                Ok(name.to_owned())
            }
        };
        match text.split_once(':') {
            None if text == "sub" => Ok(Self::Claim("sub".to_owned())),
            None if text == "trace" => Ok(Self::Trace),
            Some(("header", header)) => header.parse().map(Self::Header).map_err(|_| invalid()),
            Some(("cookie", cookie)) => name(cookie).map(Self::Cookie),
            Some(("claim", claim)) => name(claim).map(Self::Claim),
            _ => Err(invalid()),
        }
    }
}

impl TryFrom<String> for Key {
    type Error = InvalidKey;

    fn try_from(text: String) -> Result<Self, InvalidKey> {
        text.parse()
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.to_string()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trace => formatter.write_str("trace"),
            Self::Claim(name) if name == "sub" => formatter.write_str("sub"),
            Self::Claim(name) => write!(formatter, "claim:{name}"),
            Self::Header(name) => write!(formatter, "header:{name}"),
            Self::Cookie(name) => write!(formatter, "cookie:{name}"),
        }
    }
}

/// How a key is turned into in or out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Sampling {
    /// By the hash of the key: the same key, the same answer, on every node.
    #[default]
    Sticky,
    /// The source's coin flip: each request anew, with or without a key.
    Random,
}

/// Whom a growing share reaches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Cohort {
    /// Every request, also of sessions that are open.
    #[default]
    All,
    /// Sessions that are open keep the variant they were opened with ([`SessionVariant`](crate::SessionVariant)).
    NewSessions,
}

/// A sequence of random 64-bit numbers, not for secrets: SplitMix64 from a random start.
#[derive(Debug)]
pub(crate) struct CoinFlip(AtomicU64);

impl CoinFlip {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(RandomState::new().hash_one(0_u8)))
    }

    #[cfg(test)]
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    pub(crate) fn flip(&self) -> u64 {
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut bits = self.0.fetch_add(GOLDEN, Ordering::Relaxed);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::json;

    use super::*;

    fn key_of(key: &str, headers: &HeaderMap, extensions: &Extensions) -> Option<Vec<u8>> {
        key.parse::<Key>()
            .unwrap()
            .with(headers, extensions, <[u8]>::to_vec)
    }

    #[test]
    fn a_key_is_found_where_the_config_says() {
        let mut headers = HeaderMap::new();
        headers.insert("x-user", HeaderValue::from_static("ada"));
        headers.insert(
            COOKIE,
            HeaderValue::from_static("a=1; session=xyz;empty=; sessionx=no"),
        );
        headers.insert(
            "traceparent",
            HeaderValue::from_static("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        );
        let mut extensions = Extensions::new();
        let claims =
            json!({"sub": "user-1", "tier": 3, "big": 18_446_744_073_709_551_615_u64, "admin": true});
        extensions.insert(Claims::new(claims.as_object().unwrap().clone()));

        let found = |key| key_of(key, &headers, &extensions).map(|key| String::from_utf8(key).unwrap());
        assert_eq!(found("sub").as_deref(), Some("user-1"));
        assert_eq!(found("claim:tier").as_deref(), Some("3"));
        assert_eq!(found("claim:big").as_deref(), Some("18446744073709551615"));
        assert_eq!(found("claim:admin"), None);
        assert_eq!(found("claim:none"), None);
        assert_eq!(found("header:X-User").as_deref(), Some("ada"));
        assert_eq!(found("header:x-none"), None);
        assert_eq!(found("cookie:session").as_deref(), Some("xyz"));
        assert_eq!(found("cookie:empty"), None);
        assert_eq!(found("cookie:sess"), None);
        assert_eq!(
            found("trace").as_deref(),
            Some("4bf92f3577b34da6a3ce929d0e0e4736")
        );
    }

    #[test]
    fn a_request_without_the_key_has_none() {
        for key in ["sub", "trace", "header:x-user", "cookie:session", "claim:tier"] {
            assert_eq!(key_of(key, &HeaderMap::new(), &Extensions::new()), None, "{key}");
        }
    }

    #[test]
    fn a_key_survives_its_text_and_nonsense_is_refused() {
        for key in ["sub", "trace", "header:x-user", "cookie:session", "claim:tier"] {
            assert_eq!(key.parse::<Key>().unwrap().to_string(), key);
        }
        for key in ["", "Sub", "header:", "header:a b", "cookie:", "claim:", "query:x"] {
            assert!(key.parse::<Key>().is_err(), "{key}");
        }
    }
}
