//! `[auth]`: who may come in, and whose keys say so.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use super::Finding;

/// How far clocks may be apart at most, in seconds: more would be a longer life of every token.
const LEEWAY_SECONDS_MAX: u64 = 30;
/// How many issuers there may be.
const ISSUERS_MAX: usize = 64;

/// `[auth]`: bearer tokens (RFC 6750) that are JSON Web Tokens (RFC 7519). Absent: nobody is authenticated, the tenant is
/// `default` and the listener is loopback.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct AuthConfig {
    /// Who may issue tokens, each with its own keys.
    pub issuers: Vec<IssuerConfig>,
    /// How far clocks may be apart, in seconds, at most 30. Default 10.
    pub leeway_seconds: u64,
    /// The longest token, in bytes, 256 to 65,536. Default 8,192.
    pub token_bytes_max: usize,
    /// The longest claims of a token, in bytes of their JSON text, 64 to 49,152. Default 4,096.
    pub claims_bytes_max: usize,
    /// How many verified tokens are remembered, so that a signature is checked once, at most 1,000,000; 0 is none.
    /// Default 8,192.
    pub cache_entries: usize,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            issuers: Vec::new(),
            leeway_seconds: 10,
            token_bytes_max: 8_192,
            claims_bytes_max: 4_096,
            cache_entries: 8_192,
        }
    }
}

/// One issuer of tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct IssuerConfig {
    /// What the claim `iss` must be, to the letter.
    pub issuer: String,
    /// Of which the claim `aud` must name one: a string or a list of strings.
    #[serde(deserialize_with = "one_or_more")]
    #[cfg_attr(feature = "cli", schemars(with = "OneOrMore"))]
    pub audience: Vec<String>,
    /// A JSON Web Key Set (RFC 7517). Read again when it changes. Beside `jwks_url`: what is known until the first fetch.
    pub jwks_file: Option<PathBuf>,
    /// Where the key set is fetched: `https://..`, or `http://` on this machine. Redirects are not followed.
    pub jwks_url: Option<String>,
    /// The authorities that `jwks_url`'s certificate may come from (PEM). Absent: the system's.
    pub ca_file: Option<PathBuf>,
    /// How often `jwks_url` is fetched, in seconds, 10 to 86,400. Default 300. A token with an unknown `kid` asks for it
    /// too, at most every 10 seconds.
    pub refresh_seconds: u64,
    /// Claims that must be there besides `iss`, `aud` and `exp`, such as `nbf` or `sub`.
    pub require: Vec<String>,
    /// The key set itself, for programs that have no file.
    #[serde(skip)]
    pub jwks: Option<String>,
}

impl Default for IssuerConfig {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            audience: Vec::new(),
            jwks_file: None,
            jwks_url: None,
            ca_file: None,
            refresh_seconds: 300,
            require: Vec::new(),
            jwks: None,
        }
    }
}

impl IssuerConfig {
    /// An issuer whose tokens are for `audience`, with its key set as JSON text.
    #[must_use]
    pub fn of(issuer: impl Into<String>, audience: impl Into<String>, jwks: impl Into<String>) -> Self {
        Self {
            issuer: issuer.into(),
            audience: vec![audience.into()],
            jwks: Some(jwks.into()),
            ..Self::default()
        }
    }
}

