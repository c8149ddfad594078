//! Counting differences, less the noise.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use arqon_message::TraceKey;
use metrics::{counter, describe_counter};
use serde::Serialize;

use super::{Differ, Difference, Span, history::History};
use crate::Answer;

/// The most fields that are told apart; the rest is counted as `other`.
const FIELDS_MAX: usize = 256;
/// The most examples kept of a field.
const EXAMPLES_MAX: usize = 8;
/// Comparisons before anything is called diverging.
const SAMPLE_MIN: u64 = 100;
/// Below this rate a field is not called diverging, noise or not.
const RATE_MIN: f64 = 0.000_3;
/// 99 % two-sided.
const Z: f64 = 2.576;

/// The tally of all comparisons. Cloning shares it.
#[derive(Clone)]
pub struct Comparison {
    shared: Arc<Shared>,
}

struct Shared {
    differ: Differ,
    tally: Mutex<Tally>,
    /// There is a control, whether it answers or not.
    control: AtomicBool,
}

#[derive(Default)]
struct Tally {
    compared: u64,
    incomplete: u64,
    controlled: u64,
    /// Controlled comparisons with both bodies.
    controlled_whole: u64,
    fields: BTreeMap<String, Field>,
    history: History,
}

#[derive(Default)]
struct Field {
    different: u64,
    noisy: u64,
    examples: Vec<Example>,
}

/// One difference that was seen, without values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Example {
    /// The key of the request.
    pub trace: String,
    /// What differed.
    #[serde(flatten)]
    pub difference: Difference,
}

/// All comparisons so far.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ComparisonReport {
    /// Candidate and primary were compared so often.
    pub compared: u64,
    /// Comparisons without the bodies: the primary's was too large or not read to its end, or both may be as large as what is
    /// looked at.
    pub incomplete: u64,
    /// Control and primary were compared so often.
    pub controlled: u64,
    /// Fields that differed at least once, by path; at most 256, then `other`.
    pub fields: BTreeMap<String, FieldReport>,
}

/// One field of a [`ComparisonReport`].
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct FieldReport {
    /// How often the candidate differed from the primary.
    pub different: u64,
    /// How often the control did.
    pub noise: u64,
    /// The 99 % interval of the candidate's rate (Wilson's); of a field of the body, among those compared with bodies.
    pub rate: [f64; 2],
    /// The 99 % interval of the control's rate.
    pub noise_rate: [f64; 2],
    /// At least 100 comparisons, and the candidate's rate lies wholly above the control's.
    pub diverges: bool,
    /// Some of the differences, at most eight.
    pub examples: Vec<Example>,
}

impl Comparison {
    /// An empty tally.
    #[must_use]
    pub fn new(differ: Differ) -> Self {
        describe_counter!(
            "shield_mirror_divergence_total",
            "Differences that the control does not show, by field"
        );
        counter!("shield_mirror_divergence_total", "field" => "status").increment(0);
        Self {
            shared: Arc::new(Shared {
                differ,
                tally: Mutex::default(),
                control: AtomicBool::new(false),
            }),
        }
    }

    /// There is a control: until it answers, any difference may be noise.
    pub(super) fn expect_control(&self) {
        self.shared.control.store(true, Ordering::Relaxed);
    }

    /// Counts one comparison.
    pub fn record(&self, key: &TraceKey, primary: &Answer, candidate: &Answer, control: Option<&Answer>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        self.record_at(
            now.unwrap_or_default().as_secs(),
            key,
            primary,
            candidate,
            control,
        );
    }

    fn record_at(
        &self,
        now: u64,
        key: &TraceKey,
        primary: &Answer,
        candidate: &Answer,
        control: Option<&Answer>,
    ) {
        let differ = &self.shared.differ;
        let different = differ.diff(primary, candidate);
        let noisy = control.map(|control| differ.diff(primary, control));
        let whole = |other: &Answer| {
            primary.complete && (other.complete || other.broken || other.larger_than(primary).is_some())
        };
        let mut tally = self.shared.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.compared += 1;
        tally.incomplete += u64::from(!whole(candidate));
        tally.controlled += u64::from(noisy.is_some());
        tally.controlled_whole += u64::from(control.is_some_and(whole));
        let span = tally.history.at(now);
        span.compared += 1;
        span.controlled += u64::from(noisy.is_some());
        let noisy = noisy.unwrap_or_default();
        for (path, difference) in different {
            let (name, field) = tally.field(&path);
            field.different += 1;
            if field.examples.len() < EXAMPLES_MAX {
                field.examples.push(Example {
                    trace: key.as_str().to_owned(),
                    difference,
                });
            }
            tally
                .history
                .at(now)
                .fields
                .entry(name.clone())
                .or_default()
                .different += 1;
            if !noisy.contains_key(&path) {
                counter!("shield_mirror_divergence_total", "field" => name).increment(1);
            }
        }
        for path in noisy.keys() {
            let (name, field) = tally.field(path);
            field.noisy += 1;
            tally.history.at(now).fields.entry(name).or_default().noise += 1;
        }
    }

