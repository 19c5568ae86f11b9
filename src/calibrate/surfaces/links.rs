//! All-reduce through timed messages.

use crate::cost::collectives::{Line, Protocols};

use super::super::fit::Parameter;
use super::super::table::{Operator, Timing};
use super::{Dropped, Origin, Sample, Surface, at_most, fit, hash, prior, source_of, sources};

/// Which rows of a table: one kernel over one kind of link.
#[derive(Clone, Copy, Debug)]
pub struct Messages {
    /// The surface of a profile that they are for.
    pub surface: &'static str,
    pub link: &'static str,
    pub implementation: &'static str,
    /// What the rows' source begins with: the same kernel of several versions is in the tables.
    pub source: &'static str,
    /// Bytes of the longest message that counts.
    pub largest: u64,
    /// Nominal bytes per second of the links, one way.
    pub nominal: f64,
}

/// Types of 16 bits; others add up other numbers.
const DTYPES: [&str; 2] = ["fp16", "bf16"];

/// One line of a fit: latency, and bandwidth by number of ranks.
#[derive(Clone, Debug, PartialEq)]
pub struct FittedLine {
    pub base: f64,
    pub per_rank: f64,
    /// In the order of [`AllReduce::ranks`].
    pub bandwidth: Vec<f64>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct AllReduce {
    pub ranks: Vec<u32>,
    pub short: FittedLine,
    pub bulk: FittedLine,
}

impl FittedLine {
    fn of(values: &[f64]) -> Self {
        Self { base: values[0], per_rank: values[1], bandwidth: values[2..].to_vec() }
    }

    fn line(values: &[f64], at: usize, ranks: f64) -> Line {
        Line { latency: values[0] + values[1] * ranks, bus_bandwidth: values[2 + at] }
    }
}

/// Messages of these ranks, by place in the list of ranks.
struct Message {
    at: usize,
    ranks: f64,
    bytes: f64,
}

impl Messages {
    fn has(&self, timing: &Timing) -> Option<(u32, u64)> {
        match &timing.operator {
            Operator::AllReduce { link, implementation, ranks, bytes }
                if link == self.link
                    && implementation == self.implementation
                    && timing.source.starts_with(self.source)
                    && DTYPES.contains(&&*timing.dtype)
                    && *bytes <= self.largest =>
            {
                Some((*ranks, *bytes))
            }
            _ => None,
        }
    }

    /// The better of two lines through the rows; `None` where there are none.
    pub fn fit(&self, timings: &[&Timing]) -> Option<Surface<AllReduce>> {
        let mut ranks: Vec<u32> =
            timings.iter().filter_map(|timing| Some(self.has(timing)?.0)).collect();
        ranks.sort_unstable();
        ranks.dedup();
        let sample = |timing: &&Timing| {
            let (of, bytes) = self.has(timing)?;
            Some(Sample {
                shape: Message {
                    at: ranks.binary_search(&of).ok()?,
                    ranks: f64::from(of),
                    bytes: bytes as f64,
                },
                seconds: timing.seconds,
                source: format!("{} {}", source_of(timing), self.implementation),
                key: hash(&[bytes]),
                row: hash(&[bytes, u64::from(of)]),
                region: match bytes {
                    0..=65_536 => "<=64 KiB",
                    65_537..=1_048_576 => "<=1 MiB",
                    _ => ">1 MiB",
                },
            })
        };
        let samples: Vec<Sample<Message>> = timings.iter().filter_map(sample).collect();
        if samples.len() < super::FEWEST_ROWS {
            return None;
        }
        let line = |base: f64, per_rank: f64, share: f64| {
            let bandwidth = prior("bus-bandwidth", share * self.nominal, 4.0);
            let bandwidth = at_most(bandwidth, self.nominal);
            let latency =
                [prior("latency-base", base, 4.0), prior("latency-per-rank", per_rank, 4.0)];
            latency.into_iter().chain(ranks.iter().map(move |_| bandwidth.clone()))
        };
        let count = 2 + ranks.len();
        let starts: Vec<Vec<Parameter>> = [(20e-6, 5e-6), (60e-6, 1e-6)]
            .map(|(base, per_rank)| {
                line(5e-6, 1e-6, 0.3).chain(line(base, per_rank, 0.6)).collect()
            })
            .to_vec();
        let seconds = |values: &[f64], message: &Message| {
            let Message { at, ranks, bytes } = *message;
            let protocols = Protocols {
                short: FittedLine::line(values, at, ranks),
                bulk: Some(FittedLine::line(&values[count..], at, ranks)),
            };
            protocols.seconds(2.0 * (ranks - 1.0) / ranks * bytes)
        };
        let what = (self.surface, "messages of held-out lengths", Origin::Tables);
        let (values, fits) = fit(what, &samples, &starts, seconds);
        let form = AllReduce {
            short: FittedLine::of(&values[..count]),
            bulk: FittedLine::of(&values[count..]),
            ranks: ranks.clone(),
        };
        let source = sources(&samples);
        Some(Surface { form, fits, dropped: Dropped::default(), rows: samples.len(), source })
    }
}
