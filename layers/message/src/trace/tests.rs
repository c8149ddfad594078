use http::HeaderValue;
use proptest::prelude::*;

use super::*;

const T: &str = "12345678901234567890123456789012";
const P: &str = "1234567890123456";

fn key(headers: &[(&str, &str)], connection: Option<ConnectionId>) -> Option<TraceKey> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.try_append(
            HeaderName::try_from(*name).expect("name"),
            HeaderValue::from_str(value).expect("value"),
        )
        .expect("room");
    }
    let mut extensions = Extensions::new();
    if let Some(connection) = connection {
        extensions.insert(connection);
    }
    TraceKey::from_request(&map, &extensions)
}

fn of_traceparent(value: &str) -> Option<String> {
    key(&[("traceparent", value)], None).map(|key| key.to_string())
}

/// The cases of the W3C suite: notes/shadow_rollout.md 4.4.
#[test]
fn a_valid_traceparent_gives_its_trace_id() {
    for value in [
        format!("00-{T}-{P}-01"),
        format!("  00-{T}-{P}-01\t"),
        format!("cc-{T}-{P}-01"),
        format!("cc-{T}-{P}-01-what-the-future-will-be-like"),
        format!("00-{T}-{P}-00"),
    ] {
        assert_eq!(of_traceparent(&value).as_deref(), Some(T), "{value}");
    }
    assert_eq!(
        key(&[("TraceParent", &format!("00-{T}-{P}-01"))], None)
            .expect("any case")
            .source(),
        KeySource::Traceparent
    );
}

#[test]
fn a_malformed_traceparent_gives_none() {
    let zeros = |n| "0".repeat(n);
    for value in [
        format!("00-{T}-{P}-01."),
        format!("00-{T}-{P}-01-extra"),
        format!("00-{T}-{P}-01-"),
        format!("cc-{T}-{P}-01.extra"),
        format!("ff-{T}-{P}-01"),
        format!(".0-{T}-{P}-01"),
        format!("0.-{T}-{P}-01"),
        format!("000-{T}-{P}-01"),
        format!("0000-{T}-{P}-01"),
        format!("0-{T}-{P}-01"),
        format!("00-{}-{P}-01", zeros(32)),
        format!("00-.{}-{P}-01", &T[1..]),
        format!("00-{}.-{P}-01", &T[1..]),
        format!("00-{T}1-{P}-01"),
        format!("00-{}-{P}-01", &T[1..]),
        format!("00-{T}-{}-01", zeros(16)),
        format!("00-{T}-.{}-01", &P[1..]),
        format!("00-{T}-{P}1-01"),
        format!("00-{T}-{}-01", &P[1..]),
        format!("00-{T}-{P}-.0"),
        format!("00-{T}-{P}-0."),
        format!("00-{T}-{P}-001"),
        format!("00-{T}-{P}-1"),
        format!("00-{}-{P}-01", "ABCDEF78901234567890123456789012"),
        String::new(),
        "-".repeat(55),
        format!("00_{T}_{P}_01"),
    ] {
        assert_eq!(of_traceparent(&value), None, "{value}");
    }
    let one = format!("00-{T}-{P}-01");
    assert_eq!(
        key(&[("traceparent", &one), ("traceparent", &one)], None),
        None,
        "two headers"
    );
    assert_eq!(key(&[("trace-parent", &one)], None), None);
    assert_eq!(key(&[("trace.parent", &one)], None), None);
}

