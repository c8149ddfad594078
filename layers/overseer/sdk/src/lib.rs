//! Write policies for Arqon's Overseer in Rust.
//!
//! A policy is a function that looks at a request and gives a [`Verdict`]. It runs sandboxed: no files, no network, no
//! clock; a panic, too much work or too much memory refuses the request.
//!
//! ```
//! use arqon_policy::{header_text, Verdict};
//!
//! fn on_request() -> Verdict {
//!     let mut buffer = [0; 64];
//!     match header_text("x-tenant-token", &mut buffer) {
//!         Ok(Some(token)) if token.starts_with("tk-") => Verdict::Allow,
//!         Ok(_) => Verdict::reject(401, "a tenant token is needed"),
//!         Err(_) => Verdict::reject(400, "the tenant token cannot be read"),
//!     }
//! }
//!
//! arqon_policy::export!(on_request = on_request);
//!
//! // On the host it is an ordinary function, tested without Wasm.
//! use arqon_policy::testing::Host;
//! assert!(Host::new().header("X-Tenant-Token", "tk-1").run(on_request).allowed());
//! assert_eq!(Host::new().run(on_request).status, Some(401));
//! ```
//!
//! Build it as a `cdylib` for `wasm32-unknown-unknown`, without std for the smallest module:
//!
//! ```toml
//! [lib]
//! crate-type = ["cdylib"]
//! [dependencies]
//! arqon-policy = { version = "0.1", features = ["panic-handler"] }
//! [profile.release]
//! opt-level = "s"
//! lto = true
//! panic = "abort"
//! ```
//!
//! Values are read into buffers of yours: nothing is allocated, and what does not fit is an [`Error::TooLong`] that says
//! how long it is, never cut. Every call of the host costs 500 units of fuel and one per byte.
//!
//! What a function needs of the host is imported only if it is used: a policy that never calls [`payload`],
//! [`payload_len`] or [`set_payload`] does not make the host read the body.
#![no_std]
#![deny(missing_docs)]
#![warn(unsafe_op_in_unsafe_fn)]

#[cfg(not(target_arch = "wasm32"))]
extern crate std;

mod error;
mod export;
#[cfg(target_arch = "wasm32")]
mod ffi;
mod log;
mod read;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
mod verdict;
mod write;

#[cfg(target_arch = "wasm32")]
use crate::ffi as host;
#[cfg(not(target_arch = "wasm32"))]
use crate::testing as host;
pub use crate::{
    error::Error,
    log::{log, Level, LogLine},
    read::{
        claim, claim_text, config, config_text, has_header, header, header_text, payload, payload_len,
        property, property_text,
    },
    verdict::{reject, Verdict},
    write::{add_header, remove_header, set_header, set_payload},
};

/// Traps: the host puts it down as `trap` and refuses the request.
#[cfg(all(target_arch = "wasm32", feature = "panic-handler"))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}
