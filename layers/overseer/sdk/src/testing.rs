//! A host for unit tests of policies, without Wasm.
//!
//! It answers as the real one does with default [`limits`]. It has no fuel, deadline and memory limit, does not parse
//! claims, and knows no `headers` that narrow what a policy may edit.

pub mod limits;
mod text;

use std::{
    borrow::ToOwned,
    boxed::Box,
    cell::RefCell,
    format,
    panic::{self, AssertUnwindSafe},
    string::{String, ToString},
    thread_local,
    vec::Vec,
};

use crate::Verdict;

/// What a policy is shown. Build it, then [`run`](Host::run) the policy on it.
#[derive(Clone, Debug, Default)]
pub struct Host {
    headers: Vec<(String, Vec<u8>)>,
    claims: Vec<(String, String)>,
    properties: Vec<(String, String)>,
    config: Vec<u8>,
    payload: Option<Vec<u8>>,
    rewrite: bool,
    response: bool,
    edit_bytes: usize,
    seen: Outcome,
}

/// What a policy said and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The status it refused with; `None` if it allowed.
    pub status: Option<u16>,
    /// The reason it gave, as a client is told it.
    pub reason: String,
    /// Its header edits: `add`, `set` or `remove`, the name in lower case, the value.
    pub headers: Vec<(String, String, Option<String>)>,
    /// The payload it put in place of the request's.
    pub payload: Option<Vec<u8>>,
    /// The lines it logged, as they are shown, with their levels of 0 (error) to 4 (trace); those over the limit are not here.
    pub logs: Vec<(i32, String)>,
}

impl Outcome {
    /// Whether the policy allowed.
    #[must_use]
    pub fn allowed(&self) -> bool {
        self.status.is_none()
    }
}

impl Host {
    /// A `GET /` over HTTP/1.1 with nothing in it.
    #[must_use]
    pub fn new() -> Self {
        Host::default()
            .property("method", "GET")
            .property("path", "/")
            .property("protocol", "http/1.1")
            .property("module", "test")
            .payload("")
    }

    /// A response with this status, for an `on_response`: there is no payload, and headers are the response's.
    #[must_use]
    pub fn response(status: u16) -> Self {
        Host {
            response: true,
            payload: None,
            ..Host::new().property("status", &status.to_string())
        }
    }

    /// With a header; several of one name are kept in order.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers
            .push((name.to_ascii_lowercase(), value.as_ref().to_vec()));
        self
    }

    /// With a claim under exactly this key (a JSON pointer is looked up as it is written here). `value` is what the
    /// policy reads: a string raw, everything else as compact JSON.
    #[must_use]
    pub fn claim(mut self, key: &str, value: &str) -> Self {
        self.claims.push((key.to_owned(), value.to_owned()));
        self
    }

    /// With a property, replacing what there was.
    #[must_use]
    pub fn property(mut self, name: &str, value: &str) -> Self {
        self.properties.retain(|(known, _)| known != name);
        self.properties.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With the policy's configuration.
    #[must_use]
    pub fn config(mut self, config: impl AsRef<[u8]>) -> Self {
        self.config = config.as_ref().to_vec();
        self
    }

    /// With a payload.
    #[must_use]
    pub fn payload(mut self, payload: impl AsRef<[u8]>) -> Self {
        self.payload = Some(payload.as_ref().to_vec());
        self
    }

    /// With `grants = ["rewrite"]`.
    #[must_use]
    pub fn rewriting(mut self) -> Self {
        self.rewrite = true;
        self
    }

    /// Runs a policy.
    ///
    /// # Panics
    ///
    /// When the policy does.
    pub fn run(self, policy: impl FnOnce() -> Verdict) -> Outcome {
        let outer = CURRENT.with(|current| current.replace(Some(self)));
        let result = panic::catch_unwind(AssertUnwindSafe(|| policy().into_code()));
        let host = CURRENT
            .with(|current| current.replace(outer))
            .expect("the host is put back only here");
        let mut outcome = host.seen;
        match result {
            Ok(0) => {}
            Ok(_) => outcome.status = Some(403),
            Err(payload) => match payload.downcast::<Rejected>() {
                Ok(rejected) => {
                    outcome.status = Some(rejected.status);
                    outcome.reason = rejected.reason;
                }
                Err(payload) => panic::resume_unwind(payload),
            },
        }
        if !outcome.allowed() {
            outcome.headers.clear();
            outcome.payload = None;
        }
        outcome
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Host>> = const { RefCell::new(None) };
}

/// Unwinds a policy that rejected.
struct Rejected {
    status: u16,
    reason: String,
}

/// Outside of [`Host::run`] there is nothing to see: every function answers that it is unavailable.
fn with(act: impl FnOnce(&mut Host) -> i32) -> i32 {
    CURRENT.with(|current| current.borrow_mut().as_mut().map_or(-3, act))
}

fn give(value: Option<&[u8]>, buffer: &mut [u8]) -> i32 {
    match value {
        Some(value) => {
            if let Some(buffer) = buffer.get_mut(..value.len()) {
                buffer.copy_from_slice(value);
            }
            i32::try_from(value.len()).unwrap_or(-4)
        }
        None => -1,
    }
}

fn named<'a>(values: &'a [(String, String)], name: &[u8]) -> Option<&'a [u8]> {
    values
        .iter()
        .find(|(known, _)| known.as_bytes() == name)
        .map(|(_, value)| value.as_bytes())
}

