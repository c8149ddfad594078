//! Patterns over subjects.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{InvalidSubject, Subject, TENANT_PREFIX, check};
use crate::TenantId;

/// A NATS subject pattern: `*` stands for exactly one token, a trailing `>` for one or more (DESIGN 4).
///
/// The seeds call it a prefix; it is matched as a pattern, so `in.t.default.*` does not match `in.t.default.a.b`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SubjectPattern(Box<str>);

impl SubjectPattern {
    /// Takes a pattern.
    ///
    /// # Errors
    /// As [`Subject::parse`]; also when `*` or `>` is only a part of a token, or `>` is not the last one.
    pub fn parse(text: impl AsRef<str>) -> Result<Self, InvalidPattern> {
        let text = text.as_ref();
        check(text, |_| false)?;
        let mut tokens = text.split('.').peekable();
        while let Some(token) = tokens.next() {
            if token.len() > 1 && token.contains(['*', '>']) {
                return Err(InvalidPattern::Part(shown(text)));
            }
            if token == ">" && tokens.peek().is_some() {
                return Err(InvalidPattern::Tail(shown(text)));
            }
        }
        Ok(Self(text.into()))
    }

    /// A pattern over one tenant's suffixes: it matches no other tenant's subject, whatever `suffix` holds.
    ///
    /// # Errors
    /// As [`SubjectPattern::parse`], for the suffix.
    pub fn for_tenant(tenant: &TenantId, suffix: impl AsRef<str>) -> Result<Self, InvalidPattern> {
        Self::parse([TENANT_PREFIX, tenant.as_str(), ".", suffix.as_ref()].concat())
    }

    /// Whether the pattern covers a subject.
    #[must_use]
    pub fn matches(&self, subject: &Subject) -> bool {
        let mut subject = subject.tokens();
        for token in self.tokens() {
            match (token, subject.next()) {
                (_, None) => return false,
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (literal, Some(token)) if literal == token => {}
                _ => return false,
            }
        }
        subject.next().is_none()
    }

    /// Whether it covers every subject that `other` covers.
    ///
    /// ```
    /// # use arqon_message::SubjectPattern;
    /// # let pattern = |text: &str| SubjectPattern::parse(text).expect("a pattern");
    /// assert!(pattern("orders.>").contains(&pattern("orders.*.paid")));
    /// assert!(!pattern("orders.*").contains(&pattern("orders.>")));
    /// ```
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        let mut others = other.tokens();
        for token in self.tokens() {
            match (token, others.next()) {
                (_, None) => return false,
                (">", Some(_)) => return true,
                ("*", Some(other)) if other != ">" => {}
                (token, Some(other)) if token == other => {}
                _ => return false,
            }
        }
        others.next().is_none()
    }

    /// Whether some subject is covered by both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let (mut ours, mut others) = (self.tokens(), other.tokens());
        loop {
            match (ours.next(), others.next()) {
                (None, None) => return true,
                (None, Some(_)) | (Some(_), None) => return false,
                (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
                (Some(one), Some(other)) if one == other || one == "*" || other == "*" => {}
                (Some(_), Some(_)) => return false,
            }
        }
    }

    /// The pattern's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its tokens, from the left.
    pub fn tokens(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }

    /// Whether it has no wildcard, and so covers one subject.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        !self.tokens().any(|token| token == "*" || token == ">")
    }
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Text that cannot be a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// What no subject may have, no pattern may have.
    #[error(transparent)]
    Subject(#[from] InvalidSubject),
    /// A wildcard inside a token.
    #[error("pattern {0:?} has a wildcard inside a token: '*' and '>' stand alone")]
    Part(String),
    /// `>` before the end.
    #[error("pattern {0:?} goes on after '>': '>' can only be the last token")]
    Tail(String),
}

impl fmt::Display for SubjectPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SubjectPattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl TryFrom<String> for SubjectPattern {
    type Error = InvalidPattern;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(text)
    }
}

impl From<SubjectPattern> for String {
    fn from(pattern: SubjectPattern) -> Self {
        pattern.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, subject: &str) -> bool {
        SubjectPattern::parse(pattern)
            .expect("pattern")
            .matches(&Subject::parse(subject).expect("subject"))
    }

    #[test]
    fn a_star_is_one_token_and_a_tail_is_one_or_more() {
        assert!(matches("a.*", "a.b"));
        assert!(!matches("a.*", "a"));
        assert!(!matches("a.*", "a.b.c"));
        assert!(matches("a.>", "a.b"));
        assert!(matches("a.>", "a.b.c"));
        assert!(!matches("a.>", "a"));
        assert!(matches(">", "a"));
        assert!(matches("*.b.>", "a.b.c.d"));
        assert!(!matches("orders", "ordersx"));
        assert!(!matches("a.b", "a"));
    }

    #[test]
    fn patterns_contain_and_overlap_as_the_subjects_they_cover() {
        // Every pattern of up to three tokens, and every subject of up to five that they could tell apart.
        let texts = |alphabet: &[&str], most: usize| {
            let (mut all, mut longest) = (Vec::new(), vec![String::new()]);
            for _ in 0..most {
                let more = |text: &String| {
                    alphabet
                        .iter()
                        .map(|token| format!("{text}.{token}"))
                        .collect::<Vec<_>>()
                };
                longest = longest.iter().flat_map(more).collect();
                all.extend(longest.iter().map(|text| text[1..].to_owned()));
            }
            all
        };
        let subjects: Vec<Subject> = texts(&["a", "b", "c"], 5)
            .iter()
            .map(|text| Subject::parse(text).expect("a subject"))
            .collect();
        let patterns: Vec<SubjectPattern> = texts(&["a", "b", "*", ">"], 3)
            .iter()
            .filter_map(|text| SubjectPattern::parse(text).ok())
            .collect();
        let covered: Vec<Vec<bool>> = patterns
            .iter()
            .map(|pattern| subjects.iter().map(|subject| pattern.matches(subject)).collect())
            .collect();
        assert_eq!((patterns.len(), subjects.len()), (52, 363));
        for (one, ours) in patterns.iter().zip(&covered) {
            for (other, theirs) in patterns.iter().zip(&covered) {
                let both = || ours.iter().zip(theirs);
                let within = both().all(|(ours, theirs)| *ours || !theirs);
                assert_eq!(one.contains(other), within, "{one} contains {other}");
                assert_eq!(
                    one.overlaps(other),
                    both().any(|(a, b)| *a && *b),
                    "{one} and {other}"
                );
            }
        }
    }

    #[test]
    fn a_wildcard_stands_alone_and_a_tail_is_last() {
        for (bad, said) in [
            ("a*", "stand alone"),
            ("a.b>", "stand alone"),
            ("**", "stand alone"),
            (">.a", "last token"),
            ("a..b", "empty token"),
            ("", "empty"),
            ("a b", "' '"),
        ] {
            let error = SubjectPattern::parse(bad).expect_err(bad).to_string();
            assert!(error.contains(said), "{bad}: {error}");
        }
    }
}
