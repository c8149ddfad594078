//! `nats.url`.

use crate::config::{shown_url, urls_of, user_of};

/// Looks at each server of `url`.
pub(super) fn validate(url: &str, refuse: &mut impl FnMut(&str, String)) {
    let mut user = None;
    for server in urls_of(url) {
        let shown = shown_url(server);
        let (scheme, host) = shown.split_once("://").unwrap_or_default();
        if !matches!(scheme, "nats" | "tls") {
            let message = format!("{shown:?} is not a NATS URL: write nats://host:port or tls://host:port");
            refuse("url", message);
        } else if host.is_empty() || host.contains(',') || host.contains(char::is_whitespace) {
            let message =
                format!("{shown:?} is not one server: write a list as nats://host:port,nats://host:port");
            refuse("url", message);
        }
        let own = user_of(server);
        if own.is_some() && user.is_some() && own != user {
            let message = format!("{shown:?} has another user than a server before it: name one user, once");
            refuse("url", message);
        }
        user = user.or(own);
    }
}

#[cfg(test)]
mod tests {
    use super::super::NatsConfig;

    #[test]
    fn each_server_of_a_list_is_checked() {
        for (url, said) in [
            ("nats://a:1", &[][..]),
            ("nats://a:1, tls://u:hunter2@b:2,nats://u:hunter2@c", &[]),
            ("", &["\"\" is not a NATS URL"]),
            ("http://a:1", &["\"http://a:1\" is not a NATS URL"]),
            ("nats://", &["\"nats://\" is not one server"]),
            ("nats://a:1,b:2", &["\"nats://a:1,b:2\" is not one server"]),
            ("nats://a:1,", &["\"nats://a:1,\" is not one server"]),
            ("nats://a:1,tls://,nats://b", &["\"tls://\" is not one server"]),
            (
                "nats://hunter2@a,nats://u:hunter2@b,nats://c,nats://hunter2@d",
                &["\"nats://b\" has another user than a server before it"],
            ),
        ] {
            let config = NatsConfig {
                url: url.to_owned(),
                ..NatsConfig::default()
            };
            let found: Vec<_> = config.validate().iter().map(ToString::to_string).collect();
            assert_eq!(found.len(), said.len(), "{url}: {found:?}");
            for (found, said) in found.iter().zip(said) {
                assert!(
                    found.starts_with(&format!("nats.url: {said}")),
                    "{said} in {found}"
                );
                assert!(!found.contains("hunter2"), "a secret is shown: {found}");
            }
        }
    }
}
