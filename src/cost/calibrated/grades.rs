//! How well founded each term of a deployment's price is.

use crate::cost::CostTerm;
use crate::cost::host::Graphs;
use crate::cost::sourced::{Coefficient, Provenance, Sourced};
use crate::cost::trust::{Phase, TermGrades, Trust};

use super::CostInputs;

/// `linear` stands for the matrices of the layers. The collectives count only where there are
/// several ranks.
pub(super) fn grades(inputs: &CostInputs<'_>, linear: &Provenance) -> TermGrades {
    let CostInputs { gpu_profile: profile, deployment, .. } = *inputs;
    let attention = &profile.attention;
    let mut grades = TermGrades::best();
    let mut everywhere = |term, provenance: &Provenance| {
        grades.lower(&Phase::ALL, term, provenance.into());
    };
    everywhere(CostTerm::Linear, linear);
    everywhere(CostTerm::Dequantise, linear);
    everywhere(CostTerm::LmHead, &profile.gemm.provenance());
    everywhere(CostTerm::Elementwise, &profile.elementwise.provenance());
    everywhere(CostTerm::Sampling, &profile.sampler.provenance());
    everywhere(CostTerm::KvCopy, &deployment.copy_efficiency.provenance);
    if let Some(links) = inputs.interconnect.filter(|_| inputs.tensor_parallel > 1) {
        everywhere(CostTerm::AllReduce, &links.provenance(inputs.tensor_parallel));
    }
    for (phase, surface) in [
        (Phase::Prefill, &attention.prefill.provenance()),
        (Phase::Decode, &attention.decode.provenance()),
        (Phase::Mixed, &attention.mixed.provenance()),
    ] {
        grades.lower(&[phase], CostTerm::Attention, surface.into());
    }
    let (eager, replay) = (felt(&deployment.host_per_layer), felt(&deployment.graph_replay));
    let eager = eager.max(launches_of_format(inputs));
    let (decode, chunks) = match inputs.engine.graphs {
        Graphs::Off => (eager, eager),
        Graphs::Decode(_) => (replay, eager),
        Graphs::Any(_) => (replay, eager.max(replay)),
    };
    grades.lower(&[Phase::Decode], CostTerm::Host, decode);
    grades.lower(&[Phase::Prefill, Phase::Mixed], CostTerm::Host, chunks);
    let always = felt(&deployment.serial_per_step).max(felt(&deployment.serial_per_sequence));
    grades.lower(&Phase::ALL, CostTerm::Serial, always);
    let chunks = felt(&deployment.serial_per_prefill);
    grades.lower(&[Phase::Prefill, Phase::Mixed], CostTerm::Serial, chunks);
    grades
}

/// Host times per layer are of 16-bit layers. Other formats launch other kernels, and with several
/// ranks perhaps another kind: TGI 1.0.3 sends the layers that are cut by rows through Triton where a
/// GPTQ checkpoint is in act-order (`get_multi_weights_row` in `utils/weights.py` switches exllama
/// off). Its published GPTQ rows with several ranks take 0.15 to 0.33 ms a layer more than 16-bit ones
/// at one client, those on one GPU nothing.
fn launches_of_format(inputs: &CostInputs<'_>) -> Trust {
    match (inputs.precision.format.is_quantized(), inputs.tensor_parallel) {
        _ if inputs.deployment.host_per_layer.value.base() == 0.0 => Trust::Measured,
        (false, _) => Trust::Measured,
        (true, 1) => Trust::Transferred,
        (true, _) => Trust::Extrapolated,
    }
}

/// A number that adds no time takes no part in the sum whose grade is asked for.
fn felt<T: Coefficient>(number: &Sourced<T>) -> Trust {
    if number.value.base() == 0.0 { Trust::Measured } else { (&number.provenance).into() }
}
