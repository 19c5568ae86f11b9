//! Repeated timings to one number with its spread.

use std::fmt;

/// One probe's timing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Median of the repeats.
    pub seconds: f64,
    /// Half the distance between the quartiles, relative to the median.
    pub spread: f64,
    pub repeats: u32,
}

/// How far a timing can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// Repeats within 2 %.
    A,
    /// Within 5 %, as far as tables of one GPU differ between collections.
    B,
    /// Within 15 %.
    C,
    /// Something else ran on the device.
    D,
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::A => "A",
            Self::B => "B",
            Self::C => "C",
            Self::D => "D",
        })
    }
}

impl Sample {
    /// `times` in seconds, at least one.
    pub fn of(times: &[f64]) -> Self {
        let mut times = times.to_vec();
        times.sort_by(f64::total_cmp);
        let seconds = quantile(&times, 0.5);
        let spread = (quantile(&times, 0.75) - quantile(&times, 0.25)) / 2.0 / seconds;
        Self { seconds, spread, repeats: u32::try_from(times.len()).unwrap_or(u32::MAX) }
    }

    pub fn grade(&self) -> Grade {
        match self.spread {
            spread if spread <= 0.02 => Grade::A,
            spread if spread <= 0.05 => Grade::B,
            spread if spread <= 0.15 => Grade::C,
            _ => Grade::D,
        }
    }
}

/// Linear between the two nearest; `sorted` is not empty.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (low, part) = (place.floor() as usize, place.fract());
    let high = (low + 1).min(sorted.len() - 1);
    sorted[low] + (sorted[high] - sorted[low]) * part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_stands_and_one_outlier_does_not_spoil_the_grade() {
        let sample = Sample::of(&[1.0, 1.01, 0.99, 1.0, 9.0]);
        assert_eq!(sample.seconds, 1.0);
        assert_eq!((sample.grade(), sample.repeats), (Grade::A, 5));
        assert_eq!(Sample::of(&[1.0, 2.0, 3.0, 4.0]).grade(), Grade::D);
        assert_eq!(Sample::of(&[2.0]).spread, 0.0);
    }
}
