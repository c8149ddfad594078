//! Runs sandboxed Wasm and knows no ABI: shards, pools, fuel, deadlines, memory limits.
//!
//! Every call gets a fresh instance whose store is discarded afterwards. Instances come from wasmtime's pooling
//! allocator by way of `InstancePre` with copy-on-write memory, so a fresh one costs a few microseconds.

mod budget;
mod cache;
mod compiled;
mod fault;
mod gate;
mod limiter;
mod pagemap;
mod settings;
mod ticker;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

pub(crate) use self::{
    budget::Budget,
    cache::ModuleCache,
    compiled::{Compiled, Entry, Exports, Ready},
    fault::classify,
    gate::Gate,
    limiter::Limiter,
    settings::Settings,
};
use crate::error::EngineError;

/// Data of a store: the ABI's state, of which the engine needs only this much.
pub(crate) trait Host: Send + 'static {
    /// Bounds what the guest may allocate.
    fn limiter(&mut self) -> &mut Limiter;
    /// The guest's memory, found once the instance exists.
    fn attach(&mut self, memory: wasmtime::Memory);
    /// The memory it was given.
    fn memory(&self) -> Option<wasmtime::Memory>;
    /// The start functions are over; request functions may be called from now on.
    fn started(&mut self);
}

/// Everything that modules run in: the shards and their pools, the epoch ticker and the limits. A clone is one `Arc`.
///
/// The ticker's thread ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shards: Box<[wasmtime::Engine]>,
    settings: Settings,
    gate: Arc<Gate>,
    _ticker: ticker::Ticker,
}

impl Engine {
    /// Reserves the pools and starts the ticker.
    ///
    /// # Errors
    ///
    /// When the system refuses the address space or a thread.
    pub(crate) fn new(settings: Settings) -> Result<Self, EngineError> {
        let cache = settings.cache_dir.as_deref().map(ModuleCache::open).transpose()?;
        let mut shards = Vec::with_capacity(settings.shards);
        for _ in 0..settings.shards {
            let mut config = settings.wasmtime();
            if let Some(cache) = &cache {
                config = cache.enable(config);
            }
            shards.push(wasmtime::Engine::new(&config).map_err(EngineError::pool)?);
        }
        let ticker = ticker::Ticker::start(&shards).map_err(EngineError::Thread)?;
        let gate = Arc::new(Gate::new(settings.concurrency));
        Ok(Self {
            inner: Arc::new(Inner {
                shards: shards.into(),
                settings,
                gate,
                _ticker: ticker,
            }),
        })
    }

    /// The shards, at least one.
    pub(crate) fn shards(&self) -> &[wasmtime::Engine] {
        &self.inner.shards
    }

    /// The limits this engine was made with.
    pub(crate) fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// Where a request waits for its turn to run its chain: `concurrency` places.
    pub(crate) fn gate(&self) -> &Arc<Gate> {
        &self.inner.gate
    }

    /// The shard of the calling thread: threads are dealt out in turn, so workers seldom share one.
    pub(crate) fn shard(&self) -> usize {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static THREAD: usize = NEXT.fetch_add(1, Ordering::Relaxed);
        }
        match self.inner.shards.len() {
            1 => 0,
            shards => THREAD.with(|thread| thread % shards),
        }
    }

    /// How much fuel one millisecond buys on this machine: the lower rate of two built-in loops.
    ///
    /// # Errors
    ///
    /// When the loops cannot be compiled or run.
    pub(crate) fn fuel_per_ms(&self) -> Result<u64, EngineError> {
        budget::calibrate(&self.inner.shards[0]).map_err(EngineError::calibration)
    }
}

#[cfg(test)]
mod tests;
