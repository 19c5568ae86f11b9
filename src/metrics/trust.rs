//! By what a run is limited: how much of its busy time rests on numbers of which grade.

use std::collections::BTreeMap;

use crate::cost::trust::{Phase, TermGrades, Trust};
use crate::cost::{CostTerm, StepTime};
use crate::scheduler::StepKind;
use crate::time::SimDuration;

/// A run is as trustworthy as the grade that all but this share of its busy time reaches: what
/// prices a tenth of the time, half wrong, moves a result by 5 %, which is what the best predictions
/// are off by anyway.
const SMALL: f64 = 0.10;

/// The busy time of a run by grade.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trusted {
    /// Shares of the busy time by grade, worst last; they add up to 1 unless nothing ran.
    pub shares: BTreeMap<String, f64>,
    /// Terms by grade with their share, largest first.
    terms: Vec<(Trust, CostTerm, f64)>,
}

impl Trusted {
    /// Of the time that steps of each kind took, term by term.
    pub fn of<'a>(
        times: impl IntoIterator<Item = (StepKind, &'a StepTime)>,
        grades: &'a TermGrades,
    ) -> Self {
        Self::over(times.into_iter().map(|(kind, time)| (kind, time, grades)))
    }

    /// The same of steps that were priced by different numbers.
    pub fn over<'a>(
        times: impl IntoIterator<Item = (StepKind, &'a StepTime, &'a TermGrades)>,
    ) -> Self {
        let mut sums = BTreeMap::<(Trust, usize), u64>::new();
        for (kind, time, grades) in times {
            let phase = match kind {
                StepKind::Prefill => Phase::Prefill,
                StepKind::Decode => Phase::Decode,
                StepKind::Mixed => Phase::Mixed,
                StepKind::Empty => continue,
            };
            for (term, time) in time.terms() {
                if time > SimDuration::ZERO {
                    *sums.entry((grades.get(phase, term), term as usize)).or_default() +=
                        time.as_nanos();
                }
            }
        }
        let busy = sums.values().sum::<u64>().max(1) as f64;
        let mut shares: BTreeMap<String, f64> =
            Trust::names().map(|name| (name.to_owned(), 0.0)).collect();
        let mut terms = Vec::new();
        for ((grade, term), nanos) in sums {
            let share = nanos as f64 / busy;
            *shares.get_mut(grade.name()).expect("has every grade") += share;
            terms.push((grade, CostTerm::ALL[term], share));
        }
        terms.sort_by(|a, b| b.2.total_cmp(&a.2));
        Self { shares, terms }
    }

    pub fn grade(&self) -> Option<Trust> {
        grade(&self.shares)
    }

    /// The terms that keep the grade from being better, largest first.
    pub fn limits(&self) -> Vec<String> {
        let Some(grade) = self.grade() else { return Vec::new() };
        let mut names: Vec<String> = Vec::new();
        for (of, term, _) in &self.terms {
            if *of >= grade && !names.iter().any(|name| name == term.name()) {
                names.push(term.name().to_owned());
            }
        }
        names
    }
}

/// The best grade such that no more than [`SMALL`] of the time rests on worse ones; `None` where
/// nothing ran.
pub fn grade(shares: &BTreeMap<String, f64>) -> Option<Trust> {
    let share = |grade: &Trust| shares.get(grade.name()).copied().unwrap_or(0.0);
    let all: f64 = Trust::ALL.iter().map(share).sum();
    if all <= 0.0 {
        return None;
    }
    let mut worse = all;
    Trust::ALL.iter().copied().find(|grade| {
        worse -= share(grade);
        worse <= SMALL * all
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(terms: &[(CostTerm, u64)]) -> StepTime {
        let mut time = StepTime::ZERO;
        for &(term, nanos) in terms {
            time.set(term, SimDuration::from_nanos(nanos));
        }
        time
    }

    fn grades() -> TermGrades {
        let mut grades = TermGrades::best();
        grades.lower(&Phase::ALL, CostTerm::Linear, Trust::Fitted);
        grades.lower(&[Phase::Mixed], CostTerm::Attention, Trust::Transferred);
        grades.lower(&Phase::ALL, CostTerm::Host, Trust::Extrapolated);
        grades
    }

    #[test]
    fn shares_are_of_the_busy_time_and_add_up() {
        let decode = time(&[(CostTerm::Linear, 60), (CostTerm::Attention, 20)]);
        let mixed = time(&[(CostTerm::Attention, 15), (CostTerm::Host, 5)]);
        let times = [(StepKind::Decode, &decode), (StepKind::Mixed, &mixed)];
        let trusted = Trusted::of(times, &grades());
        assert_eq!(trusted.shares["fitted"], 0.6);
        assert_eq!(trusted.shares["measured"], 0.2);
        assert_eq!(trusted.shares["transferred"], 0.15);
        assert!((trusted.shares.values().sum::<f64>() - 1.0).abs() < 1e-12);
        // 5 % extrapolated are small; with the 15 % transferred they are not.
        assert_eq!(trusted.grade(), Some(Trust::Transferred));
        assert_eq!(trusted.limits(), ["attention", "host"]);
    }

    #[test]
    fn a_run_without_steps_has_no_grade() {
        assert_eq!(Trusted::of([], &grades()).grade(), None);
        assert_eq!(grade(&BTreeMap::new()), None);
    }

    #[test]
    fn one_grade_for_all_is_the_grade() {
        let all = time(&[(CostTerm::Host, 7)]);
        let trusted = Trusted::of([(StepKind::Prefill, &all)], &grades());
        assert_eq!(trusted.grade(), Some(Trust::Extrapolated));
    }
}
