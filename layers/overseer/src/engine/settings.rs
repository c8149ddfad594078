//! Numbers the engine is made with, and wasmtime's configuration from them.

use std::{path::PathBuf, time::Duration};

use wasmtime::{
    Config, Enabled, InstanceAllocationStrategy, OperatorCost, OptLevel, PoolingAllocationConfig,
    WasmFeatures,
};

/// Fuel for one page of `memory.grow`: the most wasmtime's table holds.
const GROW_FUEL_PER_PAGE: u8 = u8::MAX;
/// Resident bytes kept per memory slot when the page-map scan resets it.
const KEEP_RESIDENT_SCANNED: usize = 4 << 20;
/// Pages of a memory that is better cleared whole than scanned: 64 KiB are written over in the time of a system call, and
/// that one takes a lock of the whole process.
pub(crate) const PAGES_CLEARED: u64 = 2;
/// What is kept is written over every time: as much as that, and the rest is given back to the kernel.
const KEEP_RESIDENT_CLEARED: usize = 128 << 10;
const KEEP_RESIDENT_TABLE: usize = 64 << 10;

/// How a pool makes a guest's memory as it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reset {
    /// All of it is written over.
    Cleared,
    /// The pages are written over that the kernel says were written.
    Scanned,
}

/// What an engine is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Engines with their own pool; workers are spread over them.
    pub(crate) shards: usize,
    /// Instances that may run at once, over all shards.
    pub(crate) concurrency: usize,
    /// Instances made ready beforehand, per shard and policy.
    pub(crate) standby: usize,
    /// Slots of one shard's pool.
    pub(crate) slots: u32,
    /// Slots of one shard's pool that keep their pages while they are not used; what a new module takes comes from these first.
    pub(crate) slots_warm: u32,
    /// Bytes of one linear memory.
    pub(crate) memory_bytes_max: usize,
    /// Elements of one table.
    pub(crate) table_elements_max: usize,
    /// Bytes of guest stack.
    pub(crate) stack_bytes_max: usize,
    /// Whether the page-map scan may be used where the process cannot be swapped, for memories that gain by it.
    pub(crate) pagemap_scan: bool,
    /// How long the ticker rests at most between two looks at who is running; no deadline of a millisecond or more is shorter.
    pub(crate) rest: Duration,
    /// Where compiled modules are kept.
    pub(crate) cache_dir: Option<PathBuf>,
}

impl Settings {
    /// Features a guest may use: Wasm 2, what deterministic single-threaded code needs of 3, and memories that say their size
    /// in bytes (the proposal custom-page-sizes): what a memory has is cleared after each call, and few need 64 KiB.
    pub(crate) fn features() -> WasmFeatures {
        // `GC_TYPES` is wasmparser's name for what needs a collector, such as `externref`.
        (WasmFeatures::WASM2
            | WasmFeatures::EXTENDED_CONST
            | WasmFeatures::TAIL_CALL
            | WasmFeatures::CUSTOM_PAGE_SIZES)
            - WasmFeatures::GC_TYPES
    }

    pub(super) fn wasmtime(&self, reset: Reset) -> Config {
        let mut cost = OperatorCost::new();
        cost.variable.memory_grow_per_page = GROW_FUEL_PER_PAGE;

        let mut config = Config::new();
        config
            .consume_fuel(true)
            .epoch_interruption(true)
            .operator_cost(cost)
            .memory_init_cow(true)
            .cranelift_opt_level(OptLevel::Speed)
            // The same request gives the same verdict on every machine, NaN bits included.
            .cranelift_nan_canonicalization(true)
            .max_wasm_stack(self.stack_bytes_max)
            // A policy that is slow to compile costs one core, not all.
            .parallel_compilation(false)
            .generate_address_map(false)
            .wasm_features(WasmFeatures::all() - Self::features(), false)
            .wasm_features(Self::features(), true)
            .allocation_strategy(InstanceAllocationStrategy::Pooling(self.pool(reset)));
        config
    }

    fn pool(&self, reset: Reset) -> PoolingAllocationConfig {
        let scan = reset == Reset::Scanned;
        let mut pool = PoolingAllocationConfig::new();
        pool.total_core_instances(self.slots)
            .total_memories(self.slots)
            .total_tables(self.slots)
            .max_memories_per_module(1)
            .max_tables_per_module(1)
            .max_memory_size(self.memory_bytes_max)
            .table_elements(self.table_elements_max)
            .max_unused_warm_slots(self.slots_warm)
            .linear_memory_keep_resident(if scan {
                KEEP_RESIDENT_SCANNED
            } else {
                KEEP_RESIDENT_CLEARED
            })
            .table_keep_resident(KEEP_RESIDENT_TABLE)
            .pagemap_scan(if scan { Enabled::Auto } else { Enabled::No });
        pool
    }
}
