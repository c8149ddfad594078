//! `[nats]`.

mod servers;
mod user;

use std::path::{Path, PathBuf};

use arqon_message::SubjectPattern;
use serde::{Deserialize, Serialize};

pub use self::user::NatsUserConfig;
use super::Finding;
use crate::files;

/// `[nats]`: the distributed engine. Absent: embedded, in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct NatsConfig {
    /// The server, such as `nats://127.0.0.1:4222`; of a cluster several, such as `nats://a:4222,nats://b:4222`: a connection that
    /// is made anew knows no others. A user is named once, and TLS holds for all of them.
    pub url: String,
    /// A credentials file: a user's JWT and seed. At most one of this, `nkey_file` and `token_file`.
    pub creds_file: Option<PathBuf>,
    /// The file with a user's nkey seed, `SU...`.
    pub nkey_file: Option<PathBuf>,
    /// The file with a token.
    pub token_file: Option<PathBuf>,
    /// The certificates (PEM) that sign the server's. With it, or with a certificate of our own, TLS is required.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate (PEM), where the server asks for one; with `key_file`.
    pub cert_file: Option<PathBuf>,
    /// The key (PEM) of `cert_file`.
    pub key_file: Option<PathBuf>,
    /// The stream that takes `in.t.>`; made if absent. Default `ARQON_IN`.
    pub stream: String,
    /// How long a publish may wait for its acknowledgement, in milliseconds. Default 800.
    pub publish_timeout_ms: u64,
    /// How many servers keep a copy of the streams and buckets that are made: 1 (default), or 3 or 5 on a cluster.
    pub replicas: usize,
    /// Requests over NATS; absent: none.
    pub serve: Option<NatsServeConfig>,
    /// Whom the connection of the mirror is; absent: as the others.
    pub mirror: Option<NatsUserConfig>,
    /// Whom the connection of the control log is; absent: as the others.
    pub control: Option<NatsUserConfig>,
}

/// `[nats.serve]`: messages on `<prefix>.in.t.<tenant>.<suffix>` pass the stack as publishes over HTTP do, and are replied to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct NatsServeConfig {
    /// What stands before the subject. Default `gateway`.
    pub prefix: String,
    /// Gateways that name the same group share the messages. Default `arqon`.
    pub queue_group: String,
    /// How many messages are worked on at once. Default 64.
    pub in_flight_max: usize,
    /// What the subjects begin with that replies may go to. Default `_INBOX`; clients with inboxes of their own name them here.
    pub reply_prefixes: Vec<String>,
}

impl Default for NatsServeConfig {
    fn default() -> Self {
        Self {
            prefix: "gateway".to_owned(),
            queue_group: "arqon".to_owned(),
            in_flight_max: 64,
            reply_prefixes: vec!["_INBOX".to_owned()],
        }
    }
}

impl Default for NatsConfig {
    fn default() -> Self {
        Self {
            url: String::new(),
            creds_file: None,
            nkey_file: None,
            token_file: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            stream: "ARQON_IN".to_owned(),
            publish_timeout_ms: 800,
            replicas: 1,
            serve: None,
            mirror: None,
            control: None,
        }
    }
}

impl NatsConfig {
    /// What does not hold. The files of credentials and certificates are opened; none is shown.
    #[must_use]
    pub fn validate(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut refuse =
            |key: &str, message: String| findings.push(Finding::new(format!("nats.{key}"), message));
        servers::validate(&self.url, &mut refuse);
        let stream = &self.stream;
        if stream.is_empty()
            || !stream
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        {
            let message = format!("{stream:?} is not a stream name: use A-Z, a-z, 0-9, '_' and '-'");
            refuse("stream", message);
        }
        if !(1..=60_000).contains(&self.publish_timeout_ms) {
            let message = format!(
                "{} is not within 1 to 60000 milliseconds",
                self.publish_timeout_ms
            );
            refuse("publish_timeout_ms", message);
        }
        if ![1, 3, 5].contains(&self.replicas) {
            let message = format!(
                "{} is not 1, 3 or 5: an even number survives no more failures",
                self.replicas
            );
            refuse("replicas", message);
        }
        validate_credentials([&self.creds_file, &self.nkey_file, &self.token_file], &mut refuse);
        validate_pem("ca_file", self.ca_file.as_deref(), "CERTIFICATE", &mut refuse);
        validate_certificate(&self.cert_file, &self.key_file, &mut refuse);
        for (section, user) in [("mirror", &self.mirror), ("control", &self.control)] {
            if let Some(user) = user {
                user.validate(section, &mut refuse);
            }
        }
        if let Some(serve) = &self.serve {
            serve.validate(&mut refuse);
        }
        findings
    }

