//! What a policy may look at.

use crate::{host, Error};

/// A host function that reads a named value.
type Read = fn(&[u8], &mut [u8]) -> i32;

/// The value the host gave, for a result that is its length.
fn taken(result: i32, buffer: &[u8]) -> Result<Option<&[u8]>, Error> {
    match usize::try_from(result) {
        Ok(len) => match buffer.get(..len) {
            Some(value) => Ok(Some(value)),
            None => Err(Error::TooLong { needed: len }),
        },
        Err(_) if result == -1 => Ok(None),
        Err(_) => Err(Error::of(result)),
    }
}

fn named<'a>(read: Read, name: &str, buffer: &'a mut [u8]) -> Result<Option<&'a [u8]>, Error> {
    let result = read(name.as_bytes(), buffer);
    taken(result, buffer)
}

fn text(value: Option<&[u8]>) -> Result<Option<&str>, Error> {
    match value {
        Some(value) => core::str::from_utf8(value).map(Some).map_err(|_| Error::NotText),
        None => Ok(None),
    }
}

/// The first value of a header, whatever the case of its name. In `on_request` the request's, in `on_response` the
/// response's; what policies before this one amended is seen amended. `None` if there is none; an empty value is empty.
///
/// # Errors
///
/// A value longer than `buffer`, a name that is none, or no message to look at.
pub fn header<'a>(name: &str, buffer: &'a mut [u8]) -> Result<Option<&'a [u8]>, Error> {
    named(host::get_header, name, buffer)
}

/// As [`header`], as text.
///
/// # Errors
///
/// Also a value that is no UTF-8.
pub fn header_text<'a>(name: &str, buffer: &'a mut [u8]) -> Result<Option<&'a str>, Error> {
    text(header(name, buffer)?)
}

/// Whether there is such a header. What cannot be asked is an error, never "no": a policy that refuses by a header would
/// let everybody in.
///
/// # Errors
///
/// A name that is none, or no message to look at.
pub fn has_header(name: &str) -> Result<bool, Error> {
    match host::get_header(name.as_bytes(), &mut []) {
        0.. => Ok(true),
        -1 => Ok(false),
        code => Err(Error::of(code)),
    }
}

/// A verified claim of whoever sent the request. A key that starts with `/` is a JSON pointer. A string comes raw,
/// everything else as compact JSON.
///
/// # Errors
///
/// As [`header`].
pub fn claim<'a>(key: &str, buffer: &'a mut [u8]) -> Result<Option<&'a [u8]>, Error> {
    named(host::get_claim, key, buffer)
}

/// As [`claim`], as text.
///
/// # Errors
///
/// As [`header_text`].
pub fn claim_text<'a>(key: &str, buffer: &'a mut [u8]) -> Result<Option<&'a str>, Error> {
    text(claim(key, buffer)?)
}

/// A property of the message: `method path query subject tenant remote_addr trace_id content_type protocol module`, and
/// in `on_response` also `status`.
///
/// # Errors
///
/// As [`header`].
pub fn property<'a>(name: &str, buffer: &'a mut [u8]) -> Result<Option<&'a [u8]>, Error> {
    named(host::get_property, name, buffer)
}

/// As [`property`], as text.
///
/// # Errors
///
/// As [`header_text`].
pub fn property_text<'a>(name: &str, buffer: &'a mut [u8]) -> Result<Option<&'a str>, Error> {
    text(property(name, buffer)?)
}

/// This policy's `config`, empty if it has none.
///
/// # Errors
///
/// A configuration longer than `buffer`.
pub fn config(buffer: &mut [u8]) -> Result<&[u8], Error> {
    let result = host::get_config(buffer);
    Ok(taken(result, buffer)?.unwrap_or_default())
}

/// As [`config`], as text.
///
/// # Errors
///
/// As [`header_text`].
pub fn config_text(buffer: &mut [u8]) -> Result<&str, Error> {
    core::str::from_utf8(config(buffer)?).map_err(|_| Error::NotText)
}

/// Bytes of the payload.
///
/// # Errors
///
/// There is none in this phase.
pub fn payload_len() -> Result<usize, Error> {
    let len = host::payload_len();
    usize::try_from(len).map_err(|_| Error::of(len))
}

/// Copies the payload from `offset` on, as much as `buffer` takes; 0 bytes at its end.
///
/// # Errors
///
/// There is none in this phase.
pub fn payload(offset: usize, buffer: &mut [u8]) -> Result<&[u8], Error> {
    let copied = host::get_payload(offset, buffer);
    match usize::try_from(copied) {
        Ok(len) => Ok(&buffer[..len]),
        Err(_) => Err(Error::of(copied)),
    }
}
