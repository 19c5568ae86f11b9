//! `servesim calibrate --fit-deployment` as a user meets it, on the published measurements.

use std::process::{Command, Output};

use serde_json::Value;
use servesim::validate::{self, Suite};

const MEASURED: &str = "calibration/published/tgi-1.0.3-sagemaker.csv";
const COMMITTED: &str = "calibration/fitted/deployments/g5--tgi-v2--sagemaker.toml";

fn servesim(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_servesim"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("NO_COLOR", "1")
        .args(args)
        .output()
        .expect("the program starts")
}

fn fit(more: &[&str]) -> Output {
    let deployment = ["--instance", "g5", "--engine", "tgi-v2"];
    servesim(&[&["calibrate", "--fit-deployment", MEASURED], &deployment[..], more].concat())
}

/// Also: what `validate` prints is what the command finds, since both are one piece of code.
#[test]
fn published_measurements_give_the_committed_profile_and_what_validate_prints() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("g5.toml");
    let out = path.to_str().expect("a plain path");
    let output = fit(&["--out", out, "--format", "json"]);
    assert!(output.status.success(), "{output:?}");
    let written = std::fs::read_to_string(&path).expect("a profile");
    let committed = std::fs::read_to_string(COMMITTED).expect("the committed profile");
    assert_eq!(written, committed, "fit again, or see what moved");

    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let report = validate::run(Suite::TgiSagemaker, false).expect("the suite");
    assert!(report.passed(), "{:?}", report.checks);
    for constant in found["constants"].as_array().expect("constants") {
        let name = constant["constant"].as_str().expect("a name");
        let same = report.constants.iter().find(|c| c.name.starts_with(name)).expect(name);
        assert_eq!(constant["value"].as_f64(), Some(same.value), "{name}");
        assert_eq!(constant["factor"].as_f64(), Some(same.posterior_factor), "{name}");
        assert_eq!(constant["told"], "yes", "{name}");
    }
    let fitted = found["rows"].as_array().expect("rows").iter().filter(|row| row["fitted"] == true);
    let mut compared = 0;
    for row in fitted {
        let same = report.rows.iter().find(|r| r.row == row["row"].as_str().unwrap()).unwrap();
        assert_eq!(row["leave_one_out_error"].as_f64(), same.leave_one_out_error, "{row}");
        compared += 1;
    }
    assert_eq!(compared, 11);

    // The profile is one that a scenario may name.
    let run = ["run", "--model", "llama-2-7b", "--instance", "g5.12xlarge", "--engine", "tgi-v2"];
    let load = ["--tp", "4", "--concurrency", "2", "--duration", "5s", "--format", "json"];
    let output = servesim(&[&run[..], &load[..], &["--profile", out][..]].concat());
    assert!(output.status.success(), "{output:?}");
    let ran: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let profiles = &ran["provenance"]["profiles"];
    for part in ["deployment", "interconnect"] {
        assert_eq!(profiles[part]["file"].as_str(), Some(out), "{profiles}");
    }
}

#[test]
fn a_wrong_prior_or_constant_is_bad_usage_with_a_remedy() {
    for (flags, said) in [
        (["--prior", "bus-bandwidth=3 GB/s"], "there is no factor; write bus-bandwidth="),
        (["--prior", "bus-bandwidth=3 ms,2"], "GB/s"),
        (["--prior", "serial-per-step=2 ms,0.5"], "the factor must be above 1"),
        (["--constants", "serial-per-stop"], "did you mean \"serial-per-step\""),
    ] {
        let output = fit(&flags);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {text}");
        assert!(text.contains(said), "{flags:?}: {text}");
    }
    let output = servesim(&["run", "--profile", MEASURED, "--duration", "1s"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("no deployment profile") && text.contains("--fit-deployment"), "{text}");
}
