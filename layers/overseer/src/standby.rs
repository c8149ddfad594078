//! Instances made ready before the request and dropped after the response, or put back as they were.
//!
//! A request pays for taking one out of a queue and for the call. What it leaves behind is dropped, and the next ones are
//! made, in batches: by a task on the runtime of the requests, so after the response and on the core whose cache knows the
//! instances. A thread does what is left over: the first filling, the few of an unfinished batch, and all of it where no
//! tokio runtime is. One for all shards, so that whoever replaced a module has a core to go on with. An empty queue means that the instance is made inline: standing by changes what a call costs,
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
    abi::arqon_host_v1::{Phase, Role, State},
    engine::{Budget, Engine, Ready},
    metrics::{Ran, StandbyMetrics},
    run,
    verify::Loaded,
};

/// How long the thread sleeps: what an unfinished batch waits for at most.
const REST: Duration = Duration::from_millis(250);
/// How long the thread stands back when modules were replaced: whoever did it answers first. It would take the core from
/// them, for all the instances that are to be dropped and made.
const STAND_BACK: Duration = Duration::from_millis(1);
/// Modules that left the chain and wait to be dropped.
const LEFT_MAX: usize = 8;
/// Used instances that are worth a turn, and instances made in one turn: some 30 microseconds.
const BATCH_MAX: usize = 8;

/// An instance that was called.
pub(crate) struct Used {
    pub(crate) shard: usize,
    pub(crate) ready: Box<Ready<State>>,
}

/// A used instance that waits to be dropped, and its call to be counted: at the latest then.
#[derive(Debug)]
struct Spent {
    /// There until it is taken to be used again.
    ready: Option<Box<Ready<State>>>,
    ran: Option<Ran>,
}

impl Spent {
    fn count(&mut self) {
        if let Some(ran) = self.ran.take()
            && let Some(ready) = &mut self.ready
            && let Some(metrics) = ready.state().guest().metrics.get()
        {
            metrics.ran(&ran);
        }
    }

    /// The instance, as it was before its call, if it is one of `module` and that can be.
    fn renewed(&mut self, module: &Loaded) -> Option<Box<Ready<State>>> {
        let (image, ready) = (module.image.as_ref()?, self.ready.as_mut()?);
        let fits =
            module.compiled.made(ready, Phase::Request.entry()) && ready.state().role() == Role::Active;
        if !fits || !ready.restore(image) {
            return None;
        }
        ready.state().renew();
        self.ready.take()
    }
}

impl Drop for Spent {
    fn drop(&mut self) {
        self.count();
    }
}

/// What keeps the queues full. Its thread ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Refill {
    /// One per shard; none if nothing is to stand by.
    shops: Box<[Arc<Shop>]>,
    thread: Option<JoinHandle<()>>,
    keeper: Arc<Keeper>,
    known: Known,
}

/// What the thread and those who want something of it share.
#[derive(Debug, Default)]
struct Keeper {
    stop: AtomicBool,
    asleep: AtomicBool,
    /// Whether modules were replaced since the thread looked.
    replaced: AtomicBool,
}

/// Every module of the chain, and those that left it and are still there. What leaves the chain is held here to the end, so that neither a request
/// nor whoever replaced it pays for its being dropped.
type Known = Arc<Mutex<Vec<Arc<Loaded>>>>;

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
    keeper: Arc<Keeper>,
    desk: Desk,
}

/// Modules, and what a call of each may spend.
type Modules = Vec<(Weak<Loaded>, Budget)>;

/// What the requests of a shard share with whoever fills its queues.
#[derive(Debug)]
struct Desk {
    /// Whether a task is on its way or at work.
    called: AtomicBool,
    /// Used instances, to be dropped; at most `used_max`.
    used: Mutex<Vec<Spent>>,
    used_max: usize,
    /// The modules of the present chain.
    modules: Mutex<Modules>,
}

/// A task that was asked for. However it ends, the next one may be asked for then.
struct Called(Arc<Shop>);

impl Drop for Called {
    fn drop(&mut self) {
        self.0.desk.called.store(false, Ordering::Release);
    }
}

impl Refill {
    /// Starts the thread, none if nothing is to stand by.
    pub(crate) fn start(engine: &Engine) -> io::Result<Self> {
        let target = engine.settings().standby;
        let shards = if target == 0 { 0 } else { engine.settings().shards };
        // Taken here: the thread may run under another recorder.
        let metrics = StandbyMetrics::new();
        let known = Known::default();
        let keeper = Arc::<Keeper>::default();
        let shops: Box<[_]> = (0..shards)
            .map(|shard| {
                Arc::new(Shop {
                    engine: engine.clone(),
                    shard,
                    target,
                    batch: (target / 2).clamp(1, BATCH_MAX),
                    metrics: metrics.clone(),
                    known: Arc::clone(&known),
                    keeper: Arc::clone(&keeper),
                    desk: Desk::new(used_max(target)),
                })
            })
            .collect();
        let mut refill = Self {
            shops,
            thread: None,
            keeper,
            known,
        };
        if shards > 0 {
            let (shops, keeper) = (refill.shops.clone(), Arc::clone(&refill.keeper));
            let thread = thread::Builder::new().name("overseer-standby".to_owned());
            refill.thread = Some(thread.spawn(move || work(&shops, &keeper))?);
        }
        Ok(refill)
    }

