//! Frames of the subprotocol `arqon.v1.json`: text in, text out, nothing else.

use std::fmt;

use arqon::{Problem, TenantId};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor},
};
use serde_json::{Map, Value, json, value::RawValue};

use super::{Answer, Frame, FrameId, Refused, add, invalid, pattern, subject, suffix};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
struct Raw<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    subject: Option<String>,
    #[serde(default)]
    headers: Headers,
    #[serde(default, deserialize_with = "given")]
    payload: Option<String>,
    #[serde(borrow, default, deserialize_with = "given")]
    json: Option<&'a RawValue>,
    subscribe: Option<String>,
}

/// Names and values as they stand there: a map would keep the last of two equal names.
#[derive(Default)]
struct Headers(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;

        impl<'de> Visitor<'de> for Pairs {
            type Value = Headers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object of headers")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Headers(pairs))
            }
        }

        deserializer.deserialize_map(Pairs)
    }
}

/// A key that is there has a value: `null` is the JSON text `null`, and no payload.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(value: D) -> Result<Option<T>, D::Error> {
    T::deserialize(value).map(Some)
}

/// Reads one text frame; the subject and the pattern are the tenant's own.
pub(super) fn read(text: &str, tenant: &TenantId) -> Result<Frame, Refused> {
    // A list would do for serde: its values in the order of the keys.
    if !text.trim_start().starts_with('{') {
        return Err(invalid(FrameId::None, "the frame is not a JSON object"));
    }
    let raw: Raw<'_> = serde_json::from_str(text)
        .map_err(|error| invalid(FrameId::None, format!("the frame cannot be read: {error}")))?;
    let id = FrameId::of_json(raw.id).map_err(|detail| invalid(FrameId::None, detail))?;
    match (&raw.subscribe, &raw.subject) {
        (Some(wanted), None) => {
            let pattern = pattern(&id, tenant, wanted)?;
            Ok(Frame::Subscribe { id, pattern })
        }
        (None, Some(_)) => publish(id, raw, tenant),
        _ => Err(invalid(id, "a frame has either `subject` or `subscribe`")),
    }
}

fn publish(id: FrameId, raw: Raw<'_>, tenant: &TenantId) -> Result<Frame, Refused> {
    let subject = subject(&id, tenant, &raw.subject.unwrap_or_default())?;
    let mut headers = read_headers(raw.headers).map_err(|detail| invalid(id.clone(), detail))?;
    let payload = match (raw.payload, raw.json) {
        (Some(payload), None) => STANDARD
            .decode(payload)
            .map_err(|error| invalid(id.clone(), format!("`payload` is not base64: {error}")))?
            .into(),
        (None, Some(json)) => {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            Bytes::copy_from_slice(json.get().as_bytes())
        }
        (None, None) => Bytes::new(),
        (Some(_), Some(_)) => return Err(invalid(id, "a frame has either `payload` or `json`")),
    };
    Ok(Frame::Publish {
        id,
        subject,
        headers,
        payload,
    })
}

fn read_headers(Headers(raw): Headers) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in raw {
        // Several values are a list. Two equal names are two readings: most parsers take the last one.
        if headers.contains_key(name.as_str()) {
            return Err(format!(
                "header {name:?} stands twice: write its values as a list"
            ));
        }
        let values = match value {
            Value::Array(values) => values,
            value => vec![value],
        };
        for value in values {
            let Value::String(value) = value else {
                return Err(format!("header {name:?} has a value that is not a string"));
            };
            add(&mut headers, &name, &value)?;
        }
    }
    Ok(headers)
}

/// Writes one answer.
pub(super) fn write(answer: &Answer) -> String {
    match answer {
        Answer::Ack { id, body } => {
            let ack: Option<&RawValue> = serde_json::from_slice(body).ok();
            text(&Acked { ack, id })
        }
        Answer::Nack { id, problem } => text(&Nacked { id, nack: problem }),
        Answer::Subscribed { id, pattern } => {
            let ack = Some(json!({ "subscribed": pattern.as_str() }));
            text(&Acked { ack, id })
        }
        Answer::Delivery(message) => deliver(message),
    }
}

#[derive(Serialize)]
struct Acked<'a, A> {
    ack: Option<A>,
    id: &'a FrameId,
}

#[derive(Serialize)]
struct Nacked<'a> {
    id: &'a FrameId,
    nack: &'a Problem,
}

fn text(answer: &impl Serialize) -> String {
    serde_json::to_string(answer).expect("an answer's names are strings")
}

/// A message under the tenant's suffix. The payload is base64.
fn deliver(message: &arqon::publish::Message) -> String {
    let mut headers = Map::new();
    for name in message.headers.keys() {
        let values = message.headers.get_all(name).iter();
        let mut values: Vec<_> = values
            .map(|v| Value::from(String::from_utf8_lossy(v.as_bytes())))
            .collect();
        let value = if values.len() == 1 {
            values.remove(0)
        } else {
            Value::Array(values)
        };
        headers.insert(name.as_str().to_owned(), value);
    }
    json!({ "subject": suffix(message), "headers": headers, "payload": STANDARD.encode(&message.payload) })
        .to_string()
}

#[cfg(test)]
mod tests {
    use arqon::{Code, Subject};

    use super::{super::HEADERS_MAX, *};

    fn refused(text: &str) -> (Value, Problem) {
        let (id, problem) = *read(text, &TenantId::new("acme").expect("tenant")).expect_err(text);
        (serde_json::to_value(id).expect("JSON"), problem)
    }

