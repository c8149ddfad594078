//! Which cause an error of the engine is.

use wasmtime::{PoolConcurrencyLimitError, Trap};

use crate::verdict::Cause;

/// The cause of `error`; `growth_refused` says that the guest had been denied memory before it trapped.
pub(crate) fn classify(error: &wasmtime::Error, growth_refused: bool) -> Cause {
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => Cause::Fuel,
        Some(Trap::Interrupt) => Cause::Deadline,
        Some(Trap::StackOverflow) => Cause::Stack,
        Some(Trap::AllocationTooLarge) => Cause::Memory,
        _ if error.is::<PoolConcurrencyLimitError>() => Cause::Pool,
        _ if growth_refused => Cause::Memory,
        _ => Cause::Trap,
    }
}
