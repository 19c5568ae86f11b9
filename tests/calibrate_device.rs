//! `servesim calibrate --device`: what is refused, and how.

use std::process::{Command, Output};

fn calibrate(arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_servesim");
    Command::new(program).arg("calibrate").args(arguments).output().expect("the program runs")
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
#[cfg(feature = "cuda")]
fn a_gpu_that_is_not_there_is_the_environments_failure_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("gpu.toml");
    std::fs::write(&out, "the old profile").unwrap();
    // No machine has this many, with a driver or without.
    let arguments = ["--device", "cuda", "--device-index", "4000", "--out", out.to_str().unwrap()];
    let output = calibrate(&arguments);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let text = complaint(&output);
    assert!(text.starts_with("error: ") && text.contains("\nhelp: "), "{text}");
    assert!(text.contains("NVIDIA driver") || text.contains("there is no GPU 4000"), "{text}");
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "the old profile");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn more_threads_than_the_machine_has_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("host.toml");
    let arguments = ["--device", "cpu", "--threads", "1000000", "--out", out.to_str().unwrap()];
    let output = calibrate(&arguments);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(complaint(&output).contains("give --threads from 1 to"), "{output:?}");
}

#[test]
fn a_profile_needs_a_name_that_ends_in_toml() {
    for out in ["host.json", "host"] {
        let output = calibrate(&["--device", "cpu", "--out", out]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(complaint(&output).contains("ends in .toml"), "{output:?}");
    }
    let output = calibrate(&["--device", "cpu"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(complaint(&output).contains("--out"), "{output:?}");
}
