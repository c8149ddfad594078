//! The clock of the deadlines: one thread that raises every shard's epoch.
//!
//! Who runs when an epoch is raised is asked how long it has run already ([`Timer`]), and says when to look again; so nobody
//! pays for a tick a millisecond while no call takes one. Between two looks goes [`Settings::rest`](super::Settings) at most,
//! which no deadline of a millisecond or more is shorter than: a call that began right after a look is found by the next one
//! before it is late.

use std::{
    fmt, io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle, Thread},
    time::Duration,
};

// Read for each call, in some ten nanoseconds less than the system's takes.
use quanta::Instant;

use wasmtime::{Engine, EngineWeak};

/// How long the thread rests between two looks: as long as a deadline, within these.
pub(crate) const REST_MIN: Duration = Duration::from_millis(1);
pub(crate) const REST_MAX: Duration = Duration::from_millis(4);
/// What a call has to end in once it was found to be late: its thread may have had to stand aside past its deadline.
pub(crate) const GRACE: Duration = Duration::from_millis(1);

/// What an answer to a tick takes at most until it counts. wasmtime sets the next epoch to ask at once the answer is there, so
/// one that is raised before asks nobody.
const HEARD: Duration = Duration::from_micros(60);

/// The ticker's, if it may have one: threads are at 0, less goes first.
#[cfg(target_os = "linux")]
const PRIORITY: i32 = -20;

/// How long one call has run, and may.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timer {
    begun: Instant,
    deadline: Duration,
    /// When it is interrupted, once it was late.
    ends: Option<Instant>,
}

impl Timer {
    /// For a call that begins now.
    #[inline]
    pub(crate) fn start(deadline: Duration) -> Self {
        Self::starting(Instant::now(), deadline)
    }

    const fn starting(begun: Instant, deadline: Duration) -> Self {
        Self {
            begun,
            deadline,
            ends: None,
        }
    }

    /// A tick found the call running: when to look at it again, or None if it has had its time.
    ///
    /// By the clock a call of microseconds whose thread had to stand aside for milliseconds is late when it goes on: so from
    /// where it is first seen to be late it has [`GRACE`]. One that loops is stopped that much later.
    pub(crate) fn look(&mut self, now: Instant) -> Option<Instant> {
        match self.ends {
            Some(ends) => (now < ends).then_some(ends),
            None => {
                let left = self
                    .deadline
                    .saturating_sub(now.saturating_duration_since(self.begun));
                let next = if left.is_zero() {
                    *self.ends.insert(now + GRACE)
                } else {
                    now + left
                };
                Some(next)
            }
        }
    }
}

/// When the ticker looks next, and who may want it earlier.
#[derive(Debug)]
pub(crate) struct Looks {
    base: Instant,
    /// The next look at the latest, in nanoseconds since `base`.
    next: AtomicU64,
    /// The earliest look that somebody asked for; `u64::MAX` for none.
    wanted: AtomicU64,
    stop: AtomicBool,
    thread: Mutex<Option<Thread>>,
}

impl Default for Looks {
    fn default() -> Self {
        Self {
            base: Instant::now(),
            next: AtomicU64::new(0),
            wanted: AtomicU64::new(u64::MAX),
            stop: AtomicBool::new(false),
            thread: Mutex::default(),
        }
    }
}

impl Looks {
    fn nanos(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.base);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Looks at `at` or before. Most calls that a tick finds have just begun: the next look is early enough for them.
    pub(crate) fn want(&self, at: Instant) {
        let at = self.nanos(at);
        if at >= self.next.load(Ordering::SeqCst) || self.wanted.fetch_min(at, Ordering::SeqCst) <= at {
            return;
        }
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = &*thread {
            thread.unpark();
        }
    }

    /// A call that a tick found at `now` is to be looked at again at `next`.
    pub(crate) fn answer(&self, now: Instant, next: Instant) {
        let heard = now + HEARD;
        let at = next.max(heard);
        if self.next.load(Ordering::SeqCst) < self.nanos(heard) {
            // A look that is due may ask before that, and nobody hears it: it is no reason to go without this one.
            self.wanted.fetch_min(self.nanos(at), Ordering::SeqCst);
        } else {
            self.want(at);
        }
    }

    /// How long until the next look, if there is time.
    fn pause(&self) -> Option<Duration> {
        let due = self
            .next
            .load(Ordering::SeqCst)
            .min(self.wanted.load(Ordering::SeqCst));
        let left = due.saturating_sub(self.nanos(Instant::now()));
        (left > 0).then(|| Duration::from_nanos(left))
    }

