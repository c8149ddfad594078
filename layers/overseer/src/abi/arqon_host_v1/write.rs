//! What a guest may do: edit headers, replace the payload, log, reject.

use std::fmt;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use wasmtime::{Caller, Linker};

use super::{
    BAD_ARGUMENT, KEY_BYTES_MAX, MODULE, OVER_LIMIT, Phase, Role, State, UNAVAILABLE,
    memory::{Slice, charge, inside, split},
    read::is_token,
    text,
};
use crate::{edit::Edit, exchange::LogLine, verdict::Denial};

pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker
        .func_wrap(
            MODULE,
            "host_add_header",
            |caller: Caller<'_, State>, np: i32, nl: i32, vp: i32, vl: i32| {
                edit(caller, Slice::new(np, nl), Some(Slice::new(vp, vl)), Edit::Add)
            },
        )?
        .func_wrap(
            MODULE,
            "host_set_header",
            |caller: Caller<'_, State>, np: i32, nl: i32, vp: i32, vl: i32| {
                edit(caller, Slice::new(np, nl), Some(Slice::new(vp, vl)), Edit::Set)
            },
        )?
        .func_wrap(
            MODULE,
            "host_remove_header",
            |caller: Caller<'_, State>, np: i32, nl: i32| {
                edit(caller, Slice::new(np, nl), None, |name, _| Edit::Remove(name))
            },
        )?
        .func_wrap(
            MODULE,
            "host_set_payload",
            |caller: Caller<'_, State>, ptr: i32, len: i32| set_payload(caller, Slice::new(ptr, len)),
        )?
        .func_wrap(
            MODULE,
            "host_log",
            |caller: Caller<'_, State>, level: i32, ptr: i32, len: i32| {
                log(caller, level, Slice::new(ptr, len))
            },
        )?
        .func_wrap(
            MODULE,
            "host_reject",
            |caller: Caller<'_, State>, code: i32, ptr: i32, len: i32| {
                reject(caller, code, Slice::new(ptr, len))
            },
        )?;
    Ok(())
}

fn edit(
    mut caller: Caller<'_, State>,
    name: Slice,
    value: Option<Slice>,
    make: impl FnOnce(HeaderName, HeaderValue) -> Edit,
) -> wasmtime::Result<i32> {
    inside(&mut caller, [name, value.unwrap_or(Slice::new(0, 0))])?;
    charge(&mut caller, name.len() + value.map_or(0, Slice::len))?;
    let (memory, state) = split(&mut caller)?;
    let name = name.range(memory)?;
    let value = value.map_or(Ok(0..0), |value| value.range(memory))?;
    Ok(match make_edit(state, &memory[name], &memory[value], make) {
        Ok(()) => 0,
        Err(code) => code,
    })
}

fn make_edit(
    state: &mut State,
    name: &[u8],
    value: &[u8],
    make: impl FnOnce(HeaderName, HeaderValue) -> Edit,
) -> Result<(), i32> {
    let limits = state.guest.limits;
    if name.len() > KEY_BYTES_MAX || value.len() > limits.header_bytes_max {
        return Err(OVER_LIMIT);
    }
    let name = std::str::from_utf8(name)
        .ok()
        .filter(|name| is_token(name.as_bytes()))
        .ok_or(BAD_ARGUMENT)?;
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| BAD_ARGUMENT)?;
    let value = HeaderValue::from_bytes(value).map_err(|_| BAD_ARGUMENT)?;
    let exchange = state.exchange.as_mut().ok_or(UNAVAILABLE)?;
    if !state.guest.may_edit(&name) {
        return Err(UNAVAILABLE);
    }
    let edit = make(name, value);
    let bytes = state.edit_bytes + edit.bytes();
    if state.edits >= limits.header_edits_max || bytes > limits.header_bytes_max {
        return Err(OVER_LIMIT);
    }
    state.edits += 1;
    state.edit_bytes = bytes;
    exchange.edits.push(edit);
    Ok(())
}

