//! The guest's memory, and what a host call costs.

use std::ops::Range;

use wasmtime::{Caller, Extern, Trap};

use super::{CALL_FUEL, State};
use crate::engine::Host;

/// A pointer and a length, as a guest gives them.
#[derive(Clone, Copy)]
pub(super) struct Slice {
    pub(super) ptr: i32,
    pub(super) len: i32,
}

impl Slice {
    pub(super) const fn new(ptr: i32, len: i32) -> Self {
        Self { ptr, len }
    }

    pub(super) const fn len(self) -> u64 {
        self.len.cast_unsigned() as u64
    }

    /// The bytes meant, all of them inside `memory`. The pointer of an empty slice does not matter.
    ///
    /// # Errors
    ///
    /// A trap when any byte is outside.
    pub(super) fn range(self, memory: &[u8]) -> Result<Range<usize>, Trap> {
        if self.len == 0 {
            return Ok(0..0);
        }
        let start = u64::from(self.ptr.cast_unsigned());
        let end = start + self.len();
        match (usize::try_from(start), usize::try_from(end)) {
            (Ok(start), Ok(end)) if end <= memory.len() => Ok(start..end),
            _ => Err(Trap::MemoryOutOfBounds),
        }
    }
}

/// Sees that all of these are inside the guest's memory, before anything is charged for their length: a length that cannot
/// be is a trap, however much fuel there is. They stay inside: a guest's memory never shrinks.
///
/// # Errors
///
/// A trap when any byte is outside.
pub(super) fn inside<const N: usize>(
    caller: &mut Caller<'_, State>,
    slices: [Slice; N],
) -> wasmtime::Result<[Range<usize>; N]> {
    let (memory, _) = split(caller)?;
    let mut ranges = [const { 0..0_usize }; N];
    for (slice, range) in slices.into_iter().zip(&mut ranges) {
        *range = slice.range(memory)?;
    }
    Ok(ranges)
}

/// Takes the fuel of one host call that touches `bytes` bytes.
///
/// # Errors
///
/// A trap when there is less left; then nothing is left.
pub(super) fn charge(caller: &mut Caller<'_, State>, bytes: u64) -> wasmtime::Result<()> {
    take(caller, CALL_FUEL.saturating_add(bytes))
}

/// Takes `fuel`, as [`charge`] does.
pub(super) fn take(caller: &mut Caller<'_, State>, fuel: u64) -> wasmtime::Result<()> {
    if fuel == 0 {
        return Ok(());
    }
    match caller.get_fuel()?.checked_sub(fuel) {
        Some(left) => caller.set_fuel(left),
        None => {
            caller.set_fuel(0)?;
            Err(Trap::OutOfFuel.into())
        }
    }
}

/// The guest's memory and the state of the call, both to be changed.
///
/// # Errors
///
/// When the module has no memory, which loading refuses.
pub(super) fn split<'a>(
    caller: &'a mut Caller<'_, State>,
) -> wasmtime::Result<(&'a mut [u8], &'a mut State)> {
    let memory = match caller.data().memory() {
        Some(memory) => memory,
        // A start function runs before the instance's exports are known to the state.
        None => caller
            .get_export("memory")
            .and_then(Extern::into_memory)
            .ok_or_else(|| wasmtime::Error::msg("the module exports no memory"))?,
    };
    Ok(memory.data_and_store_mut(caller))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_inside_or_a_trap() {
        let memory = [0; 100];
        for (ptr, len, inside) in [
            (0, 100, true),
            (99, 1, true),
            (100, 1, false),
            (0, 101, false),
            (50, -1, false),
            (-1, 1, false),
            (-1, 0, true),
            (i32::MIN, i32::MIN, false),
            (i32::MAX, i32::MAX, false),
            (-1, -1, false),
        ] {
            assert_eq!(
                Slice::new(ptr, len).range(&memory).is_ok(),
                inside,
                "({ptr}, {len})"
            );
        }
    }
}
