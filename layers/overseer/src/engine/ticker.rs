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

/// The ticker's, if it may have one: threads are at 0, less goes first.
#[cfg(target_os = "linux")]
const PRIORITY: i32 = -20;

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

/// Where the kernel deals out cores by priority, a clock that works for microseconds goes before what it is to stop: where
/// there are more threads than cores it came late by as much as one of them may run at a time, and with it every deadline.
/// It takes the right to (`CAP_SYS_NICE`); without it the clock is a thread like the others.
fn hasten() {
    #[cfg(target_os = "linux")]
    {
        // On Linux a priority is a thread's, and this is who asks.
        let _refused: rustix::io::Result<()> = rustix::process::setpriority_process(None, PRIORITY);
    }
}

fn tick(engines: &Mutex<Vec<EngineWeak>>, stop: &AtomicBool) {
    hasten();
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
