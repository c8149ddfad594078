//! The public listener: publish over HTTP and WebSocket, problems for everything else.

use std::{
    borrow::Cow,
    convert::Infallible,
    future::ready,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use arqon::{
    Code, OverseerLayer, Problem, Rejection, RolloutLayer, Subject, SubjectLayer, TenantId,
    edge::reserved::ReservedHeadersLayer,
    observe::{Observe, ObserveLayer},
    shadow::ShadowHandle,
};
use axum::{
    Extension, Router,
    body::Body,
    extract::{FromRequestParts, Request, WebSocketUpgrade},
    response::{IntoResponse, Response},
    routing::{MethodRouter, any, get},
};
use http::{
    HeaderName, HeaderValue, Method, StatusCode,
    header::{ALLOW, AUTHORIZATION, RETRY_AFTER, SEC_WEBSOCKET_PROTOCOL},
    request::Parts,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::{
    Layer, Service, ServiceBuilder,
    util::{BoxCloneSyncService, MapRequestLayer},
};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use crate::{
    edge::Edge,
    frame::Dialect,
    guard::{GuardLayer, Guarded},
    hub::Hub,
    request_id::RequestIdLayer,
    server::{App, Raised},
    ws::Session,
};

/// The whole message stack, with the publisher at its bottom.
pub(crate) type MessageService = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Infallible>;

const PUBLISH: &str = "/v1/publish/";
/// What a page's token begins with among the subprotocols.
const TOKEN_PROTOCOL: &str = "arqon.bearer.";
/// What a message to a client may have besides its payload, in bytes.
const WRITE_BYTES_MAX: usize = 1024 * 1024;
/// What a session reads at once, in bytes: it is kept as long as the session, ten thousand of which say nothing.
const READ_BUFFER_BYTES: usize = 8 * 1024;
/// What is left as it is in a path: RFC 3986's unreserved characters.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// What the routes need.
#[derive(Clone)]
pub(crate) struct Public {
    pub(crate) observe: ObserveLayer,
    pub(crate) stack: MessageService,
    pub(crate) overseer: OverseerLayer,
    pub(crate) rollout: RolloutLayer,
    pub(crate) shadow: ShadowHandle,
    /// Whose everything is where nobody is authenticated.
    pub(crate) tenant: TenantId,
    pub(crate) edge: Edge,
    pub(crate) hub: Hub,
    pub(crate) request_timeout: Duration,
    pub(crate) cors_origins: Arc<[String]>,
    pub(crate) sessions: TaskTracker,
    pub(crate) stop: CancellationToken,
}

/// In a request's extensions: the edge has refused it already, and the answer is only to be told as every answer is.
#[derive(Clone)]
pub(crate) struct Refused(pub(crate) Problem);

/// What serves the public listener's requests: a publish goes straight to the message stack, and all else to routes: a router's boxes and clones
/// would cost it more than the four layers do.
pub(crate) fn app(public: Public) -> impl App + Sync {
    let (observe, cors) = (public.observe.clone(), cors(&public.cors_origins));
    let guard = GuardLayer {
        timeout: public.request_timeout,
    };
    let entry = Entry {
        publish: public.stack.clone(),
        open: public
            .edge
            .auth
            .is_none()
            .then(|| (public.tenant.clone(), public.edge.clone())),
        routes: router(public),
    };
    ServiceBuilder::new()
        // The id is set before anything can log, and answered with.
        .layer(RequestIdLayer)
        // Every request is counted, and told where somebody asks for it.
        .layer(observe)
        // Answers a browser's question itself: no publish, no verdict.
        .option_layer(cors)
        // A panic below is a 500, not a reset connection; what takes too long is a 503.
        .layer(guard)
        .service(entry)
}

/// The message stack for what comes by no request of HTTP, frames and NATS messages: a panic is a 500, what takes too long a 503,
/// and either is told with its answer.
pub(crate) fn of_messages(
    observe: &ObserveLayer,
    stack: MessageService,
    request_timeout: Duration,
) -> Observe<Guarded<MessageService>> {
    let guard = GuardLayer {
        timeout: request_timeout,
    };
    observe.messages().layer(guard.layer(stack))
}

/// Where a request goes.
#[derive(Clone)]
struct Entry {
    publish: MessageService,
    /// Whose everything is where nobody is authenticated, and which pages may publish then.
    open: Option<(TenantId, Edge)>,
    routes: Router,
}

impl Service<http::Request<Body>> for Entry {
    type Response = Response;
    type Error = Infallible;
    // That of the message service; what else there is takes a box for itself rather than room in each.
    type Future = <MessageService as Service<http::Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The router is always ready.
        self.publish.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        if let Some(Refused(problem)) = request.extensions_mut().remove() {
            let (parts, _) = request.into_parts();
            return Box::pin(ready(Ok(refuse(problem, &parts))));
        }
        if request.method() != Method::POST || !is_publish(request.uri().path()) {
            return Box::pin(self.routes.call(request));
        }
        if let Some((tenant, edge)) = &self.open {
            // No token says that it is not a stranger's page in an operator's browser; it needs no preflight for plain text.
            if !edge.allows_origin(request.headers()) {
                let detail = "pages of this origin may not publish; see gateway.cors_origins";
                let problem = Problem::new(Code::FrameInvalid, detail).with_status(StatusCode::FORBIDDEN);
                let (parts, _) = request.into_parts();
                return Box::pin(ready(Ok(refuse(problem, &parts))));
            }
            request.extensions_mut().insert(tenant.clone());
        }
        self.publish.call(request)
    }
}

/// Whether it is `/v1/publish/` and one segment more.
fn is_publish(path: &str) -> bool {
    path.strip_prefix(PUBLISH)
        .is_some_and(|suffix| !suffix.is_empty() && !suffix.contains('/'))
}

/// What is no publish.
fn router(public: Public) -> Router {
    let upgrade = upgrade(&public);
    Router::new()
        .route(
            "/v1/publish/{suffix}",
            any(|request| method_not_allowed(request, "POST")),
        )
        .route(
            "/v1/ws",
            upgrade.fallback(|request| method_not_allowed(request, "GET")),
        )
        .fallback(any(not_found))
        .layer(Extension(Arc::new(public)))
        // As a server does before it takes the first connection: else every request builds the routes anew.
        .with_state(())
}

/// The upgrade passes what every request passes, up to the policies; it has no payload and no subject.
fn upgrade(public: &Public) -> MethodRouter {
    let mut upgrade: MethodRouter = get(websocket)
        .layer::<_, Infallible>(public.overseer.clone())
        .layer(public.edge.limit.clone());
    upgrade = match public.edge.auth.clone() {
        Some(auth) => upgrade
            .layer::<_, Infallible>(auth)
            .layer(MapRequestLayer::new(token_of_page)),
        None => upgrade.layer(Extension(public.tenant.clone())),
    };
    // The last one is the outermost.
    upgrade.layer(ReservedHeadersLayer::new())
}

/// A page cannot send `Authorization` with a WebSocket: its token comes as one more subprotocol, `arqon.bearer.<token>`. It
/// goes to where tokens are, so it is neither answered with nor kept among the subprotocols.
fn token_of_page(mut request: Request) -> Request {
    let headers = request.headers_mut();
    let (mut tokens, mut others) = (Vec::new(), Vec::new());
    for line in headers.get_all(SEC_WEBSOCKET_PROTOCOL) {
        for name in line.to_str().unwrap_or_default().split(',').map(str::trim) {
            match name.strip_prefix(TOKEN_PROTOCOL) {
                Some(token) => tokens.push(token),
                None => others.push(name),
            }
        }
    }
    // Two of them, or one beside a header, are two readings of who it is.
    let [token] = tokens[..] else { return request };
    if headers.contains_key(AUTHORIZATION) {
        return request;
    }
    let others = HeaderValue::try_from(others.join(", "));
    if let (Ok(mut bearer), Ok(others)) = (HeaderValue::try_from(format!("Bearer {token}")), others) {
        bearer.set_sensitive(true);
        headers.insert(AUTHORIZATION, bearer);
        headers.insert(SEC_WEBSOCKET_PROTOCOL, others);
    }
    request
}

/// What pages of these origins may do; None where there are none.
fn cors(origins: &[String]) -> Option<CorsLayer> {
    let origin = match origins {
        [] => return None,
        all if all.iter().any(|origin| origin == "*") => AllowOrigin::any(),
        some => AllowOrigin::list(some.iter().filter_map(|origin| origin.parse().ok())),
    };
    let layer = CorsLayer::new()
        .allow_origin(origin)
        .allow_methods([Method::POST]);
    Some(
        layer
            .allow_headers(AllowHeaders::mirror_request())
            .expose_headers([HeaderName::from_static("x-request-id"), RETRY_AFTER]),
    )
}

/// Names the subject of a request: what a frame named already, else `in.t.<tenant>.<suffix>` of the publish route.
pub(crate) fn subjects() -> SubjectLayer {
    SubjectLayer::with(|parts: &Parts| {
        if let Some(subject) = parts.extensions.get::<Subject>() {
            return Ok(Some(subject.clone()));
        }
        let Some(suffix) = parts.uri.path().strip_prefix(PUBLISH) else {
            return Ok(None);
        };
        let suffix = match suffix.contains('%') {
            true => percent_decode_str(suffix).decode_utf8().map_err(|_| {
                Problem::new(
                    Code::SubjectInvalid,
                    "the suffix is not UTF-8 once it is percent-decoded",
                )
            })?,
            false => Cow::Borrowed(suffix),
        };
        let Some(tenant) = parts.extensions.get::<TenantId>() else {
            return Err(Problem::new(Code::TenantInvalid, "the request has no tenant"));
        };
        Ok(Some(Subject::for_tenant(tenant, suffix)?))
    })
}

/// A suffix as one path segment.
pub(crate) fn escape(suffix: &str) -> String {
    utf8_percent_encode(suffix, PATH).to_string()
}

async fn websocket(Extension(public): Extension<Arc<Public>>, request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    let upgrade = match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
        Ok(upgrade) => upgrade,
        Err(rejection) => {
            let detail = format!("this is not a WebSocket upgrade: {}", rejection.body_text());
            return refuse(Problem::new(Code::FrameInvalid, detail), &parts);
        }
    };
    if !public.edge.allows_origin(&parts.headers) {
        let detail = "pages of this origin may not open a WebSocket; see gateway.cors_origins";
        let problem = Problem::new(Code::FrameInvalid, detail).with_status(StatusCode::FORBIDDEN);
        return refuse(problem, &parts);
    }
    if let Err(problem) = public.edge.load.allows_session() {
        return refuse(problem, &parts);
    }
    let limits = public.edge.websocket;
    let upgrade = upgrade
        .protocols(Dialect::ALL.map(Dialect::name))
        .max_message_size(limits.max_message_bytes)
        .max_frame_size(limits.max_message_bytes)
        .read_buffer_size(READ_BUFFER_BYTES)
        // Each message is flushed, so this holds the one that is being written.
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BYTES_MAX + public.edge.max_body_bytes.saturating_mul(2));
    let chosen = upgrade.selected_protocol().cloned();
    let Some(dialect) = Dialect::ALL
        .into_iter()
        .find(|dialect| chosen.as_ref().is_some_and(|name| name == dialect.name()))
    else {
        let [json, proto] = Dialect::ALL.map(Dialect::name);
        let detail = format!("ask for the subprotocol {json} or {proto} in Sec-WebSocket-Protocol");
        return refuse(Problem::new(Code::FrameInvalid, detail), &parts);
    };
    let Some(tenant) = parts.extensions.get::<TenantId>().cloned() else {
        return refuse(
            Problem::new(Code::TenantInvalid, "the request has no tenant"),
            &parts,
        );
    };
    let place = match public.edge.sessions.admit(Some(&tenant)) {
        Ok(place) => place,
        Err(over) => {
            let detail = "the tenant has as many sessions as it may; see gateway.websocket.tenant_sessions";
            let mut response = refuse(Problem::new(Code::RateLimited, detail), &parts);
            let after = HeaderValue::from(over.retry_after);
            response.headers_mut().insert(RETRY_AFTER, after);
            return response;
        }
    };
    let tracker = public.sessions.clone();
    let session = Session::of(&parts, dialect, tenant, public);
    upgrade.on_upgrade(move |socket| async move {
        let _open = Raised::of(&metrics::gauge!("shield_gateway_sessions"));
        tracker.track_future(session.run(socket)).await;
        drop(place);
    })
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
