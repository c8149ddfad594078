//! The admin listener: what operators read, and the control routes. Nothing here passes the policy stack.

use std::{sync::Arc, time::Duration};

use arqon::{Code, Problem, Rejection, events::Audience, overseer::HandleError, rollout::SubmitError};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{
        DefaultBodyLimit, Path, Query, Request, State,
        rejection::{BytesRejection, PathRejection, QueryRejection},
    },
    middleware::{self, Next},
    response::{
        IntoResponse, Response,
        sse::{KeepAlive, Sse},
    },
    routing::{any, get, post, put},
};
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{app::Shared, console, divergence, feed::Feed, readiness::Check, recorder::Metrics};

/// The largest policy that can be uploaded, in bytes.
const POLICY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The largest control message, in bytes: none larger is an envelope.
const CONTROL_BYTES_MAX: usize = arqon::rollout::MAX_ENVELOPE_BYTES;

/// What the routes need.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) shared: Arc<Shared>,
    pub(crate) metrics: Metrics,
    pub(crate) feed: Feed,
}

/// The routes of the admin listener.
pub(crate) fn router(admin: Admin) -> Router {
    let mut router = Router::new()
        .merge(console::routes())
        .merge(divergence::routes())
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/v1/state", get(state))
        .route("/v1/events", get(events));
    if admin.shared.control.is_some() {
        let control = Router::new()
            .route(
                "/v1/control",
                post(control).layer(DefaultBodyLimit::max(CONTROL_BYTES_MAX)),
            )
            .route(
                "/v1/policies/{name}",
                put(put_policy).layer(DefaultBodyLimit::max(POLICY_BYTES_MAX)),
            )
            .route("/v1/policies/{name}/{action}", post(change_policy))
            .route_layer(middleware::from_fn_with_state(admin.clone(), control_only));
        router = router.merge(control);
    }
    router
        .fallback(any(not_found))
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(admin)
}

fn refuse(problem: Problem, uri: &str) -> Response {
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.uri = uri.parse().unwrap_or_default();
    Rejection::new(problem)
        .into_response::<axum::body::Body>(&parts)
        .into_response()
}

async fn not_found(request: Request) -> Response {
    let detail = "there is the console at /, /divergence, /metrics, /healthz, /readyz, /v1/state and /v1/events; the control routes are there when \
                  gateway.control_token_file is set";
    refuse(Problem::new(Code::NotFound, detail), request.uri().path())
}

async fn method_not_allowed(request: Request) -> Response {
    let detail = format!("{} is not allowed here", request.method());
    refuse(Problem::new(Code::MethodNotAllowed, detail), request.uri().path())
}

async fn metrics(State(admin): State<Admin>) -> Response {
    admin.shared.sample();
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        admin.metrics.render(),
    )
        .into_response()
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let checks = admin.shared.readiness.checks();
    let ready = checks.iter().all(Check::passes);
    let bus = &admin.shared.bus;
    let body = json!({
        "ready": ready,
        "checks": checks,
        "bus_attached": true,
        "bus_capacity": bus.capacity(),
    });
    (
        if ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        },
        Json(body),
    )
        .into_response()
}

async fn state(State(admin): State<Admin>) -> Json<Value> {
    Json(admin.shared.state())
}

/// Who asks: a holder of the token, somebody without one, or somebody with a wrong one.
fn authorize(admin: &Admin, headers: &HeaderMap) -> Result<Audience, Problem> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Ok(Audience::Observer);
    };
    let given = value.as_bytes().strip_prefix(b"Bearer ").unwrap_or_default();
    match &admin.shared.control {
        Some(token) if token.is(given) => Ok(Audience::Admin),
        _ => Err(Problem::new(
            Code::AuthInvalid,
            "the token is not that of gateway.control_token_file",
        )),
    }
}

/// Looks at the token before anything of the body is read.
async fn control_only(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let problem = match authorize(&admin, request.headers()) {
        Ok(Audience::Admin) => return next.run(request).await,
        Ok(Audience::Observer) => Problem::new(
            Code::AuthMissing,
            "send Authorization: Bearer <the token of gateway.control_token_file>",
        ),
        Err(problem) => problem,
    };
    refuse(problem, request.uri().path())
}

/// What could not be read of a request to a control route, whose body has at most `bytes_max` bytes.
fn unread(code: Code, status: StatusCode, detail: String, (path, bytes_max): (&str, usize)) -> Response {
    let problem = match status {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(
            Code::BodyTooLarge,
            format!("at most {bytes_max} bytes are taken here"),
        ),
        status => Problem::new(code, detail).with_status(status),
    };
    refuse(problem, path)
}

