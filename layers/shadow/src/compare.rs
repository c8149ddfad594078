//! Comparing answers: does a candidate answer what the primary answers? Feature `compare`.
//!
//! A rule with `compare = true` and a [`ResponseTapLayer`](crate::ResponseTapLayer) inside of the mirror give copies the
//! primary's answer; a [`CompareSink`] sends them to a candidate, and to a *control* (a second copy of the primary's own
//! version), if there is one. Where primary and control differ, the field is noisy (clocks, ids, order), and only what
//! the candidate adds to that noise counts.
//!
//! Answers in JSON are compared field by field, and with the feature `protobuf` those in Protobuf too; fields can be ignored,
//! numbers have a tolerance ([`Differ`]). A field is called diverging after a hundred comparisons at least, when the whole
//! interval of its rate lies above that of the noise.
//!
//! Results are counters (`shield_mirror_divergence_total{field}`) and a bounded [`ComparisonReport`] without payloads:
//! examples name kinds and lengths, not values.

mod diff;
mod history;
#[cfg(feature = "protobuf")]
mod protobuf;
mod sink;
mod tally;

pub use self::{
    diff::{Differ, Difference},
    history::{FieldSpan, Span},
    sink::CompareSink,
    tally::{Comparison, ComparisonReport, Example, FieldReport},
};
