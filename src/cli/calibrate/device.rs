//! `servesim calibrate --device`: from kernels on this machine to a GPU file with its calibration.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::calibrate::device::cpu::Cpu;
#[cfg(feature = "cuda")]
use crate::calibrate::device::cuda::Cuda;
use crate::calibrate::device::fitted::{self, Calibrated};
use crate::calibrate::device::session::{self, Journal, Measurement, SessionError};
use crate::calibrate::device::{Description, Device, DeviceError, Effort, Grade, Probe, Sample};
use crate::calibrate::table::{TableKind, to_csv};
use crate::cli::args::{CalibrateArgs, DeviceKind, Format};
use crate::cli::output::{self, Content, OutDir};
use crate::cli::{Failure, Outcome};
use crate::cost::profile::FORMAT;
use crate::report::Listing;

pub fn run(kind: DeviceKind, args: &CalibrateArgs) -> Result<Outcome, Failure> {
    let out = args.out.as_deref().expect("--device needs --out, says the parser");
    let name = name_of(out)?;
    let effort = if args.quick { Effort::Quick } else { Effort::Full };
    let mut device = open(kind, args).map_err(|error| not_there(&error))?;
    let description = device.description().clone();
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty());
    output::make_folder(folder.unwrap_or(Path::new(".")))?;
    let mut journal = Journal::open(out, device.as_ref(), effort).map_err(|error| {
        Failure::environment(&format!("cannot write beside {}", out.display()), &error)
    })?;
    output::complain(&format!("{}: {}", description.product, description.conditions));
    if journal.done() > 0 {
        let path = journal.path().display();
        output::complain(&format!("going on with {} timings of {path}", journal.done()));
    }
    let state = device.state();
    let mut progress = Progress::new();
    let measured = session::run(device.as_mut(), effort, &mut journal, |done, all, last| {
        progress.show(done, all, last);
    });
    drop(progress);
    let measured = measured.map_err(|error| match error {
        SessionError::Device(error) => not_there(&error),
        SessionError::Journal { .. } => Failure::Environment(format!("error: {error}")),
    })?;
    let source = format!("servesim {}", env!("CARGO_PKG_VERSION"));
    let conditions = [state, device.state()];
    let mut calibrated = fitted::calibrated(&name, &description, &measured, &source);
    if let (Some(note), true) =
        (&mut calibrated.profile.note, conditions.iter().any(|s| !s.is_empty()))
    {
        note.push_str(&format!("; at the start {}, at the end {}", conditions[0], conditions[1]));
    }

    if description.cache_assumed {
        let l2 = &calibrated.gpu.memory.l2;
        let note = format!("; l2 assumed ({l2}): the system does not tell it");
        calibrated.gpu.memory.source.push_str(&note);
    }
    let rows = OutDir::create(&out.with_extension("rows"))?;
    rows.write(row_files(&calibrated, &measured, &description))?;
    output::replace(out, gpu_file(&calibrated).as_bytes())?;
    journal
        .finish()
        .map_err(|error| Failure::environment("cannot remove what is finished", &error))?;
    output::print(&report(&calibrated, &measured, &description, args.format))?;
    Ok(Outcome::Done)
}

/// What the GPU will be called: the file's name.
fn name_of(out: &Path) -> Result<String, Failure> {
    let stem = out.file_stem().and_then(|stem| stem.to_str());
    match (stem, out.extension()) {
        (Some(stem), Some(extension)) if extension == "toml" => Ok(stem.to_owned()),
        _ => Err(Failure::bad_input(format!(
            "--out {}: a profile's name ends in .toml, such as host.toml",
            out.display()
        ))),
    }
}

fn open(kind: DeviceKind, args: &CalibrateArgs) -> Result<Box<dyn Device>, DeviceError> {
    match kind {
        DeviceKind::Cpu => Ok(Box::new(Cpu::open(args.threads)?)),
        #[cfg(feature = "cuda")]
        DeviceKind::Cuda => Ok(Box::new(Cuda::open(args.device_index)?)),
        #[cfg(not(feature = "cuda"))]
        DeviceKind::Cuda => Err(DeviceError::new(
            "this servesim was built without CUDA",
            "build it with the default features, or use --device cpu",
        )),
    }
}

fn not_there(error: &DeviceError) -> Failure {
    Failure::Environment(format!("error: {error}"))
}

fn gpu_file(calibrated: &Calibrated) -> String {
    let mut gpu = calibrated.gpu.clone();
    let table = toml::Table::try_from(&calibrated.profile);
    let mut table = table.expect("a profile has only plain values");
    table.insert("format".into(), i64::from(FORMAT).into());
    gpu.calibration = Some(table);
    gpu.to_toml()
}