async fn events(State(admin): State<Admin>, headers: HeaderMap) -> Response {
    match authorize(&admin, &headers) {
        Ok(audience) => Sse::new(admin.feed.read(audience))
            .keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
            .into_response(),
        Err(problem) => refuse(problem, "/v1/events"),
    }
}

async fn control(State(admin): State<Admin>, envelope: Result<Bytes, BytesRejection>) -> Response {
    const PATH: &str = "/v1/control";
    let envelope = match envelope {
        Ok(envelope) => envelope,
        Err(error) => {
            let (status, detail) = (error.status(), error.body_text());
            return unread(Code::ControlRefused, status, detail, (PATH, CONTROL_BYTES_MAX));
        }
    };
    match admin.shared.platform.rollout.submit(&envelope).await {
        Ok(receipt) => Json(json!({
            "accepted": true,
            "seq": receipt.seq,
            "state": receipt.state,
            "duplicate": receipt.duplicate,
            "durable": receipt.durable,
            "held": receipt.held,
            "reach": receipt.reach,
            "widened": receipt.widened,
            "judged": receipt.judged,
        }))
        .into_response(),
        Err(SubmitError::Refused(refusal)) => {
            let problem = Problem::new(Code::ControlRefused, refusal.detail.clone());
            let mut body = serde_json::to_value(&problem).unwrap_or_default();
            body["reason"] = json!(refusal.reason);
            body["instance"] = json!(PATH);
            if let Some(last) = refusal.last_counter {
                body["last_counter"] = json!(last);
            }
            if let Some(log_time_us) = refusal.log_time_us {
                body["log_time_us"] = json!(log_time_us);
            }
            let headers = [(header::CONTENT_TYPE, "application/problem+json")];
            (StatusCode::CONFLICT, headers, body.to_string()).into_response()
        }
        Err(error) => refuse(Problem::new(Code::PublishUnavailable, error.to_string()), PATH),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Upload {
    /// `candidate`: beside the active module, until it is promoted.
    #[serde(default, rename = "as")]
    place: Option<String>,
}

async fn put_policy(
    State(admin): State<Admin>,
    name: Result<Path<String>, PathRejection>,
    upload: Result<Query<Upload>, QueryRejection>,
    module: Result<Bytes, BytesRejection>,
) -> Response {
    let limited = ("/v1/policies", POLICY_BYTES_MAX);
    let unread = |status, detail| unread(Code::PolicyRefused, status, detail, limited);
    let (Path(name), Query(upload), module) = match (name, upload, module) {
        (Ok(name), Ok(upload), Ok(module)) => (name, upload, module),
        (Err(error), ..) => return unread(error.status(), error.body_text()),
        (_, Err(error), _) => return unread(error.status(), error.body_text()),
        (.., Err(error)) => return unread(error.status(), error.body_text()),
    };
    let overseer = &admin.shared.platform.overseer;
    let report = match upload.place.as_deref() {
        None | Some("active") => overseer.replace(&name, module).await,
        Some("candidate") => overseer.candidate(&name, module).await,
        Some(other) => {
            let detail = format!("as={other} is neither active nor candidate");
            return refuse(Problem::new(Code::PolicyRefused, detail), "/v1/policies");
        }
    };
    match report {
        Ok(report) => Json(report).into_response(),
        Err(error) => refused_policy(&error),
    }
}

async fn change_policy(
    State(admin): State<Admin>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Response {
    let Path((name, action)) = match path {
        Ok(path) => path,
        Err(error) => {
            let (status, detail) = (error.status(), error.body_text());
            let limited = ("/v1/policies", POLICY_BYTES_MAX);
            return unread(Code::PolicyRefused, status, detail, limited);
        }
    };
    let overseer = &admin.shared.platform.overseer;
    let changed = match action.as_str() {
        "promote" => overseer.promote(&name),
        "rollback" => overseer.rollback(&name),
        _ => {
            return refuse(
                Problem::new(Code::NotFound, "there is promote and rollback"),
                "/v1/policies",
            );
        }
    };
    match changed {
        Ok(()) => Json(json!({ "name": name, "done": action })).into_response(),
        Err(error) => refused_policy(&error),
    }
}

fn refused_policy(error: &HandleError) -> Response {
    if let HandleError::UnknownPolicy { .. } = error {
        return refuse(Problem::new(Code::NotFound, error.to_string()), "/v1/policies");
    }
    let problem = Problem::new(Code::PolicyRefused, error.to_string());
    let mut body = serde_json::to_value(&problem).unwrap_or_default();
    if let HandleError::Refused(report) = error {
        body["report"] = json!(report);
    }
    let headers = [(header::CONTENT_TYPE, "application/problem+json")];
    (StatusCode::UNPROCESSABLE_ENTITY, headers, body.to_string()).into_response()
}
