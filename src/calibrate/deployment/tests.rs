use std::path::Path;

use super::constant::{Constant, Prior};
use super::measurements::{self, Flags, Measurements};
use super::quantity::{Outcome, Quantity};
use super::*;
use crate::scenario::{Diagnostics, MemoryFiles, Registry};

const HEADER: &str = "model,instance,gpus,clients,input_tokens,output_tokens,duration_s,\
                      inference_ms_per_token";

fn read_as(text: &str, instance: Option<&str>) -> Result<Measurements, Diagnostics> {
    let flags = Flags {
        instance,
        engine: Some("tgi-v2"),
        overrides: Vec::new(),
        registry: &Registry::builtin(),
    };
    measurements::read(Path::new("m.csv"), text, &flags, &MemoryFiles::default())
}

fn read(rows: &str) -> Result<Measurements, Diagnostics> {
    read_as(&format!("{HEADER}\n{rows}"), None)
}

/// Cases whose measurements are the simulator's own, with some constants moved.
fn made_with(moved: &[(Constant, f64)]) -> Vec<Case> {
    let rows = "llama-2-7b,g5.2xlarge,1,1,12,50,20,1\nllama-2-7b,g5.2xlarge,1,8,12,50,20,1\n\
                llama-2-7b,g5.12xlarge,4,1,12,50,20,1\nllama-2-13b,g5.12xlarge,4,6,300,50,20,1\n\
                llama-2-70b,g5.48xlarge,8,1,12,50,20,1\n";
    let mut cases = read(rows).unwrap().cases;
    for case in &mut cases {
        let mut profiles = deploy::profiles(&case.scenario).unwrap();
        for (constant, value) in moved {
            constant.set(&mut profiles, 8, *value, "a test").unwrap();
        }
        let mut deployment = Deployment::with_profiles(&case.scenario, profiles).unwrap();
        case.measured = Outcome::of(&mut deployment, 1).get(case.quantity).unwrap();
    }
    cases
}

fn plan(constants: &[Constant]) -> Plan {
    let constants = constants.iter().map(|&constant| (constant, None)).collect();
    Plan { constants, seeds: 1, source: "m.csv".into() }
}

#[test]
fn constants_that_made_the_measurements_are_found_again() {
    let moved = [(Constant::SerialPerSequence, 1.2e-3), (Constant::BusBandwidth, 1.5e9)];
    let cases = made_with(&moved);
    let fit = fit(&cases, &plan(&[Constant::SerialPerSequence, Constant::BusBandwidth])).unwrap();
    for ((constant, made_with), found) in moved.iter().zip(&fit.constants) {
        assert_eq!(found.constant, *constant);
        // The prior pulls a little.
        assert!((found.value / made_with - 1.0).abs() < 0.05, "{found:?}");
        assert_eq!(found.told(), Told::Yes, "{found:?}");
    }
    let (mean, left_out) = fit.mean_errors();
    assert!(mean < 0.01 && left_out < 0.02, "{mean} {left_out}");
    assert!(fit.rows.iter().any(|row| row.before.abs() > 0.1), "there was something to find");
}

#[test]
fn what_the_rows_do_not_tell_stays_at_its_prior_and_says_so() {
    // An inference time does not hold the client's turn-round.
    let cases = made_with(&[(Constant::ClientTurnRound, 30e-3)]);
    let fit = fit(&cases, &plan(&[Constant::ClientTurnRound, Constant::SerialPerStep])).unwrap();
    let [turn_round, step] = fit.constants.as_slice() else { panic!("{fit:?}") };
    assert_eq!(turn_round.told(), Told::No, "{turn_round:?}");
    assert!((turn_round.value / turn_round.prior.guess - 1.0).abs() < 0.1, "{turn_round:?}");
    assert_ne!(step.told(), Told::No, "{step:?}");
    let profile = fit.profile(begun_with(&cases).unwrap()).unwrap();
    let text = profile::to_toml(&profile);
    let again = DeploymentProfile::from_toml("again", text.as_bytes()).unwrap();
    assert_eq!(again.fit, profile.fit);
    assert_eq!(profile::to_toml(&again), text);
}

#[test]
fn a_second_fit_to_the_same_rows_starts_from_the_same_priors() {
    let mut cases = made_with(&[(Constant::SerialPerSequence, 1.2e-3)]);
    let first = fit(&cases, &plan(&[Constant::SerialPerSequence])).unwrap();
    let profile = first.profile(begun_with(&cases).unwrap()).unwrap();
    for case in &mut cases {
        case.scenario.hardware.profile = Some(profile.clone().into());
    }
    assert_eq!(fitted_before(&cases).unwrap(), [Constant::SerialPerSequence]);
    let second = fit(&cases, &plan(&[Constant::SerialPerSequence])).unwrap();
    assert_eq!(second.constants[0].prior, first.constants[0].prior);
    assert!((second.constants[0].value / first.constants[0].value - 1.0).abs() < 2e-3);
}

