//! Instances made ready before the request and dropped after the response.
//!
//! A request pays for taking one out of a queue and for the call. What it leaves behind is dropped, and the next ones are
//! made, in batches: by a task on the runtime of the requests, so after the response and on the core whose cache knows the
//! instances. A thread per shard does what is left over: the first filling, the few of an unfinished batch, and all of it
//! where no tokio runtime is. An empty queue means that the instance is made inline: standing by changes what a call costs,
//! never what it does.
//!
//! A call is counted when its instance is dropped: the request does not wait for that either.

mod queue;

use std::{
    io,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use self::queue::lock;
pub(crate) use self::queue::{Popped, Standby};
use crate::{
    abi::arqon_host_v1::{Phase, State},
    engine::{Budget, Engine, Ready},
    metrics::{Ran, StandbyMetrics},
    run,
    verify::Loaded,
};

/// How long a thread sleeps: what an unfinished batch waits for at most.
const REST: Duration = Duration::from_millis(250);
/// Modules that left the chain and wait to be dropped.
const LEFT_MAX: usize = 8;
/// Used instances that are worth a turn, and instances made in one turn: some 30 microseconds.
const BATCH_MAX: usize = 8;

/// An instance that was called.
pub(crate) struct Used {
    pub(crate) shard: usize,
    pub(crate) ready: Ready<State>,
}

/// A used instance that waits to be dropped, and its call to be counted: at the latest then.
#[derive(Debug)]
struct Spent {
    ready: Ready<State>,
    ran: Option<Ran>,
}

impl Spent {
    fn count(&mut self) {
        if let Some(ran) = self.ran.take()
            && let Some(metrics) = self.ready.state().guest().metrics.get()
        {
            metrics.ran(&ran);
        }
    }
}

impl Drop for Spent {
    fn drop(&mut self) {
        self.count();
    }
}

/// What keeps the queues full, a worker per shard. Their threads end when this is dropped.
#[derive(Debug)]
pub(crate) struct Refill {
    workers: Box<[Worker]>,
    known: Known,
}

/// Every module of the chain, and those that left it and are still there. What leaves the chain is held here to the end, so that neither a request
/// nor whoever replaced it pays for its being dropped.
type Known = Arc<Mutex<Vec<Arc<Loaded>>>>;

#[derive(Debug)]
struct Worker {
    shop: Arc<Shop>,
    thread: Option<JoinHandle<()>>,
}

/// What it takes to keep one shard's queues full.
#[derive(Debug)]
struct Shop {
    engine: Engine,
    shard: usize,
    /// How many are to stand by, of each module.
    target: usize,
    /// Used instances that are worth a turn.
    batch: usize,
    metrics: StandbyMetrics,
    known: Known,
    desk: Desk,
}

/// What a worker and the requests of its shard share.
#[derive(Debug)]
struct Desk {
    stop: AtomicBool,
    asleep: AtomicBool,
    /// Whether a task is on its way or at work.
    called: AtomicBool,
    /// Used instances, to be dropped; at most `used_max`.
    used: Mutex<Vec<Spent>>,
    used_max: usize,
    /// The modules of the present chain.
    modules: Mutex<Vec<(Weak<Loaded>, Budget)>>,
}

/// A task that was asked for. However it ends, the next one may be asked for then.
struct Called(Arc<Shop>);

impl Drop for Called {
    fn drop(&mut self) {
        self.0.desk.called.store(false, Ordering::Release);
    }
}

impl Refill {
    /// Starts a thread per shard, none if nothing is to stand by.
    pub(crate) fn start(engine: &Engine) -> io::Result<Self> {
        let target = engine.settings().standby;
        let shards = if target == 0 { 0 } else { engine.settings().shards };
        // Taken here: the threads may run under another recorder.
        let metrics = StandbyMetrics::new();
        let known = Known::default();
        let workers = (0..shards)
            .map(|shard| Worker::start(engine.clone(), shard, target, metrics.clone(), Arc::clone(&known)))
            .collect::<io::Result<_>>()?;
        Ok(Self { workers, known })
    }

    /// From now on these modules stand by, and no others. Those `beside` them do not, but are in use too.
    pub(crate) fn stand_by(&self, modules: &[(Arc<Loaded>, Budget)], beside: &[Arc<Loaded>]) {
        if self.workers.is_empty() {
            return;
        }
        let is_of = |known: &Arc<Loaded>| modules.iter().any(|(module, _)| Arc::ptr_eq(module, known));
        let mut known = lock(&self.known);
        for module in known.iter().filter(|module| !is_of(module)) {
            module.standby.close();
        }
        for (module, _) in modules {
            if module.compiled.has(Phase::Request.entry()) {
                module.standby.open();
            }
        }
        for module in modules.iter().map(|(module, _)| module).chain(beside) {
            if !known.iter().any(|known| Arc::ptr_eq(known, module)) {
                known.push(Arc::clone(module));
            }
        }
        // Reloads come faster than the workers sweep: who reloads does it.
        let left = known.len() > modules.len() + beside.len() + LEFT_MAX;
        drop(known);
        if left {
            self.workers.iter().for_each(|worker| worker.shop.sweep());
        }
        for worker in &self.workers {
            *lock(&worker.shop.desk.modules) = modules
                .iter()
                .map(|(module, budget)| (Arc::downgrade(module), *budget))
                .collect();
            worker.wake();
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        !self.workers.is_empty()
    }

    /// Takes a used instance to be dropped, and its call to be counted, off the request path. Gives the call back, with the
    /// instance dropped, where nobody would do that or too many are waiting.
    pub(crate) fn retire(&self, used: Option<Used>, ran: Option<Ran>) -> Option<Ran> {
        let Some(Used { shard, ready }) = used else {
            return ran;
        };
        let Some(worker) = self.workers.get(shard) else {
            return ran;
        };
        let shop = &worker.shop;
        let mut waiting = lock(&shop.desk.used);
        if waiting.len() >= shop.desk.used_max {
            return ran;
        }
        waiting.push(Spent { ready, ran });
        let count = waiting.len();
        drop(waiting);
        if count >= shop.batch && !shop.desk.called.load(Ordering::Relaxed) {
            worker.call();
        }
        None
    }

    /// Counts the calls that are over and wait for that.
    pub(crate) fn settle(&self) {
        for worker in &self.workers {
            lock(&worker.shop.desk.used).iter_mut().for_each(Spent::count);
            worker.shop.count_popped();
        }
    }
}

/// Used instances that may wait to be dropped, per shard.
pub(crate) const fn used_max(standby: usize) -> usize {
    if standby == 0 { 0 } else { standby + 8 }
}

impl Worker {
    fn start(
        engine: Engine,
        shard: usize,
        target: usize,
        metrics: StandbyMetrics,
        known: Known,
    ) -> io::Result<Self> {
        let used_max = used_max(target);
        let shop = Arc::new(Shop {
            engine,
            shard,
            target,
            batch: (target / 2).clamp(1, BATCH_MAX),
            metrics,
            known,
            desk: Desk {
                stop: AtomicBool::new(false),
                asleep: AtomicBool::new(false),
                called: AtomicBool::new(false),
                used: Mutex::new(Vec::with_capacity(used_max)),
                used_max,
                modules: Mutex::default(),
            },
        });
        let at = Arc::clone(&shop);
        let thread = thread::Builder::new()
            .name(format!("overseer-standby-{shard}"))
            .spawn(move || work(&at))?;
        Ok(Self {
            shop,
            thread: Some(thread),
        })
    }

    /// Has the next turn taken soon: by a task, once the response is on its way; without a runtime by the thread.
    #[cold]
    fn call(&self) {
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                if !self.shop.desk.called.swap(true, Ordering::Acquire) {
                    drop(runtime.spawn(take_turns(Called(Arc::clone(&self.shop)))));
                }
            }
            Err(_) => self.wake(),
        }
    }

    fn wake(&self) {
        if self.shop.desk.asleep.load(Ordering::Relaxed)
            && let Some(thread) = &self.thread
        {
            self.shop.desk.asleep.store(false, Ordering::Relaxed);
            thread.thread().unpark();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shop.desk.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            drop(thread.join());
        }
    }
}

