//! What is decided about a request before and after its body is read.

use std::sync::Arc;

use arqon_message::{BoxError, Code, CollectError, Collected, MessageBody, Problem, Subject, TenantId};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
    request::Parts,
};
use http_body::Body;
use quanta::Instant;

use crate::{
    config::{Encoding, Mode, Unmapped},
    handle::Route,
    layer::Shared,
    media_type,
    registry::{Binding, ValidatedBy},
};

/// The header that names the contract a message was checked against: `<schema id>@<revision>`.
pub const SCHEMA_HEADER: HeaderName = HeaderName::from_static("x-arqon-schema");

/// What happens to a request before its body is read.
pub(crate) enum Admission {
    Pass,
    Refuse(Problem),
    Check {
        binding: Arc<Binding>,
        encoding: Encoding,
    },
}

/// Decides by subject and headers. A client's own claim to have been checked is removed.
pub(crate) fn admit<B: Body>(shared: &Shared, request: &mut Request<B>) -> Admission {
    let config = shared.registry.config();
    request.headers_mut().remove(SCHEMA_HEADER);
    request.extensions_mut().remove::<ValidatedBy>();
    // A page of the same application, or the upgrade of a WebSocket: no message.
    let safe = [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE].contains(request.method());
    if safe && request.body().is_end_stream() {
        return Admission::Pass;
    }
    let subject = request.extensions().get::<Subject>();
    let tenant = request.extensions().get::<TenantId>();
    let route = subject.map_or(Route::Unmapped, |subject| shared.registry.route(subject, tenant));
    let monitor = config.mode == Mode::Monitor;
    match route {
        Route::Unmapped => {
            shared.metrics.unmapped.increment(1);
            if config.unmapped == Unmapped::Allow || monitor {
                return Admission::Pass;
            }
            Admission::Refuse(Problem::new(
                Code::SchemaUnmapped,
                "no schema is mapped to this subject",
            ))
        }
        Route::Unavailable { schema_id } => {
            shared.metrics.unavailable.increment(1);
            unavailable(monitor, || format!("schema {schema_id} is not loaded"))
        }
        Route::Stale { age } => {
            shared.metrics.unavailable.increment(1);
            shared.metrics.age.set(age.as_secs_f64());
            unavailable(monitor, || {
                "the schema registry has not been reached for too long".to_owned()
            })
        }
        Route::Bound(binding) => match media_type::encoding(request.headers(), binding.encoding) {
            Ok(encoding) => Admission::Check { binding, encoding },
            Err(detail) => {
                shared.metrics.media_type.increment(1);
                if monitor {
                    return Admission::Pass;
                }
                Admission::Refuse(Problem::new(Code::MediaTypeUnsupported, detail))
            }
        },
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

fn unavailable(monitor: bool, detail: impl FnOnce() -> String) -> Admission {
    if monitor {
        Admission::Pass
    } else {
        Admission::Refuse(Problem::new(Code::SchemaUnavailable, detail()))
    }
}

/// Decides by the body: the request that goes on, its body whole, or why it does not.
pub(crate) fn judge<B, E: Into<BoxError>>(
    shared: &Shared,
    binding: &Binding,
    encoding: Encoding,
    parts: &mut Parts,
    collected: Result<Collected, CollectError<E>>,
) -> Result<MessageBody<B>, Problem> {
    let mut collected = collected.map_err(|error| {
        shared.metrics.body.increment(1);
        error.problem(Code::Internal)
    })?;
    let config = shared.registry.config();
    let transcodes = encoding == Encoding::Json && config.mappings[binding.mapping].transcode;
    let started = Instant::now();
    let verdict = if transcodes {
        binding.validator.transcode(&collected.bytes).map(Some)
    } else {
        binding
            .validator
            .validate(encoding, &collected.bytes)
            .map(|()| None)
    };
    shared.metrics.duration.record(started.elapsed());
    shared.metrics.age.set(shared.registry.age().as_secs_f64());
    match verdict {
        Ok(binary) => {
            if let Some(binary) = binary {
                if binary.len() > config.max_body_bytes {
                    shared.metrics.body.increment(1);
                    let limit = config.max_body_bytes;
                    let detail = format!("the payload has more than {limit} bytes in the binary format");
                    return Err(Problem::new(Code::BodyTooLarge, detail));
                }
                collected.bytes = binary.into();
                now_binary(&mut parts.headers, collected.bytes.len());
            }
            // A header map that is full stays without the header; the extension tells the same.
            let _ = parts.headers.try_insert(SCHEMA_HEADER, binding.header.clone());
            parts.extensions.insert(binding.validated_by.clone());
            Ok(collected.into_body())
        }
        Err(violations) => {
            shared.metrics.violations[binding.mapping].increment(1);
            let violations = violations.into_vec();
            let error = violations
                .first()
                .map_or("", |violation| violation.message.as_str());
            if let Some(suppressed) = shared.may_log(binding.mapping) {
                let subject = parts.extensions.get::<Subject>();
                let tenant = parts.extensions.get::<TenantId>().map(TenantId::as_str);
                tracing::warn!(
                    component = %"registry",
                    error,
                    tenant_id = %tenant.or_else(|| subject.and_then(Subject::tenant)).unwrap_or_default(),
                    schema_id = %binding.validated_by.schema_id,
                    revision = binding.validated_by.revision,
                    enforced = config.mode == Mode::Enforce,
                    suppressed,
                );
            }
            if config.mode == Mode::Monitor {
                return Ok(collected.into_body());
            }
            let detail = match violations.len() {
                0 | 1 => error.to_owned(),
                many => format!("{error} (and {} more)", many - 1),
            };
            Err(Problem::new(Code::SchemaViolation, detail).with_violations(violations))
        }
    }
}
