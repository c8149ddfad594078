use std::time::Instant;

use bytes::Bytes;
use http::Request;

use super::*;
use crate::{
    OverseerConfig, PolicyConfig,
    assemble::{loader, read_and_load},
    exchange::Lent,
    verdict::{Cause, Verdict},
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
    Lent::request(Request::new(()).into_parts().0, Some(Bytes::new()))
}

#[test]
fn queues_fill_for_the_chain_and_empty_when_the_module_leaves_it() {
    let (loader, loaded, budget) = load(4, SOILS);
    assert_eq!(
        loaded.standby.len(0) + loaded.standby.len(1),
        0,
        "nothing stands by before it is asked for"
    );
    loader.refill.stand_by(&[(Arc::clone(&loaded), budget)], &[]);
    eventually("a full queue", || {
        loaded.standby.len(0) == 4 && loaded.standby.len(1) == 4
    });
    loader.refill.stand_by(&[], &[]);
    eventually("empty queues", || {
        loaded.standby.len(0) + loaded.standby.len(1) == 0
    });
    loaded.standby.push(
        0,
        4,
        run::instantiate(&loader.engine, 0, &loaded, Phase::Request, Role::Active, budget).unwrap(),
    );
    assert_eq!(loaded.standby.len(0), 0, "late comers are dropped");
}

#[test]
fn standby_and_inline_give_the_same_verdict_and_fuel_and_nothing_is_used_twice() {
    let (loader, loaded, budget) = load(4, SOILS);
    let (inline, _) = loader.call(budget, &loaded, Phase::Request, Role::Active, Some(exchange()));
    loader.refill.stand_by(&[(Arc::clone(&loaded), budget)], &[]);
    eventually("a full queue", || loaded.standby.len(loader.engine.shard()) == 4);
    for _ in 0..2_000 {
        let (call, _) = loader.call(budget, &loaded, Phase::Request, Role::Active, Some(exchange()));
        assert_eq!((call.verdict, call.fuel), (inline.verdict.clone(), inline.fuel));
    }
}

#[test]
fn the_thread_wakes_after_a_long_sleep() {
    let (loader, loaded, budget) = load(2, SOILS);
    loader.refill.stand_by(&[(Arc::clone(&loaded), budget)], &[]);
    let shard = loader.engine.shard();
    eventually("a full queue", || loaded.standby.len(shard) == 2);
    eventually("sleep", || loader.refill.keeper.asleep.load(Ordering::Relaxed));
    assert_eq!(loaded.standby.len(shard), 2);
    drop(loader.call(budget, &loaded, Phase::Request, Role::Active, Some(exchange())));
    eventually("a full queue", || loaded.standby.len(shard) == 2);
}

#[test]
fn what_left_the_chain_is_dropped_by_the_thread_once_nobody_holds_it() {
    let (loader, loaded, budget) = load(4, SOILS);
    loader.refill.stand_by(&[(Arc::clone(&loaded), budget)], &[]);
    loader.refill.stand_by(&[], &[]);
    let module = Arc::downgrade(&loaded);
    eventually("empty queues", || {
        loaded.standby.len(0) + loaded.standby.len(1) == 0
    });
    drop(loaded);
    assert!(module.upgrade().is_some(), "whoever lets it go last does not pay");
    eventually("its end", || module.upgrade().is_none());
}

#[tokio::test]
async fn on_a_runtime_a_task_makes_up_for_what_was_taken() {
    let (loader, loaded, budget) = load(8, SOILS);
    loader.refill.stand_by(&[(Arc::clone(&loaded), budget)], &[]);
    let shard = loader.engine.shard();
    eventually("a full queue", || loaded.standby.len(shard) == 8);
    let shop = Arc::clone(&loader.refill.shops[shard]);
    eventually("sleep", || loader.refill.keeper.asleep.load(Ordering::Relaxed));
    let mut calls = 0;
    while !shop.desk.called.load(Ordering::Relaxed) {
        drop(loader.call(budget, &loaded, Phase::Request, Role::Active, Some(exchange())));
        calls += 1;
    }
    assert!(calls >= shop.batch, "a turn is for a batch: {calls}");
    while shop.desk.called.load(Ordering::Relaxed) {
        tokio::task::yield_now().await;
    }
    assert_eq!(loaded.standby.len(shard), 8);
    assert!(lock(&shop.desk.used).is_empty());
}

