//! What the gateway costs, over sockets and in one run: bare axum, the usual tower-http stack and the built gateway with
//! everything on, each a process of its own that takes turns on the same core, the client on another.
//!
//! `cargo bench -p arqon-gateway --bench edge` prints three figures with what is wanted of them; `-- short` runs a third of
//! the rounds, `-- gate` fails where one does not hold, `-- profile SECONDS` only keeps the gateway busy, for a profiler.
//!
//! The request is a POST of 1 KiB of Protobuf with a trace of its own; in the gateway one policy looks at it, one contract
//! holds it to its schema, half of the traces get a variant and a tenth is mirrored. Linux only: `/proc` and `taskset`.

#[path = "edge/client.rs"]
mod client;
#[path = "edge/platform.rs"]
mod platform;
#[path = "edge/servers.rs"]
mod servers;

use std::{process::ExitCode, time::Duration};

use self::{
    client::Client,
    servers::{Kind, Server},
};

/// Connections at which requests are counted.
const CONNECTIONS: usize = 64;
/// The share of bare axum's requests per second that is wanted at least.
const SHARE_MIN: f64 = 0.65;
/// What may be added to the median of one request, in microseconds.
const ADDED_MAX: f64 = 10.0;
const BUSY: Duration = Duration::from_millis(1_000);
const ALONE: Duration = Duration::from_millis(700);

/// The gateway's own, so that the servers it is compared with have it too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| args.iter().any(|arg| arg == word);
    if let Some(at) = args.iter().position(|arg| arg == "--serve") {
        return servers::run(args.get(at + 1).map_or("", String::as_str));
    }
    if !has("--bench") {
        println!("0 passed, 0 failed: this is no test; `cargo bench` runs it");
        return ExitCode::SUCCESS;
    }
    servers::pin_myself();
    if let Some(at) = args.iter().position(|arg| arg == "profile") {
        let seconds = args.get(at + 1).and_then(|text| text.parse().ok()).unwrap_or(10);
        return profile(Duration::from_secs(seconds));
    }
    measure(if has("short") { 5 } else { 15 }, has("gate"))
}

fn profile(time: Duration) -> ExitCode {
    let server = Server::start(Kind::Gateway);
    let client = Client::new(server.address);
    println!("the gateway's process is {}", server.id());
    let count = client.busy(CONNECTIONS, time);
    println!("{count} requests");
    ExitCode::SUCCESS
}

/// What one server did, a value a round.
#[derive(Default)]
struct Seen {
    rate: Vec<f64>,
    cpu_us: Vec<f64>,
    used: Vec<f64>,
    p50_us: Vec<f64>,
}

fn measure(rounds: usize, gate: bool) -> ExitCode {
    let servers = Kind::ALL.map(Server::start);
    let clients: Vec<_> = servers.iter().map(|server| Client::new(server.address)).collect();
    for client in &clients {
        client.busy(CONNECTIONS, BUSY / 2);
        client.alone(ALONE / 4);
    }
    let mut seen = Kind::ALL.map(|_| Seen::default());
    for round in 0..rounds {
        for at in 0..servers.len() {
            // Each is first in its turn.
            let at = (at + round) % servers.len();
            let (server, client, seen) = (&servers[at], &clients[at], &mut seen[at]);
            let before = server.cpu();
            let count = client.busy(CONNECTIONS, BUSY) as f64;
            let cpu = (server.cpu() - before).as_secs_f64();
            seen.rate.push(count / BUSY.as_secs_f64());
            seen.cpu_us.push(cpu * 1e6 / count);
            seen.used.push(cpu / BUSY.as_secs_f64());
            seen.p50_us.push(client.alone(ALONE));
        }
    }
    println!("\n{rounds} rounds in turn, medians; servers {}", servers::PLACES);
    println!(
        "{:<40} {:>12} {:>14} {:>10} {:>12}",
        "", "requests/s", "CPU us/request", "CPU used", "p50 us at 1"
    );
    for (kind, seen) in Kind::ALL.iter().zip(&seen) {
        println!(
            "{:<40} {:>12.0} {:>14.2} {:>9.0}% {:>12.1}",
            kind.title(),
            median(&seen.rate),
            median(&seen.cpu_us),
            median(&seen.used) * 100.0,
            median(&seen.p50_us)
        );
    }
    println!(
        "\nof the gateway's requests: {}",
        servers[Kind::Gateway as usize].account()
    );

    let [bare, usual, gateway] = &seen;
    let of = |own: &[f64], other: &[f64], how: fn(f64, f64) -> f64| {
        median(
            &own.iter()
                .zip(other)
                .map(|(own, other)| how(*own, *other))
                .collect::<Vec<_>>(),
        )
    };
    let share = of(&gateway.rate, &bare.rate, |own, bare| own / bare);
    let added = of(&gateway.p50_us, &bare.p50_us, |own, bare| own - bare);
    let cost = of(&gateway.cpu_us, &usual.cpu_us, |own, usual| own / usual);
    let holds = [share >= SHARE_MIN, added <= ADDED_MAX, cost < 1.0];
    let word = |holds: bool| if holds { "holds" } else { "DOES NOT HOLD" };
    println!(
        "requests/s of bare axum at {CONNECTIONS} connections: {share:.3} (wanted: at least {SHARE_MIN}): {}",
        word(holds[0])
    );
    println!(
        "added to bare axum's p50 at one connection: {added:.1} us (wanted: at most {ADDED_MAX}): {}",
        word(holds[1])
    );
    println!(
        "CPU per request of the usual tower-http stack: {cost:.3} (wanted: less than 1): {}",
        word(holds[2])
    );
    if gate && holds.contains(&false) {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
