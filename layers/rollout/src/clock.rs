//! Time as governance reads it: microseconds since the Unix epoch that never run backwards.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Tells the time in microseconds since the Unix epoch.
///
/// Two readings of one clock never go backwards.
pub trait Clock: Send + Sync + 'static {
    /// Microseconds since the Unix epoch.
    fn now_us(&self) -> u64;

    /// How far the wall clock has stepped away since this clock was made. Zero for a clock that cannot tell.
    fn step(&self) -> Duration {
        Duration::ZERO
    }
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now_us(&self) -> u64 {
        (**self).now_us()
    }

    fn step(&self) -> Duration {
        (**self).step()
    }
}

/// The wall clock read once, then monotonic time: a later step of the wall clock moves nothing (DESIGN 8).
#[derive(Debug, Clone)]
pub struct SystemClock {
    wall_us: u64,
    started: Instant,
}

impl SystemClock {
    /// Reads the wall clock.
    pub fn new() -> Self {
        Self {
            wall_us: wall_us(),
            started: Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now_us(&self) -> u64 {
        let elapsed = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.wall_us.saturating_add(elapsed)
    }

    fn step(&self) -> Duration {
        Duration::from_micros(self.now_us().abs_diff(wall_us()))
    }
}

fn wall_us() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX)
}

/// A clock a test sets.
#[derive(Debug, Clone, Default)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// Starts at `now_us`.
    pub fn new(now_us: u64) -> Self {
        Self(Arc::new(AtomicU64::new(now_us)))
    }

    /// Moves on by `duration`.
    pub fn advance(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.0.fetch_add(micros, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_us(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}