#[test]
fn a_task_that_never_ran_does_not_keep_the_next_from_being_asked_for() {
    let (loader, loaded, budget) = load(2, SOILS);
    loader.refill.stand_by(&[(Arc::clone(&loaded), budget)], &[]);
    let shard = loader.engine.shard();
    let shop = Arc::clone(&loader.refill.shops[shard]);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        drop(loader.call(budget, &loaded, Phase::Request, Role::Active, Some(exchange())));
        assert!(shop.desk.called.load(Ordering::Relaxed));
    });
    drop(runtime);
    assert!(!shop.desk.called.load(Ordering::Relaxed));
}

#[test]
fn dropping_the_loader_ends_the_thread() {
    let (loader, loaded, budget) = load(2, SOILS);
    loader.refill.stand_by(&[(Arc::clone(&loaded), budget)], &[]);
    let desk = Arc::downgrade(&loader.refill.shops[0]);
    drop(loader);
    assert!(desk.upgrade().is_none());
}

#[test]
fn without_standby_there_is_no_thread() {
    let (loader, loaded, budget) = load(0, SOILS);
    assert!(!loader.refill.is_on());
    let (call, _) = loader.call(budget, &loaded, Phase::Request, Role::Active, Some(exchange()));
    assert!(call.started);
}

#[test]
fn a_candidate_that_was_taken_away_is_dropped_by_the_thread() {
    let (loader, loaded, _) = load(1, SOILS);
    loader.refill.stand_by(&[], std::slice::from_ref(&loaded));
    loader.refill.stand_by(&[], &[]);
    assert!(
        Arc::strong_count(&loaded) >= 2,
        "whoever drops the last snapshot with it does not drop the module"
    );
    let gone = Arc::downgrade(&loaded);
    drop(loaded);
    eventually("the drop", || gone.strong_count() == 0);
}

/// A policy of these definitions and this `on_request`.
fn policy(definitions: &str, body: &str) -> &'static str {
    let wat = format!(
        r#"(module
  (memory (export "memory") 1 2)
  (global (export "arqon_abi_v1") i32 (i32.const 1))
  {definitions}
  (func (export "on_request") (result i32) {body}))"#
    );
    // Tests load few.
    wat.leak()
}

/// Calls it often: the verdict, which is the same each time, and how often the instance had been called at most that stood by
/// before a call.
fn call_often(wat: &'static str) -> (Verdict, u32) {
    let (loader, loaded, budget) = load(4, wat);
    loader.refill.stand_by(&[(Arc::clone(&loaded), budget)], &[]);
    let shard = loader.engine.shard();
    let call = || {
        loader
            .call(budget, &loaded, Phase::Request, Role::Active, Some(exchange()))
            .0
    };
    let first = call();
    let mut most = 0;
    for _ in 0..1_000 {
        eventually("an instance that stands by", || loaded.standby.len(shard) > 0);
        let next = call();
        assert_eq!((&next.verdict, next.fuel), (&first.verdict, first.fuel), "{wat}");
        // The thread makes one for the call it is in the middle of, so the one on top may be new though others were put back.
        most = loaded.standby.most_calls(shard).max(most);
    }
    (first.verdict, most)
}

#[test]
fn an_instance_with_nothing_but_its_memory_is_put_back_and_no_call_sees_the_one_before() {
    for wat in [
        SOILS,
        // What a segment wrote is written again.
        policy(
            r#"(data (i32.const 64) "abcd")"#,
            "(if (i32.ne (i32.load (i32.const 64)) (i32.const 0x64636261)) (then (return (i32.const 1))))
             (i32.store (i32.const 64) (i32.const -1)) (i32.store (i32.const 65532) (i32.const -1)) (i32.load (i32.const 60000))",
        ),
    ] {
        let (verdict, calls) = call_often(wat);
        assert_eq!(verdict, Verdict::Allow, "{wat}");
        assert!(calls > 0, "{wat}");
    }
}

#[test]
fn what_a_call_may_ask_of_the_host_is_the_same_in_an_instance_that_was_put_back() {
    let edits =
        r#"(import "arqon_host_v1" "host_set_header" (func $set (param i32 i32 i32 i32) (result i32)))"#;
    let wat = policy(
        r#"(data (i32.const 8) "x-name")"#,
        "(local $i i32)
         (loop $again
           (if (call $set (i32.const 8) (i32.const 6) (i32.const 8) (i32.const 6)) (then (return (i32.const 1))))
           (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 32))))
         (i32.const 0)",
    );
    let wat = wat.replace("(module", &format!("(module {edits}")).leak();
    let (verdict, calls) = call_often(wat);
    assert_eq!(verdict, Verdict::Allow);
    assert!(calls > 0);
}

