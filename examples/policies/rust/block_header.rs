//! Denies what carries the header named by `config` (default `x-block-me`).
#![no_std]

use arqon_policy::{config_text, has_header, Verdict};

fn on_request() -> Verdict {
    let mut buffer = [0; 64];
    match config_text(&mut buffer) {
        Ok(name) => Verdict::allow_if(!has_header(if name.is_empty() { "x-block-me" } else { name })),
        Err(_) => Verdict::Deny,
    }
}

arqon_policy::export!(on_request = on_request);