/// Operator tables as `--from-tables` reads them, and all timings with their spread.
fn row_files(
    calibrated: &Calibrated,
    measured: &[Measurement],
    description: &Description,
) -> Vec<(&'static str, Vec<Content>)> {
    let mut files = Vec::new();
    for kind in TableKind::ALL {
        let name = match kind {
            TableKind::Gemm => "gemm.csv",
            TableKind::Attention => "attention.csv",
            TableKind::MixedAttention => "attention-mixed.csv",
            TableKind::Elementwise => "elementwise.csv",
            TableKind::AllReduce => "all-reduce.csv",
        };
        if calibrated.rows.iter().any(|row| row.operator.kind() == kind) {
            files.push((name, vec![Content::Bytes(to_csv(kind, &calibrated.rows))]));
        }
    }
    let columns = ["probe", "seconds", "spread", "repeats", "grade"].map(|name| (name, name));
    let mut all = Listing::new(&columns);
    for Measurement { probe, sample } in measured {
        all.push(vec![
            probe.to_string().into(),
            sample.seconds.into(),
            ((sample.spread * 1e4).round() / 1e4).into(),
            u64::from(sample.repeats).into(),
            graded(sample, description).into(),
        ]);
    }
    files.push(("timings.csv", vec![Content::Bytes(all.to_csv())]));
    files
}

/// The grade is of how far repeats agree; it does not see what all of them waited for.
fn graded(sample: &Sample, description: &Description) -> String {
    let grade = sample.grade();
    if description.waits_unknown { format!("{grade}, waits unknown") } else { grade.to_string() }
}

fn report(
    calibrated: &Calibrated,
    measured: &[Measurement],
    description: &Description,
    format: Format,
) -> Vec<u8> {
    let columns = [
        ("surface", "surface"),
        ("rows", "rows"),
        ("median_percent", "median error %"),
        ("p90_percent", "p90 error %"),
    ];
    let mut listing = Listing::new(&columns);
    for fit in &calibrated.profile.fits {
        listing.push(vec![
            fit.surface.as_str().into(),
            u64::from(fit.rows).into(),
            fit.median_percent.into(),
            fit.p90_percent.into(),
        ]);
    }
    match format {
        Format::Json => listing.to_json(),
        Format::Csv => listing.to_csv(),
        Format::Table => {
            let graded = |grade| measured.iter().filter(|m| m.sample.grade() == grade).count();
            let launch = measured.iter().find(|m| m.probe == Probe::Launch { graph: false });
            let mut text = listing.to_table();
            text.push_str(&format!(
                "\nmemory {:.1} GB/s, products {:.3} TFLOP/s",
                calibrated.bandwidth.as_gb_per_s(),
                calibrated.peak.as_tflops()
            ));
            if let Some(launch) = launch {
                text.push_str(&format!(", a launch {:.1} us", launch.sample.seconds * 1e6));
            }
            text.push_str(&format!(
                "\ntimings within 2 %: {}, within 5 %: {}, within 15 %: {}, worse: {}\n",
                graded(Grade::A),
                graded(Grade::B),
                graded(Grade::C),
                graded(Grade::D)
            ));
            if description.waits_unknown {
                text.push_str(
                    "waits for other processes unknown: the system keeps no schedstat of threads, so \
                     repeats that agree may all have waited\n",
                );
            }
            if let Some(note) = &calibrated.profile.note {
                text.push_str(&format!("{note}\n"));
            }
            text.into_bytes()
        }
    }
}

/// A bar on a terminal; elsewhere a line now and then.
struct Progress {
    bar: Option<ProgressBar>,
    last: Instant,
}

/// Between two lines where there is no terminal.
const PAUSE: Duration = Duration::from_secs(10);

impl Progress {
    fn new() -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}");
            ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr())
                .with_style(style.expect("a valid template"))
        });
        Self { bar, last: Instant::now() }
    }

    fn show(&mut self, done: usize, all: usize, last: &Measurement) {
        let text =
            format!("{}: {:.1} us, {}", last.probe, last.sample.seconds * 1e6, last.sample.grade());
        match &self.bar {
            Some(bar) => {
                bar.set_length(all as u64);
                bar.set_position(done as u64);
                bar.set_message(text);
            }
            None if self.last.elapsed() >= PAUSE => {
                self.last = Instant::now();
                output::complain(&format!("{done}/{all} {text}"));
            }
            None => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