    pub(super) fn resolve_paths(&mut self, base: &Path) {
        for path in [
            &mut self.creds_file,
            &mut self.nkey_file,
            &mut self.token_file,
            &mut self.ca_file,
            &mut self.cert_file,
            &mut self.key_file,
        ]
        .into_iter()
        .flatten()
        {
            *path = base.join(&path);
        }
        for user in [&mut self.mirror, &mut self.control].into_iter().flatten() {
            user.resolve_paths(base);
        }
    }
}

/// Looks into `creds_file`, `nkey_file` and `token_file`.
fn validate_credentials([creds, nkey, token]: [&Option<PathBuf>; 3], refuse: &mut impl FnMut(&str, String)) {
    let files: [(&str, &Option<PathBuf>, Check); 3] = [
        ("creds_file", creds, is_creds),
        ("nkey_file", nkey, is_user_seed),
        ("token_file", token, is_token),
    ];
    let mut first = None;
    for (key, path, check) in files {
        let Some(path) = path else { continue };
        match first {
            None => first = Some(key),
            Some(first) => refuse(
                key,
                format!("{first} is given too: a connection has one identity, keep one of them"),
            ),
        }
        match files::read_text(path, files::TOKEN_BYTES_MAX) {
            Err(error) => refuse(key, format!("{} cannot be read: {error}", path.display())),
            Ok(text) => {
                if let Err(why) = check(&text) {
                    refuse(key, format!("{} {why}", path.display()));
                }
            }
        }
    }
}

fn validate_pem(key: &str, path: Option<&Path>, label: &str, refuse: &mut impl FnMut(&str, String)) {
    let Some(path) = path else { return };
    match files::read_text(path, files::KEYS_BYTES_MAX) {
        Err(error) => refuse(key, format!("{} cannot be read: {error}", path.display())),
        Ok(text) if !holds_pem(&text, label) => {
            let message = format!("{} has no PEM block {label}: convert it to PEM", path.display());
            refuse(key, message);
        }
        Ok(_) => {}
    }
}

/// Looks into `cert_file` and `key_file`, which need each other.
fn validate_certificate(
    cert: &Option<PathBuf>,
    key: &Option<PathBuf>,
    refuse: &mut impl FnMut(&str, String),
) {
    validate_pem("cert_file", cert.as_deref(), "CERTIFICATE", refuse);
    validate_pem("key_file", key.as_deref(), "PRIVATE KEY", refuse);
    let (missing, other) = match (cert, key) {
        (Some(_), None) => ("key_file", "cert_file"),
        (None, Some(_)) => ("cert_file", "key_file"),
        _ => return,
    };
    refuse(
        missing,
        format!("{other} is given without it: a certificate needs its key"),
    );
}

impl NatsServeConfig {
    /// What is subscribed to.
    ///
    /// # Errors
    /// When the prefix makes no pattern.
    pub fn pattern(&self) -> Result<SubjectPattern, String> {
        SubjectPattern::parse(format!("{}.in.t.*.>", self.prefix)).map_err(|error| error.to_string())
    }

    fn validate(&self, refuse: &mut impl FnMut(&str, String)) {
        let prefix = &self.prefix;
        if prefix.contains(['*', '>']) || self.pattern().is_err() {
            let message = format!("{prefix:?} is not a subject without wildcards, such as \"gateway\"");
            refuse("serve.prefix", message);
        } else if is_published_to(prefix) {
            let message =
                format!("{prefix:?} is where messages are published to: take another, such as \"gateway\"");
            refuse("serve.prefix", message);
        }
        let group = &self.queue_group;
        if group.is_empty() || !group.bytes().all(|b| b.is_ascii_graphic()) {
            refuse(
                "serve.queue_group",
                format!("{group:?} is not one word of visible characters"),
            );
        }
        if !(1..=65_536).contains(&self.in_flight_max) {
            refuse(
                "serve.in_flight_max",
                format!("{} is not within 1 to 65536", self.in_flight_max),
            );
        }
        for (at, reply) in self.reply_prefixes.iter().enumerate() {
            let of_ours =
                is_published_to(reply) || reply == prefix || reply.starts_with(&format!("{prefix}."));
            if of_ours || reply.contains(['*', '>']) || SubjectPattern::parse(format!("{reply}.>")).is_err() {
                let message =
                    format!("{reply:?} is not where requesters wait for replies, such as \"_INBOX\"");
                refuse(&format!("serve.reply_prefixes[{at}]"), message);
            }
        }
    }
}

