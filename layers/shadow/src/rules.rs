//! The rules in force, as one immutable snapshot.

use std::sync::Arc;

use arqon_message::{Fraction, Sampler, Subject, SubjectTrie, Threshold};
use http::Method;

use crate::{
    UnknownRule,
    rule::{Rule, Terms},
};

/// One snapshot. A request reads one and decides by it to its end.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) enabled: bool,
    pub(crate) sampler: Sampler,
    pub(crate) trie: SubjectTrie<Arc<Rule>>,
    /// The largest threshold of all rules: a key outside of it is outside of every rule.
    pub(crate) reach: Threshold,
    /// In the order of the config.
    pub(crate) list: Vec<Arc<Rule>>,
}

impl Rules {
    pub(crate) fn new(enabled: bool, sampler: Sampler, list: Vec<Arc<Rule>>) -> Self {
        let mut trie = SubjectTrie::new();
        for rule in &list {
            // The config refuses identical patterns, so nothing is refused here.
            let _ = trie.insert(&rule.terms.pattern, Arc::clone(rule));
        }
        let widest = list
            .iter()
            .map(|rule| rule.terms.fraction)
            .fold(Fraction::ZERO, |a, b| if b > a { b } else { a });
        Self {
            enabled,
            sampler,
            trie,
            reach: widest.threshold(),
            list,
        }
    }

    /// Whether no request can be chosen.
    pub(crate) fn is_idle(&self) -> bool {
        !self.enabled || self.reach == Threshold::Never
    }

    /// Tells each gauge which share is mirrored while `kept` of the sample is kept.
    pub(crate) fn tell_effective(&self, kept: f64) {
        let kept = if self.enabled { kept } else { 0.0 };
        self.list.iter().for_each(|rule| rule.tell_effective(kept));
    }

    /// The threshold beyond which no request can be chosen.
    pub(crate) fn reach(&self) -> Threshold {
        if self.is_idle() {
            Threshold::Never
        } else {
            self.reach
        }
    }

    /// The rule by which requests of a subject and method are mirrored, whatever their key, if any is.
    pub(crate) fn mirroring(&self, subject: &Subject, method: &Method) -> Option<&Arc<Rule>> {
        let rule = self.trie.find(subject).filter(|_| self.enabled)?;
        (rule.threshold != Threshold::Never && rule.wants(method)).then_some(rule)
    }

    /// The snapshot with one rule's share changed.
    pub(crate) fn with_fraction(&self, pattern: &str, fraction: Fraction) -> Result<Self, UnknownRule> {
        let mut found = false;
        let list = self
            .list
            .iter()
            .map(|rule| {
                if rule.terms.pattern.as_str() == pattern {
                    found = true;
                    Arc::new(rule.amended(Terms {
                        fraction,
                        ..rule.terms.clone()
                    }))
                } else {
                    Arc::clone(rule)
                }
            })
            .collect();
        if found {
            Ok(Self::new(self.enabled, self.sampler, list))
        } else {
            Err(UnknownRule {
                pattern: pattern.to_owned(),
            })
        }
    }

    /// The snapshot of another config; rules whose pattern stays go on counting.
    pub(crate) fn replaced(&self, enabled: bool, sampler: Sampler, terms: Vec<Terms>) -> Self {
        let list = terms.into_iter().map(|terms| {
            let before = self
                .list
                .iter()
                .find(|before| before.terms.pattern == terms.pattern);
            Arc::new(match before {
                Some(before) => before.amended(terms),
                None => Rule::open(terms),
            })
        });
        Self::new(enabled, sampler, list.collect())
    }
}