    /// A look begins: what was asked for until now is had, and the next one comes after `rest`.
    fn begin(&self, rest: Duration) {
        let now = self.nanos(Instant::now());
        let rest = u64::try_from(rest.as_nanos()).unwrap_or(u64::MAX);
        self.next.store(now.saturating_add(rest), Ordering::SeqCst);
        // Who asked for a later one is not forgotten.
        let had = |wanted| (wanted <= now).then_some(u64::MAX);
        let _none = self.wanted.fetch_update(Ordering::SeqCst, Ordering::SeqCst, had);
    }
}

pub(super) struct Ticker {
    looks: Arc<Looks>,
    engines: Arc<Mutex<Vec<EngineWeak>>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Starts the thread, which looks after `rest` at the latest. It holds the engines weakly and ends when the ticker is
    /// dropped.
    pub(super) fn start(engines: &[Engine], rest: Duration) -> io::Result<Self> {
        let looks = Arc::<Looks>::default();
        let looked = Arc::clone(&looks);
        let engines = Arc::new(Mutex::new(engines.iter().map(Engine::weak).collect()));
        let ticked = Arc::clone(&engines);
        let thread = thread::Builder::new()
            .name("overseer-epoch".into())
            .spawn(move || tick(&ticked, &looked, rest))?;
        *looks.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread.thread().clone());
        Ok(Self {
            looks,
            engines,
            thread: Some(thread),
        })
    }

    /// Raises the epoch of these, too, from now on.
    pub(super) fn add(&self, engines: &[Engine]) {
        let mut ticked = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        ticked.extend(engines.iter().map(Engine::weak));
    }

    /// Where a call says when to look at it again.
    pub(super) const fn looks(&self) -> &Arc<Looks> {
        &self.looks
    }
}

impl fmt::Debug for Ticker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticker")
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.looks.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic there has been printed already, and nothing more can come of it here.
            drop(thread.join());
        }
    }
}

/// Where the kernel deals out cores by priority, a clock that works for microseconds should go before what it is to stop: where
/// there are more threads than cores it comes late by as much as one of them may run at a time, and with it every deadline.
/// A kernel that shares by lag (Linux 6.6 and later) may still leave it waiting, for up to 4 ms as measured. It takes the right
/// to (`CAP_SYS_NICE`); without it the clock is a thread like the others.
fn hasten() {
    #[cfg(target_os = "linux")]
    {
        // On Linux a priority is a thread's, and this is who asks.
        let _refused: rustix::io::Result<()> = rustix::process::setpriority_process(None, PRIORITY);
    }
}

