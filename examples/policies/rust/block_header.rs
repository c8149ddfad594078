//! Denies what carries the header named by `config` (default `x-block-me`).
#![no_std]

use arqon_policy::{config_text, has_header, Verdict};

/// The header's name; blanks and a line's end around it do not count.
fn name(buffer: &mut [u8]) -> Option<&str> {
    match config_text(buffer).ok()?.trim() {
        "" => Some("x-block-me"),
        name => Some(name),
    }
}

fn on_configure() -> Verdict {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    match name(&mut [0; 64]) {
        Some(name) if name.bytes().all(allowed) => Verdict::Allow,
        _ => Verdict::reject(400, "write the name of one header, at most 64 bytes"),
    }
}

fn on_request() -> Verdict {
    // Only a header that is surely not there lets a request in: an error is no answer.
    match name(&mut [0; 64]).map(has_header) {
        Some(Ok(false)) => Verdict::Allow,
        _ => Verdict::Deny,
    }
}

arqon_policy::export!(on_request = on_request, on_configure = on_configure);
