//! What is decided about a request before and after its body is read.

use std::sync::Arc;

use arqon_message::{BoxError, Code, CollectError, Collected, Problem, Subject, TenantId};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
    request::Parts,
};
use http_body::Body;

use crate::{
    config::{Encoding, Mode, Unmapped},
    handle::{Registry, Route},
    media_type::{self, Told},
    registry::{Binding, ValidatedBy},
    violation::Violations,
};

/// The header that names the contract a message was checked against: `<schema id>@<revision>`.
pub const SCHEMA_HEADER: HeaderName = HeaderName::from_static("x-arqon-schema");

/// What happens to a request before its body is read.
pub(crate) enum Admission {
    Pass,
    // Boxed: what is checked should not be moved about in the room of a refusal.
    Refuse(Box<Problem>),
    Check {
        binding: Arc<Binding>,
        encoding: Encoding,
    },
}

/// Decides by subject and headers. A client's own claim to have been checked is removed.
#[inline]
pub(crate) fn admit<B: Body>(registry: &Registry, request: &mut Request<B>) -> Admission {
    let told = Told::of(request.headers());
    let forged = told.forged;
    let admission = decide(registry, request, told);
    if forged {
        request.headers_mut().remove(SCHEMA_HEADER);
    }
    // Where it is checked, the verdict takes its place.
    if matches!(admission, Admission::Pass) {
        request.extensions_mut().remove::<ValidatedBy>();
    }
    admission
}

#[inline]
fn decide<B: Body>(registry: &Registry, request: &Request<B>, told: Told<'_>) -> Admission {
    // A page of the same application, or the upgrade of a WebSocket: no message.
    let safe = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE
    );
    if safe && request.body().is_end_stream() {
        return Admission::Pass;
    }
    let extensions = request.extensions();
    let route = extensions.get::<Subject>().map_or(Route::Unmapped, |subject| {
        registry.route_with(subject, || extensions.get::<TenantId>())
    });
    if let Route::Bound(binding) = route {
        return match media_type::encoding(told, binding.encoding) {
            Ok(encoding) => Admission::Check { binding, encoding },
            Err(detail) => {
                registry.common().metrics().media_type.increment(1);
                unless_monitored(registry, || Problem::new(Code::MediaTypeUnsupported, detail))
            }
        };
    }
    unbound(registry, route)
}

#[cold]
fn unbound(registry: &Registry, route: Route) -> Admission {
    let unavailable = |detail: String| {
        registry.common().metrics().unavailable.increment(1);
        unless_monitored(registry, || Problem::new(Code::SchemaUnavailable, detail))
    };
    match route {
        Route::Unavailable { schema_id } => unavailable(format!("schema {schema_id} is not loaded")),
        Route::Stale { age } => {
            registry.common().metrics().age.set(age.as_secs_f64());
            unavailable("the schema registry has not been reached for too long".to_owned())
        }
        Route::Unmapped | Route::Bound(_) => {
            registry.common().metrics().unmapped.increment(1);
            if registry.config().unmapped == Unmapped::Allow {
                return Admission::Pass;
            }
            let detail = "no schema is mapped to this subject";
            unless_monitored(registry, || Problem::new(Code::SchemaUnmapped, detail))
        }
    }
}

fn unless_monitored(registry: &Registry, problem: impl FnOnce() -> Problem) -> Admission {
    if registry.config().mode == Mode::Monitor {
        Admission::Pass
    } else {
        Admission::Refuse(Box::new(problem()))
    }
}

/// The headers of a body that is no longer JSON.
fn now_binary(headers: &mut HeaderMap, length: usize) {
    const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");
    // Digests of the document say nothing of the bytes that go on.
    for name in ["content-digest", "repr-digest", "digest", "content-md5"] {
        headers.remove(name);
    }
    // A map that is full has no room for a type that was not there; the mapping tells consumers.
    let _ = headers.try_insert(CONTENT_TYPE, PROTOBUF);
    if headers.contains_key(CONTENT_LENGTH) {
        let _ = headers.try_insert(CONTENT_LENGTH, length.into());
    }
}

/// Decides by the body: completes the head of what goes on and gives the body back, or says why it does not.
#[inline]
pub(crate) fn judge<E: Into<BoxError>>(
    binding: Arc<Binding>,
    encoding: Encoding,
    head: &mut Parts,
    collected: Result<Collected, CollectError<E>>,
) -> Result<Collected, Box<Problem>> {
    let collected = collected.map_err(|error| {
        binding.common.metrics().body.increment(1);
        Box::new(error.problem(Code::Internal))
    })?;
    if encoding == Encoding::Json && binding.common.config.mappings[binding.mapping].transcode {
        return transcode(binding, head, collected);
    }
    let verdict = binding.common.timed(collected.bytes.len(), || {
        binding.validator.validate(encoding, &collected.bytes)
    });
    match verdict {
        Ok(()) => accept(binding, head, collected),
        Err(violations) => refuse(&binding, head, collected, violations),
    }
}

fn transcode(
    binding: Arc<Binding>,
    head: &mut Parts,
    mut collected: Collected,
) -> Result<Collected, Box<Problem>> {
    let verdict = binding.common.timed(collected.bytes.len(), || {
        binding.validator.transcode(&collected.bytes)
    });
    let binary = match verdict {
        Ok(binary) => binary,
        Err(violations) => return refuse(&binding, head, collected, violations),
    };
    let limit = binding.common.config.max_body_bytes;
    if binary.len() > limit {
        binding.common.metrics().body.increment(1);
        let detail = format!("the payload has more than {limit} bytes in the binary format");
        return Err(Box::new(Problem::new(Code::BodyTooLarge, detail)));
    }
    collected.bytes = binary.into();
    now_binary(&mut head.headers, collected.bytes.len());
    accept(binding, head, collected)
}

/// Names the contract. It allocates once: the extension's place in the request.
#[inline]
fn accept(binding: Arc<Binding>, head: &mut Parts, collected: Collected) -> Result<Collected, Box<Problem>> {
    // A header map that is full stays without the header; the extension tells the same.
    let _ = head.headers.try_insert(SCHEMA_HEADER, binding.header.clone());
    head.extensions.insert(ValidatedBy::new(binding));
    Ok(collected)
}

#[cold]
fn refuse(
    binding: &Binding,
    head: &mut Parts,
    collected: Collected,
    violations: Violations,
) -> Result<Collected, Box<Problem>> {
    binding.common.metrics().violations[binding.mapping].increment(1);
    let mode = binding.common.config.mode;
    let violations = violations.into_vec();
    let error = violations
        .first()
        .map_or("", |violation| violation.message.as_str());
    if let Some(suppressed) = binding.common.may_log(binding.mapping) {
        let subject = head.extensions.get::<Subject>();
        let tenant = head.extensions.get::<TenantId>().map(TenantId::as_str);
        tracing::warn!(
            component = %"registry",
            error,
            tenant_id = %tenant.or_else(|| subject.and_then(Subject::tenant)).unwrap_or_default(),
            schema_id = %binding.contract.schema_id,
            revision = binding.contract.revision,
            enforced = mode == Mode::Enforce,
            suppressed,
        );
    }
    if mode == Mode::Monitor {
        head.extensions.remove::<ValidatedBy>();
        return Ok(collected);
    }
    let detail = match violations.len() {
        0 | 1 => error.to_owned(),
        many => format!("{error} (and {} more)", many - 1),
    };
    let problem = Problem::new(Code::SchemaViolation, detail).with_violations(violations);
    Err(Box::new(problem))
}
