//! Instances made ready before the request and dropped after the response.
//!
//! A request pays for taking one out of a queue and for the call. A thread per shard makes new ones and drops the used
//! ones. It looks every millisecond while requests come, without pause while a queue is less than half full, and sleeps
//! when nothing has been taken for a while; only then does a request have to wake it. An empty queue means that the
//! instance is made inline: standing by changes what a call costs, never what it does.

use std::{
    io, mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{
    abi::arqon_host_v1::{Phase, State},
    engine::{Budget, Engine, Ready},
    metrics::StandbyMetrics,
    run,
    verify::Loaded,
};

/// How often the thread looks while requests come.
const LOOK: Duration = Duration::from_millis(1);
/// Looks that find nothing to do before the thread sleeps.
const LOOKS_IDLE_MAX: u32 = 50;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The instances of one module that stand by, a queue per shard.
#[derive(Debug)]
pub(crate) struct Standby {
    queues: Box<[Mutex<Queue>]>,
}

#[derive(Debug, Default)]
struct Queue {
    open: bool,
    ready: Vec<Ready<State>>,
    /// Requests since the last look that found an instance, and that found none.
    popped: Popped,
}

/// How many requests found an instance that stood by, and how many did not.
#[derive(Clone, Copy, Debug, Default)]
struct Popped {
    hits: u64,
    misses: u64,
}

impl Standby {
    /// Closed queues: nothing stands by until the module is part of a chain.
    pub(crate) fn new(shards: usize) -> Self {
        Self {
            queues: (0..shards).map(|_| Mutex::default()).collect(),
        }
    }

    pub(crate) fn pop(&self, shard: usize) -> Option<Ready<State>> {
        let mut queue = lock(&self.queues[shard]);
        let ready = queue.ready.pop();
        match ready {
            Some(_) => queue.popped.hits += 1,
            None => queue.popped.misses += 1,
        }
        ready
    }

    /// Brings the next one into the cache of this core.
    pub(crate) fn touch(&self, shard: usize) {
        if let Some(next) = lock(&self.queues[shard]).ready.last() {
            next.touch();
        }
    }

    /// Lets instances stand by.
    fn open(&self) {
        for queue in &self.queues {
            lock(queue).open = true;
        }
    }

    /// Drops what stands by and lets nothing more.
    pub(crate) fn close(&self) {
        for queue in &self.queues {
            let dropped = {
                let mut queue = lock(queue);
                queue.open = false;
                mem::take(&mut queue.ready)
            };
            drop(dropped);
        }
    }

    /// How many are missing to `target`, and what requests found since this was asked last.
    fn missing(&self, shard: usize, target: usize) -> (usize, Popped) {
        let mut queue = lock(&self.queues[shard]);
        let missing = if queue.open {
            target.saturating_sub(queue.ready.len())
        } else {
            0
        };
        (missing, mem::take(&mut queue.popped))
    }

    fn push(&self, shard: usize, ready: Ready<State>) {
        let mut queue = lock(&self.queues[shard]);
        if queue.open {
            queue.ready.push(ready);
        }
        // Else it is dropped here, after the lock: parameters outlive locals.
    }

    #[cfg(test)]
    pub(crate) fn len(&self, shard: usize) -> usize {
        lock(&self.queues[shard]).ready.len()
    }
}

/// The threads that keep the queues full. They end when this is dropped.
#[derive(Debug)]
pub(crate) struct Refill {
    workers: Box<[Worker]>,
}

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
    metrics: StandbyMetrics,
    desk: Desk,
}

/// What a worker and the requests of its shard share.
#[derive(Debug)]
struct Desk {
    stop: AtomicBool,
    asleep: AtomicBool,
    /// Used instances, to be dropped; at most `used_max`.
    used: Mutex<Vec<Ready<State>>>,
    used_max: usize,
    /// The modules of the present chain.
    modules: Mutex<Vec<(Weak<Loaded>, Budget)>>,
}