impl AuthConfig {
    /// What does not hold; files are only looked for.
    #[must_use]
    pub fn validate(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut refuse =
            |key: String, message: String| findings.push(Finding::new(format!("auth.{key}"), message));
        if cfg!(not(feature = "jwt")) {
            refuse(
                "issuers".to_owned(),
                "this program was built without the feature `jwt`".to_owned(),
            );
        }
        if !(1..=ISSUERS_MAX).contains(&self.issuers.len()) {
            let message = format!(
                "{} issuers are not within 1 to {ISSUERS_MAX}: name whose tokens are taken, or remove [auth]",
                self.issuers.len()
            );
            refuse("issuers".to_owned(), message);
        }
        for (key, value, most) in [
            ("leeway_seconds", self.leeway_seconds, 0..=LEEWAY_SECONDS_MAX),
            ("token_bytes_max", self.token_bytes_max as u64, 256..=65_536),
            ("claims_bytes_max", self.claims_bytes_max as u64, 64..=49_152),
            ("cache_entries", self.cache_entries as u64, 0..=1_000_000),
        ] {
            if !most.contains(&value) {
                let message = format!("{value} is not within {} to {}", most.start(), most.end());
                refuse(key.to_owned(), message);
            }
        }
        for (at, issuer) in self.issuers.iter().enumerate() {
            issuer.check(&mut |key, message| refuse(format!("issuers[{at}].{key}"), message));
            if self.issuers[..at]
                .iter()
                .any(|other| other.issuer == issuer.issuer)
            {
                let message = format!("{:?} stands twice: put its keys into one set", issuer.issuer);
                refuse(format!("issuers[{at}].issuer"), message);
            }
        }
        findings
    }

    pub(super) fn resolve_paths(&mut self, base: &Path) {
        for issuer in &mut self.issuers {
            for path in [&mut issuer.jwks_file, &mut issuer.ca_file].into_iter().flatten() {
                *path = base.join(&path);
            }
        }
    }
}

impl IssuerConfig {
    fn check(&self, refuse: &mut dyn FnMut(&str, String)) {
        if !(1..=512).contains(&self.issuer.len()) {
            refuse(
                "issuer",
                "is not 1 to 512 characters: write the claim `iss`".to_owned(),
            );
        }
        if self.audience.is_empty() || self.audience.iter().any(String::is_empty) {
            let message = "name whom the tokens are for (the claim `aud`): without it another service's tokens would do";
            refuse("audience", message.to_owned());
        }
        if self.jwks_file.is_none() && self.jwks_url.is_none() && self.jwks.is_none() {
            refuse(
                "jwks_file",
                "give jwks_file or jwks_url: without keys no token can hold".to_owned(),
            );
        }
        for (key, path) in [("jwks_file", &self.jwks_file), ("ca_file", &self.ca_file)] {
            if let Some(path) = path.as_ref().filter(|path| !path.is_file()) {
                refuse(key, format!("{} is not a file: mend the path", path.display()));
            }
        }
        if let Some(url) = &self.jwks_url
            && !is_trustworthy(url)
        {
            refuse(
                "jwks_url",
                format!(
                    "{:?} is not https://host/path (http:// only on 127.0.0.1, [::1] or localhost)",
                    super::shown_url(url)
                ),
            );
        }
        if !(10..=86_400).contains(&self.refresh_seconds) {
            refuse(
                "refresh_seconds",
                format!("{} is not within 10 to 86400 seconds", self.refresh_seconds),
            );
        }
        if self.require.iter().any(String::is_empty) {
            refuse("require", "has an empty name of a claim: remove it".to_owned());
        }
    }
}

/// Keys that travel in clear text can be replaced on the way.
fn is_trustworthy(url: &str) -> bool {
    url.parse::<http::Uri>().is_ok_and(|uri| {
        let host = uri.host().unwrap_or_default();
        match uri.scheme_str() {
            _ if host.is_empty() || url.contains('@') => false,
            Some("https") => true,
            Some("http") => matches!(host, "127.0.0.1" | "[::1]" | "localhost"),
            _ => false,
        }
    })
}

/// How `audience` may be written, for the JSON Schema.
#[cfg(feature = "cli")]
#[derive(schemars::JsonSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "only its form is used")]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

