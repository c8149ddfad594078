//! Frames of the subprotocol `arqon.v1.proto`: `proto/arqon/gateway/v1/gateway.proto`, by hand. The vectors of
//! `tests/vectors/gateway/` and the tests below hold both to each other.

use arqon::{TenantId, publish::Message};
use http::HeaderMap;
use prost::{Message as _, bytes::Bytes};

use super::{Answer, Frame, FrameId, Refused, add, invalid, pattern, subject, suffix};

#[derive(Clone, PartialEq, prost::Message)]
struct ClientFrame {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(oneof = "ClientKind", tags = "2, 3")]
    kind: Option<ClientKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum ClientKind {
    #[prost(message, tag = "2")]
    Publish(Carried),
    #[prost(message, tag = "3")]
    Subscribe(Pattern),
}

/// `Publish` and `Delivery`, which have the same fields.
#[derive(Clone, PartialEq, prost::Message)]
struct Carried {
    #[prost(string, tag = "1")]
    subject: String,
    #[prost(message, repeated, tag = "2")]
    headers: Vec<Header>,
    #[prost(bytes = "bytes", tag = "3")]
    payload: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// `Subscribe` and `Subscribed`.
#[derive(Clone, PartialEq, prost::Message)]
struct Pattern {
    #[prost(string, tag = "1")]
    pattern: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ServerFrame {
    #[prost(string, optional, tag = "1")]
    id: Option<String>,
    #[prost(oneof = "ServerKind", tags = "2, 3, 4, 5")]
    kind: Option<ServerKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum ServerKind {
    #[prost(message, tag = "2")]
    Ack(Ack),
    #[prost(message, tag = "3")]
    Nack(Nack),
    #[prost(message, tag = "4")]
    Subscribed(Pattern),
    #[prost(message, tag = "5")]
    Delivery(Carried),
}

#[derive(Clone, PartialEq, prost::Message, serde::Deserialize)]
#[serde(default)]
struct Ack {
    #[prost(string, tag = "1")]
    subject: String,
    #[prost(string, optional, tag = "2")]
    stream: Option<String>,
    #[prost(uint64, optional, tag = "3")]
    sequence: Option<u64>,
    #[prost(bool, tag = "4")]
    duplicate: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Nack {
    #[prost(string, tag = "1")]
    r#type: String,
    #[prost(string, tag = "2")]
    title: String,
    #[prost(uint32, tag = "3")]
    status: u32,
    #[prost(string, tag = "4")]
    detail: String,
    #[prost(string, tag = "5")]
    code: String,
    #[prost(string, optional, tag = "6")]
    instance: Option<String>,
    #[prost(string, optional, tag = "7")]
    trace_id: Option<String>,
    #[prost(message, repeated, tag = "8")]
    violations: Vec<Violation>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Violation {
    #[prost(string, tag = "1")]
    path: String,
    #[prost(string, tag = "2")]
    rule: String,
    #[prost(string, tag = "3")]
    message: String,
}

/// Reads one binary frame; the subject and the pattern are the tenant's own.
pub(super) fn read(bytes: &Bytes, tenant: &TenantId) -> Result<Frame, Refused> {
    let frame = ClientFrame::decode(bytes.clone())
        .map_err(|error| invalid(FrameId::None, format!("the frame cannot be read: {error}")))?;
    let id = FrameId::Text(frame.id);
    match frame.kind {
        Some(ClientKind::Publish(message)) => {
            let subject = subject(&id, tenant, &message.subject)?;
            let mut headers = HeaderMap::new();
            for header in &message.headers {
                add(&mut headers, &header.name, &header.value)
                    .map_err(|detail| invalid(id.clone(), detail))?;
            }
            Ok(Frame::Publish {
                id,
                subject,
                headers,
                payload: message.payload,
            })
        }
        Some(ClientKind::Subscribe(wanted)) => {
            let pattern = pattern(&id, tenant, &wanted.pattern)?;
            Ok(Frame::Subscribe { id, pattern })
        }
        None => Err(invalid(id, "a frame has either `publish` or `subscribe`")),
    }
}

/// Writes one answer.
pub(super) fn write(answer: &Answer) -> Vec<u8> {
    let (id, kind) = match answer {
        Answer::Ack { id, body } => {
            let ack = serde_json::from_slice(body).unwrap_or_default();
            (Some(id), ServerKind::Ack(ack))
        }
        Answer::Nack { id, problem } => {
            let violations = problem.violations.iter().map(|violation| Violation {
                path: violation.path.clone(),
                rule: violation.rule.clone().into_owned(),
                message: violation.message.clone(),
            });
            let nack = Nack {
                r#type: format!("urn:arqon:problem:{}", problem.code),
                title: problem.code.title().to_owned(),
                status: problem.status.as_u16().into(),
                detail: problem.detail.clone().into_owned(),
                code: problem.code.as_str().to_owned(),
                instance: problem.instance.clone(),
                trace_id: problem.trace_id.clone(),
                violations: violations.collect(),
            };
            (Some(id), ServerKind::Nack(nack))
        }
        Answer::Subscribed { id, pattern } => {
            let pattern = pattern.as_str().to_owned();
            (Some(id), ServerKind::Subscribed(Pattern { pattern }))
        }
        Answer::Delivery(message) => (None, ServerKind::Delivery(carried(message))),
    };
    let frame = ServerFrame {
        id: id.cloned().and_then(FrameId::into_text),
        kind: Some(kind),
    };
    frame.encode_to_vec()
}

fn carried(message: &Message) -> Carried {
    let headers = message.headers.iter().map(|(name, value)| Header {
        name: name.as_str().to_owned(),
        value: String::from_utf8_lossy(value.as_bytes()).into_owned(),
    });
    Carried {
        subject: suffix(message).to_owned(),
        headers: headers.collect(),
        payload: message.payload.clone(),
    }
}

#[cfg(test)]
mod tests;
