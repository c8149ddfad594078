//! On and off in one process: the mirror's share is switched between short rounds of one load that never stops, so that what
//! two processes, two starts or two sets of connections differ by is in no ratio.
//!
//! Three rounds make a block, in any order: off, on, and off again, which shows what equal rounds differ by.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::body::Bytes;
use http::Request;
use http_body_util::Full;

use crate::{
    Error, Options,
    load::{Client, Plan, mix},
};

/// After a switch, before anything counts.
const SETTLE: Duration = Duration::from_millis(50);
const KINDS: [&str; 3] = ["off", "on", "off again"];

/// What all connections look at.
struct Rounds {
    plan: Plan,
    /// The round that counts now, from 1; 0: none does.
    now: AtomicUsize,
    over: AtomicBool,
}

/// One round, over.
struct Round {
    kind: usize,
    seconds: f64,
    /// Processor time of the server, in seconds.
    worked: f64,
    /// A request each, in nanoseconds.
    taken: Vec<u64>,
}

pub(crate) async fn run(options: &Options) -> Result<(), Error> {
    let target = options.text("target")?.to_owned();
    let length = Duration::from_secs_f64(options.get("seconds", 0.4)?);
    let (blocks, share) = (options.get("blocks", 60_usize)?, options.text("percent")?);
    let server = PathBuf::from(format!("/proc/{}/task", options.text("pid")?));
    let rounds = Arc::new(Rounds {
        plan: Plan::endless(options.get("first", u64::from(std::process::id()))?),
        now: AtomicUsize::new(0),
        over: AtomicBool::new(false),
    });
    let workers: Vec<_> = (0..options.get("connections", 32)?)
        .map(|_| tokio::spawn(work(target.clone(), Arc::clone(&rounds))))
        .collect();
    let mut operator = Client::new(target);
    let mut done = Vec::new();
    for block in 0..blocks {
        for kind in order(block as u64) {
            let share = if KINDS[kind] == "on" { share } else { "0" };
            let order = Request::post(format!("/share/{share}")).body(Full::new(Bytes::new()))?;
            if !operator.exchange(order).await? {
                return Err("the share was not set".into());
            }
            tokio::time::sleep(SETTLE).await;
            let (before, begun) = (worked(&server)?, Instant::now());
            rounds.now.store(done.len() + 1, Ordering::Relaxed);
            tokio::time::sleep(length).await;
            rounds.now.store(0, Ordering::Relaxed);
            done.push(Round {
                kind,
                seconds: begun.elapsed().as_secs_f64(),
                worked: worked(&server)? - before,
                taken: Vec::new(),
            });
        }
    }
    rounds.over.store(true, Ordering::Relaxed);
    let mut failed = 0_u64;
    for worker in workers {
        let (taken, errors) = worker.await??;
        failed += errors;
        for (round, nanos) in taken {
            done[round - 1].taken.push(nanos);
        }
    }
    println!("{{\"failed\":{failed},\"rounds\":[");
    let lines: Vec<_> = done.iter_mut().map(Round::line).collect();
    println!("{}]}}", lines.join(",\n"));
    Ok(())
}

impl Round {
    fn line(&mut self) -> String {
        self.taken.sort_unstable();
        let (taken, count) = (&self.taken, self.taken.len() as f64);
        let at = |share: f64| {
            taken
                .get((count * share) as usize)
                .map_or(0.0, |nanos| *nanos as f64 / 1e3)
        };
        format!(
            "{{\"kind\":\"{}\",\"per_second\":{:.1},\"p50_us\":{:.1},\"p99_us\":{:.1},\"cpu_us\":{:.4}}}",
            KINDS[self.kind],
            count / self.seconds,
            at(0.50),
            at(0.99),
            self.worked / count * 1e6
        )
    }
}

/// The rounds of a block, shuffled.
fn order(block: u64) -> [usize; 3] {
    const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    // Six blocks have each order once.
    ORDERS[((block + mix(block / 6)) % 6) as usize]
}

/// One connection: the round and the time of each request that began and ended in it, and how many failed.
async fn work(target: String, rounds: Arc<Rounds>) -> Result<(Vec<(usize, u64)>, u64), Error> {
    let (mut taken, mut failed) = (Vec::new(), 0);
    let mut client = Client::new(target);
    while let Some(number) = rounds
        .plan
        .take()
        .filter(|_| !rounds.over.load(Ordering::Relaxed))
    {
        let request = rounds.plan.request(number, client.target())?;
        let (round, begun) = (rounds.now.load(Ordering::Relaxed), Instant::now());
        failed += u64::from(!client.exchange(request).await?);
        if round != 0 && round == rounds.now.load(Ordering::Relaxed) {
            taken.push((round, begun.elapsed().as_nanos() as u64));
        }
    }
    Ok((taken, failed))
}

/// The processor time that a process has had.
fn worked(tasks: &std::path::Path) -> Result<f64, Error> {
    let mut nanos = 0;
    for task in std::fs::read_dir(tasks)? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        nanos += text
            .split_whitespace()
            .next()
            .ok_or("no schedstat")?
            .parse::<u64>()?;
    }
    Ok(nanos as f64 / 1e9)
}
