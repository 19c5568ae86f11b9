//! The figures of each tenant: what it asked, and how it was served.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::convention::Convention;
use super::distribution::Distribution;
use super::slo::{Slo, SloTally};
use super::summary::{Count, SloResult, Stats};
use crate::engine::observer::{Outcome, RequestRecord};
use crate::time::SimDuration;

/// The requests of one tenant, by the definitions of the run's convention.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TenantSummary {
    pub completed: Count,
    pub failed: Count,
    pub unfinished: Count,
    /// Of completed requests.
    pub total_input_tokens: Count,
    pub total_output_tokens: Count,
    /// Tokens of completed requests over the run's duration.
    pub output_throughput: f64,
    pub ttft_ms: Stats,
    pub tpot_ms: Stats,
    pub e2el_ms: Stats,
    /// Requests per second that meet every limit of its objective, and how it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goodput: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slo: Option<SloResult>,
}

/// Counts of each tenant; none where requests are of one kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Tenants(Vec<Tenant>);

#[derive(Clone, Debug, Default)]
struct Tenant {
    name: String,
    completed: u64,
    failed: u64,
    unfinished: u64,
    input_tokens: u64,
    output_tokens: u64,
    ttft: Distribution,
    tpot: Distribution,
    e2el: Distribution,
    objective: Option<Slo>,
    slo: SloTally,
}

impl Tenants {
    /// By the number that requests carry, with what is asked for them.
    pub fn named(tenants: Vec<(String, Option<Slo>)>) -> Self {
        let tenant = |(name, objective)| Tenant { name, objective, ..Tenant::default() };
        Self(tenants.into_iter().map(tenant).collect())
    }

    /// `in_time` says whether it ended before the deadline.
    pub fn add(&mut self, record: &RequestRecord, convention: Convention, in_time: bool) {
        let Some(tenant) = self.0.get_mut(usize::from(record.tenant)) else { return };
        if let Some(objective) = &tenant.objective
            && record.outcome != Outcome::Unfinished
        {
            tenant.slo.add(objective, record);
        }
        match record.outcome {
            Outcome::Unfinished => tenant.unfinished += 1,
            outcome if !outcome.is_success() => tenant.failed += 1,
            _ => tenant.answer(record, convention, in_time),
        }
    }

    pub fn summaries(
        &self,
        convention: Convention,
        duration: SimDuration,
    ) -> BTreeMap<String, TenantSummary> {
        let seconds = duration.as_secs_f64();
        let rate = |n: u64| if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
        let stats = |values: &Distribution| Stats::of(values, convention.quantile());
        let summary = |tenant: &Tenant| TenantSummary {
            completed: Count::new(tenant.completed),
            failed: Count::new(tenant.failed),
            unfinished: Count::new(tenant.unfinished),
            total_input_tokens: Count::new(tenant.input_tokens),
            total_output_tokens: Count::new(tenant.output_tokens),
            output_throughput: rate(tenant.output_tokens),
            ttft_ms: stats(&tenant.ttft),
            tpot_ms: if convention.has_tpot() { stats(&tenant.tpot) } else { Stats::default() },
            e2el_ms: stats(&tenant.e2el),
            goodput: tenant.objective.map(|_| rate(tenant.slo.good)),
            slo: tenant.objective.map(|slo| SloResult::of(&slo, &tenant.slo)),
        };
        self.0.iter().map(|tenant| (tenant.name.clone(), summary(tenant))).collect()
    }
}

impl Tenant {
    fn answer(&mut self, record: &RequestRecord, convention: Convention, in_time: bool) {
        self.completed += 1;
        self.input_tokens += u64::from(record.prompt_tokens);
        self.output_tokens += u64::from(record.output_tokens);
        self.e2el.record(record.e2e(), 1);
        if in_time || !convention.leaves_out_late_answers() {
            if let Some(ttft) = record.ttft() {
                self.ttft.record(ttft, 1);
            }
            if let Some((tpot, weight)) = convention.tpot(record) {
                self.tpot.record(tpot, weight);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::recorder::tests::answered;
    use super::super::{Measure, Recorder, Summary};
    use super::*;
    use crate::engine::observer::Observer;

    fn run(seed: u64) -> Summary {
        let chat = Slo { e2el: Some(SimDuration::from_millis(3000)), ..Slo::default() };
        let tenants = vec![("chat".to_owned(), Some(chat)), ("batch".to_owned(), None)];
        let mut recorder = Recorder::new(Measure::default()).with_tenants(tenants);
        for (tenant, end, outcome) in
            [(0, 2000, None), (1, 4000 + 1000 * seed, None), (1, 9000, Some(Outcome::Unfinished))]
        {
            let mut record = answered(0, 1000, end, 11);
            record.tenant = tenant;
            record.outcome = outcome.unwrap_or(record.outcome);
            recorder.on_request(&record);
        }
        recorder.summary()
    }

    #[test]
    fn requests_and_latencies_are_told_apart_by_tenant() {
        let summary = run(0);
        let [batch, chat] = ["batch", "chat"].map(|name| &summary.tenants[name]);
        assert_eq!((chat.completed.get(), chat.unfinished.get()), (1.0, 0.0));
        assert_eq!((batch.completed.get(), batch.unfinished.get()), (1.0, 1.0));
        assert_eq!((chat.e2el_ms.mean, batch.e2el_ms.mean), (Some(2000.0), Some(4000.0)));
        assert_eq!((chat.tpot_ms.median, batch.tpot_ms.median), (Some(100.0), Some(300.0)));
        let of_all = summary.tenants.values().map(|tenant| tenant.output_throughput);
        assert_eq!(of_all.sum::<f64>(), summary.output_throughput);
    }

    #[test]
    fn each_tenant_is_held_to_its_own_objective() {
        let mut summary = run(0);
        let chat = summary.tenants.remove("chat").and_then(|chat| chat.slo).expect("a target");
        assert_eq!((chat.met, chat.attainment), (true, Some(1.0)));
        assert_eq!(summary.tenants["batch"].slo, None);
        assert_eq!(summary.slo, None, "nothing is asked of all");
    }

    #[test]
    fn several_seeds_give_each_tenant_means_with_intervals() {
        let merged = Summary::over_seeds(&[run(0), run(2)]).unwrap();
        assert_eq!(merged.tenants["batch"].e2el_ms.mean, Some(5000.0));
        assert!(merged.intervals.contains_key("tenants.batch.e2el_ms.mean"));
    }

    #[test]
    fn without_names_there_are_no_tenants() {
        let mut recorder = Recorder::new(Measure::default());
        recorder.on_request(&answered(0, 1000, 2000, 3));
        assert!(recorder.summary().tenants.is_empty());
    }
}
