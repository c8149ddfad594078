//! Errors: of configuration, of the engine, of loading, of the handle.

use std::{fmt, io, path::Path, time::Duration};

use serde::Serialize;

use crate::{abi::arqon_host_v1::visible, report::LoadReport};

/// One thing wrong with the configuration: the key, its value, and the fix. All of them are reported at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{key} = {value}: {problem}; {fix}")]
pub struct ConfigError {
    /// The key, such as `policies[0].mode`.
    pub key: String,
    /// The value as written.
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to write instead.
    pub fix: String,
}

impl ConfigError {
    pub(crate) fn new(
        key: impl Into<String>,
        value: impl fmt::Display,
        problem: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            key: key.into(),
            value: value.to_string(),
            problem: problem.into(),
            fix: fix.into(),
        }
    }
}

/// Why a layer could not be built: every finding at once.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Keys that do not hold.
    #[error("{}", lines(.0))]
    Config(Vec<ConfigError>),
    /// Modules that cannot be loaded.
    #[error("{}", lines(.0))]
    Load(Vec<LoadReport>),
    /// The engine could not be made.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

fn lines<T: ToString>(items: &[T]) -> String {
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

/// Why the engine could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The address space for the pools was refused.
    #[error(
        "the system refused the address space for the instance pools ({0}); lower `concurrency`, or lift the limit on \
         virtual memory"
    )]
    Pool(String),
    /// The folder for compiled modules cannot be used.
    #[error(
        "cache_dir {folder} cannot be used ({reason}); name a folder that only this service can write to"
    )]
    Cache {
        /// The folder.
        folder: String,
        /// Why.
        reason: String,
    },
    /// The file for recorded requests cannot be used.
    #[error("record.path {path} cannot be written to")]
    Record {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A thread could not be started.
    #[error("the epoch thread could not be started")]
    Thread(#[source] io::Error),
    /// The loops that calibrate `budget` did not run.
    #[error("`budget` could not be calibrated ({0}); set `fuel_limit` instead")]
    Calibration(String),
}

impl EngineError {
    pub(crate) fn pool(error: wasmtime::Error) -> Self {
        Self::Pool(chain(&error))
    }

    pub(crate) fn cache(folder: &Path, error: &wasmtime::Error) -> Self {
        Self::Cache {
            folder: folder.display().to_string(),
            reason: chain(error),
        }
    }

    pub(crate) fn calibration(error: wasmtime::Error) -> Self {
        Self::Calibration(chain(&error))
    }
}

/// Why a module did not compile.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompileError {
    #[error("{0}")]
    Refused(String),
    #[error("compiling took longer than {} ms", deadline.as_millis())]
    Deadline { deadline: Duration },
    #[error("the compiler thread could not be started")]
    Thread(#[source] io::Error),
    #[error("the compiler gave up")]
    Panicked,
}

impl CompileError {
    pub(crate) fn refused(error: wasmtime::Error) -> Self {
        Self::Refused(chain(&error))
    }
}

/// An error and what it came of, on one line.
pub(crate) fn chain(error: &wasmtime::Error) -> String {
    let text = error
        .chain()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
        .replace('\n', " ");
    // Names of functions are the module's.
    visible(text.as_bytes(), text.len())
}

/// Why a change through the handle was refused. The policies that were active stay active.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandleError {
    /// No such policy is configured.
    #[error("no policy is called `{name}`; there are: {known}")]
    UnknownPolicy {
        /// The name asked for.
        name: String,
        /// The names there are, comma separated.
        known: String,
    },
    /// The module cannot be loaded.
    #[error("{0}")]
    Refused(Box<LoadReport>),
    /// The policy has nothing of the kind: no candidate to promote, no former version to go back to.
    #[error("policy `{name}` has no {what}")]
    Nothing {
        /// The policy.
        name: String,
        /// What is missing.
        what: &'static str,
    },
    /// The new configuration does not hold, or a module in it cannot be loaded.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The module could not be read from its path.
    #[error("policy `{name}` could not be read from {path}")]
    Read {
        /// The policy.
        name: String,
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The task that compiles was cancelled: the runtime is shutting down.
    #[error("the runtime is shutting down")]
    Cancelled,
}
