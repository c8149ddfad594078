//! Our own locks and atomics, exchanged for loom's under `--cfg loom`.

#[cfg(loom)]
pub(crate) use loom::sync::{
    atomic::{AtomicU64, Ordering},
    Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard,
};
#[cfg(not(loom))]
pub(crate) use std::sync::{
    atomic::{AtomicU64, Ordering},
    Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard,
};

use std::sync::{PoisonError, TryLockError};

/// A number that no other living thread has.
#[cfg(not(loom))]
pub(crate) fn here() -> usize {
    thread_local! { static ADDRESS: u8 = const { 0 }; }
    // A thread that is being torn down has none, which makes it a stranger everywhere: right, only slower.
    ADDRESS
        .try_with(|byte| std::ptr::from_ref(byte) as usize)
        .unwrap_or(0)
}

/// A number that no other thread of the model has.
#[cfg(loom)]
pub(crate) fn here() -> usize {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    loom::thread::current().id().hash(&mut hasher);
    hasher.finish() as usize
}

/// One operation of tokio's channel follows. loom does not see into the channel, so in a model each operation is one
/// access to this number: there loom may let another thread go first, and knows that the two conflict.
#[cfg(loom)]
pub(crate) fn step() {
    loom::lazy_static! { static ref CHANNEL: AtomicU64 = AtomicU64::new(0); }
    CHANNEL.fetch_add(1, Ordering::Relaxed);
}

/// One operation of tokio's channel follows: nothing, outside a model.
#[cfg(not(loom))]
#[inline(always)]
pub(crate) fn step() {}

/// Locks, also after another thread panicked: each critical section leaves its state whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As [`lock`], if nobody holds it.
pub(crate) fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// As [`lock`], for reading.
pub(crate) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// As [`lock`], for writing.
pub(crate) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
