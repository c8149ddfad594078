//! A request as recorded.

mod redact;

use std::{collections::BTreeMap, fmt};

use arqon_message::{Claims, Protocol, RemoteAddr, Subject, TenantId};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, request::Parts};
use serde::{Deserialize, Serialize};

pub(crate) use self::redact::QUERY;

/// A request as recorded, `R.json` of `arqon policy run`. Every key may be left out; one that is not
/// known is an error, for it would be a request other than the one that was meant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecordedRequest {
    /// Default `GET`.
    pub method: Option<String>,
    /// Path and query. Default `/`.
    pub path: Option<String>,
    /// Header values by name.
    pub headers: BTreeMap<String, HeaderValues>,
    /// Values in base64 by name, of headers that have one that is not ASCII text. A name is here or in `headers`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers_base64: BTreeMap<String, HeaderValues>,
    /// Headers of which a value is masked, and `:query` where a value of the query is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub masked: Vec<String>,
    /// The trace, 32 hex digits, where the headers do not say it: that of a WebSocket's upgrade. Empty is none, whatever
    /// the headers say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// The subject.
    pub subject: Option<String>,
    /// The tenant.
    pub tenant: Option<String>,
    /// The client's address and port.
    pub remote_addr: Option<String>,
    /// `http/1.1` (default), `h2`, `ws` or `nats`.
    pub protocol: Option<String>,
    /// The verified claims.
    pub claims: Option<serde_json::Map<String, serde_json::Value>>,
    /// The body as text. Not together with `body_base64`.
    pub body: Option<String>,
    /// The body in base64.
    pub body_base64: Option<String>,
}

/// One value of a header, or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum HeaderValues {
    /// One.
    One(String),
    /// Several, in order.
    Many(Vec<String>),
}

impl HeaderValues {
    fn iter(&self) -> impl Iterator<Item = &str> {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Many(values) => values.as_slice(),
        }
        .iter()
        .map(String::as_str)
    }
}

/// What keeps a record from being a request: the key, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct InvalidRecord {
    /// The key of the record.
    pub key: String,
    /// What is wrong with its value.
    pub problem: String,
}

fn invalid(key: impl Into<String>, problem: impl fmt::Display) -> InvalidRecord {
    InvalidRecord {
        key: key.into(),
        problem: problem.to_string(),
    }
}