fn one_or_more<'de, D: Deserializer<'de>>(value: D) -> Result<Vec<String>, D::Error> {
    struct Read;

    impl<'de> serde::de::Visitor<'de> for Read {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a string or a list of strings")
        }

        fn visit_str<E: serde::de::Error>(self, one: &str) -> Result<Self::Value, E> {
            Ok(vec![one.to_owned()])
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut all = Vec::new();
            while let Some(one) = list.next_element()? {
                all.push(one);
            }
            Ok(all)
        }
    }

    value.deserialize_any(Read)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys_of(change: impl FnOnce(&mut AuthConfig)) -> Vec<String> {
        let mut config = AuthConfig {
            issuers: vec![IssuerConfig::of("https://id.example", "arqon", "{}")],
            ..AuthConfig::default()
        };
        change(&mut config);
        let keys = config.validate().into_iter().map(|finding| finding.key);
        keys.filter(|key| cfg!(feature = "jwt") || key != "auth.issuers")
            .collect()
    }

    #[test]
    fn each_limit_holds_at_its_border() {
        assert_eq!(keys_of(|_| ()), [""; 0]);
        assert_eq!(keys_of(|auth| auth.leeway_seconds = 30), [""; 0]);
        assert_eq!(keys_of(|auth| auth.leeway_seconds = 31), ["auth.leeway_seconds"]);
        assert_eq!(
            keys_of(|auth| auth.token_bytes_max = 255),
            ["auth.token_bytes_max"]
        );
        assert_eq!(
            keys_of(|auth| auth.token_bytes_max = 65_537),
            ["auth.token_bytes_max"]
        );
        assert_eq!(
            keys_of(|auth| auth.claims_bytes_max = 63),
            ["auth.claims_bytes_max"]
        );
        assert_eq!(
            keys_of(|auth| auth.cache_entries = 1_000_001),
            ["auth.cache_entries"]
        );
        assert_eq!(keys_of(|auth| auth.cache_entries = 0), [""; 0]);
        assert_eq!(
            keys_of(|auth| auth.issuers[0].refresh_seconds = 9),
            ["auth.issuers[0].refresh_seconds"]
        );
    }

    #[test]
    fn an_issuer_needs_a_name_an_audience_and_keys() {
        assert_eq!(
            keys_of(|auth| auth.issuers[0].issuer.clear()),
            ["auth.issuers[0].issuer"]
        );
        assert_eq!(
            keys_of(|auth| auth.issuers[0].audience.clear()),
            ["auth.issuers[0].audience"]
        );
        assert_eq!(
            keys_of(|auth| auth.issuers[0].jwks = None),
            ["auth.issuers[0].jwks_file"]
        );
        assert_eq!(
            keys_of(|auth| auth.issuers[0].jwks_file = Some("no/such".into())),
            ["auth.issuers[0].jwks_file"]
        );
        assert_eq!(
            keys_of(|auth| auth.issuers[0].require.push(String::new())),
            ["auth.issuers[0].require"]
        );
        let twice = |auth: &mut AuthConfig| auth.issuers.push(auth.issuers[0].clone());
        assert_eq!(keys_of(twice), ["auth.issuers[1].issuer"]);
    }

    #[test]
    fn keys_are_fetched_over_tls_or_from_this_machine() {
        for (url, fits) in [
            ("https://id.example/keys", true),
            ("http://127.0.0.1:8000/keys", true),
            ("http://[::1]/keys", true),
            ("http://id.example/keys", false),
            ("http://169.254.169.254/keys", false),
            ("file:///etc/keys", false),
            ("https://user@id.example/keys", false),
            ("id.example/keys", false),
            ("", false),
        ] {
            let found = keys_of(|auth| auth.issuers[0].jwks_url = Some(url.to_owned()));
            assert_eq!(found.is_empty(), fits, "{url}: {found:?}");
        }
        let secret = "https://u:one@id.example/keys?key=two";
        let auth = AuthConfig {
            issuers: vec![IssuerConfig {
                jwks_url: Some(secret.to_owned()),
                ..IssuerConfig::of("https://id.example", "arqon", "{}")
            }],
            ..AuthConfig::default()
        };
        let said = format!("{:?}", auth.validate());
        assert!(said.contains("https://id.example/keys?[redacted]"), "{said}");
        assert!(!said.contains("one@") && !said.contains("two"), "{said}");
    }

    #[test]
    fn an_audience_is_one_or_more() {
        let read = |json: &str| serde_json::from_str::<IssuerConfig>(json).map(|issuer| issuer.audience);
        assert_eq!(read(r#"{"audience":"a"}"#).expect("one"), ["a"]);
        assert_eq!(read(r#"{"audience":["a","b"]}"#).expect("more"), ["a", "b"]);
        assert!(read(r#"{"audience":7}"#).is_err());
    }
}
