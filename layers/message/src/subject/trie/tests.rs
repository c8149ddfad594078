//! The trie against a model that tries every pattern.

use std::cmp::Ordering;

use proptest::prelude::*;

use super::*;

/// The naive model: try every pattern, keep the most specific.
fn model<'a>(patterns: &'a [SubjectPattern], subject: &Subject) -> Option<&'a str> {
    let rank = |token: &str| match token {
        ">" => 2,
        "*" => 1,
        _ => 0,
    };
    let specific = |a: &&SubjectPattern, b: &&SubjectPattern| {
        a.tokens()
            .map(rank)
            .zip(b.tokens().map(rank))
            .map(|(a, b)| a.cmp(&b))
            .find(|o| *o != Ordering::Equal)
            .unwrap_or(Ordering::Equal)
    };
    patterns
        .iter()
        .filter(|p| p.matches(subject))
        .min_by(specific)
        .map(SubjectPattern::as_str)
}

#[test]
fn the_same_pattern_twice_is_refused_and_the_first_stays() {
    let mut trie = SubjectTrie::new();
    let pattern = SubjectPattern::parse("a.*").expect("pattern");
    trie.insert(&pattern, 1).expect("first");
    assert!(
        trie.insert(&pattern, 2)
            .expect_err("second")
            .to_string()
            .contains("\"a.*\" stands twice")
    );
    assert_eq!(
        (trie.len(), trie.find(&Subject::parse("a.b").expect("subject"))),
        (1, Some(&1))
    );
}

#[test]
fn a_literal_that_leads_nowhere_falls_back_to_the_wildcard() {
    let mut trie = SubjectTrie::new();
    for pattern in ["a.b.c", "a.*.d", "a.>"] {
        trie.insert(&SubjectPattern::parse(pattern).expect("pattern"), pattern)
            .expect("new");
    }
    let find = |subject: &str| trie.find(&Subject::parse(subject).expect("subject")).copied();
    assert_eq!(find("a.b.d"), Some("a.*.d"));
    assert_eq!(find("a.b.e"), Some("a.>"));
    assert_eq!(find("a"), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn the_trie_agrees_with_trying_every_pattern(
        patterns in prop::collection::btree_set(
            prop_oneof![
                "([ab*])(\\.[ab*]){0,3}(\\.>)?|>",
                // Tokens that begin alike, and more of them than are tried one by one.
                "(a|ab|abc|b|ba|c|\\*)(\\.(a|ab|b|\\*)){0,3}(\\.>)?",
            ],
            0..12,
        ),
        subject in prop_oneof!["[abc](\\.[abc]){0,4}", "(a|ab|abc|b|ba|c)(\\.(a|ab|b)){0,4}"],
    ) {
        let patterns: Vec<_> = patterns.iter().map(|p| SubjectPattern::parse(p).expect("pattern")).collect();
        let mut trie = SubjectTrie::new();
        for pattern in &patterns {
            trie.insert(pattern, pattern.as_str()).expect("distinct");
        }
        let subject = Subject::parse(&subject).expect("subject");
        prop_assert_eq!(trie.find(&subject).copied(), model(&patterns, &subject));
    }
}
