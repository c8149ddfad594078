//! The way past the mirror for a key that no rule can choose: a few loads, no snapshot, no search for the rule.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use arqon_message::{Sampler, Subject, Threshold};
use http::Extensions;

use crate::rules::Rules;

/// Rules that are told apart here; the rest share one entry that covers every subject.
const ENTRIES: usize = 8;
/// Words of a pattern that are compared, of eight bytes each; what follows them is left to the rules themselves.
const WORDS: usize = 4;

/// The seed, and of the widest rules where they begin and their borders. Whoever is admitted is judged again, by one snapshot
/// of the rules, so an entry may cover more than its rule does, and never less (ADR 0049).
///
/// All of it is written under a version that is odd meanwhile (a sequence lock, of atomics): a request that reads while it
/// changes goes the long way.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    version: AtomicU64,
    seed: AtomicU64,
    /// The widest of all borders.
    widest: AtomicU64,
    /// There are borders of more than one width (beside none): which one is a subject's has to be found out.
    differ: AtomicBool,
    entries: [Entry; ENTRIES],
}

/// The literal beginning of a pattern, and the border of its rule.
#[derive(Debug, Default)]
struct Entry {
    /// Bits of the subject that count, and what they have to be.
    mask: [AtomicU64; WORDS],
    beginning: [AtomicU64; WORDS],
    /// Hashes below it may be in. 0: nobody; the largest: everybody, also the largest hash.
    border: AtomicU64,
}

/// What the gate says of a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// Any key may be in.
    Any,
    /// Only a key may be in of which the hash is below the border.
    Below(Sampler, u64),
}

