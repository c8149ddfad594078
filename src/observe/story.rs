//! One request from its head to its end.

use std::{
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use arqon_message::{Code, ConnectionId, Protocol, RemoteAddr, Subject, TenantId, TraceContext};
use http::{Extensions, HeaderName, HeaderValue, Method, Request, StatusCode};
use tracing::Span;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// More decisions than a stack has layers are not kept.
const DECISIONS_MAX: usize = 8;
/// A longer path is cut in log and span.
const PATH_CHARS_MAX: usize = 256;

/// What is known of a request, and which layer decided what.
#[derive(Debug)]
pub struct Story {
    context: TraceContext,
    span: Span,
    began: SystemTime,
    started: Instant,
    protocol: Protocol,
    method: Method,
    path: String,
    request_id: String,
    remote: Option<RemoteAddr>,
    subject: OnceLock<Subject>,
    tenant: OnceLock<TenantId>,
    decisions: Mutex<Vec<Decision>>,
}

/// What one layer said.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Decision {
    /// The layer: `overseer`, `schema`, `rollout`, `shadow`.
    pub layer: &'static str,
    /// When it was asked, since the request began.
    pub from: Duration,
    /// When it had decided, since the request began; `None` if it never did.
    pub to: Option<Duration>,
    /// What it said.
    pub verdict: Verdict,
}

/// Whether a layer let a request pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It did.
    Pass,
    /// It answered itself.
    Reject(Option<Code>),
    /// The request ended before it had decided.
    Open,
}

impl Verdict {
    /// `pass`, `reject` or `open`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Reject(_) => "reject",
            Self::Open => "open",
        }
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ending {
    /// The answer's status; 499 where nobody waited for it any more.
    pub status: StatusCode,
    /// The problem's code, if it was refused.
    pub code: Option<Code>,
    /// From the request's head to the answer's.
    pub took: Duration,
}

impl Ending {
    pub(super) fn cancelled() -> Self {
        Self {
            status: StatusCode::from_u16(499).expect("a status has three digits"),
            code: None,
            took: Duration::ZERO,
        }
    }
}

impl Story {
    /// Begins, and puts the request's context into its extensions and an id into its headers, if it has none.
    pub(super) fn begin<B>(protocol: Protocol, request: &mut Request<B>) -> Self {
        let context = TraceContext::of_request(request.headers(), request.extensions());
        let given = request
            .headers()
            .get(X_REQUEST_ID)
            .and_then(|id| id.to_str().ok());
        let request_id = given.map_or_else(|| ConnectionId::mint().to_string(), str::to_owned);
        if given.is_none()
            && let Ok(id) = HeaderValue::from_str(&request_id)
        {
            request.headers_mut().insert(X_REQUEST_ID, id);
        }
        request.extensions_mut().insert(context);
        let span = tracing::info_span!(
            "request",
            trace_id = context.trace_id(),
            span_id = context.span_id(),
            request_id
        );
        Self {
            context,
            span,
            began: SystemTime::now(),
            started: Instant::now(),
            protocol,
            method: request.method().clone(),
            path: request.uri().path().chars().take(PATH_CHARS_MAX).collect(),
            request_id,
            remote: request.extensions().get().copied(),
            subject: OnceLock::new(),
            tenant: OnceLock::new(),
            decisions: Mutex::new(Vec::with_capacity(4)),
        }
    }

    /// A layer is asked. What the request is called by now is noted.
    pub(super) fn asked(&self, layer: &'static str, extensions: &Extensions) {
        self.named(extensions);
        let from = self.started.elapsed();
        let mut decisions = self.decisions.lock().unwrap_or_else(PoisonError::into_inner);
        if decisions.len() < DECISIONS_MAX {
            decisions.push(Decision {
                layer,
                from,
                to: None,
                verdict: Verdict::Open,
            });
        }
    }

    /// Notes what the request is called by now.
    pub(super) fn named(&self, extensions: &Extensions) {
        if let Some(subject) = extensions.get::<Subject>() {
            let _ = self.subject.set(subject.clone());
        }
        if let Some(tenant) = extensions.get::<TenantId>() {
            let _ = self.tenant.set(tenant.clone());
        }
    }

    /// A layer said this, unless it had said something before.
    pub(super) fn decided(&self, layer: &'static str, verdict: Verdict) {
        let to = self.started.elapsed();
        let mut decisions = self.decisions.lock().unwrap_or_else(PoisonError::into_inner);
        let open = decisions
            .iter_mut()
            .find(|decision| decision.layer == layer && decision.verdict == Verdict::Open);
        if let Some(decision) = open {
            (decision.to, decision.verdict) = (Some(to), verdict);
        }
    }

    /// Its place in its trace.
    #[must_use]
    pub fn context(&self) -> &TraceContext {
        &self.context
    }

    /// The log's span around all that happens for it.
    pub(super) fn span(&self) -> &Span {
        &self.span
    }

    /// When it came.
    #[must_use]
    pub fn began(&self) -> SystemTime {
        self.began
    }

    /// How it came.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Its method.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// Its path, without the query, at most 256 characters.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its id.
    #[must_use]
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// Who sent it.
    #[must_use]
    pub fn remote(&self) -> Option<RemoteAddr> {
        self.remote
    }

    /// Its subject, once it was named.
    #[must_use]
    pub fn subject(&self) -> Option<&Subject> {
        self.subject.get()
    }

    /// Whose it is, once that was known.
    #[must_use]
    pub fn tenant(&self) -> Option<&str> {
        let named = self.tenant.get().map(TenantId::as_str);
        named.or_else(|| self.subject.get().and_then(Subject::tenant))
    }

    /// Which layer said what, in the order in which they were asked.
    #[must_use]
    pub fn decisions(&self) -> Vec<Decision> {
        self.decisions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The access log's line.
    pub(super) fn log(&self, ending: &Ending) {
        let decisions: Vec<_> = self
            .decisions()
            .iter()
            .map(|decision| format!("{}={}", decision.layer, decision.verdict.as_str()))
            .collect();
        let remote = self.remote.map(|remote| remote.to_string());
        // In no span: the ids stand in the line itself.
        tracing::info!(
            target: "access",
            parent: None,
            component = "access",
            trace_id = self.context.trace_id(),
            span_id = self.context.span_id(),
            request_id = self.request_id,
            tenant = self.tenant(),
            subject = self.subject().map(Subject::as_str),
            protocol = self.protocol.as_str(),
            method = self.method.as_str(),
            path = self.path,
            remote,
            status = ending.status.as_u16(),
            code = ending.code.map(Code::as_str),
            took_us = u64::try_from(ending.took.as_micros()).unwrap_or(u64::MAX),
            decisions = decisions.join(" "),
            "request"
        );
    }
}
