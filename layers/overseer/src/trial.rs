//! Candidates are tried here, beside the requests: on a thread of their own, on a copy of what the active module saw.
//!
//! A request pays for the copy and for handing it over; it waits for nothing, whatever the candidate does. What there is no
//! room for is skipped, and counted.

use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    abi::arqon_host_v1::{Phase, Role},
    allowance::{Allowance, Share},
    candidate::{Candidate, Compared, Divergence, Said},
    edit::Edits,
    engine::Engine,
    exchange::{Exchange, Lent},
    run,
    verdict::Verdict,
};

/// Calls of the active modules of one shard that wait for their candidates or are being looked at by them. Each holds a
/// copy of its headers, and its body.
pub(crate) const TRIALS_MAX: usize = 32;
/// Bytes that all of them hold: bodies, as long as they were announced, headers and what was rewritten.
pub(crate) const TRIAL_BYTES_MAX: usize = 16 << 20;
/// A trial that takes longer is followed by as long a rest: candidates that loop take at most half a core.
const LONG: Duration = Duration::from_millis(1);

/// Where trials go: a thread, once there is a candidate, that works them off one after the other.
#[derive(Debug)]
pub(crate) struct Trials {
    in_flight: Box<[Arc<AtomicUsize>]>,
    bytes: Allowance,
    queue: OnceLock<SyncSender<Box<Trial>>>,
    stop: Arc<AtomicBool>,
}

/// Room for one trial, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Room {
    in_flight: Arc<AtomicUsize>,
    share: Share,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Trials {
    pub(crate) fn new(shards: usize) -> Self {
        Self {
            in_flight: (0..shards).map(|_| Arc::default()).collect(),
            bytes: Allowance::new(TRIAL_BYTES_MAX),
            queue: OnceLock::new(),
            stop: Arc::default(),
        }
    }

    /// Starts the thread, if it does not run yet.
    ///
    /// # Errors
    ///
    /// When the system refuses one.
    pub(crate) fn start(&self, engine: &Engine) -> io::Result<()> {
        if self.queue.get().is_some() {
            return Ok(());
        }
        let (sender, receiver) = sync_channel(TRIALS_MAX * self.in_flight.len());
        let (engine, stop) = (engine.clone(), Arc::clone(&self.stop));
        thread::Builder::new()
            .name("overseer-candidates".to_owned())
            .spawn(move || work(&engine, &receiver, &stop))?;
        // Whoever comes second leaves a thread without a queue, which ends.
        self.queue.get_or_init(|| sender);
        Ok(())
    }

    /// Room for a trial of a request of this shard that holds so many bytes, if there is any.
    pub(crate) fn room(&self, shard: usize, bytes: usize) -> Option<Room> {
        let share = self.bytes.take(bytes)?;
        let in_flight = &self.in_flight[shard];
        in_flight
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                (count < TRIALS_MAX).then_some(count + 1)
            })
            .ok()?;
        Some(Room {
            in_flight: Arc::clone(in_flight),
            share,
        })
    }

    /// Hands a trial over. There is a place in the queue for each that has room; one is skipped only if the thread is gone.
    pub(crate) fn send(&self, trial: Box<Trial>) {
        send(self.queue.get(), trial);
    }

    /// Where those go that come later than the request's own end.
    pub(crate) fn queue(&self) -> Option<SyncSender<Box<Trial>>> {
        self.queue.get().cloned()
    }
}

pub(crate) fn send(queue: Option<&SyncSender<Box<Trial>>>, trial: Box<Trial>) {
    let candidate = Arc::clone(&trial.candidate);
    if queue.is_none_or(|queue| queue.try_send(trial).is_err()) {
        candidate.counted(Compared::Skipped);
    }
}

