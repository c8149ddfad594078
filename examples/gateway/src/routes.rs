//! The public listener: publish over HTTP and WebSocket, problems for everything else.

use std::convert::Infallible;

use arqon::{
    Code, OverseerLayer, Problem, Rejection, RolloutLayer, Subject, SubjectLayer, TenantId,
    edge::reserved::ReservedHeadersLayer,
};
use axum::{
    Extension, Router,
    body::Body,
    extract::{FromRequestParts, Request, WebSocketUpgrade},
    response::{IntoResponse, Response},
    routing::{any, get, post_service},
};
use http::{HeaderValue, header::ALLOW, request::Parts};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::{ServiceBuilder, util::BoxCloneSyncService};
use tower_http::{
    catch_panic::CatchPanicLayer,
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
    sensitive_headers::SetSensitiveRequestHeadersLayer,
    trace::TraceLayer,
};

use crate::{hub::Hub, ws::Session};

/// The whole message stack, with the publisher at its bottom.
pub(crate) type MessageService = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Infallible>;

/// The only subprotocol so far.
const SUBPROTOCOL: &str = "arqon.v1.json";
const PUBLISH: &str = "/v1/publish/";
/// What is left as it is in a path: RFC 3986's unreserved characters.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// What the routes need.
#[derive(Clone)]
pub(crate) struct Public {
    pub(crate) stack: MessageService,
    pub(crate) overseer: OverseerLayer,
    pub(crate) rollout: RolloutLayer,
    pub(crate) tenant: TenantId,
    pub(crate) hub: Hub,
    pub(crate) max_body_bytes: usize,
    pub(crate) sessions: TaskTracker,
    pub(crate) stop: CancellationToken,
}

/// The routes of the public listener.
pub(crate) fn router(public: Public) -> Router {
    // The upgrade passes what every request passes, up to the policies; it has no payload and no subject.
    let upgrade = ServiceBuilder::new()
        .layer(ReservedHeadersLayer::new())
        .layer(public.overseer.clone());
    Router::new()
        .route(
            "/v1/publish/{suffix}",
            post_service(public.stack.clone()).fallback(|request| method_not_allowed(request, "POST")),
        )
        .route(
            "/v1/ws",
            get(websocket)
                .layer(upgrade)
                .fallback(|request| method_not_allowed(request, "GET")),
        )
        .fallback(any(not_found))
        .layer(Extension(public))
        .layer(
            ServiceBuilder::new()
                // The id is set before anything can log, and answered with.
                .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
                .layer(SetSensitiveRequestHeadersLayer::new([
                    http::header::AUTHORIZATION,
                    http::header::COOKIE,
                    http::header::PROXY_AUTHORIZATION,
                ]))
                .layer(TraceLayer::new_for_http())
                .layer(PropagateRequestIdLayer::x_request_id())
                // A panic below is a 500, not a reset connection.
                .layer(CatchPanicLayer::custom(|_| {
                    let (parts, ()) = http::Request::new(()).into_parts();
                    refuse(
                        Problem::new(Code::Internal, "an internal error; it has been logged"),
                        &parts,
                    )
                })),
        )
}

/// Names the subject of a request: what a frame named already, else `in.t.<tenant>.<suffix>` of the publish route.
pub(crate) fn subjects(tenant: TenantId) -> SubjectLayer {
    SubjectLayer::with(move |parts: &Parts| {
        if let Some(subject) = parts.extensions.get::<Subject>() {
            return Ok(Some(subject.clone()));
        }
        let Some(suffix) = parts.uri.path().strip_prefix(PUBLISH) else {
            return Ok(None);
        };
        let suffix = percent_decode_str(suffix).decode_utf8().map_err(|_| {
            Problem::new(
                Code::SubjectInvalid,
                "the suffix is not UTF-8 once it is percent-decoded",
            )
        })?;
        let tenant = parts.extensions.get::<TenantId>().unwrap_or(&tenant);
        Ok(Some(Subject::for_tenant(tenant, suffix)?))
    })
}

/// A suffix as one path segment.
pub(crate) fn escape(suffix: &str) -> String {
    utf8_percent_encode(suffix, PATH).to_string()
}

async fn websocket(Extension(public): Extension<Public>, request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    let upgrade = match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
        Ok(upgrade) => upgrade,
        Err(rejection) => {
            let detail = format!("this is not a WebSocket upgrade: {}", rejection.body_text());
            return refuse(Problem::new(Code::FrameInvalid, detail), &parts);
        }
    };
    let upgrade = upgrade
        .protocols([SUBPROTOCOL])
        // base64 makes 4 bytes of 3, and headers come on top.
        .max_message_size(public.max_body_bytes.saturating_mul(2).saturating_add(64 * 1024))
        .max_frame_size(public.max_body_bytes.saturating_mul(2).saturating_add(64 * 1024));
    if upgrade.selected_protocol().is_none() {
        let detail = format!("ask for the subprotocol {SUBPROTOCOL} in Sec-WebSocket-Protocol");
        return refuse(Problem::new(Code::FrameInvalid, detail), &parts);
    }
    let tenant = parts
        .extensions
        .get::<TenantId>()
        .cloned()
        .unwrap_or(public.tenant);
    let session = Session::of(
        &parts,
        tenant,
        &public.rollout,
        public.stack,
        public.hub,
        public.stop,
    );
    let tracker = public.sessions;
    upgrade.on_upgrade(move |socket| async move { tracker.track_future(session.run(socket)).await })
}

async fn not_found(request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let detail =
        "there is POST /v1/publish/{suffix} and GET /v1/ws; operators' routes are on the admin listener";
    refuse(Problem::new(Code::NotFound, detail), &parts)
}

async fn method_not_allowed(request: Request, allowed: &'static str) -> Response {
    let (parts, _) = request.into_parts();
    let detail = format!("{} is not allowed here: use {allowed}", parts.method);
    let mut response = refuse(Problem::new(Code::MethodNotAllowed, detail), &parts);
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

/// A refusal as axum's response.
pub(crate) fn refuse(problem: Problem, parts: &Parts) -> Response {
    Rejection::new(problem)
        .into_response::<Body>(parts)
        .into_response()
}
