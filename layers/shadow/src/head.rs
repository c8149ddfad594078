//! Headers, packed into one piece of memory.
//!
//! Cloning a `HeaderMap` costs an allocation for nearly each header, and its values keep the socket's read buffers alive
//! while the copy waits. One flat piece is one allocation, and its size is what the byte budget is told.

use bytes::{Buf, BufMut, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue};

/// A request's headers, ready to wait. Each is `name length u16, value length u32, flags u8, name, value`.
#[derive(Debug)]
pub(crate) struct Head(Bytes);

/// What stands before name and value, in bytes.
const PREFIX: usize = 7;
/// The value must not be shown or indexed (HPACK "never indexed").
const SENSITIVE: u8 = 1;

impl Head {
    /// How many bytes packing takes.
    pub(crate) fn size(headers: &HeaderMap) -> usize {
        headers
            .iter()
            .map(|(name, value)| PREFIX + name.as_str().len() + value.len())
            .sum()
    }

    /// Packs, into `size` bytes as [`Head::size`] said.
    pub(crate) fn pack(headers: &HeaderMap, size: usize) -> Self {
        let mut packed = Vec::with_capacity(size);
        for (name, value) in headers {
            // `http` refuses names of 64 KiB, and no server takes a value of 4 GiB.
            packed.put_u16(name.as_str().len() as u16);
            packed.put_u32(value.len() as u32);
            packed.put_u8(if value.is_sensitive() { SENSITIVE } else { 0 });
            packed.extend_from_slice(name.as_str().as_bytes());
            packed.extend_from_slice(value.as_bytes());
        }
        Self(packed.into())
    }

    /// Unpacks; values share the packed memory.
    pub(crate) fn unpack(self) -> HeaderMap {
        let mut packed = self.0;
        let mut headers = HeaderMap::new();
        while packed.len() >= PREFIX {
            let (name, value) = (usize::from(packed.get_u16()), packed.get_u32() as usize);
            let flags = packed.get_u8();
            let name = HeaderName::from_bytes(&packed.split_to(name));
            let value = HeaderValue::from_maybe_shared(packed.split_to(value));
            // Both were names and values before.
            if let (Ok(name), Ok(mut value)) = (name, value) {
                value.set_sensitive(flags & SENSITIVE != 0);
                // A map that was not too large before is not too large now.
                let _ = headers.try_append(name, value);
            }
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_packed_comes_out_in_order() {
        let mut headers = HeaderMap::new();
        let mut secret = HeaderValue::from_static("secret");
        secret.set_sensitive(true);
        for (name, value) in [
            ("x-custom", HeaderValue::from_static("1")),
            ("cookie", HeaderValue::from_bytes(b"a=\xff").expect("value")),
            ("x-custom", HeaderValue::from_static("")),
            ("authorization", secret),
        ] {
            headers
                .try_append(HeaderName::from_static(name), value)
                .expect("room");
        }
        let size = Head::size(&headers);
        let head = Head::pack(&headers, size);
        assert_eq!(head.0.len(), size);
        let out = head.unpack();
        assert_eq!(out, headers);
        assert!(out["authorization"].is_sensitive() && !out["cookie"].is_sensitive());
        assert_eq!(Head::pack(&HeaderMap::new(), 0).unpack().len(), 0);
    }
}
