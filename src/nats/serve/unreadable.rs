//! What the client (async-nats 0.51) cannot read of a stored message: it ends its connection at it, each time it is
//! delivered.
//!
//! The rules are the client's own, in the order in which it has them. What is unreadable by them is terminated, so they
//! must hold for nothing that the client reads. What they do not know of comes alone, each ack wait.

use async_nats::{HeaderName, StatusCode};

/// Why the client cannot read a message with this subject and these header bytes; None if it can.
pub(super) fn why(subject: &str, headers: Option<&[u8]>) -> Option<&'static str> {
    let headers = headers?;
    // Only beside headers are the words of the line told apart at any white space.
    if subject.split_whitespace().count() != 1 {
        return Some("white space in its subject");
    }
    let Ok(text) = std::str::from_utf8(headers) else {
        return Some("its headers are not UTF-8");
    };
    let mut lines = text.lines().peekable();
    let Some(status) = lines.next().and_then(|line| line.strip_prefix("NATS/1.0")) else {
        return Some("its headers do not begin with NATS/1.0");
    };
    let status = status.trim();
    let status = status.split_once(' ').map_or(status, |(code, _)| code.trim());
    if !status.is_empty() && status.parse::<StatusCode>().is_err() {
        return Some("its status is no number of three digits");
    }
    while let Some(line) = lines.next() {
        if line.is_empty() {
            continue;
        }
        let Some((name, value)) = line.split_once(':') else {
            return Some("a header line has no colon");
        };
        if name.parse::<HeaderName>().is_err() {
            return Some("a header's name is not one of NATS");
        }
        let mut value = value.trim_start().to_owned();
        while let Some(more) = lines.next_if(|line| line.starts_with(char::is_whitespace)) {
            value.push_str(more);
        }
        // It does not only end the connection at this one: its task panics, and the client is gone for good.
        if value.trim_end().contains('\r') {
            return Some("a carriage return in a header's value");
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_client_reads_is_let_through() {
        for headers in [
            "NATS/1.0\r\n\r\n",
            "NATS/1.0",
            "NATS/1.0\n\n",
            "NATS/1.0 408 Request Timeout\r\n\r\n",
            "NATS/1.0503\r\n\r\n",
            "NATS/1.0\r\na: b\r\nempty:\r\n: nameless\r\n\r\n",
            "NATS/1.0\r\na: folded\r\n\u{a0}on\r\n\tand on\r\n\r\n",
            "NATS/1.0\r\na: é \r\r\n\r\n",
            "NATS/1.0\r\na: b",
        ] {
            assert_eq!(why("in.x", Some(headers.as_bytes())), None, "{headers:?}");
        }
        assert_eq!(why("in.x", None), None);
        assert_eq!(
            why("in.\u{a0}x", None),
            None,
            "without headers only a space parts words"
        );
        assert_eq!(
            why("in.x\u{a0}", Some(b"NATS/1.0\r\n\r\n")),
            None,
            "one word still"
        );
    }

    #[test]
    fn what_ends_the_clients_connection_is_not() {
        for (headers, expected) in [
            (&b"NATS/1.0\r\na: \xff\r\n\r\n"[..], "UTF-8"),
            (b"", "begin with NATS/1.0"),
            (b"garbage\r\n\r\n", "begin with NATS/1.0"),
            (b"NATS/9\r\n\r\n", "begin with NATS/1.0"),
            (b"NATS/1.0 99\r\n\r\n", "three digits"),
            (b"NATS/1.0 4080\r\n\r\n", "three digits"),
            (b"NATS/1.0 no\r\n\r\n", "three digits"),
            (b"NATS/1.0\r\nbad line\r\n\r\n", "no colon"),
            (b"NATS/1.0\r\n folded: nothing before\r\n\r\n", "name"),
            (b"NATS/1.0\r\na b: v\r\n\r\n", "name"),
            (b"NATS/1.0\r\na: b\rc\r\n\r\n", "carriage return"),
            (b"NATS/1.0\r\na: b\r\r\n c\r\n\r\n", "carriage return"),
        ] {
            let found = why("in.x", Some(headers)).unwrap_or("nothing");
            assert!(found.contains(expected), "{}: {found}", headers.escape_ascii());
        }
        let found = why("in.\u{a0}x", Some(b"NATS/1.0\r\n\r\n"));
        assert_eq!(found, Some("white space in its subject"));
    }
}
