//! A policy as it is configured.

use std::{borrow::Cow, io, path::PathBuf, sync::Arc};

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
    pub(crate) fn read(&self) -> io::Result<Bytes> {
        match self {
            Self::Path(path) => std::fs::read(path).map(Bytes::from),
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
