//! Compiled modules on disk. They are machine code that wasmtime runs as it finds it, so every entry has a SHA-256 of ours
//! over all of it and its name, and wasmtime gets to see only what was checked for the load at hand: its own cache is a
//! private folder, in memory if it can be, that is empty between loads. An entry that is not as it was written is compiled anew.
//!
//! A digest finds damage, not malice: whoever may write to the folder may write an entry with its digest. So a folder
//! that somebody else may write to is refused.

#[cfg(feature = "cache")]
mod staging;
#[cfg(feature = "cache")]
mod store;

use std::path::Path;
#[cfg(feature = "cache")]
use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

#[cfg(feature = "cache")]
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
#[cfg(feature = "cache")]
use sha2::{Digest, Sha256};
use wasmtime::{Config, Engine};

use crate::error::EngineError;

/// The cache, shared by every shard, so that all but the first find the module compiled. A clone is one `Arc`.
#[derive(Clone, Debug)]
pub(crate) struct ModuleCache {
    #[cfg(feature = "cache")]
    inner: Arc<Inner>,
}

#[cfg(feature = "cache")]
#[derive(Debug)]
struct Inner {
    cache: wasmtime::Cache,
    store: store::Store,
    staging: staging::Staging,
}

impl ModuleCache {
    /// Whether this build has one.
    pub(crate) const AVAILABLE: bool = cfg!(feature = "cache");

    /// Opens the folder, which is made if need be.
    #[cfg(feature = "cache")]
    pub(super) fn open(folder: &Path) -> Result<Self, EngineError> {
        let open = || {
            let store = store::Store::open(&std::path::absolute(folder)?)?;
            let staging = staging::Staging::open(store.folder())?;
            let store = store.of(staging.own()?);
            let mut config = wasmtime::CacheConfig::new();
            config
                .with_directory(staging.folder())
                // Nothing stays there for long enough to be worth packing better.
                .with_optimized_compression_usage_counter_threshold(u64::MAX);
            let cache = wasmtime::Cache::new(config)?;
            wasmtime::Result::Ok(Inner {
                cache,
                store,
                staging,
            })
        };
        let inner = open().map_err(|error| EngineError::cache(folder, &error))?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    #[cfg(not(feature = "cache"))]
    pub(super) fn open(folder: &Path) -> Result<Self, EngineError> {
        let error = wasmtime::Error::msg("this build has no module cache");
        Err(EngineError::cache(folder, &error))
    }

    #[cfg(feature = "cache")]
    pub(super) fn enable(&self, mut config: Config) -> Config {
        config.cache(Some(self.inner.cache.clone()));
        config
    }

    #[cfg(not(feature = "cache"))]
    pub(super) fn enable(&self, config: Config) -> Config {
        config
    }

    /// Runs `compile`, which compiles `wasm` for `engine` and others of the same configuration, with the entry of that
    /// module at hand if there is a whole one; what was compiled anew is kept. A disk that fails costs time, no module.
    #[cfg(feature = "cache")]
    pub(super) fn load<T>(
        &self,
        engine: &Engine,
        wasm: &[u8],
        compile: impl FnOnce() -> wasmtime::Result<T>,
    ) -> wasmtime::Result<T> {
        let Inner { store, staging, .. } = &*self.inner;
        let name = name(engine, wasm);
        let kept = store.read(&name);
        staging.place(&name, kept.as_ref());
        let made = compile();
        let found = staging.take(&name);
        if let (Ok(_), Some(found)) = (&made, found)
            && kept.as_ref() != Some(&found)
            && let Err(error) = store.write(&name, &found, &staging.temporary(&name))
        {
            tracing::warn!(folder = %store.folder().display(), %error, "a compiled policy could not be kept");
        }
        made
    }

    #[cfg(not(feature = "cache"))]
    pub(super) fn load<T>(
        &self,
        _engine: &Engine,
        _wasm: &[u8],
        compile: impl FnOnce() -> wasmtime::Result<T>,
    ) -> wasmtime::Result<T> {
        compile()
    }
}

/// What wasmtime names its entry for this module: a digest of what its compiler is given. Were it named otherwise, then
/// nothing would be found, and modules be compiled each time; a test sees to that.
#[cfg(feature = "cache")]
fn name(engine: &Engine, wasm: &[u8]) -> String {
    struct Digesting(Sha256);
    impl Hasher for Digesting {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            0
        }
    }
    let mut hasher = Digesting(Sha256::new());
    let (debug_package, intrinsics) = (None::<&[u8]>, None::<&str>);
    (
        engine.precompile_compatibility_hash(),
        wasm,
        debug_package,
        intrinsics,
    )
        .hash(&mut hasher);
    URL_SAFE_NO_PAD.encode(hasher.0.finalize())
}

#[cfg(all(test, feature = "cache"))]
mod tests;