    /// From now on these modules stand by, and no others. Those `beside` them do not, but are in use too.
    pub(crate) fn stand_by(&self, modules: &[(Arc<Loaded>, Budget)], beside: &[Arc<Loaded>]) {
        if !self.is_on() {
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
        // Reloads come faster than the thread sweeps: who reloads does it.
        let left = known.len() > modules.len() + beside.len() + LEFT_MAX;
        drop(known);
        if left {
            self.shops.iter().for_each(|shop| shop.sweep());
        }
        for shop in &self.shops {
            *lock(&shop.desk.modules) = modules
                .iter()
                .map(|(module, budget)| (Arc::downgrade(module), *budget))
                .collect();
        }
        self.keeper.replaced.store(true, Ordering::Release);
        // Whether or not it sleeps: in the middle of a turn it would not see them.
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        !self.shops.is_empty()
    }

    /// Takes a used instance to be dropped, and its call to be counted, off the request path. Gives the call back, with the
    /// instance dropped, where nobody would do that or too many are waiting.
    pub(crate) fn retire(&self, used: Option<Used>, ran: Option<Ran>) -> Option<Ran> {
        let Some(Used { shard, ready }) = used else {
            return ran;
        };
        let Some(shop) = self.shops.get(shard) else {
            return ran;
        };
        let mut waiting = lock(&shop.desk.used);
        if waiting.len() >= shop.desk.used_max {
            return ran;
        }
        let ready = Some(ready);
        waiting.push(Spent { ready, ran });
        let count = waiting.len();
        drop(waiting);
        if count >= shop.batch && !shop.desk.called.load(Ordering::Relaxed) {
            self.call(shop);
        }
        None
    }

    /// Has the next turn taken soon: by a task, once the response is on its way; without a runtime by the thread.
    #[cold]
    fn call(&self, shop: &Arc<Shop>) {
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                if !shop.desk.called.swap(true, Ordering::Acquire) {
                    drop(runtime.spawn(take_turns(Called(Arc::clone(shop)))));
                }
            }
            Err(_) => self.wake(),
        }
    }

    fn wake(&self) {
        if self.keeper.asleep.load(Ordering::Relaxed)
            && let Some(thread) = &self.thread
        {
            self.keeper.asleep.store(false, Ordering::Relaxed);
            thread.thread().unpark();
        }
    }

    /// Counts the calls that are over and wait for that.
    pub(crate) fn settle(&self) {
        for shop in &self.shops {
            lock(&shop.desk.used).iter_mut().for_each(Spent::count);
            shop.count_popped();
        }
    }
}

/// Used instances that may wait to be dropped, per shard.
pub(crate) const fn used_max(standby: usize) -> usize {
    if standby == 0 { 0 } else { standby + 8 }
}

impl Drop for Refill {
    fn drop(&mut self) {
        self.keeper.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            drop(thread.join());
        }
    }
}

impl Desk {
    fn new(used_max: usize) -> Self {
        Self {
            called: AtomicBool::new(false),
            used: Mutex::new(Vec::with_capacity(used_max)),
            used_max,
            modules: Mutex::default(),
        }
    }
}

/// Others on the runtime get theirs between two turns.
async fn take_turns(called: Called) {
    while called.0.turn() {
        tokio::task::yield_now().await;
    }
}

fn work(shops: &[Arc<Shop>], keeper: &Keeper) {
    while !keeper.stop.load(Ordering::Acquire) {
        if keeper.replaced.swap(false, Ordering::Acquire) {
            thread::park_timeout(STAND_BACK);
        }
        let mut more = false;
        for shop in shops {
            shop.sweep();
            more |= shop.turn();
        }
        if more {
            continue;
        }
        keeper.asleep.store(true, Ordering::Relaxed);
        // A request that took one just before may not have seen the flag: looked after at the latest then.
        thread::park_timeout(REST);
        keeper.asleep.store(false, Ordering::Relaxed);
    }
}

impl Shop {
    /// Puts a batch of used instances back as they were, or drops them and makes as many new ones; says whether there is more to
    /// do.
    fn turn(&self) -> bool {
        // No more than a batch, and on the stack: what is allocated for a moment alone costs an allocator a page of its own.
        let mut batch: [Option<Spent>; BATCH_MAX] = Default::default();
        let more_used = {
            let mut used = lock(&self.desk.used);
            for place in batch.iter_mut().take(self.batch) {
                *place = used.pop();
                // In here, so that whoever settles misses none.
                place.iter_mut().for_each(Spent::count);
            }
            !used.is_empty()
        };
        let modules = lock(&self.desk.modules).clone();
        self.use_again(batch, &modules);
        let more_missing = self.fill_up(&modules);
        (more_used || more_missing) && !self.keeper.stop.load(Ordering::Acquire)
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

    /// Lets those stand by again that can be put back as they were, and drops the others.
    fn use_again(&self, mut used: [Option<Spent>; BATCH_MAX], modules: &Modules) {
        for (module, _) in modules {
            let Some(module) = module.upgrade() else { continue };
            for ready in used
                .iter_mut()
                .flatten()
                .filter_map(|spent| spent.renewed(&module))
            {
                module.standby.push(self.shard, self.target, ready);
            }
        }
    }

    /// Makes what the modules miss, at most a batch; says whether more is missing that can be made.
    fn fill_up(&self, modules: &Modules) -> bool {
        let mut room = self.batch;
        let mut more = false;
        for (module, budget) in modules {
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
            if self.keeper.stop.load(Ordering::Acquire) {
                return false;
            }
            let phase = Phase::Request;
            match run::instantiate(&self.engine, self.shard, module, phase, Role::Active, budget) {
                Ok(ready) => module.standby.push(self.shard, self.target, ready),
                Err(_) => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;
