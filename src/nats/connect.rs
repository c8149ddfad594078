//! Connecting without waiting.

use std::time::Duration;

use async_nats::{Client, ConnectOptions, connection::State};

/// The oldest server that works: an older one cannot create KV buckets for this client.
pub const SERVER_VERSION_MIN: (u32, u32) = (2, 10);

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
    /// The credentials file cannot be read.
    #[error("nats.creds_file {path:?} cannot be read")]
    Credentials {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A client for `url` that starts at once and connects in the background, for ever: the server may come later.
///
/// # Errors
/// When the URL cannot be used, or `creds_file` cannot be read.
pub async fn connect(url: &str, creds_file: Option<&std::path::Path>) -> Result<Client, ConnectError> {
    let mut options = ConnectOptions::new()
        .name("arqon")
        .retry_on_initial_connect()
        .max_reconnects(None)
        .connection_timeout(Duration::from_secs(5))
        .reconnect_delay_callback(|attempts| Duration::from_millis(50).saturating_mul(1 << attempts.min(6)))
        .event_callback(|event| async move {
            tracing::info!(component = "nats", event = %event, "connection event");
        });
    if let Some(path) = creds_file {
        options = options
            .credentials_file(path)
            .await
            .map_err(|source| ConnectError::Credentials {
                path: path.display().to_string(),
                source,
            })?;
    }
    options
        .connect(url)
        .await
        .map_err(|source| ConnectError::Refused {
            url: without_user(url),
            source,
        })
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

fn version_of(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim_start_matches('v').split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn without_user(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => format!(
            "{scheme}://{}",
            rest.rsplit_once('@').map_or(rest, |(_, host)| host)
        ),
        None => url.rsplit_once('@').map_or(url, |(_, host)| host).to_owned(),
    }
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
    fn a_password_in_a_url_is_not_shown() {
        assert_eq!(without_user("nats://a:b@host:4222"), "nats://host:4222");
        assert_eq!(without_user("host:4222"), "host:4222");
    }
}
