//! URLs without what is secret in them.

/// User and password of a URL, or a token where there is no password, as they are written there.
pub(crate) fn user_of(url: &str) -> Option<(&str, Option<&str>)> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (user, _) = rest.rsplit_once('@')?;
    Some(match user.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (user, None),
    })
}

/// The URL without user and password.
pub(crate) fn without_user(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => format!(
            "{scheme}://{}",
            rest.rsplit_once('@').map_or(rest, |(_, host)| host)
        ),
        None => url.rsplit_once('@').map_or(url, |(_, host)| host).to_owned(),
    }
}

/// The URL as it may be shown: with neither a user nor a query, which both may hold secrets.
pub(crate) fn shown_url(url: &str) -> String {
    let shown = without_user(url);
    match shown.split_once(['?', '#']) {
        Some((before, _)) => format!("{before}?[redacted]"),
        None => shown,
    }
}
