//! What priced a run: the cost models as it has left them, and the time that it put on each.

use crate::cost::calibrated::{CalibratedCost, Extrapolation, merge};
use crate::metrics::{PoolSteps, Recorder, Summary, Trusted};

/// The cost models of a run. They remember prices, and know what they were asked outside of their
/// range.
#[derive(Clone, Debug)]
pub struct Priced {
    /// By pool; at least one.
    pub(super) costs: Vec<CalibratedCost>,
    /// Where there are several.
    pub(super) steps: Option<PoolSteps>,
}

impl Priced {
    /// How far the run of `recorder` can be trusted.
    pub fn trusted(&self, recorder: &Recorder) -> Trusted {
        let grades: Vec<_> = self.costs.iter().map(CalibratedCost::grades).collect();
        match &self.steps {
            Some(steps) => steps.trusted(&grades),
            None => recorder.trusted(&grades[0]),
        }
    }

    /// The figures of the run, with how far they can be trusted.
    pub fn summary(&self, recorder: Recorder) -> Summary {
        let trusted = self.trusted(&recorder);
        let mut summary = recorder.summary().trusted(&trusted);
        if let Some(steps) = &self.steps {
            for (place, pool) in summary.pools.values_mut().enumerate() {
                let trusted = steps.trusted_one(place, &self.costs[place].grades());
                pool.trust = trusted.grade();
                pool.trust_shares = trusted.shares;
            }
        }
        summary
    }

    /// Where the cost models left the range of their measurements.
    pub fn extrapolations(&self) -> Vec<Extrapolation> {
        let mut all = Vec::new();
        self.costs.iter().for_each(|cost| merge(&mut all, cost.extrapolations()));
        all
    }
}
