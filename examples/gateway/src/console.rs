//! The console: what `/v1/state` says, for people. Plain files, no build step, nothing from elsewhere.

use axum::{Router, response::IntoResponse, response::Response, routing::get};
use http::header;

use crate::admin::Admin;

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Every file: its path, type and text.
const FILES: [(&str, &str, &str); 4] = [
    ("/", HTML, include_str!("console/index.html")),
    ("/console.js", SCRIPT, include_str!("console/console.js")),
    ("/console/rollout.js", SCRIPT, include_str!("console/rollout.js")),
    ("/console/stop.js", SCRIPT, include_str!("console/stop.js")),
];

/// The routes of the console's files.
pub(crate) fn routes() -> Router<Admin> {
    let add = |router: Router<Admin>, (path, content_type, text): (_, &'static str, &'static str)| {
        router.route(path, get(move || async move { file(content_type, text) }))
    };
    FILES.into_iter().fold(Router::new(), add)
}

/// The console runs no script but its own, talks to this listener only, and is framed by nobody.
fn file(content_type: &'static str, text: &'static str) -> Response {
    const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'; \
                          img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, text).into_response()
}