    fn published(text: &str) -> (FrameId, Subject, HeaderMap, Bytes) {
        match read(text, &TenantId::new("acme").expect("tenant")) {
            Ok(Frame::Publish {
                id,
                subject,
                headers,
                payload,
            }) => (id, subject, headers, payload),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_publish_frame_is_a_request() {
        let (id, subject, headers, payload) = published(
            r#"{"id":"1","subject":"users","headers":{"X-A":"1","x-b":["2","3"]},"payload":"CgJ1MQ=="}"#,
        );
        assert_eq!(
            (super::text(&id), subject.as_str(), &payload[..]),
            ("\"1\"".to_owned(), "in.t.acme.users", &b"\x0a\x02u1"[..])
        );
        assert_eq!((headers.len(), headers["x-a"].to_str().ok()), (3, Some("1")));
    }

    #[test]
    fn an_id_comes_back_as_it_was_written_and_is_a_string_or_a_number() {
        let ids = [
            "12345678901234567890123",
            "1e2",
            "-0",
            "1.50",
            "\"a\"",
            "\"\\u0061\"",
            "\"\"",
            "null",
        ];
        for id in ids {
            let (read, ..) = published(&format!(r#"{{"id": {id} ,"subject":"a"}}"#));
            let ack = Answer::Ack {
                id: read,
                body: Bytes::from_static(br#"{"subject":"a"}"#),
            };
            assert_eq!(write(&ack), format!(r#"{{"ack":{{"subject":"a"}},"id":{id}}}"#));
        }
        let (read, ..) = published(r#"{"subject":"a"}"#);
        assert_eq!(super::text(&read), "null", "there is none");
        for id in ["true", "false", "[1]", r#"{"a":1}"#] {
            let (id, problem) = refused(&format!(r#"{{"id":{id},"subject":"a"}}"#));
            assert_eq!((id, problem.code), (Value::Null, Code::FrameInvalid));
        }
        let nack = Answer::Nack {
            id: FrameId::None,
            problem: Problem::new(Code::Internal, "why"),
        };
        let nack: Value = serde_json::from_str(&write(&nack)).expect("JSON");
        assert_eq!(
            (&nack["id"], &nack["nack"]["code"]),
            (&Value::Null, &json!("internal"))
        );
    }

    #[test]
    fn two_equal_header_names_are_refused_and_a_list_is_several_values() {
        for headers in [r#"{"X":"1","X":"2"}"#, r#"{"x-a":"1","X-A":["2"]}"#] {
            let (id, problem) = refused(&format!(r#"{{"id":7,"subject":"a","headers":{headers}}}"#));
            assert_eq!((id, problem.code), (json!(7), Code::FrameInvalid), "{headers}");
            assert!(problem.detail.contains("twice"), "{}", problem.detail);
        }
        let (_, _, headers, _) = published(r#"{"subject":"a","headers":{"X":["1","2"],"Y":"3"}}"#);
        assert_eq!((headers.get_all("x").iter().count(), headers.len()), (2, 3));
    }

    #[test]
    fn json_keeps_its_own_text_and_names_its_type() {
        let (_, _, headers, payload) = published(r#"{"id":1,"subject":"a","json":{"a":1, "a":2}}"#);
        assert_eq!(
            payload, r#"{"a":1, "a":2}"#,
            "a duplicate name is for the schema to find"
        );
        assert_eq!(headers[CONTENT_TYPE], "application/json");
    }

    #[test]
    fn an_unreadable_frame_has_no_id_and_a_bad_one_keeps_its_own() {
        for text in [
            "",
            "{",
            "[]",
            "null",
            "7",
            r#"{"id":"1","subject":"a","extra":1}"#,
            r#"{"id":"1","id":"2"}"#,
        ] {
            let (id, problem) = refused(text);
            assert_eq!((id, problem.code), (Value::Null, Code::FrameInvalid), "{text}");
        }
        for (text, code) in [
            (r#"{"id":"1"}"#, Code::FrameInvalid),
            (r#"{"id":"1","subject":"a","subscribe":"b"}"#, Code::FrameInvalid),
            (r#"{"id":"1","subject":"a","payload":"!"}"#, Code::FrameInvalid),
            (
                r#"{"id":"1","subject":"a","payload":"","json":{}}"#,
                Code::FrameInvalid,
            ),
            (
                r#"{"id":"1","subject":"a","headers":{"a b":"1"}}"#,
                Code::FrameInvalid,
            ),
            (
                r#"{"id":"1","subject":"a","headers":{"a":"1\r\nb"}}"#,
                Code::FrameInvalid,
            ),
            (
                r#"{"id":"1","subject":"a","headers":{"a":1}}"#,
                Code::FrameInvalid,
            ),
            (r#"{"id":"1","subject":"a b"}"#, Code::SubjectInvalid),
            (r#"{"id":"1","subject":"a.*"}"#, Code::SubjectInvalid),
            (r#"{"id":"1","subscribe":"a..b"}"#, Code::SubjectInvalid),
        ] {
            let (id, problem) = refused(text);
            assert_eq!((id, problem.code), (json!("1"), code), "{text}");
        }
    }

    #[test]
    fn a_subscription_stays_within_the_tenant() {
        let Ok(Frame::Subscribe { pattern, .. }) = read(
            r#"{"id":"1","subscribe":">"}"#,
            &TenantId::new("acme").expect("tenant"),
        ) else {
            panic!("a subscription");
        };
        assert_eq!(pattern.as_str(), "in.t.acme.>");
    }

    #[test]
    fn the_headers_are_bounded() {
        let frame = |n: usize| {
            let headers: Map<_, _> = (0..n).map(|i| (format!("h{i}"), json!("1"))).collect();
            json!({"id": "1", "subject": "a", "headers": headers}).to_string()
        };
        assert_eq!(published(&frame(HEADERS_MAX)).2.len(), HEADERS_MAX);
        assert_eq!(refused(&frame(HEADERS_MAX + 1)).1.code, Code::FrameInvalid);
    }
}