    /// What was found so far.
    #[must_use]
    pub fn report(&self) -> ComparisonReport {
        let expected = self.shared.control.load(Ordering::Relaxed);
        let tally = self.shared.tally.lock().unwrap_or_else(PoisonError::into_inner);
        let fields = tally
            .fields
            .iter()
            .map(|(path, field)| (path.clone(), tally.report(path, field, expected)))
            .collect();
        ComparisonReport {
            compared: tally.compared,
            incomplete: tally.incomplete,
            controlled: tally.controlled,
            fields,
        }
    }
}

impl Comparison {
    /// The latest hour, half a minute at a time: at most 120 spans of at most 257 fields.
    #[must_use]
    pub fn history(&self) -> Vec<Span> {
        let tally = self.shared.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.history.spans()
    }
}

impl Tally {
    fn field(&mut self, path: &str) -> (String, &mut Field) {
        let known = self.fields.contains_key(path) || self.fields.len() < FIELDS_MAX;
        let name = if known { path } else { "other" }.to_owned();
        let field = self.fields.entry(name.clone()).or_default();
        (name, field)
    }

    fn report(&self, path: &str, field: &Field, expected: bool) -> FieldReport {
        let (compared, controlled) = match path {
            "status" | "content-type" | "other" => (self.compared, self.controlled),
            _ => (self.compared - self.incomplete, self.controlled_whole),
        };
        let rate = wilson(field.different, compared);
        // Without a control nothing is known to be noise; while there is one that has not answered, everything may be.
        let noise_rate = if self.controlled == 0 && !expected {
            [0.0, 0.0]
        } else {
            wilson(field.noisy, controlled)
        };
        FieldReport {
            different: field.different,
            noise: field.noisy,
            rate,
            noise_rate,
            diverges: compared >= SAMPLE_MIN && rate[0] > noise_rate[1].max(RATE_MIN),
            examples: field.examples.clone(),
        }
    }
}

/// Wilson's interval for `hits` of `of` (Wilson 1927).
fn wilson(hits: u64, of: u64) -> [f64; 2] {
    if of == 0 {
        return [0.0, 1.0];
    }
    let (n, z2) = (of as f64, Z * Z);
    let p = hits as f64 / n;
    let middle = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = Z * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt() / (1.0 + z2 / n);
    [(middle - half).max(0.0), (middle + half).min(1.0)]
}

