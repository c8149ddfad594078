//! Connecting without waiting.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use async_nats::{Client, ConnectOptions, Server, connection::State};
use percent_encoding::percent_decode_str;

use crate::{
    config::{NatsConfig, NatsUserConfig, shown_url, urls_of, user_of, without_user},
    files,
};

/// The oldest server that works: an older one cannot create KV buckets for this client.
pub const SERVER_VERSION_MIN: (u32, u32) = (2, 10);

/// The pauses between two tries to connect: doubled from the first to the last, and up to a quarter is left off by chance,
/// so that gateways which lost one server do not come back in step. The first is short: a connection that hears is ended by one
/// message that cannot be read, and what passes by meanwhile is not heard.
const RECONNECT_MIN: Duration = Duration::from_millis(10);
const RECONNECT_MAX: Duration = Duration::from_secs(3);
/// How often a server is pinged: one that stands still is given up after two pings it did not answer (F4).
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URL or the credentials cannot be used.
    #[error("nats.url {url:?} cannot be used")]
    Refused {
        /// The URL, without its user part.
        url: String,
        /// Why.
        #[source]
        source: async_nats::ConnectError,
    },
    /// A file of credentials cannot be read.
    #[error("nats.{key} {path:?} cannot be read")]
    Credentials {
        /// The key that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Who we are, and whom we believe. Nothing: whatever the URL says, `user:password@` or `token@`, percent-encoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// A credentials file: a user's JWT and seed.
    pub creds_file: Option<PathBuf>,
    /// A file with a user's nkey seed.
    pub nkey_file: Option<PathBuf>,
    /// A file with a token.
    pub token_file: Option<PathBuf>,
    /// The certificates (PEM) that sign the server's.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate and its key (PEM).
    pub client_cert: Option<(PathBuf, PathBuf)>,
}

impl From<&NatsConfig> for Identity {
    fn from(config: &NatsConfig) -> Self {
        Self {
            creds_file: config.creds_file.clone(),
            nkey_file: config.nkey_file.clone(),
            token_file: config.token_file.clone(),
            ca_file: config.ca_file.clone(),
            client_cert: config.cert_file.clone().zip(config.key_file.clone()),
        }
    }
}

impl Identity {
    /// The URL and the identity of a connection that is `user`; where that is nobody, of one that is as all others.
    #[must_use]
    pub fn of(config: &NatsConfig, user: Option<&NatsUserConfig>) -> (String, Self) {
        let all = Self::from(config);
        let Some(user) = user else {
            return (config.url.clone(), all);
        };
        let own = user.cert_file.clone().zip(user.key_file.clone());
        let identity = Self {
            creds_file: user.creds_file.clone(),
            nkey_file: user.nkey_file.clone(),
            token_file: user.token_file.clone(),
            client_cert: own.or(all.client_cert),
            ca_file: all.ca_file,
        };
        (without_user(&config.url), identity)
    }
}

/// A client for `url` that starts at once and connects in the background, for ever: the server may come later. Several servers
/// of a cluster stand behind commas, each with its scheme; what is required of one holds for all.
///
/// # Errors
/// When the URL cannot be used, or `creds_file` cannot be read.
pub async fn connect(url: &str, creds_file: Option<&Path>) -> Result<Client, ConnectError> {
    let identity = Identity {
        creds_file: creds_file.map(Path::to_owned),
        ..Identity::default()
    };
    connect_as(url, &identity).await
}

/// As [`connect`], with whatever `identity` names. With a certificate in it the connection is TLS or none.
///
/// # Errors
/// When the URL or a certificate cannot be used, or a file of credentials cannot be read.
pub async fn connect_as(url: &str, identity: &Identity) -> Result<Client, ConnectError> {
    connect_hearing(url, identity, |_| {}).await
}

/// As [`connect_as`], and `hears` is given each event of the connection, besides the log; it must return at once.
pub(super) async fn connect_hearing(
    url: &str,
    identity: &Identity,
    hears: impl Fn(&async_nats::Event) + Send + Sync + 'static,
) -> Result<Client, ConnectError> {
    let causes = Causes::default();
    let mut options = ConnectOptions::new()
        .name("arqon")
        .retry_on_initial_connect()
        .max_reconnects(None)
        .connection_timeout(Duration::from_secs(5))
        .ping_interval(PING_INTERVAL)
        .reconnect_delay_callback(pause)
        // It is asked before each try; it chooses no server, and knows what the last try ended with.
        .reconnect_to_server_callback(move |servers, _| {
            causes.tell(&servers);
            std::future::ready(None)
        })
        .event_callback(move |event| {
            hears(&event);
            // What goes wrong again and again is held back by the log's own limit (F44).
            match event {
                async_nats::Event::ClientError(_) | async_nats::Event::ServerError(_) => {
                    tracing::warn!(component = "nats", event = %event, "connection event");
                }
                async_nats::Event::SlowConsumer(_) => {
                    metrics::counter!("shield_nats_slow_consumers_total").increment(1);
                    tracing::warn!(component = "nats", event = %event, "messages were lost: a subscription is read too slowly");
                }
                _ => tracing::info!(component = "nats", event = %event, "connection event"),
            }
            std::future::ready(())
        });
    // The client reads none of it.
    if let Some((user, password)) = user_of(url) {
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        options = match password {
            Some(password) => options.user_and_password(decoded(user), decoded(password)),
            None => options.token(decoded(user)),
        };
    }
    if let Some(path) = &identity.creds_file {
        let unreadable = |source| unreadable("creds_file", path, source);
        options = options.credentials_file(path).await.map_err(unreadable)?;
    }
    if let Some(path) = &identity.nkey_file {
        options = options.nkey(secret("nkey_file", path)?);
    }
    if let Some(path) = &identity.token_file {
        options = options.token(secret("token_file", path)?);
    }
    if let Some(path) = &identity.ca_file {
        options = options.add_root_certificates(path.clone()).require_tls(true);
    }
    if let Some((cert, key)) = &identity.client_cert {
        options = options
            .add_client_certificate(cert.clone(), key.clone())
            .require_tls(true);
    }
    let servers = urls_of(url);
    // Where one is asked for TLS, so are the others, and those of which the cluster tells: all get the same credentials.
    if servers.iter().any(|server| server.starts_with("tls://")) {
        options = options.require_tls(true);
    }
    options
        .connect(servers)
        .await
        .map_err(|source| ConnectError::Refused {
            url: shown_url(url),
            source,
        })
}

