//! Rules by subject pattern, found in the subject's own length.

use super::{Subject, pattern::SubjectPattern};

/// Values by [`SubjectPattern`]; a lookup gives that of the most specific pattern which covers a subject.
///
/// Specific is judged token by token from the left: a literal before `*` before `>`. So only identical patterns tie, and
/// those are refused. A lookup costs the subject's tokens, not the number of rules, and allocates nothing.
///
/// ```
/// # use arqon_message::{Subject, SubjectPattern, SubjectTrie};
/// let mut rules = SubjectTrie::new();
/// rules.insert(&SubjectPattern::parse("orders.>")?, "all")?;
/// rules.insert(&SubjectPattern::parse("orders.*")?, "one token")?;
/// rules.insert(&SubjectPattern::parse("orders.eu")?, "europe")?;
/// assert_eq!(rules.find(&Subject::parse("orders.eu")?), Some(&"europe"));
/// assert_eq!(rules.find(&Subject::parse("orders.us")?), Some(&"one token"));
/// assert_eq!(rules.find(&Subject::parse("orders.us.ca")?), Some(&"all"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct SubjectTrie<T> {
    root: Node<T>,
    len: usize,
}

#[derive(Clone, Debug)]
struct Node<T> {
    /// Sorted by token.
    literal: Vec<(Box<str>, Node<T>)>,
    star: Option<Box<Node<T>>>,
    tail: Option<T>,
    here: Option<T>,
}

impl<T> SubjectTrie<T> {
    /// No rules.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            root: Node::new(),
            len: 0,
        }
    }

    /// Adds a rule.
    ///
    /// # Errors
    /// When the same pattern is there already; the first one stays.
    pub fn insert(&mut self, pattern: &SubjectPattern, value: T) -> Result<(), DuplicatePattern> {
        let mut node = &mut self.root;
        let mut tokens = pattern.tokens();
        let place = loop {
            node = match tokens.next() {
                None => break &mut node.here,
                Some(">") => break &mut node.tail,
                Some("*") => node.star.get_or_insert_with(|| Box::new(Node::new())),
                Some(token) => node.literal(token),
            };
        };
        if place.is_some() {
            return Err(DuplicatePattern(pattern.as_str().into()));
        }
        *place = Some(value);
        self.len += 1;
        Ok(())
    }

    /// The value of the most specific pattern that covers `subject`.
    #[must_use]
    pub fn find(&self, subject: &Subject) -> Option<&T> {
        if self.len == 0 {
            None
        } else {
            self.root.find(Some(subject.as_str()))
        }
    }

    /// How many rules there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no rule.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<T> Default for SubjectTrie<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Node<T> {
    const fn new() -> Self {
        Self {
            literal: Vec::new(),
            star: None,
            tail: None,
            here: None,
        }
    }

    fn literal(&mut self, token: &str) -> &mut Self {
        let at = match self
            .literal
            .binary_search_by(|(name, _)| name.as_ref().cmp(token))
        {
            Ok(at) => at,
            Err(at) => {
                self.literal.insert(at, (token.into(), Self::new()));
                at
            }
        };
        &mut self.literal[at].1
    }

    /// `rest` holds the tokens below this node; `None` when there are none left.
    fn find(&self, rest: Option<&str>) -> Option<&T> {
        let Some(rest) = rest else {
            return self.here.as_ref();
        };
        let (token, rest) = match rest.split_once('.') {
            Some((token, rest)) => (token, Some(rest)),
            None => (rest, None),
        };
        let literal = self
            .literal
            .binary_search_by(|(name, _)| name.as_ref().cmp(token))
            .ok();
        literal
            .and_then(|at| self.literal[at].1.find(rest))
            .or_else(|| self.star.as_ref().and_then(|star| star.find(rest)))
            .or(self.tail.as_ref())
    }
}

/// Two rules with the same pattern: neither is more specific.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pattern {0:?} stands twice: only one rule can have it")]
pub struct DuplicatePattern(pub String);

#[cfg(test)]
mod tests {
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
            patterns in prop::collection::btree_set("([ab*])(\\.[ab*]){0,3}(\\.>)?|>", 0..8),
            subject in "[abc](\\.[abc]){0,4}",
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
}
