//! One call of one policy, in an instance as it was made.

use std::sync::Arc;

use crate::{
    abi::arqon_host_v1::{Phase, Role, State},
    engine::{Budget, Engine, Limiter, Ready, classify},
    error::chain,
    exchange::Lent,
    verdict::{Denial, Verdict},
    verify::Loaded,
};

/// How a call went.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) verdict: Verdict,
    /// Fuel of the call itself, host calls included; start functions have their own.
    pub(crate) fuel: u64,
    /// Whether the start functions had ended well.
    pub(crate) started: bool,
    /// Log lines over the limit.
    pub(crate) logs_dropped: u32,
}

/// A fresh instance for `phase`, its start functions run under a budget of their own.
pub(crate) fn instantiate(
    engine: &Engine,
    shard: usize,
    loaded: &Loaded,
    phase: Phase,
    role: Role,
    budget: Budget,
) -> Result<Box<Ready<State>>, Verdict> {
    let settings = engine.settings();
    let limiter = Limiter::new(settings.memory_bytes_max, settings.table_elements_max);
    let state = State::new(
        Arc::clone(&loaded.guest),
        role,
        limiter,
        Arc::clone(engine.looks()),
    );
    loaded
        .compiled
        .instantiate(shard, phase.entry(), state, budget)
        .map(Box::new)
        .map_err(|(error, state)| Verdict::Fail(classify(&error, state.growth_refused()), chain(&error)))
}

/// Lends a ready instance the exchange, calls it and hands it back to be dropped.
#[inline(always)]
pub(crate) fn call(
    mut ready: Box<Ready<State>>,
    phase: Phase,
    exchange: Option<Lent>,
    budget: Budget,
) -> (Call, Option<Lent>, Box<Ready<State>>) {
    let mark = exchange.as_ref().map(|exchange| exchange.mark());
    ready.state().begin(phase, exchange);
    let (result, fuel) = ready.call(budget);
    let state = ready.state();
    let logs_dropped = state.logs_dropped();
    let growth_refused = state.growth_refused();
    let (mut exchange, denial) = state.end();
    let verdict = match (result, denial) {
        (Ok(0), _) => Verdict::Allow,
        (Ok(_), _) => Verdict::Deny(Denial::new(403, String::new())),
        (Err(_), Some(denial)) => Verdict::Deny(denial),
        (Err(error), None) => Verdict::Fail(classify(&error, growth_refused), chain(&error)),
    };
    if verdict != Verdict::Allow
        && let (Some(exchange), Some(mark)) = (exchange.as_mut(), mark)
    {
        exchange.restore(mark);
    }
    (
        Call {
            verdict,
            fuel,
            started: true,
            logs_dropped,
        },
        exchange,
        ready,
    )
}