#[test]
fn rows_of_other_deployments_are_left_out_and_marked_rows_are_only_predicted() {
    let text = "model,instance,gpus,clients,input_tokens,output_tokens,inference_ms_per_token,\
                ttft_ms,fit,remark\n\
                llama-2-7b,g5.2xlarge,1,1,12,50,30.9,120,,best of three\n\
                llama-2-7b,g5.12xlarge,4,1,12,50,16.8,,no,\n\
                llama-2-7b,p4d.24xlarge,8,1,12,50,23.5,,,\n";
    let found = read_as(text, Some("g5")).unwrap();
    let cases: Vec<_> =
        found.cases.iter().map(|c| (c.label.as_str(), c.quantity, c.fitted)).collect();
    assert_eq!(
        cases,
        [
            ("llama-2-7b g5.2xlarge tp 1 x 1 12+50", Quantity::Ttft, true),
            ("llama-2-7b g5.2xlarge tp 1 x 1 12+50", Quantity::TimePerToken, true),
            ("llama-2-7b g5.12xlarge tp 4 x 1 12+50", Quantity::TimePerToken, false),
        ]
    );
    assert_eq!((found.left_out, found.ignored), (1, vec!["remark".to_owned()]));
    assert_eq!(read_as(text, Some("g5.12xlarge")).unwrap().cases.len(), 1);
}

#[test]
fn what_is_wrong_with_measurements_is_said_with_its_place() {
    let row = |model: &str, time: &str| {
        read(&format!("{model},g5.2xlarge,1,1,12,50,20,{time}\n")).unwrap_err().render(false)
    };
    for (text, said) in [
        (row("llama-2-7b", "fast"), ["m.csv:2:36", "not a plain number", "without the unit"]),
        (row("llama-2-7b", "0"), ["m.csv:2:36", "nothing measured", "above zero"]),
        (row("llama-2-7c", "1"), ["m.csv:2:1", "unknown model", "llama-2-7b"]),
        (
            read_as("model,gpus,tokens_per_s\nllama-2-7b,1,5\n", None).unwrap_err().render(false),
            ["m.csv:1:1", "no column of a measurement", "throughput_tok_s"],
        ),
        (
            read_as("gpus,ttft_ms\n1,5\n", None).unwrap_err().render(false),
            ["m.csv:1:1", "does not say what was run", "scenario, model"],
        ),
        (
            read_as("model,gpus,ttft_ms\nllama-2-7b,1,5\n", None).unwrap_err().render(false),
            ["`hardware.instance` is missing", "--instance", "help"],
        ),
        (
            read_as("scenario,ttft_ms\nnowhere.toml,5\n", None).unwrap_err().render(false),
            ["m.csv:2:1", "scenario cannot be read", "servesim list scenarios"],
        ),
        (
            read_as(&format!("{HEADER},fit\nllama-2-7b,g5.2xlarge,1,1,12,50,20,3,perhaps\n"), None)
                .unwrap_err()
                .render(false),
            ["m.csv:2:", "neither yes nor no", "predicted only"],
        ),
        (
            read_as(&format!("{HEADER}\nllama-2-7b,g5.2xlarge,1,1,12,50,20,3\n"), Some("p5"))
                .unwrap_err()
                .render(false),
            ["m.csv", "no row is of this deployment", "instance p5, engine tgi-v2"],
        ),
    ] {
        for part in said {
            assert!(text.contains(part), "{part:?} in\n{text}");
        }
    }
}

#[test]
fn a_constant_that_no_row_feels_is_refused() {
    let cases = read("llama-2-7b,g5.2xlarge,1,1,12,50,20,30.9\n").unwrap().cases;
    let error = fit(&cases, &plan(&[Constant::BusBandwidth])).unwrap_err().to_string();
    assert!(error.contains("bus-bandwidth"), "{error}");
    let felt = felt(&cases).unwrap();
    assert!(felt.contains(&Constant::SerialPerStep) && !felt.contains(&Constant::BusBandwidth));
}

#[test]
fn a_prior_given_by_hand_goes_before_the_profiles() {
    let cases = read("llama-2-7b,g5.2xlarge,1,1,12,50,20,30.9\n").unwrap().cases;
    let prior = Prior { guess: 5e-3, factor: 1.01 };
    let constants = vec![(Constant::SerialPerStep, Some(prior))];
    let fit = fit(&cases, &Plan { constants, seeds: 1, source: "m.csv".into() }).unwrap();
    assert!((fit.constants[0].value / 5e-3 - 1.0).abs() < 0.05, "{fit:?}");
}
