//! What publishing has in common, whichever engine does it: the headers that go along, and the answer.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header, request::Parts};
use http_body::Body;
use http_body_util::Empty;
use pin_project_lite::pin_project;
use serde::Serialize;

use arqon_message::{
    BoxError, Code, Collect, KeySource, MessageBody, Problem, Rejection, Subject, TraceContext, TraceKey,
    collect,
};

/// Headers that a map may have room for which outlives its request, some 100 bytes each: an idle connection holds it.
const KEPT_HEADERS_MAX: usize = 24;

/// The response of a publishing service: a small whole body.
pub type Answer = Response<MessageBody<Empty<Bytes>>>;

/// A message about to be published.
#[derive(Clone, Debug)]
pub struct Message {
    /// Where to.
    pub subject: Subject,
    /// The headers that go along: see [`forwarded`].
    pub headers: HeaderMap,
    /// The payload.
    pub payload: Bytes,
}

/// What a successful publish answers (DESIGN 10), as JSON with status 202.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Published {
    /// The whole subject.
    pub subject: Subject,
    /// The JetStream stream that took the message; null without NATS.
    pub stream: Option<String>,
    /// The message's sequence in it; null without NATS.
    pub sequence: Option<u64>,
    /// Whether the stream had a message with this `Nats-Msg-Id` already, and so kept only that one.
    pub duplicate: bool,
}

impl Published {
    /// The 202 response.
    #[must_use]
    pub fn into_response(self) -> Answer {
        self.into_response_in(HeaderMap::new())
    }

    /// The same, in a map that was used: the request's own has room for what layers add to an answer, and over HTTP/1 hyper
    /// reads the connection's next head into the last answer's. So one map serves a connection, unless it is a large one.
    pub(crate) fn into_response_in(self, used: HeaderMap) -> Answer {
        // A map's capacity is of names. Of values there may be more, and room for them stays with it, too.
        let mut headers = match used.capacity().max(used.len()) {
            0..=KEPT_HEADERS_MAX => used,
            _ => HeaderMap::new(),
        };
        headers.clear();
        let mut response = Response::new(MessageBody::whole(self.json().into(), None));
        *response.headers_mut() = headers;
        *response.status_mut() = StatusCode::ACCEPTED;
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }

    fn json(&self) -> Vec<u8> {
        let subject = self.subject.as_str();
        let plain = |byte| !matches!(byte, b'"' | b'\\' | 0..=0x1f);
        let is_bare = self.stream.is_none() && self.sequence.is_none() && !self.duplicate;
        if is_bare && subject.bytes().all(plain) {
            // All but the subject is the same each time. One allocation, of the very size.
            let rest = r#"","stream":null,"sequence":null,"duplicate":false}"#;
            return [r#"{"subject":""#, subject, rest].concat().into_bytes();
        }
        serde_json::to_vec(self).expect("strings and numbers are JSON")
    }
}

/// Takes a request's body, at most `max_body_bytes`, for its [`Subject`].
///
/// The future's error is the refusal to answer with: no subject (`subject.invalid`), a body over `max_body_bytes`
/// (`body.too_large`), one that could not be read (`body.timeout`, `internal`).
pub fn take<B>(request: Request<B>, max_body_bytes: usize) -> Take<B>
where
    B: Body<Data = Bytes>,
{
    let (parts, body) = request.into_parts();
    Take {
        body: collect(body, max_body_bytes),
        head: Some(parts),
    }
}

pin_project! {
    /// The future of [`take`]. Dropping it drops the body.
    pub struct Take<B> {
        #[pin]
        body: Collect<B>,
        head: Option<Parts>,
    }
}

impl<B> fmt::Debug for Take<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Take").finish_non_exhaustive()
    }
}

/// A request whose body is there.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Where it is published to.
    pub subject: Subject,
    /// The request's head.
    pub parts: Parts,
    /// Its body.
    pub payload: Bytes,
}

impl Taken {
    /// What is published: the subject, the headers that go along and the body.
    #[must_use]
    pub fn message(&self) -> Message {
        Message {
            subject: self.subject.clone(),
            headers: forwarded(&self.parts, &self.subject),
            payload: self.payload.clone(),
        }
    }
}

impl<B> Future for Take<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = Result<Taken, Box<(Problem, Parts)>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let head = this
            .head
            .as_ref()
            .expect("a future is not polled after it is ready");
        let collected = match head.extensions.get::<Subject>() {
            Some(subject) => Ok((subject.clone(), ready!(this.body.poll(cx)))),
            None => Err(Problem::new(
                Code::SubjectInvalid,
                "the request names no subject to publish to",
            )),
        };
        let parts = this.head.take().expect("it was there");
        Poll::Ready(match collected {
            Ok((subject, Ok(body))) => Ok(Taken {
                subject,
                parts,
                payload: body.bytes,
            }),
            Ok((_, Err(error))) => Err(Box::new((error.problem(Code::Internal), parts))),
            Err(problem) => Err(Box::new((problem, parts))),
        })
    }
}

