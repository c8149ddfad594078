//! Runs sandboxed Wasm and knows no ABI: shards, pools, fuel, deadlines, memory limits.
//!
//! Every call gets an instance as it was made. Instances come from wasmtime's pooling
//! allocator by way of `InstancePre` with copy-on-write memory, so a fresh one costs a few microseconds; its store is discarded
//! after the call. Where a module has nothing but a small memory that a call can change, that is put back instead ([`Image`]).

mod budget;
mod cache;
mod compiled;
mod compiler;
mod fault;
mod gate;
mod limiter;
mod pagemap;
mod settings;
mod ticker;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

pub(crate) use self::{
    budget::Budget,
    cache::ModuleCache,
    compiled::{Compiled, Entry, Exports, Image, Ready},
    compiler::Compiler,
    fault::classify,
    gate::Gate,
    limiter::Limiter,
    settings::{PAGES_CLEARED, Reset, Settings},
    ticker::{Looks, REST_MAX, REST_MIN, Timer},
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
    /// A call, or the start functions, begin now and may take `deadline`.
    fn timed(&mut self, deadline: Duration);
    /// The ticker found the call running; whether it may go on.
    fn ticked(&mut self) -> bool;
}

/// Everything that modules run in: the shards and their pools, the epoch ticker and the limits. A clone is one `Arc`.
///
/// A shard has a pool for small memories, which are cleared by writing over them: no system call, so that workers do not
/// wait for each other's. One for larger memories, whose written pages the kernel names, comes with the first such module.
///
/// The ticker's thread ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    cleared: Box<[wasmtime::Engine]>,
    scanned: OnceLock<Box<[wasmtime::Engine]>>,
    settings: Settings,
    scan: Scan,
    cache: Option<ModuleCache>,
    compiler: Compiler,
    gate: Arc<Gate>,
    ticker: ticker::Ticker,
}

impl Engine {
    /// Reserves the pools and starts the ticker.
    ///
    /// # Errors
    ///
    /// When the system refuses the address space or a thread.
    pub(crate) fn new(settings: Settings) -> Result<Self, EngineError> {
        let cache = settings.cache_dir.as_deref().map(ModuleCache::open).transpose()?;
        let cleared = pools(&settings, Reset::Cleared, cache.as_ref())?;
        let ticker = ticker::Ticker::start(&cleared, settings.rest).map_err(EngineError::Thread)?;
        let gate = Arc::new(Gate::new(settings.concurrency));
        Ok(Self {
            inner: Arc::new(Inner {
                cleared,
                scanned: OnceLock::new(),
                scan: Scan::new(settings.pagemap_scan, pagemap::unswappable),
                settings,
                cache,
                compiler: Compiler::default(),
                gate,
                ticker,
            }),
        })
    }

    /// How the memory of a module is reset that starts with so many pages. Looks whether this process can be swapped by now.
    pub(crate) fn reset(&self, pages: u64) -> Reset {
        if pages > PAGES_CLEARED && self.inner.scan.allowed() {
            Reset::Scanned
        } else {
            Reset::Cleared
        }
    }

    /// Whether this process can be swapped although memories are reset by a scan: it could not when they were made.
    pub(crate) fn scans_in_vain(&self) -> bool {
        self.inner.scanned.get().is_some() && !self.inner.scan.allowed()
    }

    /// The pools of this kind, one per shard; reserves them when they are asked for first.
    ///
    /// # Errors
    ///
    /// When the system refuses the address space.
    pub(crate) fn pools(&self, reset: Reset) -> Result<&[wasmtime::Engine], EngineError> {
        let inner = &*self.inner;
        match (reset, inner.scanned.get()) {
            (Reset::Cleared, _) => Ok(&inner.cleared),
            (Reset::Scanned, Some(scanned)) => Ok(scanned),
            (Reset::Scanned, None) => {
                let made = pools(&inner.settings, reset, inner.cache.as_ref())?;
                inner.ticker.add(&made);
                Ok(inner.scanned.get_or_init(|| made))
            }
        }
    }

    /// The limits this engine was made with.
    pub(crate) fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// Where a call says when the ticker is to look at it again.
    pub(crate) fn looks(&self) -> &Arc<Looks> {
        self.inner.ticker.looks()
    }

    /// Where compiled modules are kept, if they are.
    pub(crate) fn cache(&self) -> Option<&ModuleCache> {
        self.inner.cache.as_ref()
    }

    /// Where modules are compiled.
    pub(crate) fn compiler(&self) -> &Compiler {
        &self.inner.compiler
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
        match self.inner.cleared.len() {
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
        budget::calibrate(&self.inner.cleared[0]).map_err(EngineError::calibration)
    }
}

/// Whether memories may be reset by the page-map scan.
#[derive(Debug)]
struct Scan {
    wanted: bool,
    unswappable: fn() -> bool,
}

impl Scan {
    const fn new(wanted: bool, unswappable: fn() -> bool) -> Self {
        Self { wanted, unswappable }
    }

    /// Whether it may now: swap may come and go.
    fn allowed(&self) -> bool {
        self.wanted && (self.unswappable)()
    }
}

fn pools(
    settings: &Settings,
    reset: Reset,
    cache: Option<&ModuleCache>,
) -> Result<Box<[wasmtime::Engine]>, EngineError> {
    (0..settings.shards)
        .map(|_| {
            let mut config = settings.wasmtime(reset);
            if let Some(cache) = cache {
                config = cache.enable(config);
            }
            wasmtime::Engine::new(&config).map_err(EngineError::pool)
        })
        .collect()
}

#[cfg(test)]
mod tests;
