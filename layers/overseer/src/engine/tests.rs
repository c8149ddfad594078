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
fn fuel_per_millisecond_is_within_reason() {
    let rate = Engine::new(settings()).unwrap().fuel_per_ms().unwrap();
    assert!((500_000..=20_000_000).contains(&rate), "{rate}");
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