/// Who is not stopped by the clock runs out of fuel.
const SOON: Budget = Budget {
    fuel: 20_000_000_000,
    deadline: Duration::from_millis(20),
};

/// Loops for ever if there is a payload.
const LOOPS: &str = r#"(module
  (import "arqon_host_v1" "host_payload_len" (func $len (result i32)))
  (memory (export "memory") 1)
  (global (export "arqon_abi_v1") i32 (i32.const 1))
  (func (export "on_request") (result i32)
    (if (call $len) (then (loop $again (br $again))))
    (i32.const 0)))"#;

/// Calls an instance with this payload: the verdict, and the instance.
fn call_with(ready: Box<Ready<State>>, body: &'static [u8], budget: Budget) -> (Verdict, Box<Ready<State>>) {
    let request = Request::new(()).into_parts().0;
    let exchange = Lent::request(request, Some(Bytes::from_static(body)));
    let (call, _, ready) = run::call(ready, Phase::Request, Some(exchange), budget);
    (call.verdict, ready)
}

fn made(loader: &Loader, loaded: &Loaded, budget: Budget) -> Box<Ready<State>> {
    run::instantiate(&loader.engine, 0, loaded, Phase::Request, Role::Active, budget).unwrap()
}

#[test]
fn a_guest_that_loops_is_stopped_by_the_clock_whichever_pool_its_memory_is_of() {
    for pages in [1, 3] {
        let wat = LOOPS.replace("\"memory\") 1", &format!("\"memory\") {pages}"));
        let (loader, loaded, _) = load(0, wat.leak());
        let (verdict, _) = call_with(made(&loader, &loaded, SOON), b"a", SOON);
        assert!(
            matches!(verdict, Verdict::Fail(Cause::Deadline, _)),
            "{pages}: {verdict:?}"
        );
    }
}

#[test]
fn a_call_that_was_looked_at_once_is_looked_at_again_when_it_is_late() {
    let config = OverseerConfig::of([PolicyConfig::from_module("p", LOOPS)]);
    let mut parsed = config.parse().unwrap();
    // The clock's own look, but for the first, would come in an hour.
    parsed.settings.rest = Duration::from_secs(3_600);
    let (loader, parsed) = loader(parsed).unwrap();
    let loaded = read_and_load(&loader, &parsed.policies[0]).1.unwrap();
    let budget = Budget {
        fuel: 500_000_000,
        ..SOON
    };
    let stopped = || {
        let ready = made(&loader, &loaded, budget);
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(budget.deadline / 2);
                loader.engine.looks().want(quanta::Instant::now());
            });
            let (verdict, _) = call_with(ready, b"a", budget);
            matches!(verdict, Verdict::Fail(Cause::Deadline, _))
        })
    };
    // It may not have begun by the one look that it is given.
    assert!((0..20).any(|_| stopped()));
}

#[test]
fn an_instance_that_was_put_back_has_its_whole_deadline_and_no_more() {
    let (loader, loaded, _) = load(0, LOOPS);
    let (verdict, ready) = call_with(made(&loader, &loaded, SOON), b"", SOON);
    assert_eq!(verdict, Verdict::Allow);
    let mut spent = Spent {
        ready: Some(ready),
        ran: None,
    };
    let ready = spent.renewed(&loaded).unwrap();
    thread::sleep(2 * SOON.deadline);
    let begun = Instant::now();
    let (verdict, _) = call_with(ready, b"a", SOON);
    assert!(
        matches!(verdict, Verdict::Fail(Cause::Deadline, _)),
        "{verdict:?}"
    );
    assert!(begun.elapsed() >= SOON.deadline);
}