/// A refusal as the answer to a request.
#[must_use]
pub fn refuse(problem: Problem, parts: &Parts) -> Answer {
    Rejection::new(problem).into_response(parts)
}

/// The headers that are published: all but hop-by-hop ones (those that `Connection` names are gone at the edge, see
/// [`edge::hop`](crate::edge::hop): here a client could name what a layer set), `host`, `content-length`, credentials, cookies, `accept-*` and `nats-*`. `x-arqon-*` goes along: what a client sent of it is
/// gone at the edge, and what a layer wrote is meant to arrive. A client's `Nats-Msg-Id` is published as
/// `<tenant>:<value>`, so that no tenant can shadow another's message; without a valid `traceparent` the key that decided
/// is not invented into one. Where requests are observed ([`observe`](crate::observe)), the `traceparent` is our own span's.
#[must_use]
pub fn forwarded(parts: &Parts, subject: &Subject) -> HeaderMap {
    // Room for its names, which a map holds already; of values one name may have more than a map has room for names.
    let mut headers = HeaderMap::with_capacity(parts.headers.keys_len());
    for (name, value) in &parts.headers {
        if !is_private(name) {
            // At the map's limit the rest is left behind: the request had as many, so this cannot happen.
            let _ = headers.try_append(name.clone(), value.clone());
        }
    }
    if let Some(context) = parts.extensions.get::<TraceContext>() {
        // One that has no room for it goes without: the map was full of what the client sent.
        let _ = headers.try_insert("traceparent", context.traceparent());
    } else if TraceKey::of_trace(&headers).is_none_or(|key| key.source() != KeySource::Traceparent) {
        headers.remove("traceparent");
    }
    if let Some(id) = parts.headers.get("nats-msg-id") {
        let tenant = subject.tenant().unwrap_or_default();
        // One that cannot be published is for the publisher to refuse: without it a message would be stored twice.
        let own = [tenant.as_bytes(), b":", id.as_bytes()].concat();
        if let Ok(id) = HeaderValue::try_from(own) {
            // It is one of those that were left out, so there is room.
            let _ = headers.try_insert("nats-msg-id", id);
        }
    }
    headers
}

