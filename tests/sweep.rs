//! Sweeps as files on a disk: resumed, cut off, sharded, merged, and refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// 24 short points, of which some fit nowhere.
const SWEEP: &str = r#"
base = "redhat/llama-2-7b-g5.2xlarge"
[scenario]
workload.duration = "5s"
[axes]
model.name = ["llama-2-7b", "llama-2-13b"]
workload.closed-loop.clients = [1, 4, 8]
workload.seed = { from = 1, to = 4, step = 1 }
"#;

struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("s.toml"), SWEEP).expect("a file");
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_servesim"));
        command.arg("sweep").args(args).current_dir(self.folder.path());
        command
    }

    fn sweep(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the program starts")
    }

    /// The results in a folder.
    fn results(&self, folder: &str) -> [String; 2] {
        ["points.csv", "report.json"].map(|name| {
            fs::read_to_string(self.path(folder).join(name)).expect("a file of results")
        })
    }

    fn whole(&self) -> [String; 2] {
        let output = self.sweep(&["s.toml", "--out", "whole"]);
        assert!(output.status.success(), "{output:?}");
        self.results("whole")
    }
}

fn said(output: &Output, code: i32) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}");
    text
}

#[test]
fn the_bytes_do_not_depend_on_threads_or_interruptions() {
    let place = Place::new();
    let whole = place.whole();
    assert_eq!(whole[0].lines().count(), 25);
    assert!(place.sweep(&["s.toml", "--out", "one", "--jobs", "1"]).status.success());
    assert_eq!(place.results("one"), whole);
    // Cut off in the middle of a line, as by a machine that stops.
    let journal = fs::read(place.path("one/journal")).expect("a journal");
    for cut in [journal.len() / 3, journal.len() * 2 / 3, journal.len() - 1] {
        fs::create_dir_all(place.path("cut")).expect("a folder");
        fs::write(place.path("cut/journal"), &journal[..cut]).expect("a journal");
        let output = place.sweep(&["s.toml", "--out", "cut"]);
        let text = said(&output, 0);
        assert!(text.contains("of 24 points were done before"), "{text}");
        assert_eq!(place.results("cut"), whole);
    }
    // Once more with everything there runs nothing and gives the same.
    assert!(place.sweep(&["s.toml", "--out", "one"]).status.success());
    assert_eq!(place.results("one"), whole);
    assert_eq!(fs::read(place.path("one/journal")).expect("a journal"), journal);
}

#[test]
fn a_point_that_does_not_fit_is_a_row_with_its_reason() {
    let place = Place::new();
    let [points, report] = place.whole();
    assert_eq!(points.matches(",does-not-fit,out of memory").count(), 12, "{points}");
    assert!(report.contains("\"does-not-fit\": 12"), "{report}");
}

