//! Header edits: collected while the chain runs, applied when all of it allowed.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONTENT_LENGTH, MaxSizeReached},
};

/// One edit of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Edit {
    Add(HeaderName, HeaderValue),
    Set(HeaderName, HeaderValue),
    Remove(HeaderName),
}

impl Edit {
    pub(crate) const fn name(&self) -> &HeaderName {
        match self {
            Self::Add(name, _) | Self::Set(name, _) | Self::Remove(name) => name,
        }
    }

    /// Bytes that count against `header_bytes_max`.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Add(name, value) | Self::Set(name, value) => name.as_str().len() + value.len(),
            Self::Remove(name) => name.as_str().len(),
        }
    }
}

/// The edits of a chain, in order.
///
/// On a request the first edit of a name takes the client's values of that name away, so what a policy adds cannot be
/// pre-set. On a response `add` keeps what the handler said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Edits(Vec<Edit>);

impl Edits {
    pub(crate) fn push(&mut self, edit: Edit) {
        self.0.push(edit);
    }

    /// Bytes of all names and values.
    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(Edit::bytes).sum()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Forgets all but the first `len` edits.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Edit> {
        self.0.iter()
    }

    /// The first value of `name` as a policy sees it: the message's own, amended by the edits so far.
    #[inline]
    pub(crate) fn first<'a>(
        &'a self,
        headers: &'a HeaderMap,
        name: &[u8],
        response: bool,
    ) -> Option<&'a HeaderValue> {
        let mut value = first(headers, name);
        let mut touched = response;
        for edit in self.0.iter().filter(|edit| is(edit.name(), name)) {
            value = match edit {
                Edit::Add(_, added) if !touched => Some(added),
                Edit::Add(_, added) => value.or(Some(added)),
                Edit::Set(_, set) => Some(set),
                Edit::Remove(_) => None,
            };
            touched = true;
        }
        value
    }

    /// Applies the edits.
    ///
    /// # Errors
    ///
    /// When the map is at its limit of names.
    pub(crate) fn apply(&self, headers: &mut HeaderMap, response: bool) -> Result<(), MaxSizeReached> {
        for (at, edit) in self.0.iter().enumerate() {
            let touched = response || self.0[..at].iter().any(|earlier| earlier.name() == edit.name());
            match edit {
                Edit::Add(name, value) if touched => {
                    headers.try_append(name.clone(), value.clone())?;
                }
                Edit::Add(name, value) | Edit::Set(name, value) => {
                    headers.try_insert(name.clone(), value.clone())?;
                }
                Edit::Remove(name) => {
                    headers.remove(name);
                }
            }
        }
        Ok(())
    }
}

/// Names that are compared one by one; more are looked up by their hash, which takes as long as this many.
const COMPARED: usize = 12;

/// Whether `known` is called `name`, in any case.
fn is(known: &HeaderName, name: &[u8]) -> bool {
    let known = known.as_str().as_bytes();
    known.len() == name.len() && known.eq_ignore_ascii_case(name)
}

/// The first value of `name`, in any case.
#[inline]
fn first<'a>(headers: &'a HeaderMap, name: &[u8]) -> Option<&'a HeaderValue> {
    if headers.keys_len() > COMPARED {
        return std::str::from_utf8(name).ok().and_then(|name| headers.get(name));
    }
    let known = headers.keys().find(|known| is(known, name))?;
    headers.get(known)
}

/// Headers no policy may edit: they belong to the connection, the framing, the caller's identity or to Arqon.
const RESERVED: [&str; 16] = [
    "authorization",
    "connection",
    "content-length",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "trailers",
    "transfer-encoding",
    "traceparent",
    "upgrade",
    "expect",
];

/// Whether no policy may edit this header, whatever its configuration grants. `name` is in lower case.
pub(crate) fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name) || name.starts_with("x-arqon-")
}

/// Headers that digest the payload: dropped when it is rewritten.
const DIGESTS: [&str; 4] = ["content-digest", "content-md5", "digest", "repr-digest"];

/// Makes the headers true again after the payload was replaced by one of `len` bytes.
pub(crate) fn mend(headers: &mut HeaderMap, len: usize) -> Result<(), MaxSizeReached> {
    drop_digests(headers);
    headers.try_insert(CONTENT_LENGTH, HeaderValue::from(len))?;
    Ok(())
}