impl fmt::Debug for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Comparison")
            .field("differ", &self.shared.differ)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    fn answer(body: String) -> Answer {
        Answer::new(StatusCode::OK, body)
    }

    fn key() -> TraceKey {
        TraceKey::given(b"0af7651916cd43dd8448eb211c80319c").expect("key")
    }

    #[test]
    fn noise_is_told_from_divergence() {
        let comparison = Comparison::new(Differ::new());
        for n in 0..1_000_u32 {
            // `at` differs always, in the control too; `total` in 2 of 100, only in the candidate.
            let body = |at: u32, total: u32| answer(format!(r#"{{"at":{at},"total":{total}}}"#));
            let total = if n % 50 == 0 { 8 } else { 7 };
            comparison.record(
                &key(),
                &body(3 * n, 7),
                &body(3 * n + 1, total),
                Some(&body(3 * n + 2, 7)),
            );
        }
        let report = comparison.report();
        assert_eq!(
            (report.compared, report.controlled, report.fields.len()),
            (1_000, 1_000, 2)
        );
        let (at, total) = (&report.fields["at"], &report.fields["total"]);
        assert_eq!((at.different, at.noise, at.diverges), (1_000, 1_000, false));
        assert_eq!((total.different, total.noise, total.diverges), (20, 0, true));
        assert_eq!(total.examples.len(), EXAMPLES_MAX);
        assert!(
            serde_json::to_string(&report)
                .expect("json")
                .contains("\"primary\":\"number\"")
        );
    }

    #[test]
    fn what_differed_when_is_kept_for_a_picture() {
        let comparison = Comparison::new(Differ::new());
        for n in 0..90 {
            let body = |value: u64| answer(format!(r#"{{"total":{value},"at":{n}}}"#));
            let later = if n < 60 { 7 } else { 8 };
            let control = body(7 + u64::from(n == 3));
            comparison.record_at(1_700_000_010 + n, &key(), &body(7), &body(later), Some(&control));
        }
        let history = comparison.history();
        let seen: Vec<_> = history
            .iter()
            .map(|span| {
                let field = span.fields.get("total").cloned().unwrap_or_default();
                (
                    span.at % 1_000,
                    span.compared,
                    span.controlled,
                    field.different,
                    field.noise,
                )
            })
            .collect();
        assert_eq!(
            seen,
            [(10, 30, 30, 0, 1), (40, 30, 30, 0, 0), (70, 30, 30, 30, 0)]
        );
    }

    #[test]
    fn a_small_sample_proves_nothing() {
        let comparison = Comparison::new(Differ::new());
        for n in 0..SAMPLE_MIN {
            assert!(
                comparison.report().fields.values().all(|field| !field.diverges),
                "{n}"
            );
            comparison.record(&key(), &answer("1".into()), &answer("2".into()), None);
        }
        assert!(comparison.report().fields["body"].diverges);
    }

    #[test]
    fn pairs_without_bodies_do_not_thin_a_rate() {
        let comparison = Comparison::new(Differ::new());
        let gone = Answer::of_status(StatusCode::OK);
        for _ in 0..SAMPLE_MIN {
            comparison.record(&key(), &answer("1".into()), &gone, None);
            assert!(comparison.report().fields.is_empty());
        }
        comparison.record(&key(), &answer("1".into()), &answer("2".into()), None);
        let report = comparison.report();
        assert_eq!((report.compared, report.incomplete), (SAMPLE_MIN + 1, SAMPLE_MIN));
        assert_eq!(report.fields["body"].rate, wilson(1, 1));
        assert!(!report.fields["body"].diverges, "one is no sample");
    }

    #[test]
    fn noise_stays_noise_where_some_bodies_are_too_large() {
        let comparison = Comparison::new(Differ::new());
        for n in 0..200_u32 {
            let body = |at: u32| answer(format!(r#"{{"at":{at}}}"#));
            comparison.record(&key(), &body(3 * n), &body(3 * n + 1), Some(&body(3 * n + 2)));
            let large = Answer::of_status(StatusCode::OK);
            comparison.record(&key(), &large, &body(3 * n + 1), Some(&body(3 * n + 2)));
        }
        let report = comparison.report();
        assert_eq!((report.compared, report.incomplete), (400, 200));
        let at = &report.fields["at"];
        assert_eq!((at.rate, at.diverges), (at.noise_rate, false));
    }

    #[test]
    fn a_rate_that_is_higher_by_chance_is_no_divergence() {
        let comparison = Comparison::new(Differ::new());
        for n in 0..200 {
            let body = |differs: bool| answer(format!(r#"{{"total":{}}}"#, u8::from(differs)));
            comparison.record(&key(), &body(false), &body(n < 30), Some(&body(n >= 175)));
        }
        let total = &comparison.report().fields["total"];
        assert_eq!((total.different, total.noise, total.diverges), (30, 25, false));
    }

    #[test]
    fn while_a_control_does_not_answer_everything_may_be_noise() {
        let comparison = Comparison::new(Differ::new());
        comparison.expect_control();
        for _ in 0..2 * SAMPLE_MIN {
            comparison.record(&key(), &answer("1".into()), &answer("2".into()), None);
        }
        let field = &comparison.report().fields["body"];
        assert_eq!((field.noise_rate, field.diverges), ([0.0, 1.0], false));
    }

    #[test]
    fn fields_are_bounded() {
        let comparison = Comparison::new(Differ::new());
        for n in 0..1_000 {
            comparison.record(
                &key(),
                &answer(format!(r#"{{"f{n}":1}}"#)),
                &answer("{}".into()),
                None,
            );
        }
        let report = comparison.report();
        assert_eq!(
            (report.fields.len(), report.fields["other"].different),
            (FIELDS_MAX + 1, 1_000 - 256)
        );
    }

    #[test]
    fn intervals_are_wilsons() {
        // 10 of 100 at z = 2.576, checked in Python.
        let [low, high] = wilson(10, 100);
        assert!(
            (low - 0.046_023_5).abs() < 1e-6 && (high - 0.203_759_2).abs() < 1e-6,
            "{low} {high}"
        );
        assert_eq!(wilson(0, 100)[0], 0.0);
        assert_eq!(wilson(0, 0), [0.0, 1.0]);
    }
}
