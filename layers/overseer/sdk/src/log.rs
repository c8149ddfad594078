//! Log lines.

use core::fmt::{self, Write};

use crate::host;

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something is wrong.
    Error,
    /// Something may be wrong.
    Warn,
    /// Worth knowing.
    Info,
    /// For whoever looks for a fault.
    Debug,
    /// Everything.
    Trace,
}

/// Logs a line: `component=overseer module=<policy> msg=<message>` in the host's log. At most 1,024 bytes of it and 32
/// lines per request, by default.
pub fn log(level: Level, message: &str) {
    host::log(level as i32, message.as_bytes());
}

/// A line put together on the stack, for messages with values in them; what is over `N` bytes is left out.
///
/// ```
/// use arqon_policy::{Level, LogLine};
/// use core::fmt::Write;
///
/// let mut line = LogLine::<64>::new();
/// let _ = write!(line, "{} of {} items", 3, 7);
/// assert_eq!(line.as_str(), "3 of 7 items");
/// line.log(Level::Info);
/// ```
#[derive(Clone, Debug)]
pub struct LogLine<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> LogLine<N> {
    /// An empty line.
    #[must_use]
    pub const fn new() -> Self {
        LogLine {
            bytes: [0; N],
            len: 0,
        }
    }

    /// What was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }

    /// Logs it.
    pub fn log(&self, level: Level) {
        log(level, self.as_str());
    }
}

impl<const N: usize> Default for LogLine<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Write for LogLine<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut end = text.len().min(N - self.len);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.bytes[self.len..self.len + end].copy_from_slice(&text.as_bytes()[..end]);
        self.len += end;
        if end == text.len() {
            Ok(())
        } else {
            Err(fmt::Error)
        }
    }
}
