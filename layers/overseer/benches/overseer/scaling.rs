//! Two workers against one: requests a second, wall clock, each worker on a shard of its own.

use std::{
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use arqon_overseer::OverseerLayer;

use crate::guests::{config, request, service};

pub(crate) fn run(short: bool) {
    let (rounds, span) = if short { (3, 100) } else { (9, 300) };
    println!("## scaling: requests a second, the best of {rounds} x {span} ms, fresh instances made inline");
    for (name, shards) in [("a shard a worker", 2), ("one shard for all", 1)] {
        let (mut one, mut two) = (0.0_f64, 0.0_f64);
        for _ in 0..rounds {
            one = one.max(rate(1, shards, Duration::from_millis(span)));
            two = two.max(rate(2, shards, Duration::from_millis(span)));
        }
        println!("{name:<18} {one:>10.0} -> {two:>10.0}  x {:.2}", two / one);
    }
}

fn rate(workers: usize, shards: usize, span: Duration) -> f64 {
    let layer = OverseerLayer::new(config(0, shards)).unwrap();
    let (start, stop) = (
        Arc::new(Barrier::new(workers + 1)),
        Arc::new(AtomicBool::new(false)),
    );
    let workers: Vec<_> = (0..workers)
        .map(|_| {
            let (layer, start, stop) = (layer.clone(), Arc::clone(&start), Arc::clone(&stop));
            thread::spawn(move || {
                let mut run = service(&layer);
                run(request());
                start.wait();
                let mut done = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    run(request());
                    done += 1;
                }
                done
            })
        })
        .collect();
    start.wait();
    let begun = Instant::now();
    thread::sleep(span);
    stop.store(true, Ordering::Relaxed);
    let done: u64 = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
    done as f64 / begun.elapsed().as_secs_f64()
}
