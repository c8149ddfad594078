use std::time::Instant;

use bytes::Bytes;
use http::Request;

use super::*;
use crate::{
    OverseerConfig, PolicyConfig,
    assemble::{loader, read_and_load},
    exchange::{Exchange, Lent},
    verify::Loader,
};

/// Denies unless its memory is as it was made, then soils it.
const SOILS: &str = r#"(module
  (memory (export "memory") 1)
  (global (export "arqon_abi_v1") i32 (i32.const 1))
  (func (export "on_request") (result i32)
    (if (i32.load (i32.const 64)) (then (return (i32.const 1))))
    (i32.store (i32.const 64) (i32.const -1))
    (i32.const 0)))"#;

fn load(standby: usize, wat: &'static str) -> (Loader, Arc<Loaded>, Budget) {
    let config = OverseerConfig {
        standby,
        shards: 2,
        concurrency: 4,
        deadline: Some("5s".to_owned()),
        ..OverseerConfig::of([PolicyConfig::from_module("p", wat)])
    };
    let (loader, parsed) = loader(config.parse().unwrap()).unwrap();
    let spec = &parsed.policies[0];
    let (report, loaded) = read_and_load(&loader, spec);
    assert!(report.ok, "{report}");
    (loader, Arc::new(loaded.unwrap()), spec.budget)
}

/// Waits until `holds`, for what another thread is about to do.
fn eventually(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "{what} never came about"
        );
        thread::yield_now();
    }
}

fn exchange() -> Lent {
    Lent::new(Exchange::request(
        Request::new(()).into_parts().0,
        Some(Bytes::new()),
    ))
}

#[test]
fn queues_fill_for_the_chain_and_empty_when_the_module_leaves_it() {
    let (loader, loaded, budget) = load(4, SOILS);
    assert_eq!(
        loaded.standby.len(0) + loaded.standby.len(1),
        0,
        "nothing stands by before it is asked for"
    );
    loader.refill.stand_by(&[(Arc::clone(&loaded), budget)]);
    eventually("a full queue", || {
        loaded.standby.len(0) == 4 && loaded.standby.len(1) == 4
    });
    loader.refill.stand_by(&[]);
    loaded.standby.close();
    assert_eq!(loaded.standby.len(0) + loaded.standby.len(1), 0);
    loaded.standby.push(
        0,
        run::instantiate(&loader.engine, 0, &loaded, Phase::Request, budget).unwrap(),
    );
    assert_eq!(loaded.standby.len(0), 0, "late comers are dropped");
}

#[test]
fn standby_and_inline_give_the_same_verdict_and_fuel_and_nothing_is_used_twice() {
    let (loader, loaded, budget) = load(4, SOILS);
    let (inline, _) = loader.call(budget, &loaded, Phase::Request, Some(exchange()));
    loader.refill.stand_by(&[(Arc::clone(&loaded), budget)]);
    eventually("a full queue", || loaded.standby.len(loader.engine.shard()) == 4);
    for _ in 0..2_000 {
        let (call, _) = loader.call(budget, &loaded, Phase::Request, Some(exchange()));
        assert_eq!((call.verdict, call.fuel), (inline.verdict.clone(), inline.fuel));
    }
}

#[test]
fn the_threads_wake_after_a_long_sleep() {
    let (loader, loaded, budget) = load(2, SOILS);
    loader.refill.stand_by(&[(Arc::clone(&loaded), budget)]);
    let shard = loader.engine.shard();
    eventually("sleep", || {
        loader.refill.workers[shard]
            .shop
            .desk
            .asleep
            .load(Ordering::Relaxed)
    });
    assert_eq!(loaded.standby.len(shard), 2);
    drop(loader.call(budget, &loaded, Phase::Request, Some(exchange())));
    eventually("a full queue", || loaded.standby.len(shard) == 2);
}

#[test]
fn dropping_the_loader_ends_the_threads() {
    let (loader, loaded, budget) = load(2, SOILS);
    loader.refill.stand_by(&[(Arc::clone(&loaded), budget)]);
    let desk = Arc::downgrade(&loader.refill.workers[0].shop);
    drop(loader);
    assert!(desk.upgrade().is_none());
}

#[test]
fn without_standby_there_is_no_thread() {
    let (loader, loaded, budget) = load(0, SOILS);
    assert!(!loader.refill.is_on());
    let (call, _) = loader.call(budget, &loaded, Phase::Request, Some(exchange()));
    assert!(call.started);
}
