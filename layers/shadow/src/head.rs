//! Target and headers, packed into one piece of memory.
//!
//! Cloning a `HeaderMap` costs an allocation for nearly each header, and its values (and the path of a `Uri`) keep the
//! socket's read buffers alive while the copy waits. One flat piece is one allocation, and its size is what the byte budget
//! is told.

use bytes::{Buf, BufMut, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, Uri, uri::PathAndQuery};

/// A request's target and headers, ready to wait. First the target; then each header, as `name length u16, value length u32,
/// flags u8, name, value`.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    packed: Bytes,
    /// Where the headers begin.
    headers: usize,
}

/// What stands before name and value, in bytes.
const PREFIX: usize = 7;
/// The value must not be shown or indexed (HPACK "never indexed").
const SENSITIVE: u8 = 1;

impl Head {
    /// How many bytes a target and headers take, packed.
    pub(crate) fn size(uri: &Uri, headers: &HeaderMap) -> usize {
        Self::target_parts(uri).map(str::len).iter().sum::<usize>() + Self::headers_size(headers)
    }

    /// What a target is written of. One without a scheme is a path, or (of `CONNECT`) an authority.
    fn target_parts(uri: &Uri) -> [&str; 4] {
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let path = uri.path_and_query().map_or("", PathAndQuery::as_str);
        match uri.scheme_str() {
            Some(scheme) => [scheme, "://", authority, path],
            None => ["", "", authority, path],
        }
    }

    /// How many bytes headers take, packed.
    pub(crate) fn headers_size(headers: &HeaderMap) -> usize {
        headers
            .iter()
            .map(|(name, value)| PREFIX + name.as_str().len() + value.len())
            .sum()
    }

    /// Packs, into `size` bytes as [`Head::size`] said.
    pub(crate) fn pack(uri: &Uri, headers: &HeaderMap, size: usize) -> Self {
        Self::write(Self::target_parts(uri), headers, size)
    }

    /// Packs headers alone, such as trailers.
    pub(crate) fn pack_headers(headers: &HeaderMap) -> Self {
        Self::write([""; 4], headers, Self::headers_size(headers))
    }

    fn write(target: [&str; 4], headers: &HeaderMap, size: usize) -> Self {
        let mut packed = Vec::with_capacity(size);
        target
            .iter()
            .for_each(|part| packed.extend_from_slice(part.as_bytes()));
        let target = packed.len();
        for (name, value) in headers {
            // `http` refuses names of 64 KiB, and no server takes a value of 4 GiB.
            packed.put_u16(name.as_str().len() as u16);
            packed.put_u32(value.len() as u32);
            packed.put_u8(if value.is_sensitive() { SENSITIVE } else { 0 });
            packed.extend_from_slice(name.as_str().as_bytes());
            packed.extend_from_slice(value.as_bytes());
        }
        Self {
            packed: packed.into(),
            headers: target,
        }
    }

    /// In bytes.
    pub(crate) fn len(&self) -> usize {
        self.packed.len()
    }

    /// The target, of the packed memory itself. What was written of one can be read again.
    pub(crate) fn target(&self) -> Uri {
        Uri::from_maybe_shared(self.packed.slice(..self.headers)).unwrap_or_default()
    }

    /// Each header, as it was packed.
    pub(crate) fn lines(&self) -> Lines<'_> {
        Lines {
            packed: &self.packed,
            at: self.headers,
        }
    }

    /// The headers, as they were packed.
    pub(crate) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in self.lines() {
            if let (Ok(name), Some(value)) = (HeaderName::try_from(line.name), self.value(&line)) {
                // They came out of a map, so they fit into one.
                let _ = headers.try_append(name, value);
            }
        }
        headers
    }

    /// A value of the packed memory itself: a reference count.
    pub(crate) fn value(&self, line: &Line<'_>) -> Option<HeaderValue> {
        let end = line.value_at + line.value.len();
        let mut value = HeaderValue::from_maybe_shared(self.packed.slice(line.value_at..end)).ok()?;
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
        let uri = Uri::from_static("/orders?x=1");
        let size = Head::size(&uri, &headers);
        let head = Head::pack(&uri, &headers, size);
        assert_eq!((head.len(), head.target()), (size, uri));
        let out = head.headers();
        assert_eq!(out, headers);
        assert_eq!(Head::pack_headers(&headers).headers(), headers);
        assert!(out["authorization"].is_sensitive() && !out["cookie"].is_sensitive());
    }

    #[test]
    fn every_form_of_a_target_comes_out_as_it_was() {
        for target in [
            "/",
            "/a/b?c=d&e",
            "*",
            "http://host/a",
            "https://host:8443/?q",
            "host:443",
        ] {
            let uri = Uri::from_static(target);
            let size = Head::size(&uri, &HeaderMap::new());
            let head = Head::pack(&uri, &HeaderMap::new(), size);
            assert_eq!((head.target(), head.len()), (uri, size), "{target}");
            assert_eq!(head.lines().count(), 0);
        }
    }
}