impl Refill {
    /// Starts a thread per shard, none if nothing is to stand by.
    pub(crate) fn start(engine: &Engine) -> io::Result<Self> {
        let target = engine.settings().standby;
        let shards = if target == 0 { 0 } else { engine.shards().len() };
        // Taken here: the threads may run under another recorder.
        let metrics = StandbyMetrics::new();
        let workers = (0..shards)
            .map(|shard| Worker::start(engine.clone(), shard, target, metrics.clone()))
            .collect::<io::Result<_>>()?;
        Ok(Self { workers })
    }

    /// From now on these modules stand by.
    pub(crate) fn stand_by(&self, modules: &[(Arc<Loaded>, Budget)]) {
        if self.workers.is_empty() {
            return;
        }
        for (module, _) in modules {
            if module.compiled.has(Phase::Request.entry()) {
                module.standby.open();
            }
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

    /// Takes a used instance to be dropped off the request path; drops it here if too many are waiting.
    pub(crate) fn retire(&self, shard: usize, used: Ready<State>) {
        let Some(worker) = self.workers.get(shard) else {
            return;
        };
        {
            let mut waiting = lock(&worker.shop.desk.used);
            if waiting.len() < worker.shop.desk.used_max {
                waiting.push(used);
            }
        }
        worker.wake();
    }
}

/// Used instances that may wait to be dropped, per shard.
pub(crate) const fn used_max(standby: usize) -> usize {
    if standby == 0 { 0 } else { standby + 8 }
}

impl Worker {
    fn start(engine: Engine, shard: usize, target: usize, metrics: StandbyMetrics) -> io::Result<Self> {
        let used_max = used_max(target);
        let shop = Arc::new(Shop {
            engine,
            shard,
            target,
            metrics,
            desk: Desk {
                stop: AtomicBool::new(false),
                asleep: AtomicBool::new(false),
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

fn work(shop: &Shop) {
    let desk = &shop.desk;
    let mut used = Vec::with_capacity(desk.used_max);
    let mut idle = 0;
    while !desk.stop.load(Ordering::Acquire) {
        mem::swap(&mut used, &mut *lock(&desk.used));
        let freed = !used.is_empty();
        used.clear();
        let (least, filled) = shop.fill_up();
        let busy = freed || filled;
        idle = if busy { 0 } else { idle + 1 };
        if busy && least < shop.target / 2 {
            continue;
        }
        if idle < LOOKS_IDLE_MAX {
            thread::park_timeout(LOOK);
        } else {
            desk.asleep.store(true, Ordering::Relaxed);
            // A request that took one just before may not have seen the flag: looked after at the latest then.
            thread::park_timeout(Duration::from_secs(1));
            desk.asleep.store(false, Ordering::Relaxed);
        }
    }
}

impl Shop {
    /// Makes what each module misses. The least that stand by of any module, as found, and whether any was made.
    fn fill_up(&self) -> (usize, bool) {
        let (mut least, mut filled) = (self.target, false);
        let modules = lock(&self.desk.modules).clone();
        for (module, budget) in &modules {
            let Some(module) = module.upgrade() else { continue };
            let (missing, popped) = module.standby.missing(self.shard, self.target);
            self.metrics.popped(popped.hits, popped.misses);
            least = least.min(self.target - missing);
            filled |= missing > 0 && self.fill(&module, *budget, missing);
        }
        (least, filled)
    }

    /// Makes instances; says whether any could be made. One that cannot be made here fails its request inline, where it is
    /// counted.
    fn fill(&self, module: &Loaded, budget: Budget, count: usize) -> bool {
        for made in 0..count {
            if self.desk.stop.load(Ordering::Acquire) {
                return false;
            }
            match run::instantiate(&self.engine, self.shard, module, Phase::Request, budget) {
                Ok(ready) => module.standby.push(self.shard, ready),
                Err(_) => return made > 0,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;
