//! Compiled modules on disk, by wasmtime's own cache: keyed by a digest of the module, the compiler's version and the
//! engine's configuration. An entry that does not decode is compiled anew. Entries are machine code: only the service may
//! be able to write to the folder.

use std::path::Path;

use wasmtime::Config;

use crate::error::EngineError;

/// The cache, shared by every shard, so that most find the module compiled.
#[derive(Debug)]
pub(crate) struct ModuleCache {
    #[cfg(feature = "cache")]
    cache: wasmtime::Cache,
}

impl ModuleCache {
    /// Whether this build has one.
    pub(crate) const AVAILABLE: bool = cfg!(feature = "cache");

    /// Opens the folder, which is made if need be.
    #[cfg(feature = "cache")]
    pub(super) fn open(folder: &Path) -> Result<Self, EngineError> {
        let open = || {
            let folder = std::path::absolute(folder)?;
            std::fs::create_dir_all(&folder)?;
            let mut config = wasmtime::CacheConfig::new();
            config.with_directory(folder);
            wasmtime::Cache::new(config)
        };
        let cache = open().map_err(|error| EngineError::cache(folder, &error))?;
        Ok(Self { cache })
    }

    #[cfg(not(feature = "cache"))]
    pub(super) fn open(folder: &Path) -> Result<Self, EngineError> {
        let error = wasmtime::Error::msg("this build has no module cache");
        Err(EngineError::cache(folder, &error))
    }

    #[cfg(feature = "cache")]
    pub(super) fn enable(&self, mut config: Config) -> Config {
        config.cache(Some(self.cache.clone()));
        config
    }

    #[cfg(not(feature = "cache"))]
    pub(super) fn enable(&self, config: Config) -> Config {
        config
    }
}
