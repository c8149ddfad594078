//! What one call may spend, and how much fuel a millisecond is worth here.

use std::time::{Duration, Instant};

use wasmtime::{Engine, Instance, Module, Store};

/// Fuel and wall-clock time of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Budget {
    /// Units of fuel: about one per Wasm operator, host calls charged on top.
    pub(crate) fuel: u64,
    /// How long a guest may run. Found running longer it is late, has [`GRACE`](super::ticker::GRACE) more, and is interrupted.
    pub(crate) deadline: Duration,
}

/// Slow and fast work per unit of fuel: a chain of divisions, and a hash over bytes.
const LOOPS: &str = r#"(module
  (memory 1)
  (func (export "divisions") (local $x i64)
    (local.set $x (i64.const -1))
    (loop $again
      (local.set $x (i64.add (i64.div_u (local.get $x) (i64.const 3)) (i64.const 9007199254740993)))
      (br $again)))
  (func (export "bytes") (local $i i32) (local $h i32)
    (loop $again
      (local.set $h (i32.mul (i32.xor (local.get $h) (i32.load8_u (i32.and (local.get $i) (i32.const 65535))))
                             (i32.const 16777619)))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br $again))))"#;

/// Fuel burnt in one calibration run: about a millisecond or less.
const CALIBRATION_FUEL: u64 = 2_000_000;
/// What no machine is taken to be slower or faster than.
const RATE_BOUNDS: (u64, u64) = (500_000, 20_000_000);

/// Runs both loops three times to the end of their fuel and takes the lower of their best rates, in fuel per ms.
pub(super) fn calibrate(engine: &Engine) -> wasmtime::Result<u64> {
    let wasm = wat::parse_str(LOOPS).map_err(wasmtime::Error::new)?;
    let module = Module::new(engine, &wasm)?;
    let mut lowest = u64::MAX;
    for name in ["divisions", "bytes"] {
        let mut best = 0;
        for _ in 0..3 {
            let mut store = Store::new(engine, ());
            store.set_fuel(CALIBRATION_FUEL)?;
            store.set_epoch_deadline(1_000);
            let instance = Instance::new(&mut store, &module, &[])?;
            let run = instance.get_typed_func::<(), ()>(&mut store, name)?;
            let begun = Instant::now();
            // Ends by running out of fuel: that is what is being timed.
            drop(run.call(&mut store, ()));
            let nanos = begun.elapsed().as_nanos().max(1);
            best =
                best.max(u64::try_from(u128::from(CALIBRATION_FUEL) * 1_000_000 / nanos).unwrap_or(u64::MAX));
        }
        lowest = lowest.min(best);
    }
    Ok(lowest.clamp(RATE_BOUNDS.0, RATE_BOUNDS.1))
}
