//! A log-bucketed histogram of weighted non-negative integers.
//!
//! Each octave is cut into [`SUB_BUCKETS`] equal buckets, and values below `SUB_BUCKETS` have a
//! bucket each. A bucket of the octave starting at `2^k` is `2^k / 128` wide, so its middle is
//! within 1/256 of every value in it.

/// Buckets per octave; a power of two.
pub const SUB_BUCKETS: u64 = 1 << SUB_BITS;
const SUB_BITS: u32 = 7;
const BUCKETS: usize = ((u64::BITS - SUB_BITS + 1) as usize) << SUB_BITS;

/// How far a bucket's middle can lie from a value in it, relative to the value.
pub const RELATIVE_ERROR: f64 = 0.5 / SUB_BUCKETS as f64;

/// Weights by bucket; 59 KB whatever it holds.
#[derive(Clone, Debug)]
pub struct Histogram {
    weights: Vec<u64>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { weights: vec![0; BUCKETS] }
    }
}

impl Histogram {
    #[inline]
    pub fn add(&mut self, value: u64, weight: u64) {
        self.weights[bucket_of(value)] += weight;
    }

    /// For each of `ranks` (ascending, counted from 0) the bucket of the value with that rank and the
    /// number of values in the buckets below. Ranks must be less than the total weight.
    pub fn locate(&self, ranks: &[u64]) -> Vec<Located> {
        let mut found = Vec::with_capacity(ranks.len());
        let (mut below, mut bucket) = (0, 0);
        for &rank in ranks {
            while below + self.weights[bucket] <= rank {
                below += self.weights[bucket];
                bucket += 1;
            }
            found.push(Located { bucket, below });
        }
        found
    }
}

/// The bucket that holds a rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    pub bucket: usize,
    /// Weight in the buckets before it.
    pub below: u64,
}

/// The bucket of a value; buckets are in the order of their values.
#[inline]
pub const fn bucket_of(value: u64) -> usize {
    if value < SUB_BUCKETS {
        return value as usize;
    }
    // The leading bit gives the octave, the next SUB_BITS bits the place within it.
    let shift = value.ilog2() - SUB_BITS;
    let octave = (shift + 1) as usize;
    (octave << SUB_BITS) + ((value >> shift) - SUB_BUCKETS) as usize
}

/// The middle of a bucket.
pub fn middle_of(bucket: usize) -> f64 {
    let (octave, place) = (bucket as u64 >> SUB_BITS, bucket as u64 & (SUB_BUCKETS - 1));
    if octave == 0 {
        return place as f64;
    }
    let width = (1u64 << (octave - 1)) as f64;
    // The values of a bucket are `low ..= low + width - 1`.
    (SUB_BUCKETS + place) as f64 * width + (width - 1.0) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn small_values_have_a_bucket_each() {
        for value in 0..2 * SUB_BUCKETS {
            assert_eq!(middle_of(bucket_of(value)), value as f64);
        }
    }

    #[test]
    fn the_largest_value_has_the_last_bucket() {
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    proptest! {
        #[test]
        fn the_middle_is_within_the_stated_error(value in 1u64.., shift in 0u32..63) {
            let value = (value >> shift).max(1);
            let error = (middle_of(bucket_of(value)) - value as f64).abs() / value as f64;
            prop_assert!(error <= RELATIVE_ERROR * (1.0 + 1e-12), "{value}: {error}");
        }

        #[test]
        fn buckets_keep_the_order_of_values(a: u64, b: u64) {
            let (a, b) = (a.min(b), a.max(b));
            prop_assert!(bucket_of(a) <= bucket_of(b));
        }
    }
}