/// Others on the runtime get theirs between two turns.
async fn take_turns(called: Called) {
    while called.0.turn() {
        tokio::task::yield_now().await;
    }
}

fn work(shop: &Shop) {
    let desk = &shop.desk;
    while !desk.stop.load(Ordering::Acquire) {
        shop.sweep();
        if shop.turn() {
            continue;
        }
        desk.asleep.store(true, Ordering::Relaxed);
        // A request that took one just before may not have seen the flag: looked after at the latest then.
        thread::park_timeout(REST);
        desk.asleep.store(false, Ordering::Relaxed);
    }
}

impl Shop {
    /// Drops a batch of used instances and makes as many new ones; says whether there is more to do.
    fn turn(&self) -> bool {
        let (used, more_used) = {
            let mut used = lock(&self.desk.used);
            let at = used.len().saturating_sub(self.batch);
            // In here, so that whoever settles misses none.
            used[at..].iter_mut().for_each(Spent::count);
            (used.split_off(at), at > 0)
        };
        drop(used);
        let more_missing = self.fill_up();
        (more_used || more_missing) && !self.desk.stop.load(Ordering::Acquire)
    }

    /// Drops what stands by of modules that left the chain, and the modules that nobody else holds.
    fn sweep(&self) {
        let mut known = lock(&self.known).clone();
        known.retain(|module| module.standby.drain(self.shard));
        if known.is_empty() {
            return;
        }
        drop(known);
        let held = |module: &mut Arc<Loaded>| Arc::strong_count(module) == 1;
        let last: Vec<_> = lock(&self.known).extract_if(.., held).collect();
        drop(last);
    }

    /// Counts what requests found.
    fn count_popped(&self) {
        let modules = lock(&self.desk.modules).clone();
        for module in modules.iter().filter_map(|(module, _)| module.upgrade()) {
            self.metrics.popped(module.standby.popped(self.shard));
        }
    }

    /// Makes what the modules miss, at most a batch; says whether more is missing that can be made.
    fn fill_up(&self) -> bool {
        let modules = lock(&self.desk.modules).clone();
        let mut room = self.batch;
        let mut more = false;
        for (module, budget) in &modules {
            let Some(module) = module.upgrade() else { continue };
            let missing = module.standby.missing(self.shard, self.target);
            self.metrics.popped(module.standby.popped(self.shard));
            let count = missing.min(room);
            room -= count;
            more |= self.fill(&module, *budget, count) && missing > count;
        }
        more
    }

    /// Makes instances; says whether they could be made. One that cannot be made here fails its request inline, where it
    /// is counted.
    fn fill(&self, module: &Loaded, budget: Budget, count: usize) -> bool {
        for _ in 0..count {
            if self.desk.stop.load(Ordering::Acquire) {
                return false;
            }
            match run::instantiate(&self.engine, self.shard, module, Phase::Request, budget) {
                Ok(ready) => module.standby.push(self.shard, self.target, ready),
                Err(_) => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;
