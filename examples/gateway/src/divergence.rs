//! The report of what answers differ in: `/divergence`, a page with a picture for each field, over time.

use axum::{Json, Router, extract::State, routing::get};
use serde_json::Value;

use crate::{admin::Admin, console::file};

/// The routes of the report: the page, its files and its figures.
pub(crate) fn routes() -> Router<Admin> {
    let page = || async { file("text/html; charset=utf-8", include_str!("divergence/index.html")) };
    let script = || async {
        file(
            "text/javascript; charset=utf-8",
            include_str!("divergence/divergence.js"),
        )
    };
    let style = || async {
        file(
            "text/css; charset=utf-8",
            include_str!("divergence/divergence.css"),
        )
    };
    Router::new()
        .route("/divergence", get(page))
        .route("/divergence/divergence.js", get(script))
        .route("/divergence/divergence.css", get(style))
        .route("/v1/divergence", get(figures))
}

async fn figures(State(admin): State<Admin>) -> Json<Value> {
    Json(admin.shared.divergence())
}
