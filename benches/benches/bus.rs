//! ron-bus against a raw tokio channel in the same run: ratios, losses, latencies, exact allocations.
//!
//! `cargo bench -p arqon-benches --bench bus` prints the figures and checks what must hold on any machine
//! (allocations, conservation); `-- --json F` also writes them for `tests/bus_gates.py`. `BUS_BENCH=short`
//! runs a tenth; a word (`alloc calls single throughput latency many`) picks a part. `-- --steps raw|publish|raw-held|publish-held N` sends N times
//! and does nothing else, for a count of instructions from outside. Ids B1 to B10 are those of `docs/bus/performance.md`. Figures are medians of paired rounds.

#[path = "bus/alloc.rs"]
mod alloc;
#[path = "bus/calls.rs"]
mod calls;
#[path = "bus/figures.rs"]
mod figures;
#[path = "bus/latency.rs"]
mod latency;
#[path = "bus/pauses.rs"]
mod pauses;
#[path = "bus/single.rs"]
mod single;
#[path = "bus/throughput.rs"]
mod throughput;

use figures::Figures;

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if !args
        .iter()
        .skip(1)
        .any(|arg| ["--bench", "--json", "--steps"].contains(&arg.as_str()))
    {
        println!("0 passed, 0 failed: this is no test; `cargo bench` runs it");
        return;
    }
    if let Some(at) = args.iter().position(|arg| arg == "--steps") {
        let times = args.get(at + 2).and_then(|times| times.parse().ok());
        single::steps(&args[at + 1], times.expect("--steps WAY TIMES"));
        return;
    }
    let json = args
        .iter()
        .position(|arg| arg == "--json")
        .and_then(|at| args.get(at + 1));
    let short = std::env::var("BUS_BENCH").is_ok_and(|mode| mode == "short");
    let mut figures = Figures::default();
    let parts = ["alloc", "calls", "single", "throughput", "latency", "many"];
    let asked = |part: &str| args.iter().any(|arg| arg == part);
    for part in parts
        .into_iter()
        .filter(|part| asked(part) || !parts.into_iter().any(asked))
    {
        match part {
            "alloc" => alloc::run(&mut figures),
            "calls" => calls::run(&mut figures, short),
            "single" => single::run(&mut figures, short),
            "throughput" => throughput::run(&mut figures, short),
            "latency" => latency::run(&mut figures, short),
            _ => latency::many(&mut figures, short),
        }
    }
    if let Some(path) = json {
        figures.write(path);
    }
    figures.finish();
}
