//! A share of traffic, and the threshold it stands for.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, de};

/// A share of traffic from 0.0 to 1.0. In text and config: `0.10` or `"10%"`.
///
/// ```
/// use arqon_message::Fraction;
///
/// assert_eq!("10%".parse::<Fraction>()?, Fraction::new(0.10)?);
/// let refused = Fraction::new(10.0).unwrap_err().to_string();
/// assert_eq!(refused, "10 is not a share from 0.0 to 1.0: did you mean 0.1 or \"10%\"?");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Fraction(f64);

impl Fraction {
    /// Nothing.
    pub const ZERO: Self = Self(0.0);
    /// Everything.
    pub const ONE: Self = Self(1.0);

    /// Takes a share.
    ///
    /// # Errors
    /// When `share` is NaN, below 0 or above 1; for 1 to 100 the message asks whether percent was meant.
    pub fn new(share: f64) -> Result<Self, InvalidFraction> {
        // `-0.0` is 0.0.
        if (0.0..=1.0).contains(&share) {
            Ok(Self(share + 0.0))
        } else {
            Err(InvalidFraction::Range(share))
        }
    }

    /// A share given in percent, 0.0 to 100.0.
    ///
    /// # Errors
    /// When `percent` is NaN, below 0 or above 100.
    pub fn from_percent(percent: f64) -> Result<Self, InvalidFraction> {
        if (0.0..=100.0).contains(&percent) {
            Ok(Self(percent / 100.0 + 0.0))
        } else {
            Err(InvalidFraction::Percent(percent))
        }
    }

    /// The share, 0.0 to 1.0.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }

    /// The border that a key's hash has to be below.
    #[must_use]
    pub fn threshold(self) -> Threshold {
        if self.0 >= 1.0 {
            return Threshold::Always;
        }
        // 2^64 is exact as f64 and the product is below it, so the cast neither saturates nor loses more than the
        // share's own 53 bits; a positive share below 2^-64 becomes 0, which is `Never`.
        let below = (self.0 * 18_446_744_073_709_551_616.0) as u64;
        if below == 0 {
            Threshold::Never
        } else {
            Threshold::Below(below)
        }
    }
}

/// A [`Fraction`] made ready for the hot path: one comparison, no float and no division.
///
/// A key is in when its 64-bit hash is below the border, so whoever is in at 10 % is in at 20 %.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threshold {
    /// Nobody, not even hash 0.
    Never,
    /// Hashes below this exclusive border.
    Below(u64),
    /// Everybody, also hash 2^64 - 1.
    Always,
}

impl Threshold {
    /// Whether a hash is in.
    #[must_use]
    pub const fn contains(self, hash: u64) -> bool {
        match self {
            Self::Never => false,
            Self::Below(border) => hash < border,
            Self::Always => true,
        }
    }
}

/// A number or text that is no share of traffic.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InvalidFraction {
    /// Not within 0.0 to 1.0.
    #[error("{0} is not a share from 0.0 to 1.0{hint}", hint = hint(*.0))]
    Range(f64),
    /// Not within 0 % to 100 %.
    #[error("{0}% is not a share from 0% to 100%")]
    Percent(f64),
    /// Not a number.
    #[error("{0:?} is not a share: write 0.10 or \"10%\"")]
    Text(String),
}

fn hint(share: f64) -> String {
    if share > 1.0 && share <= 100.0 {
        format!(": did you mean {} or \"{share}%\"?", share / 100.0)
    } else {
        String::new()
    }
}

impl FromStr for Fraction {
    type Err = InvalidFraction;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unreadable = |_| InvalidFraction::Text(text.chars().take(40).collect());
        match text.trim().strip_suffix('%') {
            Some(percent) => Self::from_percent(percent.trim().parse().map_err(unreadable)?),
            None => Self::new(text.trim().parse().map_err(unreadable)?),
        }
    }
}

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Fraction {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Fraction;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a share such as 0.10 or \"10%\"")
            }

            fn visit_f64<E: de::Error>(self, share: f64) -> Result<Fraction, E> {
                Fraction::new(share).map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, share: u64) -> Result<Fraction, E> {
                Fraction::new(share as f64).map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, share: i64) -> Result<Fraction, E> {
                Fraction::new(share as f64).map_err(E::custom)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Fraction, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_share_is_refused_by_name() {
        for bad in [
            f64::NAN,
            f64::INFINITY,
            -0.1,
            1.0001,
            100.0001,
            -f64::MIN_POSITIVE,
        ] {
            assert!(Fraction::new(bad).is_err(), "{bad}");
        }
        assert!(
            Fraction::new(10.0)
                .expect_err("percent")
                .to_string()
                .contains("did you mean 0.1")
        );
        assert!(
            !Fraction::new(1000.0)
                .expect_err("nonsense")
                .to_string()
                .contains("did you mean")
        );
        assert!("110%".parse::<Fraction>().is_err());
        assert!(
            "ten"
                .parse::<Fraction>()
                .expect_err("text")
                .to_string()
                .contains("0.10")
        );
        assert!(
            serde_json::from_str::<Fraction>("[]")
                .expect_err("list")
                .to_string()
                .contains("a share such as")
        );
    }

    #[test]
    fn thresholds_are_those_of_the_table() {
        // notes/shadow_rollout.md 4.2
        for (share, border) in [
            (0.0001, 0x0006_8DB8_BAC7_10CB),
            (0.001, 0x0041_8937_4BC6_A7F0),
            (0.01, 0x028F_5C28_F5C2_8F60),
            (0.05, 0x0CCC_CCCC_CCCC_CD00),
            (0.10, 0x1999_9999_9999_9A00),
            (0.25, 0x4000_0000_0000_0000),
            (0.50, 0x8000_0000_0000_0000_u64),
            (0.75, 0xC000_0000_0000_0000),
            (0.90, 0xE666_6666_6666_6800),
            (0.99, 0xFD70_A3D7_0A3D_7000),
        ] {
            assert_eq!(
                Fraction::new(share).expect("share").threshold(),
                Threshold::Below(border),
                "{share}"
            );
        }
    }

    #[test]
    fn nothing_and_everything_are_exact() {
        assert!(!Fraction::ZERO.threshold().contains(0));
        assert!(Fraction::ONE.threshold().contains(u64::MAX));
        assert_eq!(Fraction::new(1e-30).expect("share").threshold(), Threshold::Never);
        assert_eq!(Fraction::new(-0.0).expect("zero").to_string(), "0");
    }

    #[test]
    fn the_border_itself_is_out() {
        let Threshold::Below(border) = Fraction::new(0.1).expect("share").threshold() else {
            unreachable!()
        };
        assert!(Threshold::Below(border).contains(border - 1));
        assert!(!Threshold::Below(border).contains(border));
    }

    proptest! {
        #[test]
        fn a_larger_share_never_loses_a_key(a in 0.0..=1.0_f64, b in 0.0..=1.0_f64, hash: u64) {
            let (small, large) = if a <= b { (a, b) } else { (b, a) };
            let (small, large) = (Fraction::new(small).expect("share"), Fraction::new(large).expect("share"));
            prop_assert!(!small.threshold().contains(hash) || large.threshold().contains(hash));
        }
    }
}