#[test]
fn an_instance_that_keeps_something_elsewhere_is_made_anew() {
    let kept = [
        (
            "(global $g (mut i32) (i32.const 0))",
            "(global.get $g) (global.set $g (i32.const 1))",
        ),
        (
            "(table $t 2 funcref) (func $f) (elem (i32.const 1) $f)",
            "(i32.eqz (ref.is_null (table.get $t (i32.const 0)))) (table.set $t (i32.const 0) (table.get $t (i32.const 1)))",
        ),
        (
            r#"(data $d "\01")"#,
            "(memory.init $d (i32.const 8) (i32.const 0) (i32.const 1)) (data.drop $d) (i32.const 0)",
        ),
        ("(func $f) (start $f)", "(i32.const 0)"),
        (r#"(func (export "_initialize"))"#, "(i32.const 0)"),
    ];
    for (definitions, body) in kept {
        let wat = policy(definitions, body);
        assert_eq!(call_often(wat), (Verdict::Allow, 0), "{wat}");
    }
}

#[test]
fn a_memory_of_three_pages_is_not_put_back_whether_or_not_there_is_a_scan() {
    for pagemap_scan in [true, false] {
        for (pages, put_back) in [(2, true), (3, false), (64, false)] {
            let wat = policy("", "(i32.const 0)").replace("1 2)", &format!("{pages})"));
            let config = OverseerConfig {
                pagemap_scan,
                ..OverseerConfig::of([PolicyConfig::from_module("p", wat)])
            };
            let (loader, parsed) = loader(config.parse().unwrap()).unwrap();
            let (report, loaded) = read_and_load(&loader, &parsed.policies[0]);
            let image = loaded.unwrap_or_else(|| panic!("{report}")).image;
            assert_eq!(image.is_some(), put_back, "{pages} pages, scan {pagemap_scan}");
        }
    }
}

#[test]
fn an_instance_whose_memory_grew_or_whose_call_did_not_end_is_made_anew() {
    let grows = "(i32.ne (memory.grow (i32.const 1)) (i32.const 1))";
    assert_eq!(call_often(policy("", grows)), (Verdict::Allow, 0));
    let traps = "(if (i32.load (i32.const 64)) (then (return (i32.const 1))))
                 (i32.store (i32.const 64) (i32.const -1)) unreachable";
    let (verdict, calls) = call_often(policy("", traps));
    assert!(matches!(verdict, Verdict::Fail(..)), "{verdict:?}");
    assert_eq!(calls, 0);
    let rejects = r#"(import "arqon_host_v1" "host_reject" (func $reject (param i32 i32 i32)))"#;
    let wat = policy(
        "",
        "(call $reject (i32.const 403) (i32.const 0) (i32.const 0)) (i32.const 0)",
    );
    let wat = wat.replace("(module", &format!("(module {rejects}")).leak();
    let (verdict, calls) = call_often(wat);
    assert!(matches!(verdict, Verdict::Deny(_)), "{verdict:?}");
    assert_eq!(calls, 0);
}

#[test]
fn an_instance_of_a_module_that_was_replaced_is_never_called_for_the_next_one() {
    let (loader, loaded, budget) = load(4, SOILS);
    // The same policy, and so the same guest, with another module.
    let spec = OverseerConfig::of([PolicyConfig::from_module("p", policy("", "(i32.const 1)"))]);
    let spec = &spec.parse().unwrap().policies[0];
    let (report, next) = read_and_load(&loader, spec);
    assert!(report.ok, "{report}");
    let mut next = next.unwrap();
    next.guest = Arc::clone(&loaded.guest);
    let next = Arc::new(next);
    let used = |phase, role| {
        let (_, _, used) = loader.call_and_keep(budget, &loaded, phase, role, Some(exchange()));
        Spent {
            ready: used.map(|used| used.ready),
            ran: None,
        }
    };
    let mut spent = used(Phase::Request, Role::Active);
    assert!(spent.renewed(&next).is_none(), "another module's");
    assert!(spent.renewed(&loaded).is_some(), "its own");
    assert!(spent.renewed(&loaded).is_none(), "it is taken");
    assert!(used(Phase::Request, Role::Candidate).renewed(&loaded).is_none());
}

#[test]
fn an_instance_that_was_made_for_a_response_is_never_called_for_a_request() {
    let response = r#"(func (export "on_response") (result i32) (i32.const 0))"#;
    let (loader, loaded, budget) = load(0, policy(response, "(i32.const 0)"));
    for (phase, put_back) in [(Phase::Response, false), (Phase::Request, true)] {
        let (call, _, used) = loader.call_and_keep(budget, &loaded, phase, Role::Active, Some(exchange()));
        assert_eq!(call.verdict, Verdict::Allow);
        let mut spent = Spent {
            ready: used.map(|used| used.ready),
            ran: None,
        };
        assert_eq!(spent.renewed(&loaded).is_some(), put_back, "{phase:?}");
    }
}
