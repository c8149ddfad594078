//! A refusal, as a response.

use std::{str::FromStr, sync::Arc};

use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
    request::Parts,
};

use crate::{Code, MessageBody, Problem, Subject, TenantId, TraceContext, TraceKey};

/// A longer request id is not repeated in a problem.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// A refusal that a layer answers with. It is a response, never an error, and sits typed in the response's extensions,
/// so that a WebSocket or NATS edge makes a nack or a reply of it without reading JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    problem: Arc<Problem>,
    close_session: bool,
}

impl Rejection {
    /// A refusal of this one message.
    #[must_use]
    pub fn new(problem: Problem) -> Self {
        Self {
            problem: Arc::new(problem),
            close_session: false,
        }
    }

    /// Also ends the session that the message came by: a WebSocket is closed with 1008.
    #[must_use]
    pub const fn closing_session(mut self) -> Self {
        self.close_session = true;
        self
    }

    /// Why.
    #[must_use]
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// Whether the session ends with it.
    #[must_use]
    pub const fn closes_session(&self) -> bool {
        self.close_session
    }

    /// The response to `request`: `application/problem+json`, or `text/plain` if the client accepts no JSON, with
    /// `instance`, `trace_id`, `span_id`, `request_id` and `tenant` filled in where the request has them, and this refusal in its
    /// extensions.
    #[must_use]
    pub fn into_response<B>(mut self, request: &Parts) -> Response<MessageBody<B>> {
        let problem = Arc::make_mut(&mut self.problem);
        problem
            .instance
            .get_or_insert_with(|| request.uri.path().to_owned());
        place(problem, request);
        let (media_type, body) = if accepts_json(&request.headers) {
            ("application/problem+json", problem.to_json())
        } else {
            ("text/plain; charset=utf-8", problem.to_text())
        };
        let (status, code) = (problem.status, problem.code);
        let mut response = Response::new(MessageBody::whole(body, None));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if passes(code) {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Which request it was, in the words that logs, spans and published messages use for it.
fn place(problem: &mut Problem, request: &Parts) {
    let extensions = &request.extensions;
    if let Some(context) = extensions.get::<TraceContext>() {
        problem.trace_id = Some(context.trace_id().to_owned());
        problem.request.span_id = Some(context.span_id().to_owned());
    } else if problem.trace_id.is_none() {
        let key = TraceKey::from_request(&request.headers, extensions);
        problem.trace_id = key.and_then(|key| key.trace_id().map(str::to_owned));
    }
    if problem.request.request_id.is_none() {
        let id = request
            .headers
            .get("x-request-id")
            .and_then(|id| id.to_str().ok());
        problem.request.request_id = id
            .filter(|id| id.len() <= REQUEST_ID_BYTES_MAX)
            .map(str::to_owned);
    }
    if problem.request.tenant.is_none() {
        let of_subject = || extensions.get::<Subject>().and_then(Subject::tenant);
        let tenant = extensions
            .get::<TenantId>()
            .map(TenantId::as_str)
            .or_else(of_subject);
        problem.request.tenant = tenant.map(str::to_owned);
    }
}

/// Whether the same request may well succeed a second later.
const fn passes(code: Code) -> bool {
    matches!(
        code,
        Code::OverseerPool
            | Code::Overloaded
            | Code::PublishUnavailable
            | Code::RateLimited
            | Code::SchemaUnavailable
    )
}

/// Whether the client takes JSON (RFC 9110, 12.5.1): it says nothing, or names a range with JSON in it and q above 0.
fn accepts_json(headers: &HeaderMap) -> bool {
    let mut ranges = headers
        .get_all(ACCEPT)
        .iter()
        .flat_map(|value| value.to_str().unwrap_or("*/*").split(','))
        .filter(|range| !range.trim().is_empty())
        .peekable();
    ranges.peek().is_none() || ranges.any(takes_json)
}

fn takes_json(range: &str) -> bool {
    let mut parts = range.split(';').map(str::trim);
    let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
    let refused = parts.any(|parameter| {
        let q = parameter
            .strip_prefix("q=")
            .or_else(|| parameter.strip_prefix("Q="));
        q.is_some_and(|q| f32::from_str(q).is_ok_and(|q| q == 0.0))
    });
    let json = matches!(media_type.as_str(), "*/*" | "application/*" | "application/json")
        || media_type.ends_with("+json");
    json && !refused
}

#[cfg(test)]
mod tests {
    use http::Request;
    use http_body_util::Empty;

    use super::*;

    fn answer(code: Code, headers: &[(&str, &str)]) -> Response<MessageBody<Empty<bytes::Bytes>>> {
        let mut request = Request::builder().uri("/a?secret=1");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).expect("valid").into_parts();
        Rejection::new(Problem::new(code, "why")).into_response(&parts)
    }

    #[test]
    fn json_unless_the_client_takes_none() {
        for (accept, json) in [
            ("*/*", true),
            ("application/*;q=0.1", true),
            ("text/html, application/json", true),
            ("application/vnd.x+json", true),
            ("", true),
            ("text/plain", false),
            ("text/html,application/xml", false),
            ("application/json;q=0", false),
            ("text/plain, application/json; q=0.0", false),
        ] {
            let response = answer(Code::NotFound, &[("accept", accept)]);
            let media_type = response.headers()[CONTENT_TYPE].to_str().expect("ASCII");
            assert_eq!(
                media_type == "application/problem+json",
                json,
                "{accept}: {media_type}"
            );
        }
    }

    #[test]
    fn the_refusal_travels_typed_and_names_path_and_trace() {
        let trace = "12345678901234567890123456789012";
        let response = answer(
            Code::SubjectInvalid,
            &[("traceparent", &format!("00-{trace}-1234567890123456-01"))],
        );
        let rejection = response.extensions().get::<Rejection>().expect("typed");
        assert_eq!(rejection.problem().instance.as_deref(), Some("/a"));
        assert_eq!(rejection.problem().trace_id.as_deref(), Some(trace));
        assert!(!rejection.closes_session());
        assert!(rejection.clone().closing_session().closes_session());
    }

    #[test]
    fn the_refusal_says_which_request_it_was() {
        let request = Request::builder().header("x-request-id", "r-1");
        let (mut parts, ()) = request.body(()).expect("valid").into_parts();
        let context = TraceContext::of_request(&parts.headers, &parts.extensions);
        parts.extensions.insert(context);
        parts.extensions.insert(TenantId::new("acme").expect("a tenant"));
        let json = |parts: &Parts| {
            let refused = Rejection::new(Problem::new(Code::NotFound, "why"))
                .into_response::<Empty<bytes::Bytes>>(parts);
            let typed = refused.extensions().get::<Rejection>().expect("typed").clone();
            serde_json::to_value(typed.problem()).expect("JSON")
        };
        let told = json(&parts);
        assert_eq!(
            (&told["request_id"], &told["tenant"]),
            (&"r-1".into(), &"acme".into())
        );
        assert_eq!(told["trace_id"], context.trace_id());
        assert_eq!(told["span_id"], context.span_id());
        let long = "x".repeat(REQUEST_ID_BYTES_MAX + 1);
        parts
            .headers
            .insert("x-request-id", long.parse().expect("a value"));
        assert!(json(&parts).get("request_id").is_none());
    }

    #[test]
    fn what_passes_says_when_to_retry_and_401_says_how_to_authenticate() {
        assert_eq!(answer(Code::PublishUnavailable, &[]).headers()[RETRY_AFTER], "1");
        assert!(
            answer(Code::OverseerTrap, &[])
                .headers()
                .get(RETRY_AFTER)
                .is_none()
        );
        assert_eq!(
            answer(Code::AuthMissing, &[]).headers()[WWW_AUTHENTICATE],
            "Bearer"
        );
    }
}
