//! The version of a nats-server.

use std::fmt;

/// A server's version: major, minor, patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u16, pub u16, pub u16);

impl Version {
    /// The oldest server async-nats 0.51 can create KV buckets on (DESIGN 13).
    pub const OLDEST: Self = Self(2, 10, 0);

    /// Reads `2.15.1`, `v2.9.10`, `nats-server: v2.12.0-RC.1` and the like; `None` if no version is in the text.
    pub fn parse(text: &str) -> Option<Self> {
        let numbers = text.split_whitespace().next_back()?.trim_start_matches('v');
        let mut parts = numbers.split(['-', '+']).next()?.split('.').map(str::parse);
        let version = Self(parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
        parts.next().is_none().then_some(version)
    }

    /// Whether async-nats can work with it.
    pub fn is_new_enough(self) -> bool {
        self >= Self::OLDEST
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_prints_is_read() {
        assert_eq!(Version::parse("nats-server: v2.15.1\n"), Some(Version(2, 15, 1)));
        assert_eq!(Version::parse("2.12.0-RC.1"), Some(Version(2, 12, 0)));
        assert_eq!(Version::parse("v2.9.10"), Some(Version(2, 9, 10)));
        for text in ["", "nats-server", "v2.10", "2.10.1.4", "two.ten.one"] {
            assert_eq!(Version::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn versions_are_compared_by_number_not_by_letter() {
        assert!(!Version(2, 9, 10).is_new_enough());
        assert!(Version(2, 10, 0).is_new_enough());
        assert!(Version(3, 0, 0).is_new_enough());
        assert!(!Version(1, 99, 99).is_new_enough());
    }
}
