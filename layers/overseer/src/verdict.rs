//! What a policy decided, or why it could not.

use std::fmt;

use arqon_message::Code;
use serde::{Deserialize, Serialize};

/// Why a policy gave no verdict. Each has its own failure policy, counter and problem code (DESIGN 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// The module is not loaded.
    Load,
    /// The guest trapped: `unreachable`, a division by zero, an access out of bounds, a bad pointer given to the host.
    Trap,
    /// The fuel is used up.
    Fuel,
    /// The wall-clock deadline passed.
    Deadline,
    /// The guest trapped after it was refused memory.
    Memory,
    /// The guest's stack overflowed.
    Stack,
    /// No instance was free in time.
    Pool,
    /// The body that the policy needs could not be read.
    Body,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 8] = [
        Self::Load,
        Self::Trap,
        Self::Fuel,
        Self::Deadline,
        Self::Memory,
        Self::Stack,
        Self::Pool,
        Self::Body,
    ];

    /// The name in configuration, metrics and `policy run`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Trap => "trap",
            Self::Fuel => "fuel",
            Self::Deadline => "deadline",
            Self::Memory => "memory",
            Self::Stack => "stack",
            Self::Pool => "pool",
            Self::Body => "body",
        }
    }

    /// The problem code of a request that is refused for it.
    #[must_use]
    pub const fn code(self) -> Code {
        match self {
            Self::Load => Code::OverseerLoad,
            Self::Trap => Code::OverseerTrap,
            Self::Fuel => Code::OverseerFuel,
            Self::Deadline => Code::OverseerDeadline,
            Self::Memory => Code::OverseerMemory,
            Self::Stack => Code::OverseerStack,
            Self::Pool => Code::OverseerPool,
            Self::Body => Code::OverseerBody,
        }
    }

    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A policy's own "no".
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Denial {
    /// 400 to 599.
    pub(crate) status: u16,
    /// Without control characters, capped.
    pub(crate) reason: String,
}

impl Denial {
    /// A status outside 400 to 599 becomes 403.
    pub(crate) fn new(code: i32, reason: String) -> Self {
        let status = u16::try_from(code)
            .ok()
            .filter(|code| (400..=599).contains(code))
            .unwrap_or(403);
        Self { status, reason }
    }
}

/// How one call of a policy ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allow,
    Deny(Denial),
    /// No verdict; the text is for the log, never for the client.
    Fail(Cause, String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_outside_400_to_599_becomes_403() {
        for (code, status) in [
            (400, 400),
            (403, 403),
            (599, 599),
            (0, 403),
            (99, 403),
            (101, 403),
            (200, 403),
            (600, 403),
            (-1, 403),
            (i32::MIN, 403),
            (i32::MAX, 403),
        ] {
            assert_eq!(Denial::new(code, String::new()).status, status, "{code}");
        }
    }
}