impl Drop for Trials {
    fn drop(&mut self) {
        // Not waited for: it ends after the trial at hand.
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn work(engine: &Engine, queue: &Receiver<Box<Trial>>, stop: &AtomicBool) {
    while let Ok(trial) = queue.recv() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let begun = Instant::now();
        trial.run(engine);
        let took = begun.elapsed();
        if took > LONG {
            thread::sleep(took);
        }
    }
}

/// A candidate is to be asked what the active module was asked.
#[derive(Debug)]
pub(crate) struct Trial {
    candidate: Arc<Candidate>,
    room: Room,
    phase: Phase,
    /// What the active module saw.
    twin: Lent,
    active: Said,
    /// What the active module left.
    edits: Edits,
    body: Option<Bytes>,
    /// Whether the body is still to come.
    awaits: bool,
}

impl Trial {
    pub(crate) fn new(candidate: Arc<Candidate>, room: Room, phase: Phase, twin: Lent, awaits: bool) -> Self {
        Self {
            candidate,
            room,
            phase,
            twin,
            active: Said::Allow,
            edits: Edits::default(),
            body: None,
            awaits,
        }
    }

    /// What the active module said and left. None if that is more than there is room for.
    pub(crate) fn after(mut self: Box<Self>, verdict: &Verdict, exchange: &Exchange) -> Option<Box<Self>> {
        let rewritten = exchange.body.as_ref().filter(|_| exchange.rewritten);
        if !self
            .room
            .share
            .more(exchange.edits.bytes() + rewritten.map_or(0, Bytes::len))
        {
            self.candidate.counted(Compared::Skipped);
            return None;
        }
        self.active = verdict.into();
        self.edits.clone_from(&exchange.edits);
        // One that looks at no bodies has none, and leaves it as it is.
        self.body = exchange.body.clone().or_else(|| self.twin.body.clone());
        Some(self)
    }

    pub(crate) const fn awaits_body(&self) -> bool {
        self.awaits
    }

    /// The body came: both have seen it, the active module by leaving it alone.
    pub(crate) fn with_body(mut self, body: &Bytes) -> Self {
        self.body = Some(body.clone());
        self.twin.body = Some(body.clone());
        self
    }

    pub(crate) fn not_asked(&self) {
        self.candidate.counted(Compared::NotAsked);
    }

    fn run(self, engine: &Engine) {
        let Self {
            candidate,
            room,
            phase,
            twin,
            active,
            edits,
            body,
            awaits: _,
        } = self;
        let (said, twin) = ask(engine, &candidate, phase, twin);
        let amended_differently = edits != twin.edits || body != twin.body;
        let compared = if said == active && !amended_differently {
            Compared::Same
        } else {
            let divergence = Divergence {
                method: twin.request().method.to_string(),
                path: twin.request().uri.path().to_owned(),
                phase: if phase == Phase::Response {
                    "response"
                } else {
                    "request"
                }
                .to_owned(),
                active: active.to_string(),
                candidate: said.to_string(),
                amended_differently,
            };
            let module = &*candidate.loaded.guest.name;
            tracing::debug!(
                component = "overseer",
                module,
                candidate = true,
                ?divergence,
                msg = "the candidate differs"
            );
            candidate.keep(divergence);
            Compared::Differs
        };
        // Whoever sees it counted finds room again.
        drop(room);
        candidate.counted(compared);
    }
}

/// What the candidate says, and what it leaves. Without a function for this phase it lets pass what it would not see.
fn ask(engine: &Engine, candidate: &Candidate, phase: Phase, twin: Lent) -> (Said, Lent) {
    let loaded = &candidate.loaded;
    if !loaded.compiled.has(phase.entry()) {
        return (Said::Allow, twin);
    }
    let begun = candidate.metrics.now();
    let (verdict, twin, used) =
        match run::instantiate(engine, 0, loaded, phase, Role::Candidate, candidate.budget) {
            Ok(ready) => {
                let (call, twin, used) = run::call(ready, phase, Some(twin), candidate.budget);
                candidate
                    .metrics
                    .log_lines_dropped(Role::Candidate, call.logs_dropped);
                (
                    call.verdict,
                    twin.expect("a call hands the exchange back"),
                    Some(used),
                )
            }
            Err(verdict) => (verdict, twin, None),
        };
    candidate.metrics.candidate_ran(begun, candidate.metrics.now());
    drop(used);
    let said = Said::from(&verdict);
    if let Said::Failed(cause) = said {
        candidate.failed(cause);
    }
    (said, twin)
}

#[cfg(test)]
mod tests;