fn is_private(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(
        name,
        "authorization"
            | "connection"
            | "content-length"
            | "cookie"
            | "expect"
            | "host"
            | "http2-settings"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "accept"
    ) || name.starts_with("accept-")
        || name.starts_with("nats-")
        || name.starts_with("sec-websocket-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(headers: &[(&str, &str)]) -> Vec<String> {
        let mut request = Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).expect("valid").into_parts();
        let subject = Subject::parse("in.t.acme.a").expect("subject");
        let headers = forwarded(&parts, &subject);
        let mut lines: Vec<_> = headers
            .iter()
            .map(|(name, value)| format!("{name}={}", value.to_str().expect("ASCII")))
            .collect();
        lines.sort_unstable();
        lines
    }

    #[test]
    fn what_belongs_to_the_hop_or_to_the_client_is_not_published() {
        let lines = forward(&[
            ("Host", "x"),
            ("Content-Length", "1"),
            ("Authorization", "Bearer secret"),
            ("Proxy-Authorization", "secret"),
            ("Cookie", "a=b"),
            ("Accept", "*/*"),
            ("Accept-Encoding", "gzip"),
            ("Connection", "close, x-custom"),
            ("Transfer-Encoding", "chunked"),
            ("Nats-Rollup", "all"),
            ("Nats-Expected-Stream", "X"),
            ("Content-Type", "application/json"),
            ("x-arqon-schema", "a@1"),
            ("x-custom", "1"),
            ("x-custom", "2"),
        ]);
        assert_eq!(
            lines,
            [
                "content-type=application/json",
                "x-arqon-schema=a@1",
                "x-custom=1",
                "x-custom=2"
            ]
        );
    }

    #[test]
    fn what_fits_into_a_request_is_published_however_many_values_and_names_it_has() {
        // http's map takes 24,576 names, and of values what there is memory for.
        for (values, names) in [(40_000, 1), (24_576, 24_576)] {
            let mut request = Request::new(());
            for n in 0..values {
                let name: HeaderName = format!("x-{}", n % names).parse().expect("a name");
                let kept = request
                    .headers_mut()
                    .try_append(name, HeaderValue::from_static("1"));
                assert!(kept.is_ok(), "{n}");
            }
            let context = TraceContext::of_request(request.headers(), request.extensions());
            request.extensions_mut().insert(context);
            let (parts, ()) = request.into_parts();
            let subject = Subject::parse("in.t.acme.a").expect("subject");
            let headers = forwarded(&parts, &subject);
            assert_eq!(headers.get_all("x-0").iter().count(), values / names);
            assert!(headers.len() >= values);
        }
    }

    #[test]
    fn an_answer_is_the_json_of_what_was_published() {
        for subject in ["in.t.acme.a", "in.t.acme.\u{e4}\u{1f600}~", r#"in.t.acme.a"b\c"#] {
            for (stream, sequence, duplicate) in [
                (None, None, false),
                (Some("S".to_owned()), Some(7), true),
                (None, None, true),
            ] {
                let published = Published {
                    subject: Subject::parse(subject).expect("subject"),
                    stream,
                    sequence,
                    duplicate,
                };
                let told = serde_json::to_string(&published).expect("JSON");
                assert_eq!(String::from_utf8(published.json()).expect("text"), told);
                assert!(told.starts_with(r#"{"subject":"in.t.acme."#), "{told}");
            }
        }
    }

    fn answer_in(used: HeaderMap) -> Answer {
        let published = Published {
            subject: Subject::parse("in.t.acme.a").expect("subject"),
            stream: None,
            sequence: None,
            duplicate: false,
        };
        published.into_response_in(used)
    }

    #[test]
    fn an_answer_has_nothing_of_the_request_whose_map_it_is_in() {
        for (room, kept) in [(KEPT_HEADERS_MAX, true), (KEPT_HEADERS_MAX + 1, false)] {
            let mut used = HeaderMap::with_capacity(room);
            used.insert("authorization", HeaderValue::from_static("Bearer secret"));
            used.insert("content-type", HeaderValue::from_static("text/plain"));
            let again = used.try_append("content-type", HeaderValue::from_static("text/html"));
            assert!(matches!(again, Ok(true)));
            let answer = answer_in(used);
            let headers: Vec<_> = answer.headers().iter().collect();
            assert_eq!(
                headers,
                [(
                    &header::CONTENT_TYPE,
                    &HeaderValue::from_static("application/json")
                )]
            );
            assert_eq!(answer.headers().capacity() >= KEPT_HEADERS_MAX, kept);
        }
    }

    #[test]
    fn a_map_of_many_values_of_few_names_is_not_kept() {
        for (values, kept) in [(KEPT_HEADERS_MAX, true), (KEPT_HEADERS_MAX + 1, false)] {
            let mut used = HeaderMap::new();
            for _ in 0..values {
                let again = used.try_append("x-many", HeaderValue::from_static("1"));
                assert!(again.is_ok());
            }
            // By its room it is known again: a new map has another.
            used.reserve(KEPT_HEADERS_MAX - used.keys_len());
            let room = used.capacity();
            let answer = answer_in(used);
            assert_eq!(answer.headers().capacity() == room, kept, "{values}");
            assert_eq!(answer.headers().len(), 1);
        }
    }

    #[test]
    fn a_message_id_is_the_tenants_own() {
        assert_eq!(forward(&[("Nats-Msg-Id", "m1")]), ["nats-msg-id=acme:m1"]);
        let (parts, ()) = Request::builder()
            .header("nats-msg-id", &b"\xff"[..])
            .body(())
            .expect("valid")
            .into_parts();
        let subject = Subject::parse("in.t.acme.a").expect("subject");
        assert_eq!(
            forwarded(&parts, &subject)["nats-msg-id"],
            &b"acme:\xff"[..],
            "it is not left out in silence"
        );
    }

    #[test]
    fn a_malformed_traceparent_is_not_published() {
        let good = format!("00-{}-{}-01", "1".repeat(32), "2".repeat(16));
        assert_eq!(forward(&[("traceparent", &good)]).len(), 1);
        assert!(forward(&[("traceparent", "junk")]).is_empty());
        let b3 = ("x-b3-traceid", "1".repeat(32));
        let both = forward(&[("traceparent", "junk"), (b3.0, &b3.1)]);
        assert_eq!(
            both,
            [format!("{}={}", b3.0, b3.1)],
            "another trace header makes it no better"
        );
    }

    #[tokio::test]
    async fn a_request_without_subject_or_over_the_cap_is_refused() {
        let request = Request::new(http_body_util::Full::new(Bytes::from_static(b"abc")));
        assert_eq!(
            take(request, 3).await.expect_err("no subject").0.code,
            Code::SubjectInvalid
        );
        for (cap, fits) in [(3, true), (2, false)] {
            let mut request = Request::new(http_body_util::Full::new(Bytes::from_static(b"abc")));
            request
                .extensions_mut()
                .insert(Subject::parse("a").expect("subject"));
            assert_eq!(take(request, cap).await.is_ok(), fits);
        }
    }
}
