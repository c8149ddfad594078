//! Headers that mean one thing: two of them, or one without end, are two readings of one request. What comes by HTTP, in a
//! frame or by NATS is held to the same.

use arqon_message::{Code, Problem};
use http::{HeaderMap, HeaderName, header::CONTENT_TYPE};

/// The longest `x-request-id` that is kept, in bytes.
pub const REQUEST_ID_BYTES_MAX: usize = 128;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The header whose value is a message's id, by which a stream knows a second one.
pub const NATS_MSG_ID: HeaderName = HeaderName::from_static("nats-msg-id");
const SINGLE: [HeaderName; 3] = [CONTENT_TYPE, X_REQUEST_ID, NATS_MSG_ID];

/// Whether what may stand once stands once: `content-type`, `x-request-id` and `nats-msg-id`; and whether the last one can be
/// published, since a message without it would be stored twice where its sender thinks it is not.
///
/// # Errors
/// `frame.invalid`, naming the header.
pub fn check(headers: &HeaderMap) -> Result<(), Problem> {
    // Mostly no name stands twice, and then there is nothing to look for.
    let some_twice = headers.len() > headers.keys_len();
    match SINGLE
        .into_iter()
        .find(|name| some_twice && headers.get_all(name).iter().nth(1).is_some())
    {
        None => match headers.get(NATS_MSG_ID) {
            Some(id) if id.is_empty() || !id.as_bytes().iter().all(u8::is_ascii_graphic) => {
                Err(Problem::new(
                    Code::FrameInvalid,
                    "the header nats-msg-id is of visible ASCII characters, at least one",
                ))
            }
            _ => Ok(()),
        },
        Some(name) => Err(Problem::new(
            Code::FrameInvalid,
            format!("the header {name} may stand only once"),
        )),
    }
}

/// Takes `x-request-id` away where it has more than [`REQUEST_ID_BYTES_MAX`] bytes, none, or any that is no visible ASCII character:
/// an id goes into every log line, span, problem and published message.
pub fn keep_short_request_id(headers: &mut HeaderMap) {
    if headers
        .get(X_REQUEST_ID)
        .is_some_and(|id| !is_request_id(id.as_bytes()))
    {
        headers.remove(X_REQUEST_ID);
    }
}

/// Whether it is fit to be an id: 1 to [`REQUEST_ID_BYTES_MAX`] visible ASCII characters.
#[must_use]
pub fn is_request_id(id: &[u8]) -> bool {
    (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn put(headers: &mut HeaderMap, name: &'static str, value: &'static str) {
        let appended = headers.try_append(name, HeaderValue::from_static(value));
        assert!(appended.is_ok(), "there is room");
    }

    #[test]
    fn each_single_header_may_stand_once_and_others_as_often_as_they_like() {
        let mut headers = HeaderMap::new();
        for name in ["content-type", "x-request-id", "nats-msg-id", "x-own"] {
            put(&mut headers, name, "a");
        }
        put(&mut headers, "x-own", "b");
        assert!(check(&headers).is_ok());
        for name in ["content-type", "x-request-id", "nats-msg-id"] {
            let mut two = headers.clone();
            put(&mut two, name, "b");
            let problem = check(&two).expect_err("two");
            assert_eq!(
                (problem.code, problem.detail.contains(name)),
                (Code::FrameInvalid, true)
            );
        }
    }

    #[test]
    fn the_id_of_a_message_can_be_published_or_is_refused() {
        let good: [&[u8]; 3] = [b"7", b"order-1:2/3", b"~!"];
        let bad: [&[u8]; 5] = [b"", b"a b", b"caf\xc3\xa9", b"\xff", b"a\tb"];
        for (ids, fits) in [(&good[..], true), (&bad[..], false)] {
            for id in ids {
                let mut headers = HeaderMap::new();
                headers.insert("nats-msg-id", HeaderValue::from_bytes(id).expect("a value"));
                let checked = check(&headers).map_err(|problem| problem.code);
                assert_eq!(
                    checked,
                    if fits { Ok(()) } else { Err(Code::FrameInvalid) },
                    "{id:?}"
                );
            }
        }
    }

    #[test]
    fn a_request_id_is_kept_to_its_border_and_only_of_visible_characters() {
        for (id, kept) in [
            ("a".repeat(REQUEST_ID_BYTES_MAX), true),
            ("a".repeat(REQUEST_ID_BYTES_MAX + 1), false),
            (String::new(), false),
            ("a b".to_owned(), false),
            ("\u{e4}".to_owned(), false),
            ("~!01".to_owned(), true),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("x-request-id", HeaderValue::from_str(&id).expect("a value"));
            keep_short_request_id(&mut headers);
            assert_eq!(headers.contains_key("x-request-id"), kept, "{id:?}");
        }
    }
}
