//! Cleans up after a test process that died without dropping anything.

use std::{
    ffi::OsStr,
    io,
    process::{Child, Command, Stdio},
};

/// Waits for the end of its standard input, then kills a process and removes its store.
const PROCESS: &str = r#"while read -r _; do :; done; kill -CONT "$1" 2>/dev/null; kill -KILL "$1" 2>/dev/null; rm -rf -- "$2""#;
/// The same for a container.
const CONTAINER: &str = r#"while read -r _; do :; done; docker rm --force --volumes "$1""#;

/// A child that acts when the pipe from this process closes: at our death, however it comes. `pre_exec` and a
/// parent-death signal would be `unsafe`, and Linux only.
#[derive(Debug)]
pub(crate) struct Guardian(Child);

impl Guardian {
    pub(crate) fn of_process(id: u32, store: &OsStr) -> io::Result<Self> {
        Self::spawn(PROCESS, [OsStr::new(&id.to_string()), store])
    }

    pub(crate) fn of_container(id: &str) -> io::Result<Self> {
        Self::spawn(CONTAINER, [OsStr::new(id)])
    }

    fn spawn<'a>(script: &str, arguments: impl IntoIterator<Item = &'a OsStr>) -> io::Result<Self> {
        Command::new("sh")
            .args(["-c", script, "guardian"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map(Self)
    }
}

impl Drop for Guardian {
    /// Ends the guardian before its pipe closes, so that it does not act.
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
