//! The way past the mirror for a key that no rule can choose: two loads, no snapshot.

use std::sync::atomic::{AtomicU64, Ordering};

use arqon_message::{Sampler, Threshold};

/// The seed, and the widest of all borders. They are read one after the other: while both change, a request may be judged
/// by the old of one and the new of the other. Whoever is admitted is judged again, by one snapshot of the rules; whoever
/// is not passes while the border moves, as if the change had come a moment earlier or later.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    seed: AtomicU64,
    /// Hashes below it are admitted. 0: nobody is; the largest: everybody, also the largest hash.
    border: AtomicU64,
}

impl Gate {
    pub(crate) fn set(&self, sampler: Sampler, reach: Threshold) {
        self.seed.store(sampler.seed(), Ordering::Relaxed);
        let border = match reach {
            Threshold::Never => 0,
            Threshold::Below(border) => border,
            Threshold::Always => u64::MAX,
        };
        self.border.store(border, Ordering::Release);
    }

    /// No request can be chosen.
    #[inline]
    pub(crate) fn is_shut(&self) -> bool {
        self.border.load(Ordering::Acquire) == 0
    }

    /// Some rule takes every key: there is nothing to find out here.
    #[inline]
    pub(crate) fn is_wide(&self) -> bool {
        self.border.load(Ordering::Acquire) == u64::MAX
    }

    /// Whether some rule may choose the key.
    #[inline]
    pub(crate) fn admits(&self, key: &[u8]) -> bool {
        let border = self.border.load(Ordering::Acquire);
        border == u64::MAX || Sampler::new(self.seed.load(Ordering::Relaxed)).hash(key) < border
    }
}

#[cfg(test)]
mod tests {
    use arqon_message::Fraction;

    use super::*;

    #[test]
    fn whoever_a_rule_takes_is_admitted() {
        let gate = Gate::default();
        assert!(gate.is_shut());
        for (seed, share) in [(0, 0.0), (0, 0.1), (7, 0.5), (7, 1.0)] {
            let (sampler, reach) = (
                Sampler::new(seed),
                Fraction::new(share).expect("share").threshold(),
            );
            gate.set(sampler, reach);
            assert_eq!((gate.is_shut(), gate.is_wide()), (share == 0.0, share == 1.0));
            for n in 0..1_000 {
                let key = format!("{n:032x}");
                assert_eq!(gate.admits(key.as_bytes()), sampler.sample(key.as_bytes(), reach));
            }
        }
    }
}
