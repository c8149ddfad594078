//! What a guest may look at: headers, claims, properties, its configuration, the payload.

use std::borrow::Cow;

use arqon_message::{Claims, Protocol, RemoteAddr, Subject, TenantId, TraceKey};
use http::{HeaderMap, header::CONTENT_TYPE};
use serde_json::Value;
use wasmtime::{Caller, Linker};

use super::{
    ABSENT, BAD_ARGUMENT, KEY_BYTES_MAX, MODULE, OVER_LIMIT, Phase, State, UNAVAILABLE,
    memory::{Slice, charge, split, take},
};
use crate::{exchange::Exchange, record::QUERY};

const CONTENT_TYPE_NAME: &str = "content-type";

/// What was found, or which error to answer with.
type Found<'a> = Result<Cow<'a, [u8]>, i32>;

pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker
        .func_wrap(
            MODULE,
            "host_get_header",
            |caller: Caller<'_, State>, np: i32, nl: i32, bp: i32, bl: i32| {
                lookup(caller, Slice::new(np, nl), Slice::new(bp, bl), header, same)
            },
        )?
        .func_wrap(
            MODULE,
            "host_get_claim",
            |caller: Caller<'_, State>, kp: i32, kl: i32, bp: i32, bl: i32| {
                lookup(caller, Slice::new(kp, kl), Slice::new(bp, bl), claim, |_| None)
            },
        )?
        .func_wrap(
            MODULE,
            "host_get_property",
            |caller: Caller<'_, State>, kp: i32, kl: i32, bp: i32, bl: i32| {
                lookup(
                    caller,
                    Slice::new(kp, kl),
                    Slice::new(bp, bl),
                    property,
                    masked_as,
                )
            },
        )?
        .func_wrap(
            MODULE,
            "host_get_config",
            |caller: Caller<'_, State>, bp: i32, bl: i32| config(caller, Slice::new(bp, bl)),
        )?
        .func_wrap(MODULE, "host_payload_len", payload_len)?
        .func_wrap(
            MODULE,
            "host_get_payload",
            |caller: Caller<'_, State>, offset: i32, bp: i32, bl: i32| {
                payload(caller, offset, Slice::new(bp, bl))
            },
        )?;
    Ok(())
}

/// A key that is looked for before it is charged.
const SHORT: usize = 64;

/// Finds what `key` names and writes it into `buffer` if it fits. In a record, `masked_as` is the name under which it may be
/// masked.
fn lookup(
    mut caller: Caller<'_, State>,
    key: Slice,
    buffer: Slice,
    find: impl for<'a> FnOnce(&'a State, &[u8]) -> Found<'a>,
    masked_as: impl for<'a> FnOnce(&'a str) -> Option<&'a str>,
) -> wasmtime::Result<i32> {
    let (memory, state) = split(&mut caller)?;
    let (key, buffer) = (key.range(memory)?, buffer.range(memory)?);
    let bytes = key.len();
    if buffer.is_empty() && bytes <= SHORT {
        // The usual question: is it there, how long is it. So short a key is looked for before it is charged: the memory is
        // found once.
        let answer = find(state, &memory[key]).map_or_else(|code| code, |value| length(value.len()));
        charge(&mut caller, bytes as u64)?;
        return Ok(answer);
    }
    charge(&mut caller, bytes as u64)?;
    let (memory, state) = split(&mut caller)?;
    if bytes > KEY_BYTES_MAX {
        return Ok(OVER_LIMIT);
    }
    let value = match find(state, &memory[key.clone()]) {
        Ok(value) => value,
        Err(code) => return Ok(code),
    };
    let len = value.len();
    let is_record = state
        .exchange
        .as_ref()
        .is_some_and(|exchange| exchange.masked.is_some());
    if is_record && len <= buffer.len() && len > 0 {
        let value = value.into_owned();
        // What names a value is text.
        let name = std::str::from_utf8(&memory[key]).ok();
        let name = name.and_then(masked_as).map(str::to_owned);
        memory[buffer.start..buffer.start + len].copy_from_slice(&value);
        let masked = state
            .exchange
            .as_mut()
            .and_then(|exchange| exchange.masked.as_mut());
        if let (Some(masked), Some(name)) = (masked, name) {
            masked.gave(&name);
        }
        take(&mut caller, len as u64)?;
        return Ok(length(len));
    }
    let written = if len <= buffer.len() {
        memory[buffer.start..buffer.start + len].copy_from_slice(&value);
        len
    } else {
        0
    };
    drop(value);
    take(&mut caller, written as u64)?;
    Ok(length(len))
}

const fn same(name: &str) -> Option<&str> {
    Some(name)
}

/// The name under which a property may be masked in a record.
fn masked_as(property: &str) -> Option<&str> {
    match property {
        "query" => Some(QUERY),
        "content_type" => Some(CONTENT_TYPE_NAME),
        _ => None,
    }
}

/// A length as a guest sees it.
fn length(len: usize) -> i32 {
    i32::try_from(len).unwrap_or(OVER_LIMIT)
}

fn exchange(state: &State) -> Result<&Exchange, i32> {
    state.exchange.as_deref().ok_or(UNAVAILABLE)
}

