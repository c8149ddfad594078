//! RFC 9457 problem details.

use std::borrow::Cow;

use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};

use crate::Code;

/// Why a request was refused, as `application/problem+json` says it (RFC 9457).
///
/// As JSON: `type` (`urn:arqon:problem:<code>`), `title`, `status`, `detail`, `code`, and where they are known `instance`,
/// `trace_id`, `span_id`, `request_id`, `tenant` and `violations`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// One of the closed set.
    pub code: Code,
    /// The HTTP status.
    pub status: StatusCode,
    /// What was wrong with this request and what would mend it. No internals and no payload bytes.
    pub detail: Cow<'static, str>,
    /// The path of the request.
    pub instance: Option<String>,
    /// The trace that the request belongs to, 32 hex digits.
    pub trace_id: Option<String>,
    /// Which request it was, as far as that was known.
    pub request: Box<RequestIds>,
    /// What broke the contract, for `schema.violation`.
    pub violations: Vec<Violation>,
}

/// The words by which logs, spans and published messages know a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestIds {
    /// The span in which it was refused, 16 hex digits, where requests are observed.
    pub span_id: Option<String>,
    /// Its `x-request-id`.
    pub request_id: Option<String>,
    /// Whose it was, where that was known when it was refused.
    pub tenant: Option<String>,
}

/// One place where a payload breaks its contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// The field: `items[3].sku`, `labels["eu"]`, an unknown field by its number, the whole message as `.`.
    pub path: String,
    /// The rule that was broken, a stable name.
    pub rule: Cow<'static, str>,
    /// The same for people, such as `field 'user_id' missing`.
    pub message: String,
}

impl Problem {
    /// A problem with the code's own status.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            status: code.status(),
            detail: detail.into(),
            instance: None,
            trace_id: None,
            request: Box::default(),
            violations: Vec::new(),
        }
    }

    /// Another status, such as a policy's.
    #[must_use]
    pub const fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// What broke the contract.
    #[must_use]
    pub fn with_violations(mut self, violations: Vec<Violation>) -> Self {
        self.violations = violations;
        self
    }

    /// The JSON text.
    #[must_use]
    pub fn to_json(&self) -> Bytes {
        serde_json::to_vec(self)
            .expect("strings and numbers are JSON")
            .into()
    }

    /// The same in plain text, a line each: title, detail, violations.
    #[must_use]
    pub fn to_text(&self) -> Bytes {
        let mut text = format!(
            "{} {}: {}\n{}\n",
            self.status.as_u16(),
            self.code,
            self.code.title(),
            self.detail
        );
        for violation in &self.violations {
            text.push_str(&format!(
                "{}: {} ({})\n",
                violation.path, violation.message, violation.rule
            ));
        }
        text.into()
    }
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", &format_args!("urn:arqon:problem:{}", self.code))?;
        map.serialize_entry("title", self.code.title())?;
        map.serialize_entry("status", &self.status.as_u16())?;
        map.serialize_entry("detail", &self.detail)?;
        map.serialize_entry("code", &self.code)?;
        if let Some(instance) = &self.instance {
            map.serialize_entry("instance", instance)?;
        }
        for (name, value) in [
            ("trace_id", &self.trace_id),
            ("span_id", &self.request.span_id),
            ("request_id", &self.request.request_id),
            ("tenant", &self.request.tenant),
        ] {
            if let Some(value) = value {
                map.serialize_entry(name, value)?;
            }
        }
        if !self.violations.is_empty() {
            map.serialize_entry("violations", &self.violations)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_json_has_the_members_of_the_rfc_and_ours() {
        let mut problem =
            Problem::new(Code::SchemaViolation, "field 'user_id' missing").with_violations(vec![Violation {
                path: "user_id".into(),
                rule: "required".into(),
                message: "field 'user_id' missing".into(),
            }]);
        problem.instance = Some("/v1/publish/users".into());
        let json: Value = serde_json::from_slice(&problem.to_json()).expect("JSON");
        assert_eq!(
            json,
            json!({
                "type": "urn:arqon:problem:schema.violation",
                "title": "The payload does not match its schema",
                "status": 400,
                "detail": "field 'user_id' missing",
                "code": "schema.violation",
                "instance": "/v1/publish/users",
                "violations": [{"path": "user_id", "rule": "required", "message": "field 'user_id' missing"}],
            })
        );
    }

    #[test]
    fn every_code_makes_a_problem() {
        for &code in Code::ALL {
            let json: Value = serde_json::from_slice(&Problem::new(code, "why").to_json()).expect("JSON");
            assert_eq!(json["code"], code.as_str());
            assert_eq!(json["status"], code.status().as_u16());
        }
    }
}
