//! A module compiled for every shard, and the instances made of it.

use std::{fmt, time::Duration};

use wasmtime::{Engine, InstancePre, Linker, Memory, Module, ModuleExport, Store, TypedFunc, UpdateDeadline};

use super::{Budget, Compiler, Host, ModuleCache};
use crate::error::CompileError;

/// Whoever runs when the epoch is raised is asked about: see [`Host::ticked`].
const NEXT_TICK: u64 = 1;

/// How an entry point is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// `() -> i32`
    Plain,
    /// `(i32, i32) -> i32`, called with zeroes
    Pair,
}

/// Names of the exports that an ABI calls, resolved once per module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Exports {
    /// The linear memory.
    pub(crate) memory: Option<&'static str>,
    /// Runs once before any entry point.
    pub(crate) initialize: Option<&'static str>,
    /// The entry points, by the ABI's own numbering.
    pub(crate) entries: Vec<Option<(&'static str, Entry)>>,
}

/// One module, compiled and linked for every shard.
pub(crate) struct Compiled<T: 'static> {
    shards: Box<[Shard<T>]>,
}

struct Shard<T: 'static> {
    pre: InstancePre<T>,
    memory: Option<ModuleExport>,
    initialize: Option<ModuleExport>,
    entries: Box<[Option<(ModuleExport, Entry)>]>,
}

impl<T: Host> Compiled<T> {
    /// Compiles `wasm` for every one of `shards` on the compiler's thread, waiting at most `deadline`.
    ///
    /// # Errors
    ///
    /// When the module is refused, does not link, or takes too long.
    pub(crate) fn new(
        shards: &[Engine],
        linkers: &[Linker<T>],
        wasm: &[u8],
        exports: &Exports,
        compiler: &Compiler,
        cache: Option<&ModuleCache>,
        deadline: Duration,
    ) -> Result<Self, CompileError> {
        let (engines, wasm, cache) = (shards.to_vec(), wasm.to_vec(), cache.cloned());
        let modules = compiler
            .run(deadline, move || compile(&engines, &wasm, cache.as_ref()))?
            .map_err(CompileError::refused)?;
        let shards = modules
            .iter()
            .zip(linkers)
            .map(|(module, linker)| Shard::new(module, linker, exports))
            .collect::<wasmtime::Result<_>>()
            .map_err(CompileError::refused)?;
        Ok(Self { shards })
    }

    /// Whether the module has the entry point with this number.
    pub(crate) fn has(&self, entry: usize) -> bool {
        self.shards[0].entries.get(entry).is_some_and(Option::is_some)
    }

    /// Makes a fresh instance on `shard` and runs its start functions, under `budget`.
    ///
    /// # Errors
    ///
    /// Whatever the start functions end in, or an exhausted pool; `state` comes back in the store.
    pub(crate) fn instantiate(
        &self,
        shard: usize,
        entry: usize,
        state: T,
        budget: Budget,
    ) -> Result<Ready<T>, (wasmtime::Error, T)> {
        let module = &self.shards[shard];
        let mut store = Store::new(module.pre.module().engine(), state);
        store.limiter(|state| state.limiter());
        store.epoch_deadline_callback(|mut store| {
            Ok(if store.data_mut().ticked() {
                UpdateDeadline::Continue(NEXT_TICK)
            } else {
                UpdateDeadline::Interrupt
            })
        });
        match module.start(&mut store, entry, budget) {
            Ok(call) => {
                store.data_mut().started();
                Ok(Ready { store, call })
            }
            Err(error) => Err((error, store.into_data())),
        }
    }
}

impl<T: Host> Shard<T> {
    fn new(module: &Module, linker: &Linker<T>, exports: &Exports) -> wasmtime::Result<Self> {
        let index = |name: &str| module.get_export_index(name);
        Ok(Self {
            pre: linker.instantiate_pre(module)?,
            memory: exports.memory.and_then(index),
            initialize: exports.initialize.and_then(index),
            entries: exports
                .entries
                .iter()
                .map(|entry| entry.and_then(|(name, shape)| Some((index(name)?, shape))))
                .collect(),
        })
    }

    fn start(&self, store: &mut Store<T>, entry: usize, budget: Budget) -> wasmtime::Result<Call> {
        store.set_fuel(budget.fuel)?;
        store.data_mut().timed(budget.deadline);
        store.set_epoch_deadline(NEXT_TICK);
        let instance = self.pre.instantiate(&mut *store)?;
        let memory: Option<Memory> = self
            .memory
            .as_ref()
            .and_then(|export| instance.get_module_export(&mut *store, export)?.into_memory());
        if let Some(memory) = memory {
            store.data_mut().attach(memory);
        }
        if let Some(initialize) = &self.initialize {
            let function = instance
                .get_module_export(&mut *store, initialize)
                .and_then(wasmtime::Extern::into_func)
                .ok_or_else(|| wasmtime::Error::msg("`_initialize` is no function"))?;
            function.typed::<(), ()>(&*store)?.call(&mut *store, ())?;
        }
        let (export, shape) = self
            .entries
            .get(entry)
            .and_then(Option::as_ref)
            .ok_or_else(|| wasmtime::Error::msg("the module has no such entry point"))?;
        let function = instance
            .get_module_export(&mut *store, export)
            .and_then(wasmtime::Extern::into_func)
            .ok_or_else(|| wasmtime::Error::msg("the entry point is no function"))?;
        Ok(match shape {
            Entry::Plain => Call::Plain(function.typed(&*store)?),
            Entry::Pair => Call::Pair(function.typed(&*store)?),
        })
    }
}

impl<T> fmt::Debug for Compiled<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compiled")
            .field("shards", &self.shards.len())
            .finish_non_exhaustive()
    }
}

enum Call {
    Plain(TypedFunc<(), i32>),
    Pair(TypedFunc<(i32, i32), i32>),
}

/// A fresh instance whose start functions are over. It is called once and dropped.
pub(crate) struct Ready<T: 'static> {
    store: Store<T>,
    call: Call,
}

impl<T: Host> Ready<T> {
    /// The state of the ABI.
    pub(crate) fn state(&mut self) -> &mut T {
        self.store.data_mut()
    }

    /// Calls the entry point under `budget`: what it returned or ended in, and the fuel it used.
    ///
    /// Fuel and deadline count from here, so an instance made ready long ago behaves as one made now.
    #[inline(always)]
    pub(crate) fn call(&mut self, budget: Budget) -> (wasmtime::Result<i32>, u64) {
        self.store.data_mut().timed(budget.deadline);
        self.store.set_epoch_deadline(NEXT_TICK);
        let result = match self.store.set_fuel(budget.fuel) {
            Ok(()) => match &self.call {
                Call::Plain(function) => function.call(&mut self.store, ()),
                Call::Pair(function) => function.call(&mut self.store, (0, 0)),
            },
            Err(error) => Err(error),
        };
        (
            result,
            budget.fuel.saturating_sub(self.store.get_fuel().unwrap_or(0)),
        )
    }
}

impl<T> fmt::Debug for Ready<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ready").finish_non_exhaustive()
    }
}

fn compile(shards: &[Engine], wasm: &[u8], cache: Option<&ModuleCache>) -> wasmtime::Result<Vec<Module>> {
    let all = || shards.iter().map(|shard| Module::new(shard, wasm)).collect();
    match (cache, shards.first()) {
        (Some(cache), Some(first)) => cache.load(first, wasm, all),
        _ => all(),
    }
}

#[cfg(test)]
mod tests;
