//! The operators' token: read at the start, and again with each SIGHUP, so that it can be changed without a restart.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use arqon::config;
use subtle::ConstantTimeEq;

/// What is in force of `gateway.control_token_file`. Cloning it is a few reference counts.
#[derive(Clone)]
pub(crate) struct ControlToken {
    file: Arc<PathBuf>,
    token: Arc<ArcSwap<String>>,
}

impl ControlToken {
    /// Reads the file.
    ///
    /// # Errors
    /// One sentence that names the file and the fix.
    pub(crate) fn read(file: &Path) -> Result<Self, String> {
        let token = config::control_token(file)?;
        Ok(Self {
            file: Arc::new(file.to_owned()),
            token: Arc::new(ArcSwap::from_pointee(token)),
        })
    }

    /// Reads the file again: from now on what it says holds, and what it said before no longer does.
    ///
    /// # Errors
    /// One sentence; then nothing has changed.
    pub(crate) fn read_again(&self) -> Result<Token, String> {
        config::control_token(&self.file).map(Token)
    }

    /// Goes by `token` from now on.
    pub(crate) fn take(&self, Token(token): Token) {
        if **self.token.load() != token {
            self.token.store(Arc::new(token));
            tracing::info!(component = "config", "the control token was changed");
        }
    }

    /// Whether somebody has it; how long that takes says nothing of it.
    pub(crate) fn is(&self, given: &[u8]) -> bool {
        self.token.load().as_bytes().ct_eq(given).into()
    }
}

/// A token that was read and is not gone by yet. It is never shown.
pub(crate) struct Token(String);

impl fmt::Debug for ControlToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlToken")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_changed_as_a_whole_or_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("control.token");
        let write = |text: &str| std::fs::write(&file, text).expect("written");
        write("0123456789abcdef\n");
        let token = ControlToken::read(&file).expect("it holds");
        assert!(token.is(b"0123456789abcdef") && !token.is(b"0123456789abcdeg") && !token.is(b""));
        write("short");
        assert!(token.read_again().is_err() && token.is(b"0123456789abcdef"));
        write("fedcba9876543210");
        let next = token.read_again().expect("it holds");
        assert!(token.is(b"0123456789abcdef"), "it is not taken yet");
        token.take(next);
        assert!(token.is(b"fedcba9876543210") && !token.is(b"0123456789abcdef"));
        assert!(!format!("{token:?}").contains("fedcba"));
    }
}
