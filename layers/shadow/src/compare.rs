//! Comparing answers: does a candidate answer what the primary answers? Feature `compare`.
//!
//! A rule with `compare = true` and a [`ResponseTapLayer`](crate::ResponseTapLayer) inside of the mirror give copies the
//! primary's answer; a [`CompareSink`] sends them to a candidate, and to a *control* (a second copy of the primary's own
//! version), if there is one. Where primary and control differ, the field is noisy (clocks, ids, order), and only what
//! the candidate adds to that noise counts.
//!
//! Results are counters (`shield_mirror_divergence_total{field}`) and a bounded [`ComparisonReport`] without payloads:
//! examples name kinds and lengths, not values.

mod diff;
mod sink;
mod tally;

pub use self::{
    diff::{Differ, Difference},
    sink::CompareSink,
    tally::{Comparison, ComparisonReport, Example, FieldReport},
};
