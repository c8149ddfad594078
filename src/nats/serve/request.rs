//! A NATS message as an HTTP request.

use std::{fmt, sync::Arc};

use arqon_message::{Code, Problem, Protocol, Rejection, Subject, TenantId};
use async_nats::Message;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header};
use http_body_util::Full;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::HEADERS_MAX;
use crate::edge::{reserved::ReservedHeadersLayer, single};

/// What is left as it is in a path: RFC 3986's unreserved characters.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The headers by which a request is known, in answers and in the log.
const NAMING: [&str; 2] = ["traceparent", "x-request-id"];

/// A message that cannot be a request.
#[derive(Debug)]
pub(super) struct Refused {
    /// What is known of it.
    pub(super) head: Request<()>,
    /// Why it cannot.
    pub(super) problem: Problem,
}

/// What is asked of a message that cannot be a request, before it is replied to with what comes back.
#[derive(Clone)]
pub(super) struct RefuseWith(Arc<dyn Fn(Request<()>, Problem) -> Problem + Send + Sync>);

impl RefuseWith {
    pub(super) fn new(refuse: impl Fn(Request<()>, Problem) -> Problem + Send + Sync + 'static) -> Self {
        Self(Arc::new(refuse))
    }

    pub(super) fn refuse(&self, Refused { head, problem }: Refused) -> Problem {
        (self.0)(head, problem)
    }
}

impl Default for RefuseWith {
    /// The problem says which request it was.
    fn default() -> Self {
        Self::new(|head, problem| {
            let (parts, ()) = head.into_parts();
            let response = Rejection::new(problem).into_response::<()>(&parts);
            let told = response.extensions().get::<Rejection>();
            told.expect("a rejection is in its response").problem().clone()
        })
    }
}

impl fmt::Debug for RefuseWith {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefuseWith").finish_non_exhaustive()
    }
}

/// Makes a request of a message.
///
/// # Errors
/// Why the message cannot be one: `subject.invalid`, `tenant.invalid`, `frame.invalid` for headers that HTTP has no form for or
/// too many of, and `body.too_large`.
pub(super) fn of(
    message: &Message,
    strip_prefix: Option<&str>,
    max_body_bytes: usize,
) -> Result<Request<Full<Bytes>>, Box<Refused>> {
    let mut head = Request::new(());
    match read(&mut head, message, strip_prefix, max_body_bytes) {
        Ok(()) => Ok(head.map(|()| Full::new(message.payload.clone()))),
        Err(problem) => Err(Box::new(Refused { head, problem })),
    }
}

/// Reads what can be read of a message, whatever is wrong with the rest: a refusal says which request it was.
fn read(
    head: &mut Request<()>,
    message: &Message,
    strip_prefix: Option<&str>,
    max_body_bytes: usize,
) -> Result<(), Problem> {
    *head.method_mut() = Method::POST;
    head.extensions_mut().insert(Protocol::Nats);
    let usable = headers(message, head.headers_mut()).and_then(|()| single::check(head.headers()));
    single::keep_short_request_id(head.headers_mut());
    if let Some(pin) = ReservedHeadersLayer::keeping_shadow_marker().strip(head.headers_mut()) {
        head.extensions_mut().insert(pin);
    }
    let text = without_prefix(message.subject.as_str(), strip_prefix);
    let path = format!(
        "/{}",
        utf8_percent_encode(text.unwrap_or(message.subject.as_str()), PATH)
    );
    let uri = path.parse::<Uri>();
    if let Ok(uri) = &uri {
        *head.uri_mut() = uri.clone();
    }
    let text = text.ok_or_else(|| {
        let prefix = strip_prefix.unwrap_or_default();
        Problem::new(
            Code::SubjectInvalid,
            format!("the subject does not begin with {prefix:?}"),
        )
    })?;
    let subject =
        Subject::parse(text).map_err(|error| Problem::new(Code::SubjectInvalid, error.to_string()))?;
    let tenant = subject.tenant().map(TenantId::new).transpose();
    // A tenant that is none is nobody's name, in a log line neither.
    if let Ok(tenant) = &tenant {
        tenant
            .clone()
            .and_then(|tenant| head.extensions_mut().insert(tenant));
        head.extensions_mut().insert(subject);
    }
    if message.payload.len() > max_body_bytes {
        let detail = format!(
            "the message has {} bytes; at most {max_body_bytes} are taken",
            message.payload.len()
        );
        return Err(Problem::new(Code::BodyTooLarge, detail));
    }
    uri.map_err(|_| Problem::new(Code::SubjectInvalid, "the subject is no path"))?;
    usable?;
    tenant.map_err(|error| Problem::new(Code::TenantInvalid, error.to_string()))?;
    Ok(())
}

/// The subject as the service has it; None where it does not begin as it should.
fn without_prefix<'a>(text: &'a str, prefix: Option<&str>) -> Option<&'a str> {
    match prefix {
        None => Some(text),
        Some(prefix) => text.strip_prefix(prefix)?.strip_prefix('.'),
    }
}

