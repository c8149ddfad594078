//! Which requests a policy looks at.
//!
//! When in doubt it looks: a request without a subject or tenant is looked at by policies scoped to one, and a path is
//! matched as it is written and percent-decoded.

use std::borrow::Cow;

use arqon_message::{Subject, SubjectPattern, TenantId};
use http::{Method, Request};

/// All of it must cover the request; what is absent covers all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope {
    pub(crate) methods: Box<[Method]>,
    pub(crate) route: Option<Route>,
    pub(crate) subject: Option<SubjectPattern>,
    pub(crate) tenant: Option<TenantId>,
}

impl Scope {
    pub(crate) fn covers<B>(&self, request: &Request<B>) -> bool {
        self.covers_method(request.method())
            && self
                .route
                .as_ref()
                .is_none_or(|route| route.covers(request.uri().path()))
            && self.subject.as_ref().is_none_or(|pattern| {
                request
                    .extensions()
                    .get::<Subject>()
                    .is_none_or(|subject| pattern.matches(subject))
            })
            && self
                .tenant
                .as_ref()
                .is_none_or(|tenant| covers_tenant(tenant, request))
    }

    fn covers_method(&self, method: &Method) -> bool {
        self.methods.is_empty()
            || self.methods.contains(method)
            // A GET route answers HEAD too.
            || (method == Method::HEAD && self.methods.contains(&Method::GET))
    }
}

fn covers_tenant<B>(tenant: &TenantId, request: &Request<B>) -> bool {
    match request.extensions().get::<TenantId>() {
        Some(named) => named == tenant,
        None => request
            .extensions()
            .get::<Subject>()
            .and_then(Subject::tenant)
            .is_none_or(|named| named == tenant.as_str()),
    }
}

/// A path pattern in axum's notation: `/v1/publish/{suffix}`, `/files/{*rest}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    segments: Box<[Segment]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(Box<str>),
    One,
    Rest,
}

impl Route {
    /// Reads a pattern.
    ///
    /// # Errors
    ///
    /// What to write instead.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let Some(path) = text.strip_prefix('/') else {
            return Err(format!("write \"/{text}\""));
        };
        let mut segments = Vec::new();
        for segment in path.split('/').filter(|segment| !segment.is_empty()) {
            if segments.last() == Some(&Segment::Rest) {
                return Err("put {*rest} last".to_owned());
            }
            let inner = segment
                .strip_prefix('{')
                .and_then(|segment| segment.strip_suffix('}'));
            segments.push(match inner {
                Some(name) if name.starts_with('*') => Segment::Rest,
                Some(name) if !name.is_empty() && !name.contains(['{', '}']) => Segment::One,
                Some(_) => return Err("name the segment, such as {id}".to_owned()),
                None if segment.contains(['{', '}', '*']) || segment.starts_with(':') => {
                    return Err("write {name} for one segment and {*rest} for the rest".to_owned());
                }
                None => Segment::Literal(decoded(segment).into()),
            });
        }
        Ok(Self {
            segments: segments.into(),
        })
    }

    /// Whether the path matches, as written or percent-decoded. Empty segments do not count.
    pub(crate) fn covers(&self, path: &str) -> bool {
        self.matches(path) || (path.contains('%') && self.matches(&decoded(path)))
    }

    fn matches(&self, path: &str) -> bool {
        let mut given = path.split('/').filter(|segment| !segment.is_empty());
        for segment in &self.segments {
            let Some(text) = given.next() else { return false };
            match segment {
                Segment::Rest => return true,
                Segment::One => {}
                Segment::Literal(literal) if **literal == *text => {}
                Segment::Literal(_) => return false,
            }
        }
        given.next().is_none()
    }
}

/// Percent-decoded once; what is no UTF-8 then is replaced.
pub(crate) fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |offset: usize| {
            bytes
                .get(at + offset)
                .and_then(|byte| char::from(*byte).to_digit(16))
        };
        match (bytes[at], hex(1), hex(2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).expect("two hex digits make a byte"));
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, path: &str) -> Request<()> {
        Request::builder().method(method).uri(path).body(()).unwrap()
    }

    #[test]
    fn a_route_matches_segment_by_segment() {
        let route = |text: &str| Route::parse(text).unwrap();
        for (pattern, path, covered) in [
            ("/", "/", true),
            ("/", "/a", false),
            ("/v1/publish/{suffix}", "/v1/publish/users", true),
            ("/v1/publish/{suffix}", "/v1/publish", false),
            ("/v1/publish/{suffix}", "/v1/publish/a/b", false),
            ("/files/{*rest}", "/files/a/b", true),
            ("/files/{*rest}", "/files", false),
            ("/admin", "/%61dmin", true),
            ("/admin", "//admin/", true),
            ("/admin", "/administrator", false),
            ("/a%62", "/ab", true),
        ] {
            assert_eq!(route(pattern).covers(path), covered, "{pattern} {path}");
        }
        for pattern in ["admin", "/{*rest}/a", "/{}", "/a*", "/:id", "/{a"] {
            assert!(Route::parse(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn a_scope_on_get_covers_head() {
        let scope = Scope {
            methods: [Method::GET].into(),
            ..Scope::default()
        };
        assert!(scope.covers(&request("HEAD", "/")));
        assert!(!scope.covers(&request("POST", "/")));
    }

    #[test]
    fn who_has_no_subject_or_tenant_is_looked_at() {
        let subject = Scope {
            subject: Some(SubjectPattern::parse("in.t.*.users.>").unwrap()),
            ..Scope::default()
        };
        let tenant = Scope {
            tenant: Some(TenantId::new("acme").unwrap()),
            ..Scope::default()
        };
        let mut parts = request("POST", "/");
        assert!(subject.covers(&parts) && tenant.covers(&parts));

        parts
            .extensions_mut()
            .insert(Subject::parse("in.t.acme.users.created").unwrap());
        assert!(subject.covers(&parts) && tenant.covers(&parts));

        parts
            .extensions_mut()
            .insert(Subject::parse("in.t.other.orders.created").unwrap());
        assert!(!subject.covers(&parts) && !tenant.covers(&parts));

        parts.extensions_mut().insert(TenantId::new("acme").unwrap());
        assert!(tenant.covers(&parts), "the verified tenant wins");
    }
}