/// Why servers could not be reached, as the log was told. The client's events have the kind of an error only: a certificate that
/// does not hold is an `IO error` there.
#[derive(Default)]
struct Causes(Mutex<Vec<(String, String)>>);

impl Causes {
    /// Tells what is new.
    fn tell(&self, servers: &[Server]) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = servers.iter().filter_map(|server| {
            let cause = server.last_error.clone()?;
            Some((shown_url(server.addr.as_url_str()), cause))
        });
        let now: Vec<_> = now.collect();
        for (server, cause) in now.iter().filter(|failed| !told.contains(failed)) {
            tracing::warn!(component = "nats", server, cause, "a server could not be reached");
        }
        *told = now;
    }
}

pub(super) fn pause(attempts: usize) -> Duration {
    use std::hash::{BuildHasher, RandomState};

    let doubled = RECONNECT_MIN
        .saturating_mul(1 << attempts.min(10))
        .min(RECONNECT_MAX);
    // Keys that differ from process to process are chance enough.
    let chance = RandomState::new().hash_one(attempts) % 256;
    doubled - doubled.mul_f64(chance as f64 / 1_024.0)
}

fn secret(key: &'static str, path: &Path) -> Result<String, ConnectError> {
    let text = files::read_text(path, files::TOKEN_BYTES_MAX);
    text.map(|text| text.trim().to_owned())
        .map_err(|source| unreadable(key, path, source))
}

fn unreadable(key: &'static str, path: &Path, source: std::io::Error) -> ConnectError {
    ConnectError::Credentials {
        key,
        path: path.to_owned(),
        source,
    }
}

/// Whether the client has a connection to a server that is new enough, or why not.
///
/// # Errors
/// One sentence for `/readyz`.
pub fn ready(client: &Client) -> Result<(), String> {
    if client.connection_state() != State::Connected {
        return Err("not connected to NATS".to_owned());
    }
    let version = client.server_info().version;
    match version_of(&version) {
        Some(found) if found < SERVER_VERSION_MIN => Err(format!(
            "nats-server {version} is too old: 2.10 or newer is needed"
        )),
        _ => Ok(()),
    }
}

/// Whether the client ever had a connection.
pub(crate) fn was_reached(client: &Client) -> bool {
    client.statistics().connects.load(Ordering::Relaxed) > 0
}

fn version_of(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim_start_matches('v').split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(version_of("2.9.10") < Some(SERVER_VERSION_MIN));
        assert!(version_of("v2.15.1") > Some(SERVER_VERSION_MIN));
        assert_eq!(version_of("weird"), None);
    }

    #[test]
    fn a_connection_with_a_user_of_its_own_has_nothing_of_the_others_but_server_and_tls() {
        let config = NatsConfig {
            url: "nats://gw:secret@host:1".to_owned(),
            creds_file: Some("gw.creds".into()),
            ca_file: Some("ca.pem".into()),
            cert_file: Some("gw.pem".into()),
            key_file: Some("gw.key".into()),
            ..NatsConfig::default()
        };
        let (url, all) = Identity::of(&config, None);
        assert_eq!((url, &all), (config.url.clone(), &Identity::from(&config)));
        let user = NatsUserConfig {
            nkey_file: Some("mirror.nk".into()),
            ..NatsUserConfig::default()
        };
        let (url, own) = Identity::of(&config, Some(&user));
        let expected = Identity {
            nkey_file: Some("mirror.nk".into()),
            ca_file: Some("ca.pem".into()),
            client_cert: Some(("gw.pem".into(), "gw.key".into())),
            ..Identity::default()
        };
        assert_eq!((url.as_str(), own), ("nats://host:1", expected));
        let user = NatsUserConfig {
            cert_file: Some("m.pem".into()),
            key_file: Some("m.key".into()),
            ..user
        };
        let (_, own) = Identity::of(&config, Some(&user));
        assert_eq!(own.client_cert, Some(("m.pem".into(), "m.key".into())));
    }

    #[test]
    fn a_password_in_a_url_is_not_shown() {
        assert_eq!(without_user("nats://a:b@host:4222"), "nats://host:4222");
        assert_eq!(
            shown_url("nats://a:b@host:4222?token=c#d"),
            "nats://host:4222?[redacted]"
        );
        assert_eq!(without_user("host:4222"), "host:4222");
    }

    #[test]
    fn pauses_grow_to_three_seconds_and_are_not_in_step() {
        for attempts in [0, 1, 5, 9, 100, usize::MAX] {
            let full = RECONNECT_MIN
                .saturating_mul(1 << attempts.min(10))
                .min(RECONNECT_MAX);
            let found = pause(attempts);
            assert!(
                found <= full && found >= full.mul_f64(0.75),
                "{attempts}: {found:?}"
            );
        }
        let different: std::collections::HashSet<_> = (0..64).map(|_| pause(6)).collect();
        assert!(different.len() > 8, "{}", different.len());
    }
}
