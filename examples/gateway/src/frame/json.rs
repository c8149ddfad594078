//! Frames of the subprotocol `arqon.v1.json`: text in, text out, nothing else.

use arqon::TenantId;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json, value::RawValue};

use super::{Answer, Frame, Refused, add, invalid, pattern, subject, suffix};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
struct Raw<'a> {
    #[serde(default)]
    id: Value,
    subject: Option<String>,
    #[serde(default)]
    headers: Map<String, Value>,
    #[serde(default, deserialize_with = "given")]
    payload: Option<String>,
    #[serde(borrow, default, deserialize_with = "given")]
    json: Option<&'a RawValue>,
    subscribe: Option<String>,
}

/// A key that is there has a value: `null` is the JSON text `null`, and no payload.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(value: D) -> Result<Option<T>, D::Error> {
    T::deserialize(value).map(Some)
}

/// Reads one text frame; the subject and the pattern are the tenant's own.
pub(super) fn read(text: &str, tenant: &TenantId) -> Result<Frame, Refused> {
    // A list would do for serde: its values in the order of the keys.
    if !text.trim_start().starts_with('{') {
        return Err(invalid(Value::Null, "the frame is not a JSON object"));
    }
    let raw: Raw<'_> = serde_json::from_str(text)
        .map_err(|error| invalid(Value::Null, format!("the frame cannot be read: {error}")))?;
    if raw.id.is_array() || raw.id.is_object() {
        return Err(invalid(Value::Null, "`id` has to be a string or a number"));
    }
    let id = raw.id.clone();
    match (&raw.subscribe, &raw.subject) {
        (Some(wanted), None) => {
            let pattern = pattern(&id, tenant, wanted)?;
            Ok(Frame::Subscribe { id, pattern })
        }
        (None, Some(_)) => publish(raw, tenant),
        _ => Err(invalid(id, "a frame has either `subject` or `subscribe`")),
    }
}

fn publish(raw: Raw<'_>, tenant: &TenantId) -> Result<Frame, Refused> {
    let id = raw.id;
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

fn read_headers(raw: Map<String, Value>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in raw {
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
            let ack: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
            json!({ "id": id, "ack": ack }).to_string()
        }
        Answer::Nack { id, problem } => json!({ "id": id, "nack": problem }).to_string(),
        Answer::Subscribed { id, pattern } => {
            json!({ "id": id, "ack": { "subscribed": pattern.as_str() } }).to_string()
        }
        Answer::Delivery(message) => deliver(message),
    }
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
    use arqon::{Code, Problem, Subject};

    use super::{super::HEADERS_MAX, *};

    fn refused(text: &str) -> (Value, Problem) {
        *read(text, &TenantId::new("acme").expect("tenant")).expect_err(text)
    }

    fn published(text: &str) -> (Value, Subject, HeaderMap, Bytes) {
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
            (id, subject.as_str(), &payload[..]),
            (json!("1"), "in.t.acme.users", &b"\x0a\x02u1"[..])
        );
        assert_eq!((headers.len(), headers["x-a"].to_str().ok()), (3, Some("1")));
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