impl RecordedRequest {
    /// Records a request and its body (leave it empty for a policy that does not look at it). Masked with `x`, length kept,
    /// so that a policy that only asks whether they are there uses the same fuel on the record, are: values of
    /// `authorization`, `proxy-authorization`, `cookie`, `set-cookie`, `x-api-key`, `x-auth-token` and of the headers
    /// named; the token in `sec-websocket-protocol`; query parameters whose names look like secrets (`access_token`,
    /// `api_key`, `password`, `sig`). Claims are recorded as they are.
    #[must_use]
    pub fn record(request: &Parts, body: &[u8], masked: &[HeaderName]) -> Self {
        let mut seen = HeaderMap::new();
        let (mut headers, mut headers_base64) = (BTreeMap::new(), BTreeMap::new());
        let mut less = Vec::new();
        for name in request.headers.keys() {
            let all = request.headers.get_all(name).iter();
            let (values, hidden): (Vec<_>, Vec<_>) =
                all.map(|value| redact::header(name, value, masked)).unzip();
            if hidden.contains(&true) {
                less.push(name.to_string());
            }
            let as_text = values.iter().map(|bytes| {
                let is_text = |byte: &u8| *byte == b'\t' || (b' '..=b'~').contains(byte);
                let text = std::str::from_utf8(bytes).ok()?;
                bytes.iter().all(is_text).then(|| text.to_owned())
            });
            match as_text.collect() {
                Some(texts) => headers.insert(name.to_string(), HeaderValues::Many(texts)),
                None => {
                    let coded = values.iter().map(|bytes| STANDARD.encode(bytes)).collect();
                    headers_base64.insert(name.to_string(), HeaderValues::Many(coded))
                }
            };
            for value in values {
                if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(value)) {
                    // A copy of a map that held as many.
                    let _fits = seen.try_append(name, value);
                }
            }
        }
        let path = request.uri.path_and_query().map(|path| {
            let (path, hidden) = redact::path(path.as_str());
            less.extend(hidden.then(|| QUERY.to_owned()));
            path
        });
        let extensions = &request.extensions;
        Self {
            method: Some(request.method.to_string()),
            path,
            headers,
            headers_base64,
            masked: less,
            trace_id: redact::trace_id(request, &seen),
            subject: extensions.get::<Subject>().map(ToString::to_string),
            tenant: extensions.get::<TenantId>().map(ToString::to_string),
            remote_addr: extensions.get::<RemoteAddr>().map(ToString::to_string),
            protocol: Some(Protocol::of(request).as_str().to_owned()),
            claims: extensions
                .get::<Claims>()
                .and_then(|claims| claims.as_value().as_object().cloned()),
            body: None,
            body_base64: (!body.is_empty()).then(|| STANDARD.encode(body)),
        }
    }

    /// The request's head with its extensions, and its body.
    ///
    /// # Errors
    ///
    /// The first key that does not hold.
    pub fn parts(&self) -> Result<(Parts, Bytes), InvalidRecord> {
        let (mut parts, ()) = Request::new(()).into_parts();
        if let Some(method) = &self.method {
            parts.method = Method::from_bytes(method.as_bytes()).map_err(|error| invalid("method", error))?;
        }
        if let Some(path) = &self.path {
            parts.uri = path.parse::<Uri>().map_err(|error| invalid("path", error))?;
        }
        let texts = self.headers.iter().map(|entry| (entry, false));
        let coded = self.headers_base64.iter().map(|entry| (entry, true));
        for ((name, values), is_coded) in texts.chain(coded) {
            let key = || format!("headers{}.{name}", if is_coded { "_base64" } else { "" });
            let header = HeaderName::from_bytes(name.as_bytes()).map_err(|error| invalid(key(), error))?;
            for value in values.iter() {
                let bytes = if is_coded {
                    STANDARD.decode(value).map_err(|error| invalid(key(), error))?
                } else {
                    value.as_bytes().to_vec()
                };
                let value = HeaderValue::from_maybe_shared(Bytes::from(bytes))
                    .map_err(|error| invalid(key(), error))?;
                parts
                    .headers
                    .try_append(header.clone(), value)
                    .map_err(|error| invalid(key(), error))?;
            }
        }
        if let Some(id) = &self.trace_id {
            let key = redact::trace_key(id)
                .ok_or_else(|| invalid("trace_id", "write 32 lower-case hex digits, not all 0"))?;
            parts.extensions.insert(key);
        }
        if let Some(subject) = &self.subject {
            parts
                .extensions
                .insert(Subject::parse(subject).map_err(|error| invalid("subject", error))?);
        }
        if let Some(tenant) = &self.tenant {
            parts
                .extensions
                .insert(TenantId::new(tenant).map_err(|error| invalid("tenant", error))?);
        }
        if let Some(addr) = &self.remote_addr {
            let parsed = addr
                .parse()
                .map_err(|_| invalid("remote_addr", "write an address and a port: 203.0.113.7:4242"))?;
            parts.extensions.insert(RemoteAddr(parsed));
        }
        if let Some(protocol) = &self.protocol {
            let known = [Protocol::Http1, Protocol::H2, Protocol::Ws, Protocol::Nats];
            let found = known.into_iter().find(|known| known.as_str() == protocol);
            parts
                .extensions
                .insert(found.ok_or_else(|| invalid("protocol", "write http/1.1, h2, ws or nats"))?);
        }
        if let Some(claims) = &self.claims {
            parts.extensions.insert(Claims::new(claims.clone()));
        }
        let body = match (&self.body, &self.body_base64) {
            (Some(_), Some(_)) => return Err(invalid("body_base64", "body is there too: keep one")),
            (Some(text), None) => Bytes::from(text.clone()),
            (None, Some(text)) => STANDARD
                .decode(text)
                .map_err(|error| invalid("body_base64", error))?
                .into(),
            (None, None) => Bytes::new(),
        };
        Ok((parts, body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_the_request_again_but_for_its_secrets() {
        let mut request = Request::put("/a?b=1")
            .header("x-name", "one")
            .header("x-name", "two");
        request = request
            .header("authorization", "Bearer abc")
            .header("x-key", "secret")
            .header("x-raw", &b"\xff"[..]);
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        parts
            .extensions
            .insert(Subject::parse("in.t.acme.users").unwrap());
        parts.extensions.insert(TenantId::new("acme").unwrap());
        let claims = serde_json::json!({"sub": "u1"}).as_object().cloned().unwrap();
        parts.extensions.insert(Claims::new(claims));
        let record = RecordedRequest::record(&parts, b"\x00body", &[HeaderName::from_static("x-key")]);
        let json = serde_json::to_string(&record).unwrap();
        assert!(!json.contains("secret") && !json.contains("Bearer"), "{json}");
        let again: RecordedRequest = serde_json::from_str(&json).unwrap();
        assert_eq!(again, record);
        let (replayed, body) = again.parts().unwrap();
        assert_eq!((replayed.method, replayed.uri), (parts.method, parts.uri));
        assert_eq!(body, &b"\x00body"[..]);
        assert_eq!(
            replayed.headers.get_all("x-name"),
            parts.headers.get_all("x-name")
        );
        assert_eq!(replayed.headers["authorization"], "xxxxxxxxxx");
        assert_eq!(replayed.headers["x-key"], "xxxxxx");
        assert_eq!(replayed.headers["x-raw"], &b"\xff"[..]);
        assert_eq!(
            replayed.extensions.get::<Claims>(),
            parts.extensions.get::<Claims>()
        );
    }
}
