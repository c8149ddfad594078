//! How a share of traffic grows: `min(max, initial + increment * active_minutes)`, computed and never
//! accumulated, so a lost or doubled tick changes nothing (DESIGN 8).

use crate::wire::RolloutConfig;

/// Microseconds of a minute.
const MINUTE_US: f64 = 60_000_000.0;

/// Why a [`RolloutConfig`] is refused. Nothing is ever clamped.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRollout {
    /// Not a percentage.
    #[error("`{field}` = {value} is not in 0..=100")]
    OutOfRange {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: f64,
    },
    /// Starts above where it ends.
    #[error("`initial_percent` = {initial} is above `max_percent` = {max}")]
    InitialAboveMax {
        /// Where it starts.
        initial: f64,
        /// Where it ends.
        max: f64,
    },
}

impl RolloutConfig {
    /// Everyone at once: what an approval without a ramp means where `allow_unramped` is set.
    pub const AT_ONCE: Self = Self {
        initial_percent: 100.0,
        increment_per_minute: 0.0,
        max_percent: 100.0,
    };

    /// Checks that every field is in 0..=100 and that the start is not above the end. A zero start and
    /// a zero increment are legal.
    ///
    /// # Errors
    ///
    /// [`InvalidRollout`] names the first field that is wrong; NaN and infinities are.
    pub fn validate(&self) -> Result<(), InvalidRollout> {
        let fields = [
            ("initial_percent", self.initial_percent),
            ("increment_per_minute", self.increment_per_minute),
            ("max_percent", self.max_percent),
        ];
        for (field, value) in fields {
            if !(0.0..=100.0).contains(&value) {
                return Err(InvalidRollout::OutOfRange { field, value });
            }
        }
        if self.initial_percent > self.max_percent {
            return Err(InvalidRollout::InitialAboveMax {
                initial: self.initial_percent,
                max: self.max_percent,
            });
        }
        Ok(())
    }

    /// Percent after `active_us` microseconds of active time; 0 for a config [`validate`](Self::validate)
    /// refuses, so a bad one fails to baseline.
    #[expect(
        clippy::cast_precision_loss,
        reason = "exact below 2^53 microseconds, which is 285 years"
    )]
    pub fn percent_at(&self, active_us: u64) -> f64 {
        if self.validate().is_err() {
            return 0.0;
        }
        let minutes = active_us as f64 / MINUTE_US;
        self.increment_per_minute
            .mul_add(minutes, self.initial_percent)
            .min(self.max_percent)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn config(initial: f64, increment: f64, max: f64) -> RolloutConfig {
        RolloutConfig {
            initial_percent: initial,
            increment_per_minute: increment,
            max_percent: max,
        }
    }

    #[test]
    fn the_ramp_table_r1_is_exact() {
        let ramp = config(5.0, 5.0, 50.0);
        for (seconds, percent) in [
            (0, 5.0),
            (1, 5.0 + 1.0 / 12.0),
            (30, 7.5),
            (59, 9.0 + 11.0 / 12.0),
            (60, 10.0),
            (120, 15.0),
            (540, 50.0),
            (541, 50.0),
        ] {
            let difference = (ramp.percent_at(seconds * 1_000_000) - percent).abs();
            assert!(difference < 1e-12, "{seconds} s: off by {difference}");
        }
        assert_eq!(ramp.percent_at(30_000_000).to_bits(), 7.5_f64.to_bits());
        assert_eq!(ramp.percent_at(60_000_000).to_bits(), 10.0_f64.to_bits());
        assert_eq!(ramp.percent_at(540_000_000).to_bits(), 50.0_f64.to_bits());
        assert_eq!(ramp.percent_at(u64::MAX).to_bits(), 50.0_f64.to_bits());
    }

    #[test]
    fn a_config_out_of_range_is_refused_and_never_serves() {
        for bad in [
            config(60.0, 1.0, 50.0),
            config(-1.0, 1.0, 50.0),
            config(f64::NAN, 1.0, 50.0),
            config(1.0, f64::NAN, 50.0),
            config(1.0, 1.0, f64::NAN),
            config(1.0, 1.0, 100.01),
            config(1.0, -1.0, 50.0),
            config(1.0, f64::INFINITY, 50.0),
        ] {
            assert!(bad.validate().is_err(), "{bad:?}");
            assert_eq!(bad.percent_at(600_000_000).to_bits(), 0);
        }
        for good in [
            config(0.0, 0.0, 0.0),
            config(10.0, 0.0, 50.0),
            config(100.0, 0.0, 100.0),
        ] {
            assert_eq!(good.validate(), Ok(()));
        }
    }

    proptest! {
        #[test]
        fn the_ramp_stays_in_bounds_and_never_falls(
            initial in any::<f64>(), increment in any::<f64>(), max in any::<f64>(),
            earlier in any::<u64>(), later in any::<u64>(),
        ) {
            let ramp = config(initial, increment, max);
            let (earlier, later) = (earlier.min(later), earlier.max(later));
            let (first, second) = (ramp.percent_at(earlier), ramp.percent_at(later));
            prop_assert!(first <= second);
            prop_assert!((0.0..=100.0).contains(&first) && (0.0..=100.0).contains(&second));
        }

        #[test]
        fn a_valid_ramp_stays_between_its_ends(
            a in 0.0..=100.0, increment in 0.0..=100.0, b in 0.0..=100.0, active in any::<u64>(),
        ) {
            let ramp = config(f64::min(a, b), increment, f64::max(a, b));
            prop_assert!(ramp.validate().is_ok());
            let percent = ramp.percent_at(active);
            prop_assert!(percent >= ramp.initial_percent && percent <= ramp.max_percent);
        }
    }
}