#[cfg(unix)]
#[test]
fn a_killed_sweep_keeps_what_was_done() {
    let place = Place::new();
    let whole = place.whole();
    let journal = place.path("killed/journal");
    // Killed as soon as something is written, whatever the machine is doing.
    let mut child = place
        .command(&["s.toml", "--out", "killed", "--jobs", "1"])
        .stdout(Stdio::null())
        .spawn()
        .expect("the program starts");
    while fs::metadata(&journal).map_or(0, |file| file.len()) < 4000
        && child.try_wait().expect("a child").is_none()
    {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let _ = child.kill();
    child.wait().expect("the program ends");
    let kept = fs::metadata(&journal).expect("a journal").len();
    assert!(kept > 1000);
    assert!(place.sweep(&["s.toml", "--out", "killed"]).status.success());
    assert!(fs::metadata(&journal).expect("a journal").len() >= kept);
    assert_eq!(place.results("killed"), whole);
}

#[test]
fn merged_shards_are_the_whole() {
    let place = Place::new();
    let whole = place.whole();
    let shard = |text: &str, out: &str| {
        let output = place.sweep(&["s.toml", "--shard", text, "--out", out]);
        assert!(output.status.success(), "{output:?}");
    };
    shard("3/3", "a");
    shard("1/3", "b");
    let text = said(&place.sweep(&["merge", "a", "b", "--out", "m"]), 2);
    assert!(text.contains("not complete") && text.contains("shard 2/3 is not given"), "{text}");
    let by_task = place
        .command(&["s.toml", "--shard", "auto/3", "--out", "c"])
        .env("JOB_COMPLETION_INDEX", "2")
        .output();
    assert!(by_task.expect("the program starts").status.success());
    let journal = fs::read(place.path("c/journal")).expect("a journal");
    fs::write(place.path("c/journal"), &journal[..journal.len() / 2]).expect("a journal");
    let text = said(&place.sweep(&["merge", "a", "b", "c", "--out", "m"]), 2);
    assert!(text.contains("shard 2/3 in") && text.contains("of its 8 points"), "{text}");
    assert!(!place.path("m").exists());
    fs::write(place.path("c/journal"), &journal).expect("a journal");
    assert!(place.sweep(&["merge", "c", "a", "b", "--out", "m"]).status.success());
    assert_eq!(place.results("m"), whole);
    let text = said(&place.sweep(&["merge", "a", "a", "c", "--out", "m"]), 2);
    assert!(text.contains("there twice"), "{text}");
}

#[test]
fn results_of_another_sweep_are_not_mixed_in() {
    let place = Place::new();
    place.whole();
    fs::write(place.path("other.toml"), SWEEP.replace("\"5s\"", "\"6s\"")).expect("a file");
    let text = said(&place.sweep(&["other.toml", "--out", "whole"]), 2);
    assert!(text.contains("the points of another sweep"), "{text}");
    let text = said(&place.sweep(&["s.toml", "--shard", "1/2", "--out", "whole"]), 2);
    assert!(text.contains("shard 0/1") && text.contains("shard 1/2"), "{text}");
    for (file, shard, out) in [("s.toml", "1/2", "a"), ("other.toml", "2/2", "b")] {
        assert!(place.sweep(&[file, "--shard", shard, "--out", out]).status.success());
    }
    let text = said(&place.sweep(&["merge", "a", "b", "--out", "m"]), 2);
    assert!(text.contains("b/journal is a shard of another sweep"), "{text}");
    fs::create_dir(place.path("strange")).expect("a folder");
    fs::write(place.path("strange/journal"), "my diary\n").expect("a file");
    let text = said(&place.sweep(&["s.toml", "--out", "strange"]), 2);
    assert!(text.contains("no journal of a sweep"), "{text}");
    assert_eq!(fs::read_to_string(place.path("strange/journal")).expect("a file"), "my diary\n");
    let text = said(&place.sweep(&["merge", "nowhere", "--out", "m"]), 2);
    assert!(text.contains("nowhere has no journal"), "{text}");
}

#[cfg(unix)]
#[test]
fn two_runs_do_not_work_in_one_folder() {
    let place = Place::new();
    place.whole();
    let file = fs::File::open(place.path("whole/journal")).expect("a journal");
    file.lock().expect("a lock");
    let text = said(&place.sweep(&["s.toml", "--out", "whole"]), 3);
    assert!(text.contains("another run is working in whole"), "{text}");
    drop(file);
    assert!(place.sweep(&["s.toml", "--out", "whole"]).status.success());
}

/// A limit on the size of files stands for a full disk: the same writes fail in the same way.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_keeps_the_finished_points() {
    let place = Place::new();
    let whole = place.whole();
    let run = |limit: &str| {
        let script = format!(
            "trap '' XFSZ; ulimit -f {limit}; exec {} sweep s.toml --out full --jobs 1",
            env!("CARGO_BIN_EXE_servesim")
        );
        let mut shell = Command::new("bash");
        shell.args(["-c", &script]).current_dir(place.folder.path());
        shell.output().expect("bash starts")
    };
    let text = said(&run("6"), 3);
    assert!(text.contains("cannot write full/journal"), "{text}");
    let journal = fs::read_to_string(place.path("full/journal")).expect("a journal");
    let lines = journal.lines().count();
    assert!(lines > 2 && journal.ends_with('\n'), "{journal}");
    assert!(!place.path("full/points.csv").exists());
    let text = said(&run("unlimited"), 0);
    assert!(text.contains(&format!("{} of 24 points were done before", lines - 1)), "{text}");
    assert_eq!(place.results("full"), whole);
}

#[test]
fn a_folder_that_cannot_be_made_is_the_environments_failure() {
    let place = Place::new();
    let text = said(&place.sweep(&["s.toml", "--out", "s.toml/out"]), 3);
    assert!(text.contains("cannot write s.toml/out/journal"), "{text}");
}

#[test]
fn a_sweep_of_a_billion_points_is_counted_and_not_started() {
    let place = Place::new();
    let seeds = "workload.seed = { from = 1, to = 1_000_000_000, step = 1 }";
    let with = |text: String| fs::write(place.path("big.toml"), text).expect("a file");
    let big = SWEEP.replace("workload.seed = { from = 1, to = 4, step = 1 }", seeds);
    with(big.clone());
    let text = said(&place.sweep(&["big.toml", "--out", "big"]), 2);
    assert!(text.contains("6,000,000,000 points") && text.contains("--yes"), "{text}");
    with(format!("where = ['workload.seed > 3']\n{big}"));
    let text = said(&place.sweep(&["big.toml", "--out", "big"]), 2);
    assert!(text.contains("6,000,000,000 combinations before `where`"), "{text}");
    with(format!("where = ['workload.seed > 4']\n{SWEEP}"));
    let text = said(&place.sweep(&["big.toml", "--out", "big"]), 2);
    assert!(text.contains("excludes all 24 combinations"), "{text}");
    assert!(!Path::new(&place.path("big")).exists());
}

#[test]
fn embedded_sweeps_load() {
    let list = Command::new(env!("CARGO_BIN_EXE_servesim"))
        .args(["list", "sweeps", "--format", "csv"])
        .output()
        .expect("the program starts");
    let place = Place::new();
    let names = String::from_utf8(list.stdout).expect("text");
    assert!(names.contains("redhat-table-2,"), "{names}");
    for line in names.lines().skip(1) {
        let name = line.split(',').next().expect("a name");
        let output = place.sweep(&[name, "--dry-run"]);
        assert!(output.status.success(), "{name}: {output:?}");
    }
}
