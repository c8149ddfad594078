//! The source's `RolloutTracker` (S0-11, S0-12), on a clock a test can set.

use std::sync::Arc;

use arqon_message::{Fraction, Sampler};

use crate::{
    assignment::CoinFlip,
    clock::{Clock, SystemClock},
    ramp::InvalidRollout,
    wire::RolloutConfig,
};

/// Shifts traffic gradually: the percent grows with time, computed and never accumulated.
///
/// The layer does not need it, it serves what the control log says. It is for programs that
/// drive a rollout by themselves, as the source's example does.
///
/// ```
/// use std::time::Duration;
/// use arqon_rollout::{ManualClock, RolloutConfig, RolloutTracker};
///
/// let clock = ManualClock::new(0);
/// let config = RolloutConfig { initial_percent: 5.0, increment_per_minute: 5.0, max_percent: 50.0 };
/// let mut tracker = RolloutTracker::with_clock(config, clock.clone())?;
/// assert_eq!(tracker.current_percent(), 5.0);
///
/// clock.advance(Duration::from_secs(60));
/// tracker.step();
/// assert_eq!(tracker.current_percent(), 10.0);
/// # Ok::<(), arqon_rollout::InvalidRollout>(())
/// ```
#[derive(Debug, Clone)]
pub struct RolloutTracker<C = SystemClock> {
    config: RolloutConfig,
    current_percent: f64,
    started_at_us: u64,
    coin: Arc<CoinFlip>,
    clock: C,
}

impl RolloutTracker {
    /// Starts now.
    ///
    /// # Errors
    ///
    /// [`InvalidRollout`]: a config out of range is refused, never clamped.
    pub fn new(config: RolloutConfig) -> Result<Self, InvalidRollout> {
        Self::with_clock(config, SystemClock::new())
    }
}

impl<C: Clock> RolloutTracker<C> {
    /// Starts at the time of `clock`.
    ///
    /// # Errors
    ///
    /// As [`new`](RolloutTracker::new).
    pub fn with_clock(config: RolloutConfig, clock: C) -> Result<Self, InvalidRollout> {
        config.validate()?;
        let started_at_us = clock.now_us();
        let coin = Arc::new(CoinFlip::new());
        Ok(Self {
            config,
            current_percent: config.initial_percent,
            started_at_us,
            coin,
            clock,
        })
    }

    /// A coin flip at the current percent: the source's behaviour, different for each call. For a sticky
    /// decision use [`should_apply_for`](Self::should_apply_for).
    pub fn should_apply(&mut self) -> bool {
        self.step();
        self.fraction().threshold().contains(self.coin.flip())
    }

    /// Whether `key` is in at the current percent: the same answer for the same key and `seed` on every
    /// node, and who is in stays in while the percent does not fall.
    pub fn should_apply_for(&mut self, key: &[u8], seed: u64) -> bool {
        self.step();
        Sampler::new(seed).sample(key, self.fraction().threshold())
    }

    /// Takes the time into account. Calling it often, seldom or never between decisions changes nothing.
    pub fn step(&mut self) {
        let active_us = self.clock.now_us().saturating_sub(self.started_at_us);
        self.current_percent = self.config.percent_at(active_us);
    }

    /// The percent of the last [`step`](Self::step), 0.0 to 100.0.
    pub fn current_percent(&self) -> f64 {
        self.current_percent
    }

    fn fraction(&self) -> Fraction {
        Fraction::from_percent(self.current_percent).unwrap_or(Fraction::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::ManualClock;

    fn tracker(initial: f64, max: f64) -> (RolloutTracker<ManualClock>, ManualClock) {
        let clock = ManualClock::new(1_000);
        let config = RolloutConfig {
            initial_percent: initial,
            increment_per_minute: 10.0,
            max_percent: max,
        };
        (RolloutTracker::with_clock(config, clock.clone()).unwrap(), clock)
    }

    #[test]
    fn zero_is_nobody_and_a_hundred_is_everybody() {
        let (mut nobody, _) = tracker(0.0, 0.0);
        let (mut everybody, _) = tracker(100.0, 100.0);
        for key in 0..1_000_u32 {
            assert!(!nobody.should_apply() && !nobody.should_apply_for(&key.to_be_bytes(), 7));
            assert!(everybody.should_apply() && everybody.should_apply_for(&key.to_be_bytes(), 7));
        }
    }

    #[test]
    fn steps_lost_or_doubled_change_nothing() {
        let ((mut often, often_clock), (mut once, once_clock)) = (tracker(5.0, 50.0), tracker(5.0, 50.0));
        for _ in 0..90 {
            often_clock.advance(Duration::from_secs(1));
            often.step();
            often.step();
        }
        once_clock.advance(Duration::from_secs(90));
        once.step();
        assert_eq!(
            often.current_percent().to_bits(),
            once.current_percent().to_bits()
        );
        assert_eq!(once.current_percent().to_bits(), 20.0_f64.to_bits());
    }

    #[test]
    fn a_coin_flip_comes_out_near_its_percent() {
        let (mut tracker, _) = tracker(50.0, 50.0);
        let heads = (0..10_000).filter(|_| tracker.should_apply()).count();
        // Five sigma of 10,000 flips at one half.
        assert!((4_750..=5_250).contains(&heads), "{heads}");
    }
}
