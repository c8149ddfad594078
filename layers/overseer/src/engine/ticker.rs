//! The clock of the deadlines: one thread that raises every shard's epoch once a millisecond.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use wasmtime::{Engine, EngineWeak};

/// The length of an epoch.
pub(super) const TICK: Duration = Duration::from_millis(1);

/// Late by more than this many ticks, the rest is forgiven: the machine slept, no guest did.
const CATCH_UP_MAX: u32 = 50;

#[derive(Debug)]
pub(super) struct Ticker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Starts the thread. It holds the engines weakly and ends when the ticker is dropped.
    pub(super) fn start(engines: &[Engine]) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let engines: Vec<_> = engines.iter().map(Engine::weak).collect();
        let thread = thread::Builder::new()
            .name("overseer-epoch".into())
            .spawn(move || tick(&engines, &stopped))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic there has been printed already, and nothing more can come of it here.
            drop(thread.join());
        }
    }
}

fn tick(engines: &[EngineWeak], stop: &AtomicBool) {
    let mut due = Instant::now() + TICK;
    while !stop.load(Ordering::Acquire) {
        thread::park_timeout(due.saturating_duration_since(Instant::now()));
        let mut caught_up = 0;
        while Instant::now() >= due {
            due += TICK;
            caught_up += 1;
            if caught_up > CATCH_UP_MAX {
                due = Instant::now() + TICK;
            }
            for engine in engines.iter().filter_map(EngineWeak::upgrade) {
                engine.increment_epoch();
            }
        }
    }
}
