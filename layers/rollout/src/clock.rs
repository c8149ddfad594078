//! Time as governance reads it: microseconds since the Unix epoch that never run backwards.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
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

/// The wall clock read once, then the time since: a later step of the wall clock moves nothing (DESIGN 8). On Linux that goes on
/// while the machine is suspended.
#[derive(Debug, Clone)]
pub struct SystemClock {
    wall_us: u64,
    started: Uptime,
}

impl SystemClock {
    /// Reads the wall clock.
    pub fn new() -> Self {
        Self {
            wall_us: wall_us(),
            started: Uptime::now(),
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
        self.wall_us.saturating_add(self.started.elapsed_us())
    }

    fn step(&self) -> Duration {
        Duration::from_micros(self.now_us().abs_diff(wall_us()))
    }
}

/// A moment on a clock that never runs backwards and, on Linux, does not stand still in a suspend, unlike
/// [`std::time::Instant`]: what was true then is this old now, however long this process stood still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uptime(uptime::Moment);

impl Uptime {
    /// This moment.
    #[must_use]
    pub fn now() -> Self {
        Self(uptime::now())
    }

    /// How long ago it is.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        uptime::since(self.0)
    }

    /// A moment before this one; the first of that clock where there is none.
    #[must_use]
    pub fn earlier(self, by: Duration) -> Self {
        Self(uptime::earlier(self.0, by))
    }

    fn elapsed_us(self) -> u64 {
        u64::try_from(self.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

#[cfg(target_os = "linux")]
mod uptime {
    use std::time::Duration;

    use rustix::time::{ClockId, clock_gettime};

    /// Microseconds since the machine was started.
    pub(super) type Moment = u64;

    pub(super) fn now() -> Moment {
        let time = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
        let nanos = u64::try_from(time.tv_nsec).unwrap_or_default();
        seconds.saturating_mul(1_000_000).saturating_add(nanos / 1_000)
    }

    pub(super) fn since(moment: Moment) -> Duration {
        Duration::from_micros(now().saturating_sub(moment))
    }

    pub(super) fn earlier(moment: Moment, by: Duration) -> Moment {
        moment.saturating_sub(u64::try_from(by.as_micros()).unwrap_or(u64::MAX))
    }
}

#[cfg(not(target_os = "linux"))]
mod uptime {
    use std::time::{Duration, Instant};

    pub(super) type Moment = Instant;

    pub(super) fn now() -> Moment {
        Instant::now()
    }

    pub(super) fn since(moment: Moment) -> Duration {
        moment.elapsed()
    }

    pub(super) fn earlier(moment: Moment, by: Duration) -> Moment {
        moment.checked_sub(by).unwrap_or(moment)
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
