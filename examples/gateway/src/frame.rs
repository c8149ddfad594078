//! Frames of a WebSocket session, in both subprotocols (DESIGN 10): what a client sends, what it gets.

mod id;
mod json;
mod proto;

use std::borrow::Cow;

use arqon::{
    Code, Problem, Subject, SubjectPattern, TenantId,
    edge::{hop, single},
    publish::Message,
};
use axum::extract::ws::Message as WsMessage;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

pub(crate) use self::id::FrameId;

/// How many headers a frame may have.
const HEADERS_MAX: usize = 64;

/// How frames are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// `arqon.v1.json`: text.
    Json,
    /// `arqon.v1.proto`: binary.
    Proto,
}

/// What a client sent.
#[derive(Debug)]
pub(crate) enum Frame {
    /// A message to publish.
    Publish {
        id: FrameId,
        subject: Subject,
        headers: HeaderMap,
        payload: Bytes,
    },
    /// A wish to get what is published.
    Subscribe { id: FrameId, pattern: SubjectPattern },
}

/// What a client gets.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The message was taken: the body of the 202 answer.
    Ack { id: FrameId, body: Bytes },
    /// The frame was refused. Without an id it could not be read.
    Nack { id: FrameId, problem: Problem },
    /// Deliveries will come.
    Subscribed { id: FrameId, pattern: SubjectPattern },
    /// A message that a subscription covers.
    Delivery(Message),
}

/// A frame that cannot be taken: the `id` to answer under, and why.
pub(crate) type Refused = Box<(FrameId, Problem)>;

impl Dialect {
    pub(crate) const ALL: [Self; 2] = [Self::Json, Self::Proto];

    /// The subprotocol's name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Json => "arqon.v1.json",
            Self::Proto => "arqon.v1.proto",
        }
    }

    /// Whether its frames are of this kind.
    pub(crate) const fn takes(self, message: &WsMessage) -> bool {
        matches!(
            (self, message),
            (Self::Json, WsMessage::Text(_)) | (Self::Proto, WsMessage::Binary(_))
        )
    }

    /// Reads one frame; the subject and the pattern are the tenant's own.
    pub(crate) fn read(self, message: &WsMessage, tenant: &TenantId) -> Result<Frame, Refused> {
        let mut frame = match (self, message) {
            (Self::Json, WsMessage::Text(text)) => json::read(text, tenant),
            (Self::Proto, WsMessage::Binary(bytes)) => proto::read(bytes, tenant),
            _ => Err(invalid(FrameId::None, "the subprotocol has no such frames")),
        }?;
        if let Frame::Publish { id, headers, .. } = &mut frame {
            hop::strip(headers);
            single::check(headers).map_err(|problem| Box::new((id.clone(), problem)))?;
            single::keep_short_request_id(headers);
        }
        Ok(frame)
    }

    /// Writes one answer.
    pub(crate) fn write(self, answer: &Answer) -> WsMessage {
        match self {
            Self::Json => WsMessage::Text(json::write(answer).into()),
            Self::Proto => WsMessage::Binary(proto::write(answer).into()),
        }
    }
}

fn invalid(id: FrameId, detail: impl Into<Cow<'static, str>>) -> Refused {
    Box::new((id, Problem::new(Code::FrameInvalid, detail)))
}

fn subject(id: &FrameId, tenant: &TenantId, suffix: &str) -> Result<Subject, Refused> {
    Subject::for_tenant(tenant, suffix).map_err(|error| Box::new((id.clone(), Problem::from(error))))
}

fn pattern(id: &FrameId, tenant: &TenantId, suffix: &str) -> Result<SubjectPattern, Refused> {
    SubjectPattern::for_tenant(tenant, suffix)
        .map_err(|error| Box::new((id.clone(), Problem::new(Code::SubjectInvalid, error.to_string()))))
}

/// Adds one header of a frame.
fn add(headers: &mut HeaderMap, name: &str, value: &str) -> Result<(), String> {
    let bad = |what: &str| format!("header {name:?} {what}");
    let parsed: HeaderName = name.parse().map_err(|_| bad("is not a header name"))?;
    let value = HeaderValue::from_str(value).map_err(|_| bad("has a value that no header can have"))?;
    if headers.len() >= HEADERS_MAX || headers.try_append(parsed, value).is_err() {
        return Err(format!("a frame has at most {HEADERS_MAX} headers"));
    }
    Ok(())
}

/// The suffix that a tenant knows a message by.
fn suffix(message: &Message) -> &str {
    message.subject.suffix().unwrap_or(message.subject.as_str())
}