fn is_token(name: &[u8]) -> bool {
    !name.is_empty()
        && name
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

pub(crate) fn get_header(name: &[u8], buffer: &mut [u8]) -> i32 {
    if name.len() > limits::KEY_BYTES_MAX {
        return -4;
    }
    if !is_token(name) {
        return -2;
    }
    with(|host| {
        let value = host
            .headers
            .iter()
            .find(|(known, _)| known.as_bytes().eq_ignore_ascii_case(name));
        give(value.map(|(_, value)| value.as_slice()), buffer)
    })
}

pub(crate) fn get_claim(key: &[u8], buffer: &mut [u8]) -> i32 {
    if key.len() > limits::KEY_BYTES_MAX {
        return -4;
    }
    with(|host| give(named(&host.claims, key), buffer))
}

pub(crate) fn get_property(name: &[u8], buffer: &mut [u8]) -> i32 {
    if name.len() > limits::KEY_BYTES_MAX {
        return -4;
    }
    if !limits::PROPERTIES.iter().any(|known| known.as_bytes() == name) {
        return -2;
    }
    with(|host| match named(&host.properties, name) {
        None if name == b"status" => -3,
        None if name == b"content_type" => {
            let value = host.headers.iter().find(|(known, _)| known == "content-type");
            give(value.map(|(_, value)| value.as_slice()), buffer)
        }
        value => give(value, buffer),
    })
}

pub(crate) fn get_config(buffer: &mut [u8]) -> i32 {
    with(|host| give(Some(&host.config), buffer))
}

pub(crate) fn payload_len() -> i32 {
    with(|host| {
        host.payload
            .as_ref()
            .map_or(-3, |payload| i32::try_from(payload.len()).unwrap_or(-4))
    })
}

pub(crate) fn get_payload(offset: usize, buffer: &mut [u8]) -> i32 {
    with(|host| match &host.payload {
        Some(payload) => {
            let rest = &payload[offset.min(payload.len())..];
            let copied = rest.len().min(buffer.len());
            buffer[..copied].copy_from_slice(&rest[..copied]);
            i32::try_from(copied).unwrap_or(-4)
        }
        None => -3,
    })
}

pub(crate) fn add_header(name: &[u8], value: &[u8]) -> i32 {
    edit("add", name, Some(value))
}

pub(crate) fn set_header(name: &[u8], value: &[u8]) -> i32 {
    edit("set", name, Some(value))
}

pub(crate) fn remove_header(name: &[u8]) -> i32 {
    edit("remove", name, None)
}

fn edit(what: &str, name: &[u8], value: Option<&[u8]>) -> i32 {
    let invalid = |byte: &u8| (*byte < 32 && *byte != b'\t') || *byte == 127;
    let value_len = value.map_or(0, <[u8]>::len);
    if name.len() > limits::KEY_BYTES_MAX || value_len > limits::HEADER_BYTES_MAX {
        return -4;
    }
    if !is_token(name) || value.unwrap_or_default().iter().any(invalid) {
        return -2;
    }
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    if limits::RESERVED.contains(&name.as_str()) || name.starts_with(limits::RESERVED_PREFIX) {
        return -3;
    }
    with(|host| {
        let bytes = host.edit_bytes + name.len() + value_len;
        if host.seen.headers.len() >= limits::HEADER_EDITS_MAX || bytes > limits::HEADER_BYTES_MAX {
            return -4;
        }
        host.edit_bytes = bytes;
        let edited = host.response || host.seen.headers.iter().any(|(_, known, _)| *known == name);
        if what != "add" || !edited {
            host.headers.retain(|(known, _)| *known != name);
        }
        if let Some(value) = value {
            host.headers.push((name.clone(), value.to_vec()));
        }
        let text = value.map(|value| String::from_utf8_lossy(value).into_owned());
        host.seen.headers.push((what.to_owned(), name, text));
        0
    })
}

pub(crate) fn set_payload(payload: &[u8]) -> i32 {
    with(|host| {
        if !host.rewrite || host.response {
            return -3;
        }
        if payload.len() > limits::PAYLOAD_BYTES_MAX {
            return -4;
        }
        host.payload = Some(payload.to_vec());
        host.seen.payload = Some(payload.to_vec());
        0
    })
}

pub(crate) fn log(level: i32, message: &[u8]) {
    with(|host| {
        if host.seen.logs.len() < limits::LOG_LINES_MAX {
            let line = text::line(message, limits::LOG_BYTES_MAX);
            host.seen.logs.push((level, line));
        }
        0
    });
}

pub(crate) fn reject(code: i32, reason: &[u8]) -> ! {
    let status = u16::try_from(code)
        .ok()
        .filter(|status| (400..=599).contains(status))
        .unwrap_or(403);
    let reason = text::reason(reason, limits::REASON_BYTES_MAX);
    if CURRENT.with(|current| current.borrow().is_none()) {
        panic!("{}", format!("rejected with {status}: {reason}"));
    }
    panic::resume_unwind(Box::new(Rejected { status, reason }))
}
