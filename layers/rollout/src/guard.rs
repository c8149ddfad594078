//! The guard: compares the variant with the baseline over the same window, and lowers what this node serves.
//!
//! It never raises anything and never changes the state: only log records do (DESIGN 8).

use std::{collections::HashMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::stats::Window;

/// `[platform.rollout.guard]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct GuardConfig {
    /// Length of a window. Default 30.
    pub window_seconds: u64,
    /// Answers of each side a window needs; with fewer the share is held. Default 100.
    pub min_samples: u64,
    /// By how much the variant's error rate may exceed the baseline's, 0 to 1. Default 0.01.
    pub error_rate_increase: f64,
    /// By which factor the variant's 99th percentile of latency may exceed the baseline's. Default 1.5.
    pub latency_factor: f64,
    /// What a breach does. Default `freeze`.
    pub action: GuardAction,
}

/// What a breach does to the share this node serves, until another rollout starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum GuardAction {
    /// It stays where it is.
    #[default]
    Freeze,
    /// It goes to 0.
    Rollback,
}

impl Default for GuardConfig {
    fn default() -> Self {
        Self {
            window_seconds: 30,
            min_samples: 100,
            error_rate_increase: 0.01,
            latency_factor: 1.5,
            action: GuardAction::Freeze,
        }
    }
}

impl GuardConfig {
    pub(crate) fn window(&self) -> Duration {
        Duration::from_secs(self.window_seconds)
    }

    /// What is wrong with it: key, value, fix.
    pub(crate) fn findings(&self) -> Vec<(&'static str, String, &'static str)> {
        let mut findings = Vec::new();
        if self.window_seconds == 0 {
            findings.push(("window_seconds", "0".to_owned(), "use at least 1"));
        }
        if self.min_samples == 0 {
            findings.push((
                "min_samples",
                "0".to_owned(),
                "use at least 1: without answers nothing can be judged",
            ));
        }
        if !(0.0..=1.0).contains(&self.error_rate_increase) {
            findings.push((
                "error_rate_increase",
                self.error_rate_increase.to_string(),
                "use 0.0 to 1.0",
            ));
        }
        if !(1.0..=1e6).contains(&self.latency_factor) {
            findings.push((
                "latency_factor",
                self.latency_factor.to_string(),
                "use 1.0 or more",
            ));
        }
        findings
    }
}

/// What a window says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Judgement {
    /// Nothing is wrong.
    Healthy,
    /// Too few answers on one side.
    NoData,
    /// The variant is worse; the figures.
    Breach {
        message: String,
        figures: HashMap<String, String>,
    },
}

impl Judgement {
    /// The name in the status.
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::NoData => "no_data",
            Self::Breach { .. } => "breach",
        }
    }
}

/// Compares two windows of the same time.
pub(crate) fn judge(config: &GuardConfig, baseline: &Window, canary: &Window) -> Judgement {
    let (expected, seen) = (baseline.requests(), canary.requests());
    if expected.min(seen) < config.min_samples {
        return Judgement::NoData;
    }
    let excess = surplus((baseline.errors, expected), (canary.errors, seen));
    let (slow, usual) = (canary.quantile(0.99), baseline.quantile(0.99));
    let border = usual * config.latency_factor;
    // A percentile of a hundred answers is its slowest one: more answers than by chance have to be beyond the border.
    let late = surplus((baseline.above(border), expected), (canary.above(border), seen));
    let message = if excess > config.error_rate_increase {
        format!(
            "error rate {:.4}, the baseline's is {:.4}",
            canary.error_rate(),
            baseline.error_rate()
        )
    } else if slow > border && late > 0.0 {
        format!("latency p99 {slow:.6} s, the baseline's is {usual:.6} s")
    } else {
        return Judgement::Healthy;
    };
    let figures = [
        ("canary_requests", seen.to_string()),
        ("canary_error_rate", format!("{:.6}", canary.error_rate())),
        ("canary_latency_p99", format!("{slow:.6}")),
        ("baseline_requests", expected.to_string()),
        ("baseline_error_rate", format!("{:.6}", baseline.error_rate())),
        ("baseline_latency_p99", format!("{usual:.6}")),
    ];
    let figures = figures
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    Judgement::Breach { message, figures }
}

/// The lower end of the 99 % interval of the difference of two proportions (Agresti and Caffo: one success
/// and one failure more on each side, so that small counts do not look certain).
#[expect(clippy::cast_precision_loss, reason = "counts below 2^53")]
fn surplus(baseline: (u64, u64), canary: (u64, u64)) -> f64 {
    const Z: f64 = 2.575_829_303_548_901;
    let adjusted = |(bad, all): (u64, u64)| {
        let answers = all as f64 + 2.0;
        let rate = (bad as f64 + 1.0) / answers;
        (rate, rate * (1.0 - rate) / answers)
    };
    let ((usual, spread), (rate, wide)) = (adjusted(baseline), adjusted(canary));
    Z.mul_add(-(spread + wide).sqrt(), rate - usual)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(baseline: (u64, u64), canary: (u64, u64)) -> Judgement {
        let window = |(answers, errors)| Window::of(&[(1_000, answers)], errors);
        judge(&GuardConfig::default(), &window(baseline), &window(canary))
    }

    #[test]
    fn a_worse_error_rate_is_a_breach_and_chance_is_not() {
        assert_eq!(judged((1_000, 10), (1_000, 10)), Judgement::Healthy);
        assert_eq!(judged((1_000, 10), (100, 4)), Judgement::Healthy);
        assert!(matches!(
            judged((1_000, 10), (1_000, 80)),
            Judgement::Breach { .. }
        ));
        assert!(matches!(judged((1_000, 0), (100, 30)), Judgement::Breach { .. }));
        assert_eq!(
            judged((1_000, 80), (1_000, 10)),
            Judgement::Healthy,
            "better is fine"
        );
    }

    #[test]
    fn too_few_answers_are_no_data() {
        assert_eq!(judged((99, 0), (1_000, 900)), Judgement::NoData);
        assert_eq!(judged((1_000, 0), (99, 99)), Judgement::NoData);
    }

    #[test]
    fn a_slower_tail_is_a_breach() {
        let usual = Window::of(&[(1_000, 985), (5_000, 15)], 0);
        let slow = Window::of(&[(1_000, 985), (9_000, 15)], 0);
        assert_eq!(judge(&GuardConfig::default(), &usual, &usual), Judgement::Healthy);
        let judgement = judge(&GuardConfig::default(), &usual, &slow);
        let Judgement::Breach { message, figures } = judgement else {
            panic!("{judgement:?}")
        };
        assert!(message.contains("p99") && figures.len() == 6, "{message}");
    }

    #[test]
    fn one_slow_answer_in_a_hundred_is_chance() {
        let usual = Window::of(&[(1_000, 100)], 0);
        let unlucky = Window::of(&[(1_000, 98), (50_000, 2)], 0);
        assert_eq!(
            judge(&GuardConfig::default(), &usual, &unlucky),
            Judgement::Healthy
        );
        let slow = Window::of(&[(1_000, 80), (50_000, 20)], 0);
        let judgement = judge(&GuardConfig::default(), &usual, &slow);
        assert!(matches!(judgement, Judgement::Breach { .. }), "{judgement:?}");
    }
}
