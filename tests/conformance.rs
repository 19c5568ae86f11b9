//! Our schedulers against schedules recorded from the real engines.

use std::path::{Path, PathBuf};

use proptest::prelude::*;

fn recordings(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("a folder of recordings")
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    files.sort();
    files
}

fn check_all(folder: &Path) {
    let files = recordings(folder);
    assert!(!files.is_empty(), "{} holds recordings", folder.display());
    let mut failures = Vec::new();
    for file in &files {
        let bytes = std::fs::read(file).expect("a readable recording");
        match servesim::conformance::check(&bytes) {
            Ok(verdict) => {
                failures.extend(verdict.broken.into_iter().map(|broken| (file, broken)));
                failures.extend(verdict.divergence.map(|d| (file, d.to_string())));
                if verdict.jumps_alike == Some(false) {
                    failures.push((file, "jumping over steps changes the run".to_owned()));
                }
            }
            Err(error) => failures.push((file, error.to_string())),
        }
    }
    for (file, why) in &failures {
        eprintln!("{}: {why}", file.display());
    }
    assert!(failures.is_empty(), "{} of {} recordings differ", failures.len(), files.len());
}

/// The folder of shared data, if it is there; where it must be, its absence is a failure.
fn shared() -> Option<PathBuf> {
    let folder = std::env::var_os("SERVESIM_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    assert!(
        std::env::var_os("SERVESIM_REQUIRE_SHARED").is_none(),
        "SERVESIM_REQUIRE_SHARED is set, but {} is missing",
        folder.display()
    );
    eprintln!("skipped: {} is missing", folder.display());
    None
}

/// A folder of recordings that the repository holds.
fn committed(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(family)
}

#[test]
fn the_committed_tgis_schedules_are_reproduced() {
    check_all(&committed("tgis"));
}

#[test]
fn the_committed_tgi_schedules_are_reproduced() {
    check_all(&committed("tgi"));
}

#[test]
fn every_recorded_tgis_schedule_is_reproduced() {
    let Some(shared) = shared() else { return };
    check_all(&shared.join("data/golden/tgis"));
}

#[test]
fn the_vllm_v1_schedules_kept_here_are_reproduced() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    check_all(&golden.join("vllm-v1-0.32"));
    check_all(&golden.join("vllm-v1-0.13"));
}

#[test]
fn every_recorded_vllm_v1_schedule_is_reproduced() {
    let Some(shared) = shared() else { return };
    check_all(&shared.join("data/golden/vllm-v1-0.32"));
    check_all(&shared.join("data/golden/vllm-v1-0.13"));
}

#[test]
fn every_recorded_tgi_schedule_is_reproduced() {
    let Some(shared) = shared() else { return };
    check_all(&shared.join("data/golden/tgi"));
}

#[test]
fn the_vllm_v0_schedules_kept_here_are_reproduced() {
    check_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/vllm-v0"));
}

#[test]
fn every_recorded_vllm_v0_schedule_is_reproduced() {
    let Some(shared) = shared() else { return };
    check_all(&shared.join("data/golden/vllm-v0"));
}

#[test]
fn the_rules_of_another_version_part_from_a_recording_where_they_differ() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    // Every freed block goes to the back of the queue in 0.13, and no longer in 0.32.
    let file = golden.join("vllm-v1-0.32/22_async_preempt_nocache.json");
    let bytes = std::fs::read(file).expect("a readable recording");
    let verdict = servesim::conformance::check_as(&bytes, Some("vllm-0.13")).expect("it replays");
    let divergence = verdict.divergence.expect("blocks are reused in another order");
    assert_eq!(divergence.fields, ["s"], "{divergence}");
    let state = divergence.state.as_ref().expect("the state before the step");
    assert!(!state.running.is_empty(), "{divergence}");
    assert!(state.kv_free <= state.kv_total, "{divergence}");
    let error = servesim::conformance::check_as(&bytes, Some("vllm-9")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "engine \"vllm-9\" has no scheduler here (there are vllm-0.13, vllm-0.32, vllm-0.2.7, \
         vllm-0.4.2, tgis-2023, tgis-2024, tgi-v2, tgi-v3, static)"
    );
    let error = servesim::conformance::check_as(&bytes, Some("tgi-v3")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "tgi-v3 cannot replay a schedule of vllm-0.32, whose settings and steps are of another \
         kind; it can be checked against vllm-0.13, vllm-0.32"
    );
}

#[test]
fn a_divergence_of_a_router_shows_who_runs_and_who_waits_by_the_recordings_own_ids() {
    let bytes =
        std::fs::read(committed("tgis").join("v_a06_cancel_deadline.json")).expect("a file");
    let mut golden: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
    let at = golden["steps"].as_array().expect("steps").len() / 2;
    golden["steps"][at]["tokens"] = 1.into();
    let changed = golden.to_string();
    let verdict = servesim::conformance::check(changed.as_bytes()).expect("it replays");
    let divergence = verdict.divergence.expect("a field was changed");
    assert_eq!((divergence.list, divergence.index), ("steps", at));
    let batch = golden["steps"][at]["ids"].as_array().expect("ids");
    let state = divergence.state.expect("the state before the step");
    let mut known = state.running.iter().chain(&state.waiting);
    assert!(batch.iter().all(|id| known.any(|&k| id == k)), "{batch:?} of {:?}", state.running);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_damaged_recording_is_refused_or_diverges(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        digits in any::<bool>(),
        file in prop::sample::select(vec![
            "vllm-v1-0.13/v013_03_tiny_budget.json",
            "vllm-v1-0.32/21_async_basic.json",
            "vllm-v0/v0.4.2_12_ck_seqs.json",
        ]),
    ) {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let mut bytes = std::fs::read(golden.join(file)).expect("a readable recording");
        for (at, byte) in edits {
            // Mostly where sizes and requests stand, and mostly so that it is still a recording.
            let at = at.index(8_000.min(bytes.len()));
            if !digits {
                bytes[at] = byte;
            } else if bytes[at].is_ascii_digit() {
                bytes[at] = b'0' + byte % 10;
            }
        }
        let _ = servesim::conformance::check(&bytes);
    }
}
