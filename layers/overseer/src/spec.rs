//! A policy as it is configured.

use std::{
    borrow::Cow,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use crate::{abi::arqon_host_v1::Guest, engine::Budget, scope::Scope};

/// Everything about a policy but its module.
#[derive(Clone, Debug)]
pub(crate) struct PolicySpec {
    pub(crate) guest: Arc<Guest>,
    pub(crate) source: Source,
    pub(crate) sha256: Option<String>,
    pub(crate) scope: Scope,
    /// Runs and is counted, changes nothing.
    pub(crate) monitor: bool,
    /// For which causes a failure lets the request pass, by `Cause::index`.
    pub(crate) open: [bool; 8],
    /// Whether a rejection ends a WebSocket session.
    pub(crate) close_session: bool,
    pub(crate) budget: Budget,
}

/// Where a module comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Path(PathBuf),
    Inline(Bytes),
}

impl Source {
    /// All of it; of a file at most a byte more than `max`, which loading refuses.
    pub(crate) fn read(&self, max: usize) -> io::Result<Bytes> {
        match self {
            Self::Path(path) => read_module(path, max),
            Self::Inline(module) => Ok(module.clone()),
        }
    }

    /// What a report calls it.
    pub(crate) fn name(&self) -> Cow<'_, str> {
        match self {
            Self::Path(path) => path.to_string_lossy(),
            Self::Inline(_) => "inline".into(),
        }
    }
}

/// Reads at most a byte more than `max` of a regular file, or of what links to one: a pipe that nobody writes is never read.
pub(crate) fn read_module(path: &Path, max: usize) -> io::Result<Bytes> {
    if !fs::metadata(path)?.is_file() {
        let why = "it is not a regular file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(max as u64 + 1).read_to_end(&mut bytes)?;
    Ok(Bytes::from(bytes))
}
