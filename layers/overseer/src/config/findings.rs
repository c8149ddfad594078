//! Everything that does not hold, collected.

use std::{fmt, time::Duration};

use super::duration;
use crate::error::ConfigError;

/// Collects findings.
#[derive(Default)]
pub(super) struct Findings(pub(super) Vec<ConfigError>);

impl Findings {
    pub(super) fn add(
        &mut self,
        key: &str,
        value: impl fmt::Display,
        problem: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.0.push(ConfigError::new(key, value, problem, fix));
    }

    pub(super) fn within(&mut self, key: &str, value: usize, min: usize, max: usize) {
        if !(min..=max).contains(&value) {
            self.add(
                key,
                value,
                format!("it must be {min} to {max}"),
                format!("write {}", value.clamp(min, max)),
            );
        }
    }

    pub(super) fn span(
        &mut self,
        key: &str,
        text: &str,
        min: Duration,
        max: Duration,
        default: Duration,
    ) -> Duration {
        let Some(span) = duration::parse(text) else {
            self.add(
                key,
                quoted(text),
                "this is no span of time",
                "write a number and us, ms or s, such as \"5ms\"",
            );
            return default;
        };
        if span < min || span > max {
            self.add(
                key,
                quoted(text),
                format!("it must be {min:?} to {max:?}"),
                format!("write \"{default:?}\""),
            );
        }
        span
    }

    /// One of `known`, else a finding that names the nearest.
    pub(super) fn one_of<'a>(&mut self, key: &str, text: &str, known: &[&'a str]) -> Option<&'a str> {
        if let Some(found) = known.iter().find(|name| **name == text) {
            return Some(found);
        }
        let near = known
            .iter()
            .map(|name| (strsim::osa_distance(name, text), *name))
            .min();
        let fix = match near {
            Some((distance, name)) if distance <= 2 => format!("did you mean \"{name}\"?"),
            _ => format!("write one of {}", known.join(", ")),
        };
        self.add(key, quoted(text), "there is no such value", fix);
        None
    }
}

pub(super) fn quoted(text: &str) -> String {
    format!("{text:?}")
}
