//! The instances of one module that stand by.

use std::{
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{abi::arqon_host_v1::State, engine::Ready};

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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
    #[expect(
        clippy::vec_box,
        reason = "each is handed about for every call, and is the larger thing to move"
    )]
    ready: Vec<Box<Ready<State>>>,
    /// Requests since the last look that found an instance, and that found none.
    popped: Popped,
}

/// How many requests found an instance that stood by, and how many did not.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Popped {
    pub(crate) hits: u64,
    pub(crate) misses: u64,
}

impl Standby {
    /// Closed queues: nothing stands by until the module is part of a chain.
    pub(crate) fn new(shards: usize) -> Self {
        Self {
            queues: (0..shards).map(|_| Mutex::default()).collect(),
        }
    }

    pub(crate) fn pop(&self, shard: usize) -> Option<Box<Ready<State>>> {
        let mut queue = lock(&self.queues[shard]);
        let ready = queue.ready.pop();
        match ready {
            Some(_) => queue.popped.hits += 1,
            None => queue.popped.misses += 1,
        }
        ready
    }

    /// Lets instances stand by.
    pub(super) fn open(&self) {
        for queue in &self.queues {
            lock(queue).open = true;
        }
    }

    /// Lets nothing more stand by. What does is dropped by the thread.
    pub(super) fn close(&self) {
        for queue in &self.queues {
            lock(queue).open = false;
        }
    }

    /// Drops what stands by in a queue that is closed; says whether it is.
    pub(super) fn drain(&self, shard: usize) -> bool {
        let (closed, dropped) = {
            let mut queue = lock(&self.queues[shard]);
            if queue.open {
                (false, Vec::new())
            } else {
                (true, mem::take(&mut queue.ready))
            }
        };
        drop(dropped);
        closed
    }

    /// How many are missing to `target`.
    pub(super) fn missing(&self, shard: usize, target: usize) -> usize {
        let queue = lock(&self.queues[shard]);
        if queue.open {
            target.saturating_sub(queue.ready.len())
        } else {
            0
        }
    }

    /// What requests found since this was asked last.
    pub(super) fn popped(&self, shard: usize) -> Popped {
        mem::take(&mut lock(&self.queues[shard]).popped)
    }

    pub(super) fn push(&self, shard: usize, target: usize, ready: Box<Ready<State>>) {
        let mut queue = lock(&self.queues[shard]);
        // The thread and a task may both have found one missing.
        if queue.open && queue.ready.len() < target {
            queue.ready.push(ready);
        }
        // Else it is dropped here, after the lock: parameters outlive locals.
    }

    #[cfg(test)]
    pub(crate) fn len(&self, shard: usize) -> usize {
        lock(&self.queues[shard]).ready.len()
    }

    /// How often that one was called before which was called most of those that stand by.
    #[cfg(test)]
    pub(crate) fn most_calls(&self, shard: usize) -> u32 {
        let queue = lock(&self.queues[shard]);
        queue.ready.iter().map(|ready| ready.calls).max().unwrap_or(0)
    }
}
