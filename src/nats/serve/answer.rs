//! What a service said of a message, and what becomes of it.

use std::{panic::AssertUnwindSafe, time::Duration};

use arqon_message::{BoxError, Code, Problem, Rejection, collect};
use async_nats::{HeaderMap as NatsHeaders, Message};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::Full;
use tower::ServiceExt;
use tower_service::Service;

use super::{Server, request};

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Ok,
    /// The same message would be refused again.
    Refused,
    /// Another try may do.
    Failed,
    /// It never was a request, or failed too often.
    Poison,
}

/// An answer in NATS' words.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) outcome: Outcome,
    /// One line for the log: status and why.
    pub(super) summary: String,
    /// When to try again, where the service said so.
    pub(super) retry_after: Option<Duration>,
    pub(super) headers: NatsHeaders,
    pub(super) payload: Bytes,
}

/// Whether another try may do (RFC 9110 and 8470): the service could not, rather than would not.
fn is_worth_another_try(status: StatusCode) -> bool {
    status.is_server_error()
        || [
            StatusCode::REQUEST_TIMEOUT,
            StatusCode::TOO_EARLY,
            StatusCode::TOO_MANY_REQUESTS,
        ]
        .contains(&status)
}

impl<S, B> Server<S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
{
    /// Calls the service with a message. A panic, an error and silence are answers too.
    pub(super) async fn answer(&self, message: &Message) -> Answer {
        let limits = self.limits;
        let request = match request::of(message, self.strip_prefix.as_deref(), limits.max_body_bytes) {
            Ok(request) => request,
            Err(refused) => {
                let mut answer = Answer::of_problem(&self.refuse_with.refuse(*refused));
                answer.outcome = Outcome::Poison;
                return answer;
            }
        };
        let started = std::time::Instant::now();
        self.metrics.in_flight.increment(1.0);
        let reply_max = self.replies.life().max_payload();
        let calling = async {
            let response = self.service.clone().oneshot(request).await.map_err(Into::into)?;
            Ok::<_, BoxError>(Answer::of(response, reply_max).await)
        };
        let called = tokio::time::timeout(limits.deadline, AssertUnwindSafe(calling).catch_unwind()).await;
        self.metrics.in_flight.decrement(1.0);
        self.metrics.duration.record(started.elapsed().as_secs_f64());
        match called {
            Ok(Ok(Ok(answer))) => answer,
            Ok(Ok(Err(error))) => {
                tracing::error!(component = "nats", subject = %message.subject, %error, "the service failed");
                Answer::of_problem(&Problem::new(
                    Code::Internal,
                    "the service failed; it has been logged",
                ))
            }
            Ok(Err(_panic)) => {
                tracing::error!(component = "nats", subject = %message.subject, "the service panicked");
                Answer::of_problem(&Problem::new(
                    Code::Internal,
                    "an internal error; it has been logged",
                ))
            }
            Err(_late) => Answer::of_problem(&Problem::new(
                Code::Overloaded,
                "the message was not answered in time",
            )),
        }
    }
}

impl Answer {
    async fn of<B>(response: Response<B>, reply_max: usize) -> Self
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let (parts, body) = response.into_parts();
        let payload = match collect(body, reply_max).await {
            Ok(body) => body.bytes,
            Err(error) => return Self::of_problem(&error.problem(Code::Internal)),
        };
        let mut answer = Self {
            outcome: outcome(parts.status),
            summary: parts.status.to_string(),
            retry_after: retry_after(&parts.headers),
            headers: reply_headers(&parts.headers),
            payload,
        };
        if parts.status.is_client_error() || parts.status.is_server_error() {
            let why = parts.extensions.get::<Rejection>().map_or_else(
                || parts.status.canonical_reason().unwrap_or("refused").to_owned(),
                |rejection| {
                    let problem = rejection.problem();
                    format!("{}: {}", problem.code, problem.detail)
                },
            );
            answer.say_error(parts.status, &why);
        }
        answer
    }

    pub(super) fn of_problem(problem: &Problem) -> Self {
        let mut answer = Self {
            outcome: outcome(problem.status),
            summary: String::new(),
            retry_after: None,
            headers: NatsHeaders::new(),
            payload: problem.to_json(),
        };
        insert(&mut answer.headers, "content-type", "application/problem+json");
        answer.say_error(problem.status, &format!("{}: {}", problem.code, problem.detail));
        answer
    }

    /// The headers by which NATS' service clients know an error (ADR-32).
    fn say_error(&mut self, status: StatusCode, why: &str) {
        let line: String = why
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(512)
            .collect();
        insert(&mut self.headers, "Nats-Service-Error-Code", status.as_str());
        insert(&mut self.headers, "Nats-Service-Error", &line);
        self.summary = format!("{} {line}", status.as_u16());
    }
}

