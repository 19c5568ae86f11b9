//! The virtual clock: instants and durations in whole nanoseconds.
//!
//! Integers make equality exact: a run that jumps over many steps and a run that takes them one by
//! one must agree to the nanosecond, which sums of floats would not.

use std::fmt;
use std::ops::{Add, AddAssign, Sub, SubAssign};

use crate::units::ParseUnitError;

/// An instant of the simulated clock: nanoseconds since the start of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SimTime(u64);

/// A span of simulated time in nanoseconds; never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SimDuration(u64);

impl SimTime {
    pub const ZERO: Self = Self(0);
    /// Later than every instant that a run can reach.
    pub const MAX: Self = Self(u64::MAX);

    pub const fn from_nanos(ns: u64) -> Self {
        Self(ns)
    }

    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The nearest number: a product with 1e-9, itself rounded, makes 240.00000000000003 of 240 s.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// The span from `earlier` to `self`; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> SimDuration {
        SimDuration(self.0.saturating_sub(earlier.0))
    }
}

impl SimDuration {
    pub const ZERO: Self = Self(0);
    pub const MAX: Self = Self(u64::MAX);
    /// What may be asked for: with it, sums of a few stay well below the end of the clock, 584 years.
    pub const LONGEST: Self = Self::from_secs(1_000_000_000);

    pub const fn from_nanos(ns: u64) -> Self {
        Self(ns)
    }

    pub const fn from_millis(ms: u64) -> Self {
        Self(ms * 1_000_000)
    }

    pub const fn from_secs(s: u64) -> Self {
        Self(s * 1_000_000_000)
    }

    /// Seconds to the nearest nanosecond, halves up; negative and NaN become zero, overflow `MAX`.
    ///
    /// The cast saturates and truncates, which is one instruction where `f64::round` is a call.
    pub fn from_secs_f64(seconds: f64) -> Self {
        Self((seconds * 1e9 + 0.5) as u64)
    }

    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }

    pub fn as_millis_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }

    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Add<SimDuration> for SimTime {
    type Output = Self;
    fn add(self, d: SimDuration) -> Self {
        Self(self.0.saturating_add(d.0))
    }
}

impl AddAssign<SimDuration> for SimTime {
    fn add_assign(&mut self, d: SimDuration) {
        *self = *self + d;
    }
}

impl Add for SimDuration {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for SimDuration {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for SimDuration {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

impl SubAssign for SimDuration {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl std::iter::Sum for SimDuration {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for SimTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6} s", self.as_secs_f64())
    }
}

impl fmt::Display for SimDuration {
    /// Three significant places in the largest unit that keeps the number at or above one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.0 as f64;
        match self.0 {
            0..1_000 => write!(f, "{} ns", self.0),
            1_000..1_000_000 => write!(f, "{:.3} us", ns * 1e-3),
            1_000_000..1_000_000_000 => write!(f, "{:.3} ms", ns * 1e-6),
            _ => write!(f, "{:.3} s", ns * 1e-9),
        }
    }
}

impl std::str::FromStr for SimDuration {
    type Err = ParseUnitError;

    /// `"50ms"`, `"240 s"`, `"1.5h"`; units ns, us, ms, s, min, h. A bare number has no unit and is
    /// refused.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const UNITS: &[(&str, f64)] = &[
            ("ns", 1e-9),
            ("us", 1e-6),
            ("µs", 1e-6),
            ("ms", 1e-3),
            ("s", 1.0),
            ("min", 60.0),
            ("h", 3600.0),
        ];
        const EXAMPLES: &str = "\"50ms\", \"240s\"";
        let seconds = crate::units::parse_quantity(text, UNITS, "a duration", EXAMPLES)?;
        if seconds > Self::LONGEST.as_secs_f64() {
            return Err(ParseUnitError {
                text: text.to_owned(),
                what: "a duration",
                reason: format!("longer than {} s, some 31 years", Self::LONGEST.0 / 1_000_000_000),
                examples: EXAMPLES,
            });
        }
        Ok(Self::from_secs_f64(seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_unit() {
        let ok = |s: &str| s.parse::<SimDuration>().unwrap().as_nanos();
        assert_eq!(ok("50ms"), 50_000_000);
        assert_eq!(ok("240 s"), 240_000_000_000);
        assert_eq!(ok("1.5 us"), 1_500);
        assert_eq!(ok("2min"), 120_000_000_000);
        for bad in ["240", "", "s", "-1s", "1 parsec", "nan s", "1e400 s"] {
            assert!(bad.parse::<SimDuration>().is_err(), "{bad:?} should be refused");
        }
    }

    #[test]
    fn seconds_round_to_the_nearest_nanosecond() {
        assert_eq!(SimDuration::from_secs_f64(1.4e-9).as_nanos(), 1);
        assert_eq!(SimDuration::from_secs_f64(1.6e-9).as_nanos(), 2);
        assert_eq!(SimDuration::from_secs_f64(-1.0).as_nanos(), 0);
        assert_eq!(SimDuration::from_secs_f64(f64::NAN).as_nanos(), 0);
    }
}
