//! What a rollout covers, and which scopes an order for one reaches.

use std::{fmt, sync::Arc};

use arqon_message::{SubjectPattern, TenantId};

use crate::refusal::{Reason, Refusal};

/// What a rollout covers: the whole tenant, or the subjects of one pattern inside it. Cloning costs one reference count.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope(Option<Arc<Inside>>);

/// A pattern, taken apart once: a state compares its scopes with each other often.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Inside {
    pattern: SubjectPattern,
    /// From the tenant on.
    tokens: Box<[Box<str>]>,
}

impl Inside {
    fn of(pattern: SubjectPattern) -> Self {
        let tokens = pattern.tokens().skip(2).map(Box::from).collect();
        Self { pattern, tokens }
    }

    /// As [`SubjectPattern::contains`].
    fn contains(&self, other: &Self) -> bool {
        let mut others = other.tokens.iter();
        for token in &self.tokens {
            match (&**token, others.next()) {
                (_, None) => return false,
                (">", Some(_)) => return true,
                ("*", Some(other)) if **other != *">" => {}
                (token, Some(other)) if *token == **other => {}
                _ => return false,
            }
        }
        others.next().is_none()
    }

    /// As [`SubjectPattern::overlaps`].
    fn overlaps(&self, other: &Self) -> bool {
        let (mut ours, mut others) = (self.tokens.iter(), other.tokens.iter());
        loop {
            match (
                ours.next().map(|token| &**token),
                others.next().map(|token| &**token),
            ) {
                (None, None) => return true,
                (None, Some(_)) | (Some(_), None) => return false,
                (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
                (Some(one), Some(other)) if one == other || one == "*" || other == "*" => {}
                (Some(_), Some(_)) => return false,
            }
        }
    }
}

impl Scope {
    /// The whole tenant.
    pub const TENANT: Self = Self(None);

    /// Reads the scope of a message for `tenant`.
    ///
    /// # Errors
    ///
    /// [`Reason::WrongScope`] when it is no pattern or reaches outside `in.t.<tenant>.`.
    pub fn parse(text: Option<&str>, tenant: &TenantId) -> Result<Self, Refusal> {
        let Some(text) = text else { return Ok(Self::TENANT) };
        let wrong = |detail: String| Refusal::new(Reason::WrongScope, detail);
        let pattern = SubjectPattern::parse(text).map_err(|error| wrong(error.to_string()))?;
        let inside =
            pattern.tokens().take(3).eq(["in", "t", tenant.as_str()]) && pattern.tokens().nth(3).is_some();
        if !inside {
            return Err(wrong(format!("`{text}` is not inside in.t.{tenant}")));
        }
        Ok(Self(Some(Arc::new(Inside::of(pattern)))))
    }

    /// Reads the scope of an order: one for `in.t.<tenant>.>` is for the whole tenant.
    ///
    /// # Errors
    ///
    /// As [`Scope::parse`].
    pub(crate) fn of_order(text: Option<&str>, tenant: &TenantId) -> Result<Self, Refusal> {
        let scope = Self::parse(text, tenant)?;
        Ok(if scope.contains(&Self::TENANT) {
            Self::TENANT
        } else {
            scope
        })
    }

    /// The pattern; None for the whole tenant.
    pub fn pattern(&self) -> Option<&SubjectPattern> {
        self.0.as_ref().map(|inside| &inside.pattern)
    }

    /// Whether every subject of `other` is in it. `in.t.<tenant>.>` is as good as the whole tenant.
    pub fn contains(&self, other: &Self) -> bool {
        #[cfg(test)]
        COMPARED.with(|compared| compared.set(compared.get() + 1));
        match (&self.0, &other.0) {
            (None, _) => true,
            // Its first three tokens are `in.t.<tenant>`.
            (Some(inside), None) => inside.tokens.get(1).is_some_and(|token| **token == *">"),
            (Some(inside), Some(other)) => inside.contains(other),
        }
    }

    /// Whether a stop or a pause of it holds `other`: a scope that it contains, and one that it crosses, whole. It is cut out of
    /// a scope that contains it, which goes on around it.
    pub fn reaches(&self, other: &Self) -> bool {
        let overlap = match (&self.0, &other.0) {
            (Some(inside), Some(other)) => inside.overlaps(other),
            (None, _) | (_, None) => true,
        };
        overlap && (self.contains(other) || !other.contains(self))
    }

    /// Of two scopes that contain the same one, whether requests fall to this one: literals before `*` before `>`, from the
    /// left, as in a [`SubjectTrie`](arqon_message::SubjectTrie).
    pub(crate) fn is_closer_than(&self, other: &Self) -> bool {
        let rank = |token: &str| match token {
            ">" => 2,
            "*" => 1,
            _ => 0,
        };
        match (&self.0, &other.0) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(ours), Some(theirs)) => {
                let theirs = theirs.tokens.iter().map(|token| rank(token));
                ours.tokens.iter().map(|token| rank(token)).lt(theirs)
            }
        }
    }

    /// The scope for people.
    pub fn to_name(&self) -> String {
        self.pattern()
            .map_or_else(|| "the whole tenant".to_owned(), ToString::to_string)
    }
}

#[cfg(test)]
thread_local! {
    /// How often two scopes were compared: the work of what looks at many.
    pub(crate) static COMPARED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

impl fmt::Display for Scope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.pattern().map_or("", SubjectPattern::as_str))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_contain_and_cross_each_other_as_their_patterns_do() {
        let tenant = TenantId::new("t").unwrap();
        let suffixes = [
            ">", "*", "*.>", "a", "a.>", "a.*", "*.b", "a.b", "b.>", "a.b.>", "*.b.>", "a.*.c", "a.b.c",
            "*.*", "b.*.>",
        ];
        let patterns = suffixes.map(|suffix| SubjectPattern::parse(format!("in.t.t.{suffix}")).unwrap());
        for one in &patterns {
            for other in &patterns {
                let scope = |of: &SubjectPattern| Scope::parse(Some(of.as_str()), &tenant).unwrap();
                let (ours, theirs) = (scope(one), scope(other));
                assert_eq!(ours.contains(&theirs), one.contains(other), "{one} {other}");
                let reaches = one.overlaps(other) && (one.contains(other) || !other.contains(one));
                assert_eq!(ours.reaches(&theirs), reaches, "{one} {other}");
            }
        }
    }
}