fn outcome(status: StatusCode) -> Outcome {
    if is_worth_another_try(status) {
        Outcome::Failed
    } else if status.is_client_error() {
        Outcome::Refused
    } else {
        Outcome::Ok
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The response's headers, but those of the hop and what NATS keeps for itself.
fn reply_headers(headers: &HeaderMap) -> NatsHeaders {
    let mut reply = NatsHeaders::new();
    for (name, value) in headers {
        if stays(name) {
            continue;
        }
        if let (Ok(name), Ok(value)) = (
            name.as_str().parse::<async_nats::HeaderName>(),
            value.to_str().unwrap_or("\n").parse::<async_nats::HeaderValue>(),
        ) {
            reply.append(name, value);
        }
    }
    reply
}

fn stays(name: &HeaderName) -> bool {
    name.as_str().starts_with("nats-")
        || [
            header::CONNECTION,
            header::CONTENT_LENGTH,
            header::SET_COOKIE,
            header::TRAILER,
            header::TRANSFER_ENCODING,
            header::UPGRADE,
        ]
        .contains(name)
}

/// Never the panicking conversion: a value that NATS cannot carry is left out.
fn insert(headers: &mut NatsHeaders, name: &'static str, value: &str) {
    if let (Ok(name), Ok(value)) = (
        name.parse::<async_nats::HeaderName>(),
        value.parse::<async_nats::HeaderValue>(),
    ) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    #[test]
    fn a_status_says_what_becomes_of_a_message() {
        for (status, expected) in [
            (200, Outcome::Ok),
            (202, Outcome::Ok),
            (304, Outcome::Ok),
            (400, Outcome::Refused),
            (403, Outcome::Refused),
            (499, Outcome::Refused),
            (408, Outcome::Failed),
            (425, Outcome::Failed),
            (429, Outcome::Failed),
            (500, Outcome::Failed),
            (503, Outcome::Failed),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(outcome(status), expected, "{status}");
        }
    }

    #[tokio::test]
    async fn an_error_is_one_line_and_the_hops_headers_stay() {
        let response = Response::builder()
            .status(503)
            .header("retry-after", "7")
            .header("connection", "close")
            .header("set-cookie", "a=b")
            .header("nats-service-error", "forged")
            .header("x-own", "1")
            .body(Full::new(Bytes::from_static(b"late")))
            .expect("valid");
        let answer = Answer::of(response, 100).await;
        assert_eq!(
            (answer.outcome, answer.retry_after),
            (Outcome::Failed, Some(Duration::from_secs(7)))
        );
        let value = |name: &str| answer.headers.get(name).map(|value| value.as_str().to_owned());
        assert_eq!(value("Nats-Service-Error-Code").as_deref(), Some("503"));
        assert_eq!(
            value("Nats-Service-Error").as_deref(),
            Some("Service Unavailable")
        );
        assert_eq!(value("x-own").as_deref(), Some("1"));
        assert_eq!(
            (
                value("connection"),
                value("set-cookie"),
                value("nats-service-error")
            ),
            (None, None, None)
        );
        let problem = Problem::new(Code::SchemaViolation, "two\r\nlines");
        let answer = Answer::of_problem(&problem);
        assert_eq!(
            answer
                .headers
                .get("Nats-Service-Error")
                .map(|value| value.as_str()),
            Some("schema.violation: two  lines")
        );
    }

    #[tokio::test]
    async fn a_reply_that_the_server_would_not_take_is_a_problem() {
        let answer = Answer::of(Response::new(Full::new(Bytes::from_static(b"12345"))), 4).await;
        assert_eq!(answer.outcome, Outcome::Refused);
        assert!(answer.summary.starts_with("413 "), "{}", answer.summary);
    }
}
