//! The pure check: bytes in, verdict out.

use std::sync::Arc;

use crate::{
    config::Encoding,
    json,
    plan::Plan,
    violation::{Findings, Violations, rule},
    wire,
};

/// Checks payloads of one message at one level. Made by [`Descriptors::validator`](crate::Descriptors::validator);
/// cheap to clone, immutable.
#[derive(Clone, Debug)]
pub struct Validator {
    plan: Arc<Plan>,
}

impl Validator {
    pub(crate) fn new(plan: Plan) -> Self {
        Self { plan: Arc::new(plan) }
    }

    /// The full name of the message.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.plan.message(&self.plan.nodes[0]).name
    }

    /// Checks a binary payload. Allocates nothing when it is accepted in one pass; a payload that is accepted only
    /// after its messages were merged (`user_id` in the second half of a split message) allocates a little.
    ///
    /// # Errors
    ///
    /// Every violation, at most [`VIOLATIONS_MAX`](crate::VIOLATIONS_MAX).
    pub fn validate_wire(&self, payload: &[u8]) -> Result<(), Violations> {
        if wire::walk::walk(&self.plan, payload) {
            return Ok(());
        }
        wire::explain::explain(&self.plan, payload).into_result()
    }

    /// Checks a JSON payload by the Protobuf JSON mapping. At level `rules` it is written in the binary format on the way,
    /// and the rules are those of the binary walk: one message, one verdict, one path.
    ///
    /// # Errors
    ///
    /// Every violation, at most [`VIOLATIONS_MAX`](crate::VIOLATIONS_MAX).
    pub fn validate_json(&self, payload: &[u8]) -> Result<(), Violations> {
        if self.plan.ruled {
            return self.transcode(payload).map(drop);
        }
        let mut found = Findings::default();
        json::check(&self.plan, payload, &mut found);
        found.into_result()
    }

    /// Checks a JSON payload and returns the same message in the binary format: fields in the order of the document, zeros
    /// of fields without presence left out, lengths as short as they can be.
    ///
    /// # Errors
    ///
    /// As [`validate_json`](Self::validate_json).
    pub fn transcode(&self, payload: &[u8]) -> Result<Vec<u8>, Violations> {
        let mut found = Findings::default();
        let bytes = json::transcode(&self.plan, payload, &mut found);
        // Where something is missing the message is still whole enough to judge its values.
        if self.plan.ruled && found.only(rule::REQUIRED) && !wire::walk::walk(&self.plan, &bytes) {
            found.merge(wire::explain::explain(&self.plan, &bytes));
        }
        found.into_result().map(|()| bytes)
    }

    /// Checks a payload in that encoding.
    ///
    /// # Errors
    ///
    /// As [`validate_wire`](Self::validate_wire) and [`validate_json`](Self::validate_json).
    pub fn validate(&self, encoding: Encoding, payload: &[u8]) -> Result<(), Violations> {
        match encoding {
            Encoding::Proto => self.validate_wire(payload),
            Encoding::Json => self.validate_json(payload),
        }
    }
}
