use super::*;

fn settings() -> Settings {
    Settings {
        shards: 2,
        concurrency: 2,
        standby: 0,
        slots: 4,
        slots_warm: 4,
        memory_bytes_max: 4 << 20,
        table_elements_max: 16,
        stack_bytes_max: 256 << 10,
        pagemap_scan: true,
        rest: REST_MAX,
        cache_dir: None,
    }
}

#[test]
fn the_tickers_thread_ends_with_the_engine() {
    let engine = Engine::new(settings()).unwrap();
    let pools = [Reset::Cleared, Reset::Scanned].map(|reset| engine.pools(reset).unwrap());
    let weak: Vec<_> = pools.concat().iter().map(wasmtime::Engine::weak).collect();
    // Dropping joins the thread, so that this returns at all shows that it ended.
    drop(engine);
    assert!(weak.iter().all(|engine| engine.upgrade().is_none()));
}

#[test]
fn whether_the_process_can_be_swapped_is_looked_at_for_each_module() {
    use std::sync::atomic::AtomicBool;

    static UNSWAPPABLE: AtomicBool = AtomicBool::new(true);
    let mut engine = Engine::new(settings()).unwrap();
    let look = || UNSWAPPABLE.load(Ordering::Relaxed);
    Arc::get_mut(&mut engine.inner).unwrap().scan = Scan::new(true, look);
    let resets = || [2, 3].map(|pages| engine.reset(pages));
    assert_eq!(resets(), [Reset::Cleared, Reset::Scanned]);
    UNSWAPPABLE.store(false, Ordering::Relaxed);
    assert_eq!(resets(), [Reset::Cleared, Reset::Cleared]);
    assert!(!engine.scans_in_vain(), "nothing was made that scans");
    engine.pools(Reset::Scanned).unwrap();
    assert!(engine.scans_in_vain());
    UNSWAPPABLE.store(true, Ordering::Relaxed);
    assert!(!engine.scans_in_vain());
    assert_eq!(resets(), [Reset::Cleared, Reset::Scanned]);
    let mut unwanted = Engine::new(settings()).unwrap();
    Arc::get_mut(&mut unwanted.inner).unwrap().scan = Scan::new(false, look);
    assert_eq!(unwanted.reset(3), Reset::Cleared);
}

#[test]
fn fuel_per_millisecond_is_within_reason() {
    let rate = Engine::new(settings()).unwrap().fuel_per_ms().unwrap();
    assert!((500_000..=20_000_000).contains(&rate), "{rate}");
}

#[test]
fn a_pool_without_a_free_slot_is_its_own_cause() {
    let slots = Settings {
        slots: 1,
        slots_warm: 1,
        ..settings()
    };
    let engine = Engine::new(slots).unwrap();
    for pool in [Reset::Cleared, Reset::Scanned] {
        let shard = &engine.pools(pool).unwrap()[0];
        let module = wasmtime::Module::new(shard, "(module (memory 1))").unwrap();
        let instance = || {
            let mut store = wasmtime::Store::new(shard, ());
            wasmtime::Instance::new(&mut store, &module, &[]).map(|_| store)
        };
        let first = instance().unwrap();
        let error = instance().map(drop).unwrap_err();
        assert_eq!(classify(&error, false), crate::verdict::Cause::Pool, "{error:?}");
        drop(first);
        instance().unwrap();
    }
}

#[test]
fn threads_are_dealt_out_over_the_shards() {
    let engine = Engine::new(settings()).unwrap();
    let shards: Vec<_> = (0..4)
        .map(|_| {
            let engine = engine.clone();
            std::thread::spawn(move || (engine.shard(), engine.shard()))
                .join()
                .unwrap()
        })
        .collect();
    assert!(
        shards.iter().all(|(first, again)| first == again && *first < 2),
        "a thread keeps its shard: {shards:?}"
    );
    assert_ne!(shards[0].0, shards[1].0);
}
