//! The clock of the deadlines: one thread that raises every shard's epoch once a millisecond.

use std::{
    fmt, io,
    sync::{
        Arc, Mutex, PoisonError,
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

pub(super) struct Ticker {
    stop: Arc<AtomicBool>,
    engines: Arc<Mutex<Vec<EngineWeak>>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Starts the thread. It holds the engines weakly and ends when the ticker is dropped.
    pub(super) fn start(engines: &[Engine]) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let engines = Arc::new(Mutex::new(engines.iter().map(Engine::weak).collect()));
        let ticked = Arc::clone(&engines);
        let thread = thread::Builder::new()
            .name("overseer-epoch".into())
            .spawn(move || tick(&ticked, &stopped))?;
        Ok(Self {
            stop,
            engines,
            thread: Some(thread),
        })
    }

    /// Raises the epoch of these, too, from now on.
    pub(super) fn add(&self, engines: &[Engine]) {
        let mut ticked = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        ticked.extend(engines.iter().map(Engine::weak));
    }
}

impl fmt::Debug for Ticker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticker")
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

fn tick(engines: &Mutex<Vec<EngineWeak>>, stop: &AtomicBool) {
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
            let engines = engines.lock().unwrap_or_else(PoisonError::into_inner);
            for engine in engines.iter().filter_map(EngineWeak::upgrade) {
                engine.increment_epoch();
            }
        }
    }
}