/// Whether messages of others live under it.
fn is_published_to(prefix: &str) -> bool {
    let first = prefix.split('.').next().unwrap_or_default();
    ["in", "shadow", "gov"].contains(&first) || first.starts_with('$')
}

/// Whether a file holds what it is for, or why not.
type Check = fn(&str) -> Result<(), &'static str>;

fn is_creds(text: &str) -> Result<(), &'static str> {
    let has = |label: &str| text.contains(&format!("-----BEGIN {label}-----"));
    if has("NATS USER JWT") && has("USER NKEY SEED") {
        Ok(())
    } else {
        Err("is no credentials file: it needs a user's JWT and seed, as `nsc generate creds` writes them")
    }
}

fn is_user_seed(text: &str) -> Result<(), &'static str> {
    let seed = text.trim();
    let base32 = |b: u8| b.is_ascii_uppercase() || (b'2'..=b'7').contains(&b);
    if seed.starts_with("SU") && seed.len() == 58 && seed.bytes().all(base32) {
        Ok(())
    } else {
        Err("does not hold one user seed: 58 characters that begin with SU")
    }
}

fn is_token(text: &str) -> Result<(), &'static str> {
    let token = text.trim();
    if !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(())
    } else {
        Err("does not hold one token of visible characters")
    }
}

