//! The console: what `/v1/state`, `/metrics` and `/v1/events` say, for people (`docs/console.md`). Plain files, no build step,
//! nothing from elsewhere.

use axum::{Router, response::IntoResponse, response::Response, routing::get};
use http::header;

use crate::admin::Admin;

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const ICON: &str = "image/svg+xml";

macro_rules! files {
    ($($name:literal: $kind:ident),* $(,)?) => {
        [$((concat!("/console/", $name), $kind, include_str!(concat!("console/", $name)))),*]
    };
}

const PAGE: &str = include_str!("console/index.html");
/// Every other file: its path, type and text.
const FILES: [(&str, &str, &str); 17] = files! {
    "alerts.js": SCRIPT, "chart.js": SCRIPT, "console.css": STYLE, "console.js": SCRIPT, "contracts.js": SCRIPT, "dom.js": SCRIPT,
    "events.js": SCRIPT, "health.js": SCRIPT, "icon.svg": ICON, "layers.js": SCRIPT, "metrics.js": SCRIPT, "mirror.js": SCRIPT,
    "policies.js": SCRIPT, "rollout.js": SCRIPT, "rules.js": SCRIPT, "stop.js": SCRIPT, "traffic.js": SCRIPT,
};

/// The routes of the console's files.
pub(crate) fn routes() -> Router<Admin> {
    let page = Router::new().route("/", get(|| async { file(HTML, PAGE) }));
    let add = |router: Router<Admin>, (path, content_type, text): (_, &'static str, &'static str)| {
        router.route(path, get(move || async move { file(content_type, text) }))
    };
    FILES.into_iter().fold(page, add)
}

/// The console runs no script but its own, talks to this listener only, and is framed by nobody.
pub(crate) fn file(content_type: &'static str, text: &'static str) -> Response {
    const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                          frame-ancestors 'none'; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'";
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, text).into_response()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    #[test]
    fn every_file_of_the_folder_is_served_and_nothing_is_fetched_from_elsewhere() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/console");
        let there: BTreeSet<_> = fs::read_dir(folder)
            .expect("the folder")
            .map(|entry| entry.expect("a file").file_name().into_string().expect("text"))
            .collect();
        let served = FILES.iter().map(|(path, ..)| path.replace("/console/", ""));
        let served: BTreeSet<_> = served.chain(["index.html".to_owned()]).collect();
        assert_eq!(there, served);
        for text in FILES.iter().map(|(_, _, text)| text).chain([&PAGE]) {
            let text = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains("http://") && !text.contains("https://"), "{text}");
            assert!(!text.contains("innerHTML") && !text.contains(" style="), "{text}");
        }
    }
}
