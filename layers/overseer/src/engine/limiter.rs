//! Bounds what a guest may allocate.

use wasmtime::ResourceLimiter;

/// One memory of at most `memory_bytes_max`, one table of at most `table_elements_max`; growth beyond answers -1.
#[derive(Clone, Debug)]
pub(crate) struct Limiter {
    memory_bytes_max: usize,
    table_elements_max: usize,
    refused: bool,
}

impl Limiter {
    pub(crate) const fn new(memory_bytes_max: usize, table_elements_max: usize) -> Self {
        Self {
            memory_bytes_max,
            table_elements_max,
            refused: false,
        }
    }

    /// Whether the guest asked for more than it may have: a trap after that is put down to memory.
    pub(crate) const fn refused(&self) -> bool {
        self.refused
    }

    /// Forgets what was refused.
    pub(crate) const fn renew(&mut self) {
        self.refused = false;
    }

    fn decide(&mut self, desired: usize, max: usize) -> bool {
        let granted = desired <= max;
        self.refused |= !granted;
        granted
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.decide(desired, self.memory_bytes_max))
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.decide(desired, self.table_elements_max))
    }

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.refused = true;
        Ok(())
    }

    fn instances(&self) -> usize {
        1
    }

    fn tables(&self) -> usize {
        1
    }

    fn memories(&self) -> usize {
        1
    }
}
