//! A calibration from probe to probe, that can stop and go on.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Device, DeviceError, Effort, Probe, Sample};

/// A probe with its timing.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    pub probe: Probe,
    pub sample: Sample,
}

/// What a calibration has measured so far, one line a probe, beside the profile that it will become.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    done: BTreeMap<String, Sample>,
    file: File,
}

/// First line of a journal: rows of another device or another plan are not taken over.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    servesim: String,
    product: String,
    conditions: String,
    effort: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    probe: String,
    seconds: f64,
    spread: f64,
    repeats: u32,
}

impl Journal {
    /// Opens the journal of the profile `out`: the rows of an interrupted calibration of the same
    /// device, or none.
    pub fn open(out: &Path, device: &dyn Device, effort: Effort) -> io::Result<Self> {
        let mut path = out.as_os_str().to_owned();
        path.push(".partial");
        let path = PathBuf::from(path);
        let description = device.description();
        let head = Head {
            servesim: env!("CARGO_PKG_VERSION").to_owned(),
            product: description.product.clone(),
            conditions: description.conditions.clone(),
            effort: format!("{effort:?}"),
        };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let mut lines = text.lines();
        let same = lines
            .next()
            .and_then(|line| serde_json::from_str::<Head>(line).ok())
            .is_some_and(|found| found == head);
        let mut done = BTreeMap::new();
        if same {
            // The last line may be cut off.
            for line in lines.filter_map(|line| serde_json::from_str::<Line>(line).ok()) {
                let Line { probe, seconds, spread, repeats } = line;
                done.insert(probe, Sample { seconds, spread, repeats });
            }
        }
        let mut text = json(&head)?;
        for (probe, sample) in &done {
            text.push_str(&json(&Line::new(probe, sample))?);
        }
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(&path)?;
        file.write_all(text.as_bytes())?;
        Ok(Self { path, done, file })
    }

    /// Probes that need not be measured again.
    pub fn done(&self) -> usize {
        self.done.len()
    }

    fn add(&mut self, probe: &str, sample: Sample) -> io::Result<()> {
        self.file.write_all(json(&Line::new(probe, &sample))?.as_bytes())?;
        self.done.insert(probe.to_owned(), sample);
        Ok(())
    }

    /// The calibration is complete: nothing is left to go on with.
    pub fn finish(self) -> io::Result<()> {
        fs::remove_file(self.path)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Line {
    fn new(probe: &str, sample: &Sample) -> Self {
        let Sample { seconds, spread, repeats } = *sample;
        Self { probe: probe.to_owned(), seconds, spread, repeats }
    }
}

fn json(value: &impl Serialize) -> io::Result<String> {
    Ok(serde_json::to_string(value)? + "\n")
}

/// Why a calibration stopped.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error("cannot write {}: {error}", path.display())]
    Journal { path: PathBuf, error: io::Error },
}

/// Checks the device's kernels, then measures what the journal lacks. `progress` is told of each
/// probe with how many are done and how many there are.
pub fn run(
    device: &mut dyn Device,
    effort: Effort,
    journal: &mut Journal,
    mut progress: impl FnMut(usize, usize, &Measurement),
) -> Result<Vec<Measurement>, SessionError> {
    let checked = device.check()?;
    if let Some(failed) = checked.iter().find(|checked| !checked.passed()) {
        return Err(DeviceError::new(
            format!(
                "the kernel {} computes wrongly on {}: {} is off by {:.1e}, {:.1e} is allowed",
                failed.kernel,
                device.description().product,
                failed.problem,
                failed.error,
                failed.tolerance
            ),
            "nothing was timed; a device that computes wrongly is overclocked, overheated or \
             broken, or its driver is: run its vendor's diagnostics, try another driver, and \
             report this if both are in order",
        )
        .into());
    }
    let probes = device.plan(effort);
    let mut measured = Vec::with_capacity(probes.len());
    for (i, probe) in probes.iter().enumerate() {
        let key = probe.to_string();
        let sample = match journal.done.get(&key) {
            Some(&sample) => sample,
            None => {
                let sample = device.measure(probe, effort)?;
                let path = journal.path.clone();
                journal.add(&key, sample).map_err(|error| SessionError::Journal { path, error })?;
                sample
            }
        };
        let measurement = Measurement { probe: probe.clone(), sample };
        progress(i + 1, probes.len(), &measurement);
        measured.push(measurement);
    }
    Ok(measured)
}

#[cfg(test)]
mod tests {
    use super::super::kernels::check::Checked;
    use super::super::{Description, StreamKind};
    use super::*;

