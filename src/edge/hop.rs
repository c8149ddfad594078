//! What a client says to its own hop, taken off before anything reads it.
//!
//! `Connection` names headers that end here (RFC 9110, 7.6.1). They go *first*: where they went last, a client could name a
//! header that a policy or the edge has set since, and so take it off what is passed on (CVE-2024-45410).

use http::{HeaderMap, HeaderValue, header::CONNECTION};

use super::reserved::is_reserved;

/// How many names are looked at one by one.
const SCANNED_MAX: usize = 32;

/// Takes off every header that `Connection` names, and `Connection` itself. `Connection: upgrade` stays, and `Upgrade` with it: a
/// WebSocket is opened by both. Reserved names stay for [`ReservedHeadersLayer`](super::reserved::ReservedHeadersLayer), which
/// alone says who may write them. Again it finds nothing to do; without `Connection` it costs one look.
pub fn strip(headers: &mut HeaderMap) {
    // To look at a few names costs less than the hash of this one.
    if headers.keys_len() <= SCANNED_MAX && !headers.keys().any(|name| *name == CONNECTION) {
        return;
    }
    let mut lines = headers.get_all(CONNECTION).iter();
    let Some(first) = lines.next().cloned() else {
        return;
    };
    // Nobody writes a second line: this allocates nothing.
    let more: Vec<HeaderValue> = lines.cloned().collect();
    headers.remove(CONNECTION);
    let mut upgrades = false;
    for line in std::iter::once(&first).chain(&more) {
        for token in line.as_bytes().split(|byte| *byte == b',') {
            // What is no UTF-8 is no name either.
            let token = std::str::from_utf8(token.trim_ascii()).unwrap_or_default();
            if token.eq_ignore_ascii_case("upgrade") {
                upgrades = true;
            } else if !is_reserved(token) {
                headers.remove(token);
            }
        }
    }
    if upgrades {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn left(lines: &[(&'static str, &'static [u8])]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let value = HeaderValue::from_bytes(value).expect("a value");
            headers
                .try_append(HeaderName::from_static(name), value)
                .expect("room");
        }
        strip(&mut headers);
        let once = headers.clone();
        strip(&mut headers);
        assert_eq!(once, headers, "a second time changes nothing");
        let mut left: Vec<_> = headers
            .iter()
            .map(|(name, value)| format!("{name}={}", value.to_str().unwrap_or("?")))
            .collect();
        left.sort_unstable();
        left
    }

    #[test]
    fn what_connection_names_goes_however_it_is_written_and_connection_with_it() {
        let lines: &[(_, &[u8])] = &[
            ("connection", b"close, X-One ,,\t\"x-four\"\xff, \xff"),
            ("connection", b"x-TWO,keep-alive, x-arqon-shadow, X_Arqon.Pin"),
            ("x-one", b"1"),
            ("x-one", b"2"),
            ("x-two", b"3"),
            ("x-three", b"4"),
            ("x-four", b"5"),
            ("keep-alive", b"6"),
            ("x-arqon-shadow", b"true"),
        ];
        assert_eq!(left(lines), ["x-arqon-shadow=true", "x-four=5", "x-three=4"]);
        assert_eq!(left(&[("x-one", b"1"), ("close", b"2")]), ["close=2", "x-one=1"]);
    }

    #[test]
    fn an_upgrade_is_still_one() {
        let lines: &[(_, &[u8])] = &[
            ("connection", b"keep-alive, x-one"),
            ("connection", b"UpGrade"),
            ("upgrade", b"websocket"),
            ("x-one", b"1"),
        ];
        assert_eq!(left(lines), ["connection=upgrade", "upgrade=websocket"]);
    }
}