/// Takes the message's headers over. One that HTTP has no form for makes the message unusable: leaving it out could change a
/// verdict. Those of the hop say nothing here and are left out, but count. Of more than [`HEADERS_MAX`] only those are taken that
/// name the request.
fn headers(message: &Message, into: &mut HeaderMap) -> Result<(), Problem> {
    let lists = || message.headers.iter().flat_map(async_nats::HeaderMap::iter);
    let fits = lists().map(|(_, values)| values.len()).sum::<usize>() <= HEADERS_MAX;
    let mut usable = fits.then_some(()).ok_or_else(|| {
        let detail = format!("a message has at most {HEADERS_MAX} headers");
        Problem::new(Code::FrameInvalid, detail)
    });
    for (name, values) in lists() {
        let text: &str = name.as_ref();
        if !fits && !NAMING.iter().any(|name| text.eq_ignore_ascii_case(name)) {
            continue;
        }
        for value in values.iter().take(HEADERS_MAX) {
            if !take(text, value.as_str(), into) && usable.is_ok() {
                let detail = format!(
                    "header {:?} is not one that HTTP has a form for",
                    text.chars().take(64).collect::<String>()
                );
                usable = Err(Problem::new(Code::FrameInvalid, detail));
            }
        }
    }
    usable
}

/// Whether a header is one that HTTP has a form for; then it is taken over, or left out as one of the hop.
fn take(name: &str, value: &str, into: &mut HeaderMap) -> bool {
    let Ok(name) = name.parse::<HeaderName>() else {
        return false;
    };
    is_of_the_hop(&name)
        || HeaderValue::from_str(value).is_ok_and(|value| into.try_append(name, value).is_ok())
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
            let problem = of(&taken, prefix, 5).expect_err("refused").problem;
            assert_eq!(problem.code, code, "{}: {}", taken.subject, problem.detail);
        }
    }

    #[test]
    fn a_message_has_so_many_headers_whatever_their_names() {
        let own: Vec<_> = (0..HEADERS_MAX).map(|n| format!("x-{n}")).collect();
        let many: Vec<_> = own.iter().map(|name| (name.as_str(), "1")).collect();
        // Of one name, of a hundred, and of the hop.
        for headers in [
            vec![("x", "1"); HEADERS_MAX],
            many,
            vec![("te", "1"); HEADERS_MAX],
        ] {
            let taken = message("in.t.acme.x", &headers, "");
            assert!(of(&taken, None, 5).is_ok());
            let more: Vec<_> = headers.into_iter().chain([("x-request-id", "r-1")]).collect();
            let taken = message("in.t.acme.x", &more, "");
            let Refused { head, problem } = *of(&taken, None, 5).expect_err("one more");
            assert_eq!(problem.code, Code::FrameInvalid);
            assert!(problem.detail.contains("at most 100"), "{}", problem.detail);
            assert_eq!(
                (head.headers().len(), &head.headers()["x-request-id"]),
                (1, &HeaderValue::from_static("r-1"))
            );
        }
    }

    #[test]
    fn what_is_known_of_a_message_that_cannot_be_a_request_is_kept_and_told() {
        let trace = format!("00-{}-{}-01", "1".repeat(32), "2".repeat(16));
        let known = [("X-Request-Id", "r-1"), ("Traceparent", trace.as_str())];
        for (subject, wrong, tenant, path) in [
            ("gw.in.t.acme.x", ("a(b", "1"), Some("acme"), "/in.t.acme.x"),
            ("gw.in.t.acme.x", ("a", "b\u{7f}"), Some("acme"), "/in.t.acme.x"),
            ("gw.in.t.a/b.x", ("a", "b"), None, "/in.t.a%2Fb.x"),
            ("gw.in.t.acme.x y", ("a", "b"), None, "/in.t.acme.x%20y"),
            ("other.x", ("a", "b"), None, "/other.x"),
        ] {
            let headers = [known[0], known[1], wrong];
            let refused = *of(&message(subject, &headers, ""), Some("gw"), 5).expect_err("refused");
            assert_eq!(refused.head.extensions().get::<Protocol>(), Some(&Protocol::Nats));
            let problem = RefuseWith::default().refuse(refused);
            let told: serde_json::Value = serde_json::from_slice(&problem.to_json()).expect("JSON");
            assert_eq!(told["request_id"], "r-1", "{told}");
            assert_eq!(told["trace_id"], "1".repeat(32), "{told}");
            assert_eq!(told["tenant"].as_str(), tenant, "{told}");
            assert_eq!(told["instance"], path, "{told}");
        }
        let long = "x".repeat(single::REQUEST_ID_BYTES_MAX + 1);
        let taken = message("in.t.acme.x", &[("x-request-id", &long), ("a(b", "1")], "");
        let refused = of(&taken, None, 5).expect_err("refused");
        assert!(
            refused.head.headers().is_empty(),
            "an id that is none is not kept"
        );
    }
}
