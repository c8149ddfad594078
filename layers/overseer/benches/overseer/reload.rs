//! A module put in another's place: how long, and what stays in memory after a thousand of them.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use arqon_overseer::{OverseerConfig, OverseerLayer};

use crate::guests::{BLOCK_ME, config, median};

pub(crate) fn run(short: bool) {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let versions = [
        BLOCK_ME.to_owned(),
        BLOCK_ME.replace("i32.const 16", "i32.const 32"),
    ];
    println!("## reload: ms of wall clock a module, and MiB resident");
    for (name, kept, shards) in [
        ("compiled each time, 1 shard", false, 1),
        ("kept compiled, 1 shard", true, 1),
        ("kept compiled, 2 shards", true, 2),
    ] {
        let available = cfg!(feature = "cache");
        let config = OverseerConfig {
            cache_dir: (kept && available).then(|| folder.path().to_owned()),
            ..config(32, shards)
        };
        let (layer, handle) = OverseerLayer::channel(config).unwrap();
        let reload = |count: usize| {
            let mut took = Vec::with_capacity(count);
            for at in 0..count {
                let module = versions[at % 2].clone();
                let begun = Instant::now();
                runtime
                    .block_on(handle.replace("block_me", module.into()))
                    .unwrap();
                took.push(begun.elapsed().as_secs_f64() * 1_000.0);
                // What stood by of the last one is gone, and of this one stands by.
                thread::sleep(Duration::from_millis(3));
            }
            took
        };
        drop(reload(50));
        let before = resident();
        let count = std::env::var("OVERSEER_RELOADS")
            .ok()
            .and_then(|count| count.parse().ok());
        let mut took = reload(count.unwrap_or(if short { 100 } else { 1_000 }));
        let after = resident();
        println!(
            "{name:<28} p50 {:>6.3}  best {:>6.3}  p99 {:>7.3}; {before:.1} MiB before, {after:.1} after {}",
            median(&mut took),
            took[0],
            took[took.len() * 99 / 100],
            took.len(),
        );
        drop(layer);
    }
    if !cfg!(feature = "cache") {
        println!("(without the feature `cache` nothing is kept)");
    }
}

/// Resident memory of the process in MiB.
fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok())
        .unwrap_or(0.0)
        / 1_024.0
}