fn tick(engines: &Mutex<Vec<EngineWeak>>, looks: &Looks, rest: Duration) {
    hasten();
    while !looks.stop.load(Ordering::Acquire) {
        // Whoever asks for an earlier look wakes the thread.
        if let Some(pause) = looks.pause() {
            thread::park_timeout(pause);
            continue;
        }
        looks.begin(rest);
        let engines = engines.lock().unwrap_or_else(PoisonError::into_inner);
        for engine in engines.iter().filter_map(EngineWeak::upgrade) {
            engine.increment_epoch();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn a_call_is_late_at_its_deadline_and_ends_a_grace_later() {
        let begun = Instant::now();
        let mut timer = Timer::starting(begun, ms(5));
        assert_eq!(timer.look(begun), Some(begun + ms(5)));
        let just = begun + ms(5) - Duration::from_nanos(1);
        assert_eq!(timer.look(just), Some(begun + ms(5)));
        let ends = begun + ms(5) + GRACE;
        assert_eq!(timer.look(begun + ms(5)), Some(ends));
        assert_eq!(
            timer.look(ends - Duration::from_nanos(1)),
            Some(ends),
            "another's tick"
        );
        assert_eq!(timer.look(ends), None);
    }

    #[test]
    fn a_call_that_stood_aside_past_its_deadline_has_its_grace_from_there() {
        let begun = Instant::now();
        let mut timer = Timer::starting(begun, ms(5));
        let back = begun + ms(50);
        assert_eq!(timer.look(back), Some(back + GRACE));
        assert_eq!(timer.look(back + ms(50)), None, "a second time");
    }

    #[test]
    fn a_look_that_is_asked_for_is_had_and_a_later_one_is_kept() {
        let looks = Looks::default();
        looks.begin(REST_MAX);
        let next = looks.next.load(Ordering::SeqCst);
        looks.want(looks.base + Duration::from_nanos(next));
        assert_eq!(looks.wanted.load(Ordering::SeqCst), u64::MAX, "it comes anyway");
        looks.want(looks.base + Duration::from_nanos(next - 1));
        looks.want(looks.base + Duration::from_nanos(next - 1_000_000));
        looks.want(looks.base + Duration::from_nanos(next - 2));
        assert_eq!(looks.wanted.load(Ordering::SeqCst), next - 1_000_000);
        assert!(looks.pause().is_some_and(|pause| pause < REST_MAX - ms(1)));
        looks.begin(REST_MAX);
        assert_eq!(
            looks.wanted.load(Ordering::SeqCst),
            next - 1_000_000,
            "not yet due"
        );
        looks.want(looks.base);
        assert_eq!(looks.pause(), None);
        looks.begin(REST_MAX);
        assert_eq!(looks.wanted.load(Ordering::SeqCst), u64::MAX);
    }

    #[test]
    fn no_look_is_asked_for_that_comes_before_the_answer_counts() {
        let looks = Looks::default();
        looks.begin(REST_MAX);
        let now = Instant::now();
        looks.answer(now, now + HEARD / 20);
        assert_eq!(looks.wanted.load(Ordering::SeqCst), looks.nanos(now + HEARD));
        let looks = Looks::default();
        looks.begin(REST_MAX);
        looks.answer(now, now + 2 * HEARD);
        assert_eq!(looks.wanted.load(Ordering::SeqCst), looks.nanos(now + 2 * HEARD));
    }

    #[test]
    fn a_look_that_may_come_before_the_answer_counts_is_not_taken_for_the_one_asked_for() {
        let looks = Looks::default();
        looks.begin(REST_MAX);
        let due = looks.base + Duration::from_nanos(looks.next.load(Ordering::SeqCst));
        for (now, next) in [
            (due - HEARD / 2, due),
            (due - HEARD / 2, due + GRACE),
            (due, due + GRACE),
        ] {
            looks.wanted.store(u64::MAX, Ordering::SeqCst);
            looks.answer(now, next);
            let wanted = looks.nanos(next.max(now + HEARD));
            assert_eq!(looks.wanted.load(Ordering::SeqCst), wanted);
        }
        // One that comes when it counts says itself when to look again.
        looks.wanted.store(u64::MAX, Ordering::SeqCst);
        looks.answer(due - HEARD, due + GRACE);
        assert_eq!(looks.wanted.load(Ordering::SeqCst), u64::MAX);
    }

    /// Runs a loop until the epoch is raised; one that nobody ends runs out of fuel.
    fn until_ticked(engine: &Engine) {
        let module =
            wasmtime::Module::new(engine, r#"(module (func (export "f") (loop $l (br $l))))"#).unwrap();
        let mut store = wasmtime::Store::new(engine, ());
        store.set_fuel(20_000_000_000).unwrap();
        store.set_epoch_deadline(1);
        let instance = wasmtime::Instance::new(&mut store, &module, &[]).unwrap();
        let long = instance.get_typed_func::<(), ()>(&mut store, "f").unwrap();
        let ended = long.call(&mut store, ()).unwrap_err();
        assert_eq!(ended.downcast_ref(), Some(&wasmtime::Trap::Interrupt));
    }

    fn engine() -> Engine {
        let mut config = wasmtime::Config::new();
        config.epoch_interruption(true).consume_fuel(true);
        Engine::new(&config).unwrap()
    }

    #[test]
    fn the_thread_looks_after_its_rest() {
        let engine = engine();
        let _ticker = Ticker::start(std::slice::from_ref(&engine), ms(2)).unwrap();
        until_ticked(&engine);
        until_ticked(&engine);
    }

    #[test]
    fn the_thread_looks_earlier_when_it_is_asked_to() {
        let engine = engine();
        // Its own look, but for the first, would come in an hour.
        let ticker = Ticker::start(std::slice::from_ref(&engine), ms(3_600_000)).unwrap();
        let (looks, ended) = (Arc::clone(ticker.looks()), Arc::new(AtomicBool::new(false)));
        let asks = thread::spawn({
            let ended = Arc::clone(&ended);
            move || {
                while !ended.load(Ordering::SeqCst) {
                    looks.want(Instant::now());
                    thread::sleep(ms(20));
                }
            }
        });
        until_ticked(&engine);
        until_ticked(&engine);
        ended.store(true, Ordering::SeqCst);
        asks.join().unwrap();
    }

    proptest! {
        /// With a ticker that looks when it is asked to, and after `rest` at the latest.
        #[test]
        fn no_call_ends_before_its_deadline_and_none_that_runs_on_later_than_a_grace_after_it(
            deadline in 1_000_u64..20_000, rest in 1_u64..4_000, first in 0_u64..4_000, late in 0_u64..300,
        ) {
            let (deadline, rest) = (Duration::from_micros(deadline), Duration::from_micros(rest.min(deadline)));
            let begun = Instant::now();
            let mut timer = Timer::starting(begun, deadline);
            let mut now = begun + Duration::from_micros(first).min(rest);
            while let Some(next) = timer.look(now) {
                prop_assert!(next > now);
                // The ticker's own delay.
                now = next.min(now + rest) + Duration::from_micros(late);
            }
            prop_assert!(now >= begun + deadline + GRACE);
            prop_assert!(now <= begun + deadline + GRACE + 2 * Duration::from_micros(late));
        }
    }
}
