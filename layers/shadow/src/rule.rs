//! One rule, ready for the request path.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arqon_message::{Fraction, SubjectPattern, Threshold};
use http::{HeaderName, Method};

use crate::{When, metrics::RuleMetrics};

/// What to mirror of the subjects that a pattern covers, as the config says it.
#[derive(Clone)]
pub(crate) struct Terms {
    pub(crate) pattern: SubjectPattern,
    pub(crate) fraction: Fraction,
    /// In bytes.
    pub(crate) max_body_bytes: usize,
    /// Empty: all.
    pub(crate) methods: Arc<[Method]>,
    pub(crate) strip: Arc<[HeaderName]>,
    pub(crate) when: When,
    /// Whether copies carry the primary's answer.
    pub(crate) compare: bool,
}

/// A rule in force. Immutable: a change makes a new rule with the same books.
#[derive(Clone)]
pub(crate) struct Rule {
    pub(crate) terms: Terms,
    pub(crate) threshold: Threshold,
    books: Arc<Books>,
}

/// What a rule counted, kept when the rule is replaced by one with the same pattern.
struct Books {
    sampled: AtomicU64,
    mirrored: AtomicU64,
    metrics: RuleMetrics,
}

impl Rule {
    /// A rule whose series stand at 0.
    pub(crate) fn open(terms: Terms) -> Self {
        let metrics = RuleMetrics::register(terms.pattern.as_str());
        let books = Books {
            sampled: AtomicU64::new(0),
            mirrored: AtomicU64::new(0),
            metrics,
        };
        Self {
            threshold: terms.fraction.threshold(),
            terms,
            books: Arc::new(books),
        }
    }

    /// Other terms for the same pattern, going on with this rule's books.
    pub(crate) fn amended(&self, terms: Terms) -> Self {
        Self {
            threshold: terms.fraction.threshold(),
            terms,
            books: Arc::clone(&self.books),
        }
    }

    /// The share of a session that began by `pinned`, and the terms that hold now.
    pub(crate) fn with_share_of(self: &Arc<Self>, pinned: &Arc<Self>) -> Arc<Self> {
        if Arc::ptr_eq(self, pinned) {
            return Arc::clone(self);
        }
        Arc::new(self.amended(Terms {
            fraction: pinned.terms.fraction,
            ..self.terms.clone()
        }))
    }

    pub(crate) fn wants(&self, method: &Method) -> bool {
        self.terms.methods.is_empty() || self.terms.methods.contains(method)
    }

    pub(crate) fn sampled(&self) {
        self.books.sampled.fetch_add(1, Ordering::Relaxed);
        self.books.metrics.sampled.increment(1);
    }

    pub(crate) fn mirrored(&self) {
        self.books.mirrored.fetch_add(1, Ordering::Relaxed);
        self.books.metrics.mirrored.increment(1);
    }

    /// Sampled and mirrored so far.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (
            self.books.sampled.load(Ordering::Relaxed),
            self.books.mirrored.load(Ordering::Relaxed),
        )
    }

    /// Tells the gauge which share is mirrored while `kept` of the sample is kept.
    pub(crate) fn tell_effective(&self, kept: f64) {
        self.books.metrics.effective.set(self.terms.fraction.get() * kept);
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rule")
            .field("pattern", &self.terms.pattern)
            .field("fraction", &self.terms.fraction)
            .finish_non_exhaustive()
    }
}
