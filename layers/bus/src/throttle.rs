//! Spaces warnings out, so that no minute has more than the configured number. Knows no clock.

use crate::sync::{AtomicU64, Ordering};

const MINUTE_NS: u64 = 60_000_000_000;

/// Admits one caller per gap; counts those it holds back.
#[derive(Debug)]
pub(crate) struct Throttle {
    gap_ns: u64,
    next_ns: AtomicU64,
    held_back: AtomicU64,
}

impl Throttle {
    /// At most `per_min` admissions in any half-open minute.
    pub(crate) fn per_min(per_min: u32) -> Self {
        let gap_ns = MINUTE_NS.div_ceil(u64::from(per_min.max(1)));
        Self {
            gap_ns,
            next_ns: AtomicU64::new(0),
            held_back: AtomicU64::new(0),
        }
    }

    /// `Some(held back since the last admission)` if the caller may speak at `now_ns`.
    ///
    /// Every call is either admitted or counted in exactly one later (or pending) answer.
    pub(crate) fn admit(&self, now_ns: u64) -> Option<u64> {
        let mut next_ns = self.next_ns.load(Ordering::Relaxed);
        loop {
            if now_ns < next_ns {
                self.held_back.fetch_add(1, Ordering::Relaxed);
                return None;
            }
            let after = now_ns.saturating_add(self.gap_ns);
            match self
                .next_ns
                .compare_exchange_weak(next_ns, after, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return Some(self.held_back.swap(0, Ordering::Relaxed)),
                Err(seen) => next_ns = seen,
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{Throttle, MINUTE_NS};

    #[test]
    fn no_minute_has_more_than_the_rate() {
        for rate in [1, 2, 7, 60, 61, 999] {
            let throttle = Throttle::per_min(rate);
            let step = 3_000_017;
            let admitted: Vec<u64> = (0..200_000u64)
                .map(|i| i * step)
                .filter(|now| throttle.admit(*now).is_some())
                .collect();
            for (i, start) in admitted.iter().enumerate() {
                let within = admitted[i..]
                    .iter()
                    .take_while(|t| **t < start + MINUTE_NS)
                    .count();
                assert!(within <= rate as usize, "rate {rate}: {within} in one minute");
            }
        }
    }

    #[test]
    fn every_call_is_admitted_or_held_back_once() {
        let throttle = Throttle::per_min(60);
        let (mut admitted, mut held) = (0, 0);
        for now in (0..500).map(|i| i * 10_000_000) {
            if let Some(before) = throttle.admit(now) {
                admitted += 1;
                held += before;
            }
        }
        held += throttle.admit(u64::MAX).expect("a gap has passed");
        assert_eq!((admitted, held), (5, 495));
    }
}

#[cfg(all(test, loom))]
mod models {
    use std::sync::Arc;

    use super::Throttle;

    #[test]
    fn two_subscribers_at_one_instant_give_one_warning_and_one_count() {
        loom::model(|| {
            let throttle = Arc::new(Throttle::per_min(1));
            let other = Arc::clone(&throttle);
            let theirs = loom::thread::spawn(move || other.admit(5));
            let ours = throttle.admit(5);
            let theirs = theirs.join().unwrap();
            let later = throttle.admit(u64::MAX).unwrap();
            let spoken = [ours, theirs].iter().flatten().count();
            let counted: u64 = [ours, theirs].iter().flatten().sum::<u64>() + later;
            assert_eq!((spoken, counted), (1, 1));
        });
    }
}
