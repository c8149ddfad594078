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
    /// Sorted by first token, which no two of them share.
    literal: Vec<Edge<T>>,
    star: Option<Box<Node<T>>>,
    tail: Option<T>,
    here: Option<T>,
}

/// A way to a node over literal tokens; several where no pattern branches or ends between them.
#[derive(Clone, Debug)]
struct Edge<T> {
    label: Box<str>,
    node: Node<T>,
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
        let place = self.root.place(pattern.as_str());
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
            self.root.find(subject.as_str().as_bytes())
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

    /// Where the value of a pattern goes; `rest` holds its tokens below this node.
    fn place(&mut self, rest: &str) -> &mut Option<T> {
        let (token, below) = split(rest);
        match (token, below) {
            (">", _) => &mut self.tail,
            ("*", None) => &mut self.star().here,
            ("*", Some(below)) => self.star().place(below),
            _ => {
                let tokens = rest.split('.').take_while(|token| !matches!(*token, "*" | ">"));
                let length = tokens.map(|token| token.len() + 1).sum::<usize>() - 1;
                let node = self.literal(&rest[..length]);
                match rest.get(length + 1..) {
                    None => &mut node.here,
                    Some(below) => node.place(below),
                }
            }
        }
    }

    fn star(&mut self) -> &mut Self {
        self.star.get_or_insert_with(|| Box::new(Self::new()))
    }

    /// The node that these literal tokens lead to.
    fn literal(&mut self, tokens: &str) -> &mut Self {
        let first = split(tokens).0;
        let at = match self
            .literal
            .binary_search_by(|edge| split(&edge.label).0.cmp(first))
        {
            Ok(at) => at,
            Err(at) => {
                let label = tokens.into();
                self.literal.insert(
                    at,
                    Edge {
                        label,
                        node: Self::new(),
                    },
                );
                at
            }
        };
        let edge = &mut self.literal[at];
        let common = common(&edge.label, tokens);
        if common < edge.label.len() {
            // The ways part here.
            let below = Edge {
                label: edge.label[common + 1..].into(),
                node: std::mem::replace(&mut edge.node, Self::new()),
            };
            edge.node.literal.push(below);
            edge.label = tokens[..common].into();
        }
        match tokens.get(common + 1..) {
            None => &mut edge.node,
            Some(below) => edge.node.literal(below),
        }
    }

    /// `rest` holds the subject's tokens below this node; no token is empty, so it is when there are none left.
    fn find(&self, rest: &[u8]) -> Option<&T> {
        if rest.is_empty() {
            return self.here.as_ref();
        }
        if let Some((edge, below)) = self.edge(rest)
            && let Some(found) = edge.node.find(below)
        {
            return Some(found);
        }
        if let Some(star) = &self.star {
            let end = rest.iter().position(|&byte| byte == b'.');
            let below = end.map_or(&[][..], |end| &rest[end + 1..]);
            if let Some(found) = star.find(below) {
                return Some(found);
            }
        }
        self.tail.as_ref()
    }

    /// The edge whose tokens `rest` begins with, and what follows them.
    fn edge<'s>(&self, rest: &'s [u8]) -> Option<(&Edge<T>, &'s [u8])> {
        if self.literal.len() <= FEW {
            return self
                .literal
                .iter()
                .find_map(|edge| Some((edge, edge.strip(rest)?)));
        }
        let first = rest.split(|&byte| byte == b'.').next()?;
        let at = self
            .literal
            .binary_search_by(|edge| split(&edge.label).0.as_bytes().cmp(first))
            .ok()?;
        let edge = &self.literal[at];
        Some((edge, edge.strip(rest)?))
    }
}

impl<T> Edge<T> {
    /// What follows this edge's tokens in `rest`, if it begins with them.
    fn strip<'s>(&self, rest: &'s [u8]) -> Option<&'s [u8]> {
        match rest.strip_prefix(self.label.as_bytes())? {
            [] => Some(&[]),
            [b'.', below @ ..] => Some(below),
            _ => None,
        }
    }
}

/// Up to so many edges are tried one after the other: faster than looking for the end of the token and for the edge.
const FEW: usize = 4;

/// The first token, and what follows it.
fn split(tokens: &str) -> (&str, Option<&str>) {
    match tokens.split_once('.') {
        Some((token, below)) => (token, Some(below)),
        None => (tokens, None),
    }
}

/// How many bytes of whole tokens both begin with; the first token is the same.
fn common(a: &str, b: &str) -> usize {
    let same = a.split('.').zip(b.split('.')).take_while(|(a, b)| a == b);
    same.map(|(token, _)| token.len() + 1).sum::<usize>() - 1
}

/// Two rules with the same pattern: neither is more specific.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pattern {0:?} stands twice: only one rule can have it")]
pub struct DuplicatePattern(pub String);

#[cfg(test)]
mod tests;