#[test]
fn b3_is_padded_and_lowered() {
    let padded = format!("{}463ac35c9f6413ad", "0".repeat(16));
    for headers in [
        [("b3", "463ac35c9f6413ad-a2fb4a1d1a96d312-1")],
        [("b3", "463AC35C9F6413AD-A2FB4A1D1A96D312")],
        [("b3", "463ac35c9f6413ad-a2fb4a1d1a96d312-d-05e3ac9a4f6e3b90")],
        [("X-B3-TraceId", "463ac35c9f6413ad")],
        [("x-b3-traceid", "0000000000000000463ac35c9f6413ad")],
    ] {
        let key = key(&headers, None).expect("a key");
        assert_eq!(
            (key.as_str(), key.source()),
            (padded.as_str(), KeySource::B3),
            "{headers:?}"
        );
    }
    for bad in [
        "0",
        "1",
        "463ac35c9f6413a-a2fb4a1d1a96d312",
        "463ac35c9f6413ad",
        "0000000000000000-a2fb4a1d1a96d312",
        "g63ac35c9f6413ad-a2fb4a1d1a96d312",
        "463ac35c9f6413ad-a2fb4a1d1a96d312-9",
        "463ac35c9f6413ad-a2fb4a1d1a96d312-",
        "463ac35c9f6413ad-a2fb4a1d1a96d312-1-xyz",
        "463ac35c9f6413ad-a2fb4a1d1a96d312-1-05e3ac9a4f6e3b90-1",
    ] {
        assert_eq!(key(&[("b3", bad)], None), None, "{bad}");
    }
}

#[test]
fn the_sources_stand_in_order_and_a_malformed_one_falls_to_the_next() {
    let id = ConnectionId::from_u128(7);
    let good = format!("00-{T}-{P}-01");
    let b3 = ("b3", "463ac35c9f6413ad-a2fb4a1d1a96d312-1");
    assert_eq!(
        key(&[("traceparent", &good), b3], Some(id))
            .expect("key")
            .source(),
        KeySource::Traceparent
    );
    assert_eq!(
        key(&[("traceparent", "junk"), b3], Some(id))
            .expect("key")
            .source(),
        KeySource::B3
    );
    let connection = key(&[("traceparent", "junk"), ("x-request-id", "r1")], Some(id)).expect("key");
    assert_eq!(connection.as_str(), format!("c:{:032x}", 7));
    assert_eq!(connection.trace_id(), None);
    assert_eq!(key(&[("x-request-id", "r1")], None), None);
}

#[test]
fn a_request_id_is_a_key_only_by_opt_in() {
    let mut headers = HeaderMap::new();
    headers.insert("x-request-id", HeaderValue::from_static("abc"));
    let key = TraceKey::with_request_id(&headers, &Extensions::new()).expect("a key");
    assert_eq!((key.as_str(), key.source()), ("r:abc", KeySource::RequestId));
    headers.insert(
        "x-request-id",
        HeaderValue::from_str(&"a".repeat(62)).expect("value"),
    );
    assert!(TraceKey::with_request_id(&headers, &Extensions::new()).is_some());
    headers.insert(
        "x-request-id",
        HeaderValue::from_str(&"a".repeat(63)).expect("value"),
    );
    assert!(TraceKey::with_request_id(&headers, &Extensions::new()).is_none());
}

#[test]
fn a_key_in_the_extensions_goes_before_all_headers() {
    let mut extensions = Extensions::new();
    extensions.insert(TraceKey::given(b"user-1").expect("fits"));
    let mut headers = HeaderMap::new();
    headers.insert(
        "traceparent",
        HeaderValue::from_str(&format!("00-{T}-{P}-01")).expect("value"),
    );
    assert_eq!(
        TraceKey::from_request(&headers, &extensions)
            .expect("key")
            .as_bytes(),
        b"user-1"
    );
    assert!(TraceKey::given(&[0; 64]).is_some());
    assert!(TraceKey::given(&[0; 65]).is_none());
    assert!(TraceKey::given(b"").is_none());
}

proptest! {
    #[test]
    fn any_header_bytes_give_a_key_of_32_hex_digits_or_none(bytes in prop::collection::vec(0x20_u8..0x7f, 0..80)) {
        if let Some(id) = traceparent::trace_id(&bytes) {
            prop_assert_eq!(id.len(), 32);
            prop_assert!(id.iter().all(|b| b"0123456789abcdef".contains(b)));
        }
    }

    #[test]
    fn a_connections_key_is_its_shown_id(value: u128) {
        let id = ConnectionId::from_u128(value);
        let key = TraceKey::from(id);
        prop_assert_eq!(key.as_str(), format!("c:{id}"));
    }
}
