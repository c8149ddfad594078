//! A NATS message as an HTTP request.

use arqon_message::{Code, Problem, Protocol, Subject, TenantId};
use async_nats::Message;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header};
use http_body_util::Full;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::edge::{reserved::ReservedHeadersLayer, single};

/// What is left as it is in a path: RFC 3986's unreserved characters.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Makes a request of a message.
///
/// # Errors
/// Why the message cannot be one: `subject.invalid`, `frame.invalid` for headers that HTTP has no form for, and
/// `body.too_large`.
pub(super) fn of(
    message: &Message,
    strip_prefix: Option<&str>,
    max_body_bytes: usize,
) -> Result<Request<Full<Bytes>>, Problem> {
    let subject = subject(message.subject.as_str(), strip_prefix)?;
    if message.payload.len() > max_body_bytes {
        let detail = format!(
            "the message has {} bytes; at most {max_body_bytes} are taken",
            message.payload.len()
        );
        return Err(Problem::new(Code::BodyTooLarge, detail));
    }
    let uri: Uri = format!("/{}", utf8_percent_encode(subject.as_str(), PATH))
        .parse()
        .map_err(|_| Problem::new(Code::SubjectInvalid, "the subject is no path"))?;
    let mut request = Request::new(Full::new(message.payload.clone()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers(message)?;
    single::check(request.headers())?;
    single::keep_short_request_id(request.headers_mut());
    let pin = ReservedHeadersLayer::keeping_shadow_marker().strip(request.headers_mut());
    let extensions = request.extensions_mut();
    if let Some(pin) = pin {
        extensions.insert(pin);
    }
    if let Some(tenant) = subject.tenant() {
        let tenant =
            TenantId::new(tenant).map_err(|error| Problem::new(Code::TenantInvalid, error.to_string()))?;
        extensions.insert(tenant);
    }
    extensions.insert(Protocol::Nats);
    extensions.insert(subject);
    Ok(request)
}

fn subject(text: &str, strip_prefix: Option<&str>) -> Result<Subject, Problem> {
    let text = match strip_prefix {
        None => text,
        Some(prefix) => text
            .strip_prefix(prefix)
            .and_then(|rest| rest.strip_prefix('.'))
            .ok_or_else(|| {
                Problem::new(
                    Code::SubjectInvalid,
                    format!("the subject does not begin with {prefix:?}"),
                )
            })?,
    };
    Subject::parse(text).map_err(|error| Problem::new(Code::SubjectInvalid, error.to_string()))
}

/// The message's headers. One that HTTP has no form for makes the message unusable: leaving it out could change a verdict.
/// Those of the hop say nothing here and are left out.
fn headers(message: &Message) -> Result<HeaderMap, Problem> {
    let mut headers = HeaderMap::new();
    for (name, values) in message.headers.iter().flat_map(async_nats::HeaderMap::iter) {
        let text: &str = name.as_ref();
        let unusable = || {
            Problem::new(
                Code::FrameInvalid,
                format!(
                    "header {:?} is not one that HTTP has a form for",
                    text.chars().take(64).collect::<String>()
                ),
            )
        };
        let name: HeaderName = text.parse().map_err(|_| unusable())?;
        if is_of_the_hop(&name) {
            continue;
        }
        for value in values {
            let value = HeaderValue::from_str(value.as_str()).map_err(|_| unusable())?;
            headers.try_append(name.clone(), value).map_err(|_| unusable())?;
        }
    }
    Ok(headers)
}

fn is_of_the_hop(name: &HeaderName) -> bool {
    [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::HOST,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ]
    .contains(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(subject: &str, headers: &[(&str, &str)], payload: &'static str) -> Message {
        let mut map = async_nats::HeaderMap::new();
        for (name, value) in headers {
            let name: async_nats::HeaderName = name.parse().expect("a name of NATS");
            let value: async_nats::HeaderValue = value.parse().expect("a value of NATS");
            map.append(name, value);
        }
        Message {
            subject: subject.into(),
            reply: None,
            payload: Bytes::from_static(payload.as_bytes()),
            headers: (!headers.is_empty()).then_some(map),
            status: None,
            description: None,
            length: payload.len(),
        }
    }

    #[test]
    fn a_message_is_a_post_with_subject_tenant_and_headers() {
        let taken = message(
            "gw.in.t.acme.users.created",
            &[
                ("X-Own", "1"),
                ("X-Arqon-Shadow", "true"),
                ("x-arqon-variant", "3"),
                ("x_arqon_schema", "s"),
                ("content-length", "999"),
                ("Nats-Msg-Id", "m"),
            ],
            "hello",
        );
        let request = of(&taken, Some("gw"), 5).expect("a request");
        assert_eq!(request.method(), Method::POST);
        assert_eq!(request.uri(), "/in.t.acme.users.created");
        let mut names: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["nats-msg-id", "x-arqon-shadow", "x-own"],
            "only the marker of ours stays"
        );
        let extensions = request.extensions();
        assert_eq!(
            extensions.get::<Subject>().map(Subject::as_str),
            Some("in.t.acme.users.created")
        );
        assert_eq!(extensions.get::<TenantId>().map(TenantId::as_str), Some("acme"));
        assert_eq!(extensions.get::<Protocol>(), Some(&Protocol::Nats));
    }

    #[test]
    fn what_cannot_be_a_request_says_why() {
        for (taken, prefix, code) in [
            (message("in.t.acme.x", &[], "hello!"), None, Code::BodyTooLarge),
            (
                message("other.in.t.acme.x", &[], ""),
                Some("gw"),
                Code::SubjectInvalid,
            ),
            (
                message("gwin.t.acme.x", &[], ""),
                Some("gw"),
                Code::SubjectInvalid,
            ),
            (message("in.t.a b.x", &[], ""), None, Code::SubjectInvalid),
            (message("in.t.a/b.x", &[], ""), None, Code::TenantInvalid),
            (
                message("in.t.acme.x", &[("a(b", "1")], ""),
                None,
                Code::FrameInvalid,
            ),
            (
                message("in.t.acme.x", &[("a", "b\u{7f}")], ""),
                None,
                Code::FrameInvalid,
            ),
        ] {
            let problem = of(&taken, prefix, 5).expect_err("refused");
            assert_eq!(problem.code, code, "{}: {}", taken.subject, problem.detail);
        }
    }
}