    /// Takes as many seconds as it is asked for bytes, and fails at the probe `fails_at`.
    struct Toy {
        description: Description,
        measured: usize,
        fails_at: usize,
        error: f64,
    }

    impl Toy {
        fn new(fails_at: usize) -> Self {
            let description = Description {
                product: "toy".into(),
                conditions: "none".into(),
                multiprocessors: 1,
                compute_capability: (0, 0),
                clock_mhz: None,
                memory_bytes: 1,
                cache_bytes: 1,
                cache_assumed: true,
                waits_unknown: true,
                dtype: "fp32",
                not_representative: None,
            };
            Self { description, measured: 0, fails_at, error: 0.0 }
        }
    }

    impl Device for Toy {
        fn description(&self) -> &Description {
            &self.description
        }

        fn check(&mut self) -> Result<Vec<Checked>, DeviceError> {
            let problem = "a sum".to_owned();
            Ok(vec![Checked { kernel: "toy_sum", problem, error: self.error, tolerance: 1e-3 }])
        }

        fn plan(&self, _: Effort) -> Vec<Probe> {
            (1..=5).map(|bytes| Probe::Stream { kind: StreamKind::Read, bytes }).collect()
        }

        fn measure(&mut self, probe: &Probe, _: Effort) -> Result<Sample, DeviceError> {
            if self.measured == self.fails_at {
                return Err(DeviceError::new("gone", "look for it"));
            }
            self.measured += 1;
            let Probe::Stream { bytes, .. } = probe else { unreachable!("only streams planned") };
            Ok(Sample { seconds: *bytes as f64, spread: 0.0, repeats: 3 })
        }

        fn state(&self) -> String {
            String::new()
        }
    }

    fn seconds(measured: &[Measurement]) -> Vec<f64> {
        measured.iter().map(|m| m.sample.seconds).collect()
    }

    #[test]
    fn a_calibration_that_stopped_goes_on_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("toy.toml");
        let mut first = Toy::new(3);
        let mut journal = Journal::open(&out, &first, Effort::Full).unwrap();
        assert!(run(&mut first, Effort::Full, &mut journal, |_, _, _| ()).is_err());
        // The machine went down in the middle of a line.
        let path = journal.path().to_owned();
        drop(journal);
        let text = fs::read_to_string(&path).unwrap() + "{\"probe\":\"read 4 B\",\"sec";
        fs::write(&path, text).unwrap();

        let mut second = Toy::new(usize::MAX);
        let mut journal = Journal::open(&out, &second, Effort::Full).unwrap();
        assert_eq!(journal.done(), 3);
        let mut seen = Vec::new();
        let measured =
            run(&mut second, Effort::Full, &mut journal, |i, all, _| seen.push((i, all))).unwrap();
        assert_eq!(seconds(&measured), [1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!((second.measured, seen.len()), (2, 5));
        journal.finish().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn rows_of_another_device_or_effort_are_not_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("toy.toml");
        let mut toy = Toy::new(usize::MAX);
        let mut journal = Journal::open(&out, &toy, Effort::Full).unwrap();
        run(&mut toy, Effort::Full, &mut journal, |_, _, _| ()).unwrap();
        drop(journal);
        assert_eq!(Journal::open(&out, &toy, Effort::Full).unwrap().done(), 5);
        assert_eq!(Journal::open(&out, &toy, Effort::Quick).unwrap().done(), 0);
        let mut journal = Journal::open(&out, &toy, Effort::Full).unwrap();
        run(&mut toy, Effort::Full, &mut journal, |_, _, _| ()).unwrap();
        drop(journal);
        toy.description.product = "another".into();
        assert_eq!(Journal::open(&out, &toy, Effort::Full).unwrap().done(), 0);
    }

    #[test]
    fn a_kernel_that_computes_wrongly_is_not_timed() {
        let folder = tempfile::tempdir().unwrap();
        let mut toy = Toy::new(usize::MAX);
        toy.error = f64::NAN;
        let out = folder.path().join("toy.toml");
        let mut journal = Journal::open(&out, &toy, Effort::Full).unwrap();
        let error = run(&mut toy, Effort::Full, &mut journal, |_, _, _| ()).unwrap_err();
        assert!(error.to_string().contains("toy_sum computes wrongly on toy"), "{error}");
        assert_eq!(toy.measured, 0);
    }
}
