//! The closed set of problem codes.

use http::StatusCode;
use serde::{Serialize, Serializer};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:ident, $title:literal;)*) => {
        /// Why a request was refused: the closed set of DESIGN 12.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code's text, such as `schema.violation`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The status a refusal with this code has unless a policy chose another.
            #[must_use]
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }

            /// One short sentence for people, the same for every occurrence (RFC 9457, 3.1.3).
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

codes! {
    /// A policy said no. The guest may choose another status of 400 to 599.
    OverseerDenied = "overseer.denied", FORBIDDEN, "A policy denied the request";
    /// A policy could not be loaded.
    OverseerLoad = "overseer.load", SERVICE_UNAVAILABLE, "A policy is not loaded";
    /// A policy trapped.
    OverseerTrap = "overseer.trap", SERVICE_UNAVAILABLE, "A policy failed";
    /// A policy used up its fuel.
    OverseerFuel = "overseer.fuel", SERVICE_UNAVAILABLE, "A policy ran out of fuel";
    /// A policy ran past its deadline.
    OverseerDeadline = "overseer.deadline", SERVICE_UNAVAILABLE, "A policy ran past its deadline";
    /// A policy asked for more memory than it may have.
    OverseerMemory = "overseer.memory", SERVICE_UNAVAILABLE, "A policy ran out of memory";
    /// A policy overflowed its stack.
    OverseerStack = "overseer.stack", SERVICE_UNAVAILABLE, "A policy overflowed its stack";
    /// No place to run a policy came free in time.
    OverseerPool = "overseer.pool", SERVICE_UNAVAILABLE, "No place to run a policy";
    /// The body that a policy needs could not be read.
    OverseerBody = "overseer.body", SERVICE_UNAVAILABLE, "The body could not be read";
    /// The payload breaks the contract of its subject.
    SchemaViolation = "schema.violation", BAD_REQUEST, "The payload does not match its schema";
    /// No contract is mapped to the subject.
    SchemaUnmapped = "schema.unmapped", BAD_REQUEST, "No schema is mapped to the subject";
    /// A contract is mapped to the subject, but it is not there or too old.
    SchemaUnavailable = "schema.unavailable", SERVICE_UNAVAILABLE, "The schema is not available";
    /// The body is over the cap.
    BodyTooLarge = "body.too_large", PAYLOAD_TOO_LARGE, "The body is too large";
    /// The body did not arrive in time.
    BodyTimeout = "body.timeout", REQUEST_TIMEOUT, "The body did not arrive in time";
    /// The media type or content encoding cannot be checked.
    MediaTypeUnsupported = "media_type.unsupported", UNSUPPORTED_MEDIA_TYPE, "The media type is not supported";
    /// No token.
    AuthMissing = "auth.missing", UNAUTHORIZED, "A bearer token is needed";
    /// A token that does not hold.
    AuthInvalid = "auth.invalid", UNAUTHORIZED, "The bearer token is not valid";
    /// The token names no tenant, or one that cannot be.
    TenantInvalid = "tenant.invalid", FORBIDDEN, "The tenant is not valid";
    /// The subject cannot be.
    SubjectInvalid = "subject.invalid", BAD_REQUEST, "The subject is not valid";
    /// The WebSocket frame cannot be read.
    FrameInvalid = "frame.invalid", BAD_REQUEST, "The frame is not valid";
    /// Nobody there to publish to.
    PublishUnavailable = "publish.unavailable", SERVICE_UNAVAILABLE, "Publishing is not possible now";
    /// The message is over the server's `max_payload`.
    PublishTooLarge = "publish.too_large", PAYLOAD_TOO_LARGE, "The message is too large to publish";
    /// The tenant's rate is used up.
    RateLimited = "rate.limited", TOO_MANY_REQUESTS, "Too many requests";
    /// The process has no room for another request.
    Overloaded = "overloaded", SERVICE_UNAVAILABLE, "The server is overloaded";
    /// A control message was refused.
    ControlRefused = "control.refused", CONFLICT, "The control message was refused";
    /// A policy was refused at load.
    PolicyRefused = "policy.refused", UNPROCESSABLE_ENTITY, "The policy was refused";
    /// No such route.
    NotFound = "not_found", NOT_FOUND, "Not found";
    /// The route does not take this method.
    MethodNotAllowed = "method.not_allowed", METHOD_NOT_ALLOWED, "The method is not allowed";
    /// A fault of ours.
    Internal = "internal", INTERNAL_SERVER_ERROR, "An internal error";
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The list of DESIGN 12, by hand.
    const DESIGN: &[(&str, u16)] = &[
        ("overseer.denied", 403),
        ("overseer.load", 503),
        ("overseer.trap", 503),
        ("overseer.fuel", 503),
        ("overseer.deadline", 503),
        ("overseer.memory", 503),
        ("overseer.stack", 503),
        ("overseer.pool", 503),
        ("overseer.body", 503),
        ("schema.violation", 400),
        ("schema.unmapped", 400),
        ("schema.unavailable", 503),
        ("body.too_large", 413),
        ("body.timeout", 408),
        ("media_type.unsupported", 415),
        ("auth.missing", 401),
        ("auth.invalid", 401),
        ("tenant.invalid", 403),
        ("subject.invalid", 400),
        ("frame.invalid", 400),
        ("publish.unavailable", 503),
        ("publish.too_large", 413),
        ("rate.limited", 429),
        ("overloaded", 503),
        ("control.refused", 409),
        ("policy.refused", 422),
        ("not_found", 404),
        ("method.not_allowed", 405),
        ("internal", 500),
    ];

    #[test]
    fn the_set_is_the_designs() {
        let ours: Vec<_> = Code::ALL
            .iter()
            .map(|code| (code.as_str(), code.status().as_u16()))
            .collect();
        assert_eq!(ours, DESIGN);
    }
}