fn holds_pem(text: &str, label: &str) -> bool {
    // "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY".
    text.lines()
        .any(|line| line.starts_with("-----BEGIN ") && line.trim_end().ends_with(&format!("{label}-----")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `validate` says of settings whose files have these texts.
    fn findings(files: &[(&str, &str)], more: &str) -> Vec<String> {
        let folder = tempfile::tempdir().expect("temporary folder");
        let mut toml = format!("url = \"nats://h:1\"\n{more}\n");
        for (key, text) in files {
            std::fs::write(folder.path().join(key), text).expect("written");
            toml.push_str(&format!("{key} = \"{key}\"\n"));
        }
        let mut config: NatsConfig = toml::from_str(&toml).expect("TOML");
        config.resolve_paths(folder.path());
        let shown = folder.path().display().to_string();
        let line = |finding: Finding| finding.to_string().replace(&shown, "DIR");
        config.validate().into_iter().map(line).collect()
    }

    #[test]
    fn credentials_are_checked_and_never_shown() {
        let seed = format!("SU{}", "A".repeat(56));
        let creds = "-----BEGIN NATS USER JWT-----\nx\n-----BEGIN USER NKEY SEED-----\ny\n";
        let cert = "-----BEGIN CERTIFICATE-----\n";
        let key = "-----BEGIN EC PRIVATE KEY-----\n";
        for (files, said) in [
            (&[("creds_file", creds)][..], &[][..]),
            (
                &[("creds_file", "hunter2")],
                &["nats.creds_file: DIR/creds_file is no credentials file"],
            ),
            (&[("nkey_file", seed.as_str())], &[]),
            (
                &[("nkey_file", "SAhunter2")],
                &["nats.nkey_file: DIR/nkey_file does not hold one user seed"],
            ),
            (&[("token_file", "hunter2\n")], &[]),
            (
                &[("token_file", "two words")],
                &["nats.token_file: DIR/token_file does not hold one token"],
            ),
            (
                &[("creds_file", creds), ("token_file", "t")],
                &["nats.token_file: creds_file is given too: a connection has one identity"],
            ),
            (&[("ca_file", cert)], &[]),
            (
                &[("ca_file", "DER")],
                &["nats.ca_file: DIR/ca_file has no PEM block CERTIFICATE"],
            ),
            (&[("cert_file", cert), ("key_file", key)], &[]),
            (
                &[("cert_file", cert)],
                &["nats.key_file: cert_file is given without it"],
            ),
            (
                &[("key_file", key)],
                &["nats.cert_file: key_file is given without it"],
            ),
            (
                &[("cert_file", cert), ("key_file", cert)],
                &["nats.key_file: DIR/key_file has no PEM block PRIVATE KEY"],
            ),
        ] {
            let found = findings(files, "");
            assert_eq!(found.len(), said.len(), "{files:?}: {found:?}");
            for (found, said) in found.iter().zip(said) {
                assert!(found.starts_with(said), "{said} in {found}");
                assert!(!found.contains("hunter2"), "a secret is shown: {found}");
            }
        }
        let absent = findings(&[], "token_file = \"none\"");
        assert!(
            absent[0].starts_with("nats.token_file: DIR/none cannot be read: "),
            "{absent:?}"
        );
    }

    #[test]
    fn other_users_of_the_mirror_and_of_the_control_log_are_checked_as_the_first_one_is() {
        let seed = format!("SU{}", "A".repeat(56));
        let files: &[(&str, &str)] = &[("nkey_file", seed.as_str())];
        for section in ["mirror", "control"] {
            let with = |user: &str| {
                let mut found = findings(files, &format!("{section} = {{ {user} }}"));
                assert!(found.len() < 2, "{found:?}");
                found.pop().unwrap_or_default()
            };
            assert_eq!(with("nkey_file = \"nkey_file\""), "");
            for (user, said) in [
                ("", "creds_file: names nobody"),
                ("nkey_file = \"none\"", "nkey_file: DIR/none cannot be read"),
                (
                    "creds_file = \"nkey_file\"",
                    "creds_file: DIR/nkey_file is no credentials file",
                ),
                (
                    "token_file = \"nats.toml\"",
                    "token_file: DIR/nats.toml cannot be read",
                ),
            ] {
                let found = with(user);
                assert!(
                    found.starts_with(&format!("nats.{section}.{said}")),
                    "{user}: {found}"
                );
            }
            let two = findings(files, &format!("{section} = {{ cert_file = \"nkey_file\" }}"));
            let keys: Vec<_> = two.iter().filter_map(|found| found.split(": ").next()).collect();
            assert_eq!(
                keys,
                [
                    format!("nats.{section}.cert_file"),
                    format!("nats.{section}.key_file")
                ]
            );
        }
    }

    #[test]
    fn a_prefix_may_not_be_where_messages_are_published_to() {
        for (serve, key) in [
            ("{ prefix = \"gateway\" }", None),
            ("{ prefix = \"eu.gateway\", in_flight_max = 1 }", None),
            ("{ prefix = \"in\" }", Some("nats.serve.prefix")),
            ("{ prefix = \"shadow\" }", Some("nats.serve.prefix")),
            ("{ prefix = \"$JS\" }", Some("nats.serve.prefix")),
            ("{ prefix = \"a.*\" }", Some("nats.serve.prefix")),
            ("{ prefix = \"\" }", Some("nats.serve.prefix")),
            ("{ queue_group = \"\" }", Some("nats.serve.queue_group")),
            ("{ queue_group = \"a b\" }", Some("nats.serve.queue_group")),
            ("{ in_flight_max = 0 }", Some("nats.serve.in_flight_max")),
            ("{ in_flight_max = 65_537 }", Some("nats.serve.in_flight_max")),
            (
                "{ reply_prefixes = [\"_INBOX\", \"_INBOX_alice\", \"a.b\"] }",
                None,
            ),
            (
                "{ reply_prefixes = [\"_INBOX\", \"in\"] }",
                Some("nats.serve.reply_prefixes[1]"),
            ),
            (
                "{ reply_prefixes = [\"$KV\"] }",
                Some("nats.serve.reply_prefixes[0]"),
            ),
            (
                "{ reply_prefixes = [\"gateway.x\"] }",
                Some("nats.serve.reply_prefixes[0]"),
            ),
            (
                "{ reply_prefixes = [\">\"] }",
                Some("nats.serve.reply_prefixes[0]"),
            ),
            (
                "{ reply_prefixes = [\"\"] }",
                Some("nats.serve.reply_prefixes[0]"),
            ),
        ] {
            let found = findings(&[], &format!("serve = {serve}"));
            let first = found
                .first()
                .map(|line| line.split(": ").next().unwrap_or_default());
            assert_eq!(first, key, "{serve}: {found:?}");
        }
    }
}
