//! Bytes that copies of requests may hold once the requests themselves are over.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// So many bytes for all copies of one kind together. A clone is the same allowance.
#[derive(Clone, Debug)]
pub(crate) struct Allowance {
    held: Arc<AtomicUsize>,
    bytes_max: usize,
}

/// What one copy holds, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    of: Allowance,
    bytes: usize,
}

impl Allowance {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            held: Arc::default(),
            bytes_max,
        }
    }

    /// Takes so many bytes, if as many are left.
    pub(crate) fn take(&self, bytes: usize) -> Option<Share> {
        let mut share = Share {
            of: self.clone(),
            bytes: 0,
        };
        share.more(bytes).then_some(share)
    }
}

impl Share {
    /// Takes so many bytes more; says whether there were as many.
    pub(crate) fn more(&mut self, bytes: usize) -> bool {
        let Allowance { held, bytes_max } = &self.of;
        let taken = held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
            held.checked_add(bytes).filter(|held| held <= bytes_max)
        });
        if taken.is_ok() {
            self.bytes += bytes;
        }
        taken.is_ok()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_is_held_as_may_be_and_not_a_byte_more() {
        let allowance = Allowance::new(100);
        assert!(allowance.take(101).is_none());
        let all = allowance.take(100).expect("all of it");
        assert!(allowance.take(1).is_none());
        drop(all);
        let mut most = allowance.take(60).expect("given back");
        assert!(!most.more(41) && most.more(40) && !most.more(1));
        assert!(!most.more(usize::MAX), "it does not wrap");
        assert!(allowance.take(0).is_some());
        drop(most);
        assert!(allowance.take(100).is_some(), "what was refused was not taken");
    }
}
