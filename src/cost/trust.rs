//! How far a price can be trusted: the grade of the numbers behind each term, by kind of step.

use crate::named::named_enum;

use super::CostTerm;
use super::calibrated::{Extrapolated, Extrapolation};
use super::sourced::Provenance;

named_enum! {
    /// How well founded a number is, from best to worst.
    pub enum Trust as "trust" {
        /// Read off a measurement of this very thing.
        Measured = "measured",
        /// From a curve through measurements of this very thing.
        Fitted = "fitted",
        /// From another GPU or machine, or another operator of this one.
        Transferred = "transferred",
        /// From the vendor's nominal figures.
        Datasheet = "datasheet",
        /// Outside of what measurements reach: beyond the range of a fit, or assumed.
        Extrapolated = "extrapolated",
    }
}

impl From<&Provenance> for Trust {
    fn from(provenance: &Provenance) -> Self {
        match provenance {
            Provenance::Measured => Self::Measured,
            Provenance::Fitted => Self::Fitted,
            Provenance::TransferredFrom(_) => Self::Transferred,
            Provenance::Datasheet => Self::Datasheet,
            Provenance::Assumed => Self::Extrapolated,
        }
    }
}

/// Kinds of steps that are priced from different numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Phase {
    Prefill,
    Decode,
    /// Prompt chunks and decoding sequences in one batch.
    Mixed,
}

impl Phase {
    pub const ALL: [Self; 3] = [Self::Prefill, Self::Decode, Self::Mixed];
}

/// The grade of each term in each kind of step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TermGrades {
    grades: [[Trust; CostTerm::COUNT]; Phase::ALL.len()],
}

impl TermGrades {
    /// All measured, until [`Self::lower`] says otherwise.
    pub const fn best() -> Self {
        Self { grades: [[Trust::Measured; CostTerm::COUNT]; Phase::ALL.len()] }
    }

    pub const fn get(&self, phase: Phase, term: CostTerm) -> Trust {
        self.grades[phase as usize][term as usize]
    }

    /// Trusts `term` no more than `grade` in the steps of `phases`.
    pub fn lower(&mut self, phases: &[Phase], term: CostTerm, grade: Trust) {
        for &phase in phases {
            let known = &mut self.grades[phase as usize][term as usize];
            *known = grade.max(*known);
        }
    }

    /// The same where a run has left the range of the measurements. A term counts as extrapolated in
    /// all steps of a kind, though it may be so only in some.
    #[must_use]
    pub fn beyond(mut self, extrapolations: &[Extrapolation]) -> Self {
        use CostTerm as T;
        const EVERYWHERE: &[Phase] = &Phase::ALL;
        const WITH_CHUNKS: &[Phase] = &[Phase::Prefill, Phase::Mixed];
        const DECODING: &[Phase] = &[Phase::Decode, Phase::Mixed];
        for Extrapolation { what, .. } in extrapolations {
            let (phases, terms): (&[Phase], &[T]) = match what {
                // No batch decodes thousands of sequences: only chunks come to so many tokens.
                Extrapolated::Tokens => (WITH_CHUNKS, &[T::Linear, T::Dequantise, T::Elementwise]),
                Extrapolated::MatrixSide | Extrapolated::MatrixBytes => {
                    (EVERYWHERE, &[T::Linear, T::Dequantise])
                }
                Extrapolated::HeadDim => (EVERYWHERE, &[T::Attention]),
                Extrapolated::Context | Extrapolated::Sequences => (DECODING, &[T::Attention]),
                Extrapolated::ChunkContext => (WITH_CHUNKS, &[T::Attention]),
                Extrapolated::Ranks => (EVERYWHERE, &[T::AllReduce]),
                Extrapolated::ElementBytes => {
                    (EVERYWHERE, &[T::Linear, T::LmHead, T::Attention, T::Elementwise])
                }
            };
            for &term in terms {
                self.lower(phases, term, Trust::Extrapolated);
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grades_only_fall() {
        let mut grades = TermGrades::best();
        grades.lower(&Phase::ALL, CostTerm::Linear, Trust::Datasheet);
        grades.lower(&[Phase::Decode], CostTerm::Linear, Trust::Fitted);
        assert_eq!(grades.get(Phase::Decode, CostTerm::Linear), Trust::Datasheet);
        assert_eq!(grades.get(Phase::Mixed, CostTerm::LmHead), Trust::Measured);
    }

    #[test]
    fn what_is_asked_beyond_the_measurements_is_extrapolated() {
        let far = Extrapolation { what: Extrapolated::Tokens, asked: 9000.0, known: 8192.0 };
        let grades = TermGrades::best().beyond(&[far]);
        assert_eq!(grades.get(Phase::Prefill, CostTerm::Linear), Trust::Extrapolated);
        assert_eq!(grades.get(Phase::Decode, CostTerm::Linear), Trust::Measured);
        assert_eq!(grades.get(Phase::Prefill, CostTerm::Attention), Trust::Measured);
    }
}
