//! The one sampling function.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::Threshold;

/// Decides for a key whether it belongs to a share of the traffic: XXH3-64 of the key with a seed, below a threshold.
///
/// The answer depends on nothing else, so it is the same on every node, after every restart and in every language
/// (`tests/vectors/sampler.json`). Samplers with different seeds decide independently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sampler {
    seed: u64,
}

impl Sampler {
    /// A sampler with a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The seed.
    #[must_use]
    pub const fn seed(self) -> u64 {
        self.seed
    }

    /// The key's hash: `XXH3_64bits_withSeed(key, seed)`.
    #[must_use]
    #[inline]
    pub fn hash(self, key: &[u8]) -> u64 {
        xxh3_64_with_seed(key, self.seed)
    }

    /// Whether the key is in. `Never` and `Always` do not hash.
    #[must_use]
    #[inline]
    pub fn sample(self, key: &[u8], threshold: Threshold) -> bool {
        match threshold {
            Threshold::Never => false,
            Threshold::Always => true,
            Threshold::Below(border) => self.hash(key) < border,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Fraction;

    #[test]
    fn hashes_are_the_published_ones() {
        // notes/shadow_rollout.md 4.1 and 4.2
        let zero = Sampler::new(0);
        assert_eq!(zero.hash(b""), 0x2D06_8005_38D3_94C2);
        assert_eq!(zero.hash(b"a"), 0xE6C6_32B6_1E96_4E1F);
        assert_eq!(zero.hash(b"abc"), 0x78AF_5F94_892F_3950);
        assert_eq!(zero.hash(b"trace-1"), 0x2F6E_0BAC_3D2F_66EC);
        for (key, seed, hash) in [
            ("0af7651916cd43dd8448eb211c80319c", 0, 0xD9EE_67DB_D675_2863_u64),
            ("0af7651916cd43dd8448eb211c80319c", 1, 0xA606_DFEB_F510_88CD),
            ("0af7651916cd43dd8448eb211c80319c", 42, 0xD9F7_EFA4_A652_919F),
            ("4bf92f3577b34da6a3ce929d0e0e4736", 0, 0x6BDF_F82F_D221_C352),
            ("4bf92f3577b34da6a3ce929d0e0e4736", 1, 0xD26F_1B56_D86E_6917),
            ("12345678901234567890123456789012", 0, 0x8186_31E2_44E8_12B1),
        ] {
            assert_eq!(Sampler::new(seed).hash(key.as_bytes()), hash, "{key} {seed}");
        }
    }

    #[test]
    fn two_seeds_decide_independently() {
        let ten = Fraction::new(0.1).expect("share").threshold();
        let (mut a, mut b, mut both) = (0, 0, 0);
        for n in 0..1_000_000_u64 {
            let key = format!("{n:032x}");
            let (in_a, in_b) = (
                Sampler::new(1).sample(key.as_bytes(), ten),
                Sampler::new(2).sample(key.as_bytes(), ten),
            );
            a += u32::from(in_a);
            b += u32::from(in_b);
            both += u32::from(in_a && in_b);
        }
        // Five sigma of a binomial: 300 * 5 around 100 000, 100 * 5 around 10 000.
        assert!((98_500..=101_500).contains(&a), "{a}");
        assert!((98_500..=101_500).contains(&b), "{b}");
        assert!((9_500..=10_500).contains(&both), "{both}");
    }

    #[test]
    fn buckets_are_even() {
        // Chi-square over 100 buckets of 10^6 keys; 99 degrees of freedom, p > 1e-6 is below 180.
        let mut buckets = [0_u32; 100];
        for n in 0..1_000_000_u64 {
            let hash = Sampler::new(0).hash(format!("{n:032x}").as_bytes());
            buckets[((u128::from(hash) * 100) >> 64) as usize] += 1;
        }
        let chi: f64 = buckets
            .iter()
            .map(|&n| (f64::from(n) - 10_000.0).powi(2) / 10_000.0)
            .sum();
        assert!(chi < 180.0, "chi-square {chi}");
    }
}
