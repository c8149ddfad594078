//! Maintenance switch: while `config` is `on`, everything but reading is answered 503.
#![no_std]

use arqon_policy::{config_text, property_text, Verdict};

fn on_configure() -> Verdict {
    match config_text(&mut [0; 16]) {
        Ok("on" | "off") => Verdict::Allow,
        _ => Verdict::reject(400, "write \"on\" or \"off\""),
    }
}

fn on_request() -> Verdict {
    let reads = matches!(property_text("method", &mut [0; 16]), Ok(Some("GET" | "HEAD")));
    match config_text(&mut [0; 16]) {
        Ok("off") => Verdict::Allow,
        _ if reads => Verdict::Allow,
        _ => Verdict::reject(503, "down for maintenance"),
    }
}

arqon_policy::export!(on_request = on_request, on_configure = on_configure);
