//! Headers, packed into one piece of memory.
//!
//! Cloning a `HeaderMap` costs an allocation for nearly each header, and its values keep the socket's read buffers alive
//! while the copy waits. One flat piece is one allocation, and its size is what the byte budget is told.

use bytes::{Buf, BufMut, Bytes};
use http::{HeaderMap, HeaderValue};

/// A request's headers, ready to wait. Each is `name length u16, value length u32, flags u8, name, value`.
#[derive(Clone, Debug)]
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

    /// Each header, as it was packed.
    pub(crate) fn lines(&self) -> Lines<'_> {
        Lines {
            packed: &self.0,
            at: 0,
        }
    }

    /// A value of the packed memory itself: a reference count.
    pub(crate) fn value(&self, line: &Line<'_>) -> Option<HeaderValue> {
        let end = line.value_at + line.value.len();
        let mut value = HeaderValue::from_maybe_shared(self.0.slice(line.value_at..end)).ok()?;
        value.set_sensitive(line.sensitive);
        Some(value)
    }
}

/// One packed header.
pub(crate) struct Line<'a> {
    pub(crate) name: &'a str,
    pub(crate) value: &'a [u8],
    value_at: usize,
    sensitive: bool,
}

/// The headers of a [`Head`], in order.
pub(crate) struct Lines<'a> {
    packed: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let (mut prefix, rest) = self.packed.get(self.at..)?.split_at_checked(PREFIX)?;
        let (name, value) = (usize::from(prefix.get_u16()), prefix.get_u32() as usize);
        let sensitive = prefix.get_u8() & SENSITIVE != 0;
        let (name, rest) = rest.split_at_checked(name)?;
        let value_at = self.at + PREFIX + name.len();
        self.at = value_at + value;
        Some(Line {
            name: std::str::from_utf8(name).ok()?,
            value: rest.get(..value)?,
            value_at,
            sensitive,
        })
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

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
        let mut out = HeaderMap::new();
        for line in head.lines() {
            let name = HeaderName::try_from(line.name).expect("name");
            out.try_append(name, head.value(&line).expect("value"))
                .expect("room");
        }
        assert_eq!(out, headers);
        assert!(out["authorization"].is_sensitive() && !out["cookie"].is_sensitive());
        assert_eq!(Head::pack(&HeaderMap::new(), 0).lines().count(), 0);
    }
}
