//! A refusal, as a response.

use std::{str::FromStr, sync::Arc};

use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
    request::Parts,
};

use crate::{Code, MessageBody, Problem, TraceKey};

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
    /// `instance` and `trace_id` filled in, and this refusal in its extensions.
    #[must_use]
    pub fn into_response<B>(mut self, request: &Parts) -> Response<MessageBody<B>> {
        let problem = Arc::make_mut(&mut self.problem);
        problem
            .instance
            .get_or_insert_with(|| request.uri.path().to_owned());
        if problem.trace_id.is_none() {
            let key = TraceKey::from_request(&request.headers, &request.extensions);
            problem.trace_id = key.and_then(|key| key.trace_id().map(str::to_owned));
        }
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
