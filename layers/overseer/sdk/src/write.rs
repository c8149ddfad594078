//! What a policy may amend. Nothing is applied before every policy of the chain allowed.

use crate::{host, Error};

fn done(result: i32) -> Result<(), Error> {
    if result >= 0 {
        Ok(())
    } else {
        Err(Error::of(result))
    }
}

/// Adds a header. On a request the client's own values of that name are dropped, so nobody pre-sets what a policy adds;
/// several additions stay side by side.
///
/// # Errors
///
/// A name or value that is none, a header no policy may edit or this one is not granted, too many edits.
pub fn add_header(name: &str, value: impl AsRef<[u8]>) -> Result<(), Error> {
    done(host::add_header(name.as_bytes(), value.as_ref()))
}

/// Sets a header to one value.
///
/// # Errors
///
/// As [`add_header`].
pub fn set_header(name: &str, value: impl AsRef<[u8]>) -> Result<(), Error> {
    done(host::set_header(name.as_bytes(), value.as_ref()))
}

/// Removes a header.
///
/// # Errors
///
/// As [`add_header`].
pub fn remove_header(name: &str) -> Result<(), Error> {
    done(host::remove_header(name.as_bytes()))
}

/// Replaces the payload. The policy needs `grants = ["rewrite"]`; the host mends `content-length` and drops digests.
///
/// # Errors
///
/// Not granted, not in this phase, or too large.
pub fn set_payload(payload: &[u8]) -> Result<(), Error> {
    done(host::set_payload(payload))
}