impl Gate {
    /// Takes over other rules. Nobody else does at the same time: whoever edits them holds a lock.
    pub(crate) fn set(&self, rules: &Rules) {
        let mut wanted: Vec<_> = rules
            .list
            .iter()
            .map(|rule| (beginning(rule.terms.pattern.as_str()), border(rule.threshold)))
            .collect();
        wanted.sort_by_key(|(_, border)| std::cmp::Reverse(*border));
        if wanted.len() > ENTRIES {
            let widest_of_rest = wanted[ENTRIES - 1].1;
            wanted.truncate(ENTRIES - 1);
            wanted.push((Vec::new(), widest_of_rest));
        }
        let open = || {
            wanted
                .iter()
                .map(|(_, border)| *border)
                .filter(|border| *border > 0)
        };
        let differ = open().min() != open().max();
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.seed.store(rules.sampler.seed(), Ordering::Relaxed);
        self.widest.store(border(rules.reach()), Ordering::Relaxed);
        self.differ.store(differ, Ordering::Relaxed);
        for (at, entry) in self.entries.iter().enumerate() {
            let (text, border) = wanted
                .get(at)
                .map_or((&[][..], 0), |(text, border)| (&text[..], *border));
            let mask = &[0xff; 8 * WORDS][..text.len()];
            for n in 0..WORDS {
                entry.mask[n].store(word(mask, n), Ordering::Relaxed);
                entry.beginning[n].store(word(text, n), Ordering::Relaxed);
            }
            entry.border.store(border, Ordering::Relaxed);
        }
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// No request can be chosen.
    #[inline]
    pub(crate) fn is_shut(&self) -> bool {
        self.widest.load(Ordering::Acquire) == 0
    }

    /// Which keys of a subject some rule may choose.
    #[inline]
    pub(crate) fn word(&self, extensions: &Extensions) -> Word {
        let version = self.version.load(Ordering::Acquire);
        let most = if self.differ.load(Ordering::Relaxed) {
            extensions
                .get::<Subject>()
                .map_or(0, |subject| self.widest_of(subject))
        } else {
            self.widest.load(Ordering::Relaxed)
        };
        let seed = self.seed.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let is_whole = version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version;
        if is_whole && most != u64::MAX {
            Word::Below(Sampler::new(seed), most)
        } else {
            Word::Any
        }
    }

    /// The widest border of those that cover a subject. Entries are sorted by it, so the first that covers it has it.
    #[inline]
    fn widest_of(&self, subject: &Subject) -> u64 {
        let subject = subject.as_str().as_bytes();
        let covering = self.entries.iter().find_map(|entry| {
            let border = entry.border.load(Ordering::Relaxed);
            (border == 0 || entry.covers(subject)).then_some(border)
        });
        covering.unwrap_or(0)
    }
}

impl Entry {
    #[inline]
    fn covers(&self, subject: &[u8]) -> bool {
        for n in 0..WORDS {
            let mask = self.mask[n].load(Ordering::Relaxed);
            if mask == 0 {
                break;
            }
            if word(subject, n) & mask != self.beginning[n].load(Ordering::Relaxed) {
                return false;
            }
        }
        true
    }
}

/// What a pattern has before its first wildcard, as far as it is compared.
fn beginning(pattern: &str) -> Vec<u8> {
    let literal = pattern.split(['*', '>']).next().unwrap_or_default();
    literal.bytes().take(8 * WORDS).collect()
}

const fn border(threshold: Threshold) -> u64 {
    match threshold {
        Threshold::Never => 0,
        Threshold::Below(border) => border,
        Threshold::Always => u64::MAX,
    }
}

/// Eight bytes of a text, with zeros behind it.
#[inline]
fn word(text: &[u8], n: usize) -> u64 {
    let rest = text.get(8 * n..).unwrap_or_default();
    match rest.first_chunk::<8>() {
        Some(whole) => u64::from_le_bytes(*whole),
        None => rest
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u64::from(*byte)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{RuleConfig, ShadowConfig};

    fn rules(given: &[(&str, f64)], seed: u64) -> Rules {
        let config = given
            .iter()
            .fold(ShadowConfig::default(), |config, (pattern, share)| {
                config.rule(RuleConfig::new(*pattern, *share))
            });
        let sampler = Sampler::new(seed);
        Rules::new(true, sampler, Vec::new()).replaced(true, sampler, config.compile().expect("valid").terms)
    }

    fn admits(gate: &Gate, subject: &Extensions, key: &[u8]) -> bool {
        match gate.word(subject) {
            Word::Any => true,
            Word::Below(sampler, border) => sampler.hash(key) < border,
        }
    }

    fn subject(text: &str) -> Extensions {
        let mut extensions = Extensions::new();
        extensions.insert(Subject::parse(text).expect("subject"));
        extensions
    }

    #[test]
    fn each_subject_has_the_border_of_its_own_rule() {
        let gate = Gate::default();
        assert!(gate.is_shut());
        let rules = rules(
            &[
                ("in.t.*.>", 0.1),
                ("out.t.*.>", 1.0),
                ("in.t.a.orders", 0.5),
                ("no.>", 0.0),
            ],
            7,
        );
        gate.set(&rules);
        assert!(!gate.is_shut());
        let below = |share: f64| {
            let share = arqon_message::Fraction::new(share).expect("share");
            Word::Below(Sampler::new(7), border(share.threshold()))
        };
        for (text, word) in [
            ("in.t.b.orders", below(0.1)),
            ("in.t.a.orders", below(0.5)),
            // More than its rule says, and never less.
            ("in.t.a.orders.x", below(0.5)),
            ("out.t.a.b", Word::Any),
            ("ou", below(0.0)),
            ("no.a", below(0.0)),
            ("other", below(0.0)),
            ("in.t", below(0.0)),
        ] {
            assert_eq!(gate.word(&subject(text)), word, "{text}");
        }
        assert_eq!(gate.word(&Extensions::new()), below(0.0));
        let mut off = rules.list.clone();
        off.clear();
        gate.set(&Rules::new(true, Sampler::new(7), off));
        assert!(gate.is_shut());
    }

    #[test]
    fn where_all_rules_have_one_share_nobody_asks_for_the_subject() {
        let gate = Gate::default();
        gate.set(&rules(&[("in.>", 0.1), ("out.>", 0.1), ("no.>", 0.0)], 0));
        let tenth = gate.word(&subject("in.a"));
        assert_ne!(tenth, Word::Any);
        assert_eq!(gate.word(&Extensions::new()), tenth);
    }

    #[test]
    fn a_share_of_nothing_and_of_everything_are_exact() {
        for (share, shut) in [(0.0, true), (0.5, false), (1.0, false)] {
            let gate = Gate::default();
            let rules = rules(&[("in.>", share)], 3);
            gate.set(&rules);
            assert_eq!(gate.is_shut(), shut);
            for n in 0..1_000 {
                let key = format!("{n:032x}");
                let taken = rules.sampler.sample(key.as_bytes(), rules.list[0].threshold);
                assert_eq!(admits(&gate, &subject("in.a"), key.as_bytes()), taken);
            }
        }
    }

    proptest! {
        #[test]
        fn whoever_a_rule_takes_is_admitted(
            given in proptest::collection::btree_map(
                "(a|b|abcdefghijklmnopq|\\*)(\\.(a|b|abcdefghijklmnopqrst|\\*)){0,3}(\\.>)?", 0.0..=1.0_f64, 1..14,
            ),
            tokens in proptest::collection::vec("a|b|abcdefghijklmnopq|abcdefghijklmnopqrst", 1..5),
            key: u64,
        ) {
            let given: Vec<_> = given.iter().map(|(pattern, share)| (pattern.as_str(), *share)).collect();
            let (rules, gate, key) = (rules(&given, 5), Gate::default(), format!("{key:032x}"));
            gate.set(&rules);
            let subject = subject(&tokens.join("."));
            let taken = rules
                .trie
                .find(subject.get().expect("subject"))
                .is_some_and(|rule| rules.sampler.sample(key.as_bytes(), rule.threshold));
            prop_assert!(!taken || admits(&gate, &subject, key.as_bytes()));
        }
    }

    #[test]
    fn a_key_that_is_in_before_and_after_a_change_is_admitted_all_the_time() {
        let gate = Gate::default();
        // The entries change places, and with them what else stands in them.
        let all = [
            rules(&[("in.>", 0.9), ("out.>", 0.1), ("up.>", 0.2)], 0),
            rules(&[("in.>", 0.85), ("out.>", 0.95), ("up.>", 0.99)], 0),
        ];
        gate.set(&all[0]);
        let (subject, key) = (subject("in.a"), b"4bf92f3577b34da6a3ce929d0e0e4736");
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..20_000 {
                    gate.set(&all[n % 2]);
                }
                over.store(true, Ordering::Relaxed);
            });
            while !over.load(Ordering::Relaxed) {
                assert!(admits(&gate, &subject, key));
            }
        });
    }
}
