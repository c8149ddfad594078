use wasmtime::{Caller, Config, Trap};

use super::*;
use crate::engine::Limiter;

/// A host whose clock is the guest's to move, and that lets a call go on for some ticks.
struct Clock {
    limiter: Limiter,
    left: u64,
    ticks: u64,
}

const TICKS: u64 = 3;

impl Host for Clock {
    fn limiter(&mut self) -> &mut Limiter {
        &mut self.limiter
    }
    fn attach(&mut self, _: Memory) {}
    fn memory(&self) -> Option<Memory> {
        None
    }
    fn started(&mut self) {}
    fn timed(&mut self, deadline: Duration) {
        assert_eq!(deadline, BUDGET.deadline);
        self.left = TICKS;
    }
    fn ticked(&mut self) -> bool {
        self.left = self.left.saturating_sub(1);
        self.left > 0
    }
}

const BUDGET: Budget = Budget {
    fuel: 1_000_000,
    deadline: Duration::from_millis(3),
};

/// How a call of this body ends, and how many ticks had passed by then.
fn run(body: &str) -> (wasmtime::Result<i32>, u64) {
    let mut config = Config::new();
    config.consume_fuel(true).epoch_interruption(true);
    let engine = Engine::new(&config).unwrap();
    let mut linker = Linker::new(&engine);
    linker
        .func_wrap("host", "tick", |mut caller: Caller<'_, Clock>, count: i32| {
            for _ in 0..count {
                caller.engine().increment_epoch();
                caller.data_mut().ticks += 1;
            }
        })
        .unwrap();
    let wat = format!(
        r#"(module (import "host" "tick" (func $tick (param i32)))
             (func $rest (local $i i32)
               (loop $again (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1000)))))
             (func (export "on_request") (result i32) {body} (i32.const 7)))"#
    );
    let exports = Exports {
        entries: vec![Some(("on_request", Entry::Plain))],
        ..Exports::default()
    };
    let wasm = wat::parse_str(wat).unwrap();
    let compiler = Compiler::default();
    let patience = Duration::from_secs(60);
    let compiled = Compiled::new(
        std::slice::from_ref(&engine),
        &[linker],
        &wasm,
        &exports,
        &compiler,
        None,
        patience,
    )
    .unwrap();
    let state = Clock {
        limiter: Limiter::new(1 << 16, 1),
        left: 0,
        ticks: 0,
    };
    let mut ready = match compiled.instantiate(0, 0, state, BUDGET) {
        Ok(ready) => ready,
        Err((error, _)) => panic!("{error}"),
    };
    // It stood by for long: the deadline counts from the call.
    for _ in 0..10 {
        engine.increment_epoch();
    }
    let (result, _) = ready.call(BUDGET);
    (result, ready.state().ticks)
}

#[test]
fn a_call_is_asked_about_at_each_tick_that_finds_it_and_several_at_once_are_one() {
    for (body, ends) in [
        ("(call $rest)", true),
        (
            "(call $tick (i32.const 1)) (call $rest) (call $tick (i32.const 50)) (call $rest)",
            true,
        ),
        (
            "(call $tick (i32.const 1)) (call $rest) (call $tick (i32.const 1)) (call $rest) (call $tick (i32.const 1)) (call $rest)",
            false,
        ),
    ] {
        let (result, _) = run(body);
        match ends {
            true => assert_eq!(result.unwrap(), 7, "{body}"),
            false => assert_eq!(
                result.unwrap_err().downcast_ref(),
                Some(&Trap::Interrupt),
                "{body}"
            ),
        }
    }
}

#[test]
fn a_call_that_does_not_end_is_interrupted_at_the_tick_that_finds_it_too_old() {
    let (result, ticks) = run("(loop $again (call $tick (i32.const 1)) (br $again))");
    assert_eq!(result.unwrap_err().downcast_ref(), Some(&Trap::Interrupt));
    assert_eq!(ticks, TICKS);
}
