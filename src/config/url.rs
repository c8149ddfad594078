//! URLs without what is secret in them.

/// The schemes of NATS servers.
const NATS: [&str; 2] = ["nats://", "tls://"];

fn is_nats(url: &str) -> bool {
    NATS.iter().any(|scheme| url.starts_with(scheme))
}

/// The URLs of a list: of NATS servers, with a scheme each, behind commas. Anything else is one URL, since a comma may stand in a
/// password and in a query.
pub(crate) fn urls_of(text: &str) -> Vec<&str> {
    let mut urls = Vec::new();
    let mut rest = text;
    if is_nats(text) {
        for (at, _) in text.match_indices(',') {
            let next = text[at + 1..].trim_start();
            if is_nats(next) {
                let before = rest.len() - (text.len() - at);
                urls.push(rest[..before].trim_end());
                rest = next;
            }
        }
    }
    urls.push(rest);
    urls
}

/// User and password of a URL, or a token where there is no password, as they are written there; in a list those of the first
/// that names one.
pub(crate) fn user_of(text: &str) -> Option<(&str, Option<&str>)> {
    urls_of(text).into_iter().find_map(user_of_one)
}

/// The URL without user and password, or the list.
pub(crate) fn without_user(text: &str) -> String {
    each(text, without_user_one)
}

/// The URL as it may be shown: with neither a user nor a query, which both may hold secrets; or the list.
pub(crate) fn shown_url(text: &str) -> String {
    each(text, shown_one)
}

fn each(text: &str, one: impl Fn(&str) -> String) -> String {
    let urls: Vec<_> = urls_of(text).into_iter().map(one).collect();
    urls.join(",")
}

fn user_of_one(url: &str) -> Option<(&str, Option<&str>)> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (user, _) = rest.rsplit_once('@')?;
    Some(match user.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (user, None),
    })
}

fn without_user_one(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => format!(
            "{scheme}://{}",
            rest.rsplit_once('@').map_or(rest, |(_, host)| host)
        ),
        None => url.rsplit_once('@').map_or(url, |(_, host)| host).to_owned(),
    }
}

fn shown_one(url: &str) -> String {
    let shown = without_user_one(url);
    match shown.split_once(['?', '#']) {
        Some((before, _)) => format!("{before}?[redacted]"),
        None => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_servers_of_nats_are_a_list() {
        for (text, urls) in [
            ("", &[""][..]),
            ("nats://a:1", &["nats://a:1"]),
            ("nats://a:1,tls://b:2", &["nats://a:1", "tls://b:2"]),
            (
                "nats://a:1 , nats://b,nats://",
                &["nats://a:1", "nats://b", "nats://"],
            ),
            // No scheme, no server.
            ("nats://a:1,b:2", &["nats://a:1,b:2"]),
            ("nats://a:1,", &["nats://a:1,"]),
            ("nats://u:p,w@a:1,nats://b", &["nats://u:p,w@a:1", "nats://b"]),
            ("https://h/?a=1,nats://b", &["https://h/?a=1,nats://b"]),
        ] {
            assert_eq!(urls_of(text), urls, "{text}");
        }
    }

    #[test]
    fn no_user_of_a_list_is_shown() {
        let list = "nats://a:1,nats://us,er:p,w@b:2?token=t,tls://tok@c";
        assert_eq!(user_of(list), Some(("us,er", Some("p,w"))));
        assert_eq!(without_user(list), "nats://a:1,nats://b:2?token=t,tls://c");
        assert_eq!(shown_url(list), "nats://a:1,nats://b:2?[redacted],tls://c");
        assert_eq!(shown_url("https://u:p,x@h/?a=,nats://s"), "https://h/?[redacted]");
    }
}