/// Drops the digests of a payload that is no longer there.
pub(crate) fn drop_digests(headers: &mut HeaderMap) {
    for name in DIGESTS {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: HeaderName = HeaderName::from_static("x-role");

    fn value(text: &'static str) -> HeaderValue {
        HeaderValue::from_static(text)
    }

    fn client() -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.try_append(NAME, value("forged")).unwrap();
        headers.try_append(NAME, value("twice")).unwrap();
        headers
    }

    fn all(headers: &HeaderMap) -> Vec<&str> {
        headers
            .get_all(NAME)
            .iter()
            .map(|value| value.to_str().unwrap())
            .collect()
    }

    #[test]
    fn a_client_cannot_pre_set_what_a_policy_adds() {
        let edits = Edits(vec![
            Edit::Add(NAME, value("user")),
            Edit::Add(NAME, value("editor")),
        ]);
        let mut headers = client();
        assert_eq!(edits.first(&headers, b"X-Role", false), Some(&value("user")));
        edits.apply(&mut headers, false).unwrap();
        assert_eq!(all(&headers), ["user", "editor"]);
    }

    #[test]
    fn a_header_is_found_in_any_case_among_few_and_among_many() {
        for others in [0, COMPARED - 1, COMPARED, 40] {
            let mut headers = HeaderMap::new();
            for other in 0..others {
                let name = HeaderName::try_from(format!("x-other-{other}")).unwrap();
                headers.insert(name, value("other"));
            }
            assert_eq!(first(&headers, b"x-role"), None);
            headers.extend(client());
            for name in ["x-role", "X-Role", "X-ROLE"] {
                assert_eq!(
                    first(&headers, name.as_bytes()),
                    Some(&value("forged")),
                    "{others}"
                );
            }
            for name in [&b"x-rol"[..], b"x-roles", b"", b"x-rol\xff"] {
                assert_eq!(first(&headers, name), None, "{others}");
            }
        }
    }

    #[test]
    fn an_addition_after_a_removal_stands_alone() {
        let edits = Edits(vec![Edit::Remove(NAME), Edit::Add(NAME, value("user"))]);
        let mut headers = client();
        assert_eq!(edits.first(&headers, b"x-role", false), Some(&value("user")));
        edits.apply(&mut headers, false).unwrap();
        assert_eq!(all(&headers), ["user"]);
    }

    #[test]
    fn on_a_response_an_addition_keeps_the_handlers_values() {
        let edits = Edits(vec![Edit::Add(NAME, value("user"))]);
        let mut headers = client();
        assert_eq!(edits.first(&headers, b"x-role", true), Some(&value("forged")));
        edits.apply(&mut headers, true).unwrap();
        assert_eq!(all(&headers), ["forged", "twice", "user"]);
    }

    #[test]
    fn the_reserved_names_are_these() {
        let mut names = RESERVED;
        names.sort_unstable();
        let said = [
            "authorization",
            "connection",
            "content-length",
            "expect",
            "host",
            "http2-settings",
            "keep-alive",
            "proxy-authenticate",
            "proxy-authorization",
            "proxy-connection",
            "te",
            "traceparent",
            "trailer",
            "trailers",
            "transfer-encoding",
            "upgrade",
        ];
        assert_eq!(names, said);
        assert_eq!(
            arqon_policy::testing::limits::RESERVED,
            said,
            "the SDK's host knows them"
        );
        assert!(said.into_iter().chain(["x-arqon-shadow"]).all(is_reserved));
        assert!(!is_reserved("x-role") && !is_reserved("x-arqo"));
    }

    #[test]
    fn a_rewritten_payload_mends_the_length_and_drops_every_digest() {
        let mut headers = HeaderMap::new();
        for name in ["content-digest", "content-md5", "digest", "repr-digest"] {
            headers.insert(name, value("sha-256=:x:"));
        }
        headers.insert(CONTENT_LENGTH, value("10"));
        headers.insert("x-digest", value("kept"));
        let mut trailers = headers.clone();
        mend(&mut headers, 3).unwrap();
        assert_eq!(headers.get(CONTENT_LENGTH), Some(&value("3")));
        assert_eq!(headers.len(), 2);
        drop_digests(&mut trailers);
        assert_eq!(trailers.get(CONTENT_LENGTH), Some(&value("10")));
        assert_eq!(trailers.len(), 2);
    }
}
