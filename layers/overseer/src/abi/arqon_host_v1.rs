//! `arqon_host_v1` (DESIGN 5).
//!
//! The guest gives buffers. A result of 0 or more is the value's full length, and bytes are written only if they fit; a
//! buffer of length 0 asks for the length. [`ABSENT`], [`BAD_ARGUMENT`], [`UNAVAILABLE`] and [`OVER_LIMIT`] are the
//! errors. A pointer out of bounds is a trap. Every call is charged [`CALL_FUEL`] and one unit per byte.

mod check;
mod guest;
mod memory;
mod read;
mod state;
mod text;
mod write;

use std::time::Duration;

use wasmtime::{Engine, Linker};

pub(crate) use self::{
    check::{Plan, inspect},
    guest::{Guest, GuestLimits},
    state::{Phase, Role, State},
    text::visible,
};
use crate::{
    engine::{Compiled, Compiler, ModuleCache},
    error::CompileError,
};

/// The import module's name.
pub(crate) const MODULE: &str = "arqon_host_v1";
/// The export that says which ABI the module was made for.
pub(crate) const MARKER: &str = "arqon_abi_v1";

/// There is no such header, claim or property value.
pub(crate) const ABSENT: i32 = -1;
/// A name that is no token, a key that is not UTF-8, a value that is no header value, an unknown property.
pub(crate) const BAD_ARGUMENT: i32 = -2;
/// Not in this phase, or not granted to this policy.
pub(crate) const UNAVAILABLE: i32 = -3;
/// Too many edits, too many bytes.
pub(crate) const OVER_LIMIT: i32 = -4;

/// Fuel of one host call, on top of one unit per byte read or written.
pub(crate) const CALL_FUEL: u64 = 500;
/// Bytes of a header name, claim key or property name.
pub(crate) const KEY_BYTES_MAX: usize = 1_024;

/// The functions of this ABI: name, number of i32 parameters, number of i32 results.
pub(crate) const FUNCTIONS: [(&str, usize, usize); 12] = [
    ("host_get_header", 4, 1),
    ("host_get_claim", 4, 1),
    ("host_get_property", 4, 1),
    ("host_get_config", 2, 1),
    ("host_payload_len", 0, 1),
    ("host_get_payload", 3, 1),
    ("host_add_header", 4, 1),
    ("host_set_header", 4, 1),
    ("host_remove_header", 2, 1),
    ("host_set_payload", 2, 1),
    ("host_log", 3, 0),
    ("host_reject", 3, 0),
];

/// Links the functions for every one of `shards`.
pub(crate) fn link(shards: &[Engine]) -> wasmtime::Result<Box<[Linker<State>]>> {
    shards
        .iter()
        .map(|shard| {
            let mut linker = Linker::new(shard);
            read::link(&mut linker)?;
            write::link(&mut linker)?;
            Ok(linker)
        })
        .collect()
}

/// Compiles a module that was inspected.
pub(crate) fn compile(
    shards: &[Engine],
    linkers: &[Linker<State>],
    wasm: &[u8],
    plan: &Plan,
    compiler: &Compiler,
    cache: Option<&ModuleCache>,
    deadline: Duration,
) -> Result<Compiled<State>, CompileError> {
    Compiled::new(shards, linkers, wasm, &plan.exports, compiler, cache, deadline)
}

#[cfg(test)]
mod tests;
