//! Why a call of the host gave nothing.

use core::fmt;

/// Why a call of the host gave nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The value is longer than the buffer. Nothing was written.
    TooLong {
        /// Bytes of the value.
        needed: usize,
    },
    /// The value is no UTF-8, and text was asked for.
    NotText,
    /// A name that is no header name, a value that is no header value, a property that does not exist.
    BadArgument,
    /// Not possible in this phase, or not granted to this policy.
    Unavailable,
    /// Too many edits, or too many bytes.
    OverLimit,
}

impl Error {
    /// What a negative result of the host means; -1 (absent) is no error and is dealt with before.
    pub(crate) const fn of(code: i32) -> Self {
        match code {
            -3 => Error::Unavailable,
            -4 => Error::OverLimit,
            _ => Error::BadArgument,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::TooLong { needed } => write!(f, "the value has {needed} bytes, more than the buffer"),
            Error::NotText => f.write_str("the value is no UTF-8"),
            Error::BadArgument => f.write_str("the host does not take this argument"),
            Error::Unavailable => f.write_str("not possible in this phase, or not granted"),
            Error::OverLimit => f.write_str("over a limit of the host"),
        }
    }
}