/// The characters of RFC 9110's `token`: a look at each, since every lookup of a header asks.
const TOKEN: [bool; 256] = {
    let (mut token, mut byte) = ([false; 256], 0_u8);
    while byte < 128 {
        token[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let (others, mut at) = (b"!#$%&'*+-.^_`|~", 0);
    while at < others.len() {
        token[others[at] as usize] = true;
        at += 1;
    }
    token
};

/// Whether it is a `token`.
pub(super) fn is_token(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| TOKEN[usize::from(*byte)])
}

fn header<'a>(state: &'a State, name: &[u8]) -> Found<'a> {
    if !is_token(name) {
        return Err(BAD_ARGUMENT);
    }
    let exchange = exchange(state)?;
    first(exchange, exchange.headers(), name)
        .map(Cow::Borrowed)
        .ok_or(ABSENT)
}

fn first<'a>(exchange: &'a Exchange, headers: &'a HeaderMap, name: &[u8]) -> Option<&'a [u8]> {
    exchange
        .edits
        .first(headers, name, exchange.response.is_some())
        .map(http::HeaderValue::as_bytes)
}

fn text(key: &[u8]) -> Result<&str, i32> {
    std::str::from_utf8(key).map_err(|_| BAD_ARGUMENT)
}

fn claim<'a>(state: &'a State, key: &[u8]) -> Found<'a> {
    let key = text(key)?;
    let claims = exchange(state)?
        .request()
        .extensions
        .get::<Claims>()
        .ok_or(ABSENT)?;
    let value = if key.starts_with('/') {
        claims.pointer(key)
    } else {
        claims.get(key)
    };
    match value.ok_or(ABSENT)? {
        Value::String(text) => Ok(Cow::Borrowed(text.as_bytes())),
        other => Ok(Cow::Owned(other.to_string().into_bytes())),
    }
}

fn property<'a>(state: &'a State, name: &[u8]) -> Found<'a> {
    let name = text(name)?;
    if name == "module" {
        return Ok(Cow::Borrowed(state.guest.name.as_bytes()));
    }
    if !PROPERTIES.contains(&name) {
        return Err(BAD_ARGUMENT);
    }
    let exchange = exchange(state)?;
    let request = exchange.request();
    let text: Option<Cow<'a, str>> = match name {
        "method" => Some(request.method.as_str().into()),
        "path" => Some(request.uri.path().into()),
        "query" => request.uri.query().map(Cow::Borrowed),
        "subject" => request
            .extensions
            .get::<Subject>()
            .map(|subject| subject.as_str().into()),
        "tenant" => match request.extensions.get::<TenantId>() {
            Some(tenant) => Some(tenant.as_str().into()),
            None => request
                .extensions
                .get::<Subject>()
                .and_then(Subject::tenant)
                .map(Cow::Borrowed),
        },
        "remote_addr" => request
            .extensions
            .get::<RemoteAddr>()
            .map(|addr| addr.to_string().into()),
        "trace_id" => TraceKey::from_request(&request.headers, &request.extensions)
            .and_then(|key| key.trace_id().map(|id| id.to_owned().into())),
        "protocol" => Some(Protocol::of(request).as_str().into()),
        "status" => {
            let response = exchange.response.as_ref().ok_or(UNAVAILABLE)?;
            Some(response.status.as_u16().to_string().into())
        }
        _ => {
            let value = first(exchange, exchange.headers(), CONTENT_TYPE.as_str().as_bytes());
            return value.map(Cow::Borrowed).ok_or(ABSENT);
        }
    };
    text.map(into_bytes).ok_or(ABSENT)
}

/// All but `module`; `status` is there for responses only.
const PROPERTIES: [&str; 10] = [
    "method",
    "path",
    "query",
    "subject",
    "tenant",
    "remote_addr",
    "trace_id",
    "content_type",
    "protocol",
    "status",
];

fn into_bytes(text: Cow<'_, str>) -> Cow<'_, [u8]> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    }
}

fn config(mut caller: Caller<'_, State>, buffer: Slice) -> wasmtime::Result<i32> {
    charge(&mut caller, 0)?;
    let (memory, state) = split(&mut caller)?;
    let buffer = buffer.range(memory)?;
    if state.phase == Phase::Start {
        return Ok(UNAVAILABLE);
    }
    let value = &state.guest.config;
    let len = value.len();
    let written = if len <= buffer.len() {
        memory[buffer.start..buffer.start + len].copy_from_slice(value);
        len
    } else {
        0
    };
    take(&mut caller, written as u64)?;
    Ok(length(len))
}

fn payload_len(mut caller: Caller<'_, State>) -> wasmtime::Result<i32> {
    charge(&mut caller, 0)?;
    let body = caller
        .data()
        .exchange
        .as_ref()
        .and_then(|exchange| exchange.body.as_ref());
    Ok(body.map_or(UNAVAILABLE, |body| length(body.len())))
}

/// Copies what fits of the payload from `offset` on; 0 at or behind its end.
fn payload(mut caller: Caller<'_, State>, offset: i32, buffer: Slice) -> wasmtime::Result<i32> {
    charge(&mut caller, 0)?;
    let (memory, state) = split(&mut caller)?;
    let buffer = buffer.range(memory)?;
    let Some(body) = state.exchange.as_ref().and_then(|exchange| exchange.body.clone()) else {
        return Ok(UNAVAILABLE);
    };
    let start = usize::try_from(offset.cast_unsigned())
        .unwrap_or(usize::MAX)
        .min(body.len());
    let copied = buffer.len().min(body.len() - start);
    // Charged before the copy, which may be large.
    take(&mut caller, copied as u64)?;
    let (memory, _) = split(&mut caller)?;
    memory[buffer.start..buffer.start + copied].copy_from_slice(&body[start..start + copied]);
    Ok(length(copied))
}