fn set_payload(mut caller: Caller<'_, State>, payload: Slice) -> wasmtime::Result<i32> {
    inside(&mut caller, [payload])?;
    charge(&mut caller, payload.len())?;
    let (memory, state) = split(&mut caller)?;
    let range = payload.range(memory)?;
    if !state.guest.rewrite || state.phase != Phase::Request {
        return Ok(UNAVAILABLE);
    }
    let Some(exchange) = state.exchange.as_mut() else {
        return Ok(UNAVAILABLE);
    };
    if range.len() > state.guest.limits.body_bytes_max {
        return Ok(OVER_LIMIT);
    }
    exchange.body = Some(Bytes::copy_from_slice(&memory[range]));
    exchange.rewritten = true;
    Ok(0)
}

/// The levels of `host_log`, by number; every other number is `trace`.
const LEVELS: [(&str, tracing::Level); 5] = [
    ("error", tracing::Level::ERROR),
    ("warn", tracing::Level::WARN),
    ("info", tracing::Level::INFO),
    ("debug", tracing::Level::DEBUG),
    ("trace", tracing::Level::TRACE),
];

fn log(mut caller: Caller<'_, State>, level: i32, message: Slice) -> wasmtime::Result<()> {
    inside(&mut caller, [message])?;
    charge(&mut caller, message.len())?;
    let (memory, state) = split(&mut caller)?;
    let range = message.range(memory)?;
    let limits = state.guest.limits;
    if state.log_lines >= limits.log_lines_max {
        state.logs_dropped = state.logs_dropped.saturating_add(1);
        return Ok(());
    }
    state.log_lines += 1;
    let (name, level) = LEVELS[usize::try_from(level).unwrap_or(4).min(4)];
    let kept = state
        .exchange
        .as_mut()
        .and_then(|exchange| exchange.logs.as_mut());
    if kept.is_none() && !enabled(level) {
        return Ok(());
    }
    let text = text::visible(&memory[range], limits.log_bytes_max);
    match state.role {
        Role::Active => emit(level, &state.guest.name, &text),
        Role::Candidate => emit_of_candidate(level, &state.guest.name, &text),
    }
    if let Some(kept) = kept {
        kept.push(LogLine {
            level: name.to_owned(),
            message: text,
        });
    }
    Ok(())
}

fn enabled(level: tracing::Level) -> bool {
    level <= tracing::level_filters::LevelFilter::current()
}

const TARGET: &str = "arqon_overseer::guest";

/// Fields as the original's logs have them: `component=overseer module=auth_policy msg="..."`.
fn emit(level: tracing::Level, module: &str, msg: &str) {
    match level {
        tracing::Level::ERROR => tracing::error!(target: TARGET, component = "overseer", module, msg),
        tracing::Level::WARN => tracing::warn!(target: TARGET, component = "overseer", module, msg),
        tracing::Level::INFO => tracing::info!(target: TARGET, component = "overseer", module, msg),
        tracing::Level::DEBUG => tracing::debug!(target: TARGET, component = "overseer", module, msg),
        tracing::Level::TRACE => tracing::trace!(target: TARGET, component = "overseer", module, msg),
    }
}

/// The same, marked, and from places of their own: whoever limits lines by place holds back none of the policy's for these.
#[cold]
fn emit_of_candidate(level: tracing::Level, module: &str, msg: &str) {
    macro_rules! emit {
        ($level:ident) => {
            tracing::$level!(target: TARGET, component = "overseer", module, candidate = true, msg)
        };
    }
    match level {
        tracing::Level::ERROR => emit!(error),
        tracing::Level::WARN => emit!(warn),
        tracing::Level::INFO => emit!(info),
        tracing::Level::DEBUG => emit!(debug),
        tracing::Level::TRACE => emit!(trace),
    }
}

fn reject(mut caller: Caller<'_, State>, code: i32, reason: Slice) -> wasmtime::Result<()> {
    inside(&mut caller, [reason])?;
    charge(&mut caller, reason.len().min(KEY_BYTES_MAX as u64))?;
    let (memory, state) = split(&mut caller)?;
    let range = reason.range(memory)?;
    let reason = text::reason(&memory[range], state.guest.limits.reason_bytes_max);
    if state.phase == Phase::Start {
        return Err(wasmtime::Error::msg(
            "`host_reject` was called by a start function",
        ));
    }
    state.denial = Some(Denial::new(code, reason));
    Err(wasmtime::Error::new(Rejected))
}

/// Unwinds the guest after `host_reject`.
#[derive(Debug)]
struct Rejected;

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the policy rejected")
    }
}

impl std::error::Error for Rejected {}
