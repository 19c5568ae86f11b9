//! `servesim report`: pictures of a run.

use std::fs::File;
use std::io;
use std::path::Path;

use serde_json::Value;

use super::args::ReportArgs;
use super::output::{Content, OutDir};
use super::{Failure, Outcome, output};
use crate::report::html::Page;
use crate::report::run_records::{self, NotARun, Requests, Steps, Window};
use crate::report::{chrome_trace, plots};

/// What a report leaves in its folder.
pub(super) const FILES: [&str; 5] =
    ["report.html", "trace.json", "latencies.svg", "load.svg", "time.svg"];

pub fn run(args: &ReportArgs) -> Result<Outcome, Failure> {
    let nanos =
        |time: Option<crate::time::SimDuration>| time.map(crate::time::SimDuration::as_nanos);
    let window = Window {
        from: nanos(args.from).unwrap_or(0),
        until: nanos(args.until).unwrap_or(u64::MAX),
    };
    if window.from >= window.until {
        return Err(Failure::bad_input("--from lies behind --until\n  = help: exchange the two"));
    }
    let run = RunDir(&args.run);
    let (scenario, summary) = run.summary()?;
    let requests = run.read("requests.csv", |file| Requests::read(file, window))?;
    let Some(requests) = requests else { return Err(run.is_no_run()) };
    let seed = requests.seed;
    let points = run.read("timeline.csv", |file| run_records::timeline(file, seed))?;
    let drawn = requests.window(window);
    let steps = run.read("steps.csv", |file| Steps::read(file, seed, drawn))?;
    let notes = notes(&requests, steps.as_ref(), &summary);
    let steps = steps.unwrap_or_default();

    let terms: Vec<(String, f64)> = summary["time"]["terms_s"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(term, seconds)| Some((term.clone(), seconds.as_f64()?)))
        .collect();
    let pictures = [
        ("latencies.svg", "Latencies", plots::latencies(&requests.latencies)),
        ("load.svg", "Load", plots::load(&points.unwrap_or_default())),
        ("time.svg", "Where the time in steps goes", plots::time(&terms)),
    ];
    let pictures: Vec<(&str, &str, String)> =
        pictures.into_iter().filter_map(|(file, title, svg)| Some((file, title, svg?))).collect();
    let titled: Vec<(&str, String)> =
        pictures.iter().map(|(_, title, svg)| (*title, svg.clone())).collect();
    let page = Page {
        scenario: &scenario,
        summary: &summary,
        plots: &titled,
        requests: &requests.drawn,
        steps: &steps.drawn,
        window: drawn,
        notes: &notes,
    };

    let folder = args.out.as_deref().unwrap_or(&args.run);
    let out = OutDir::create(folder)?;
    let mut trace = out.scratch()?;
    let traced = chrome_trace::write(&scenario, &requests.drawn, &steps.drawn, &mut trace);
    traced.map_err(|error| out.failure(&error))?;
    let trace = trace.into_inner().map_err(|error| out.failure(error.error()))?;
    let mut files = vec![
        ("report.html", vec![Content::Bytes(page.render().into_bytes())]),
        ("trace.json", vec![Content::Scratch(trace)]),
    ];
    files.extend(
        pictures.into_iter().map(|(file, _, svg)| (file, vec![Content::Bytes(svg.into_bytes())])),
    );
    let written: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
    let mut text = format!(
        "{}: {} of {} requests and {} steps drawn\n",
        scenario,
        requests.drawn.len(),
        requests.rows,
        steps.drawn.len()
    );
    for name in &written {
        text.push_str(&format!("  {}\n", folder.join(name).display()));
    }
    for note in &notes {
        text.push_str(&output::stdout_style().dim(&format!("note: {note}")));
        text.push('\n');
    }
    out.write_of(&FILES, files)?;
    output::print(text.as_bytes())?;
    Ok(Outcome::Done)
}

/// What the pictures leave out.
fn notes(requests: &Requests, steps: Option<&Steps>, summary: &Value) -> Vec<String> {
    let mut notes = Vec::new();
    let seconds = |nanos: u64| nanos as f64 / 1e9;
    let choose = "--from and --until choose another part";
    let (all, some) = (requests.in_window, requests.drawn.len() as u64);
    if let Some(last) = requests.drawn.last().filter(|_| some < all) {
        notes.push(format!(
            "{some} of {all} requests are drawn, those that came until {:.3} s; {choose}",
            seconds(last.arrival_ns)
        ));
    }
    match steps {
        None => notes
            .push("no steps.csv: `servesim run --steps` writes one, and steps are drawn".into()),
        Some(steps) if (steps.drawn.len() as u64) < steps.in_window => {
            let end = steps.drawn.last().map_or(0, |step| step.end_ns);
            notes.push(format!(
                "{} of {} steps are drawn, those until {:.3} s; {choose}",
                steps.drawn.len(),
                steps.in_window,
                seconds(end)
            ));
        }
        Some(_) => {}
    }
    let seeds = summary["seeds"].as_u64().unwrap_or(1);
    if seeds > 1 {
        notes.push(format!(
            "requests, steps and load are of seed {}, latencies of all {seeds}",
            requests.seed
        ));
    }
    notes
}

/// The folder of a run.
struct RunDir<'a>(&'a Path);

impl RunDir<'_> {
    fn is_no_run(&self) -> Failure {
        let points = self.0.join("points.csv").exists();
        let help = if points {
            "this is a sweep's; `servesim run` with the keys of one of its points and --out DIR makes one"
        } else {
            "`servesim run SCENARIO --out DIR` makes one"
        };
        Failure::bad_input(format!(
            "{} is not the folder of a run: no summary.json and requests.csv in it\n  = help: {help}",
            self.0.display()
        ))
    }

    fn open(&self, name: &str) -> Result<Option<File>, Failure> {
        match File::open(self.0.join(name)) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Err(self.is_no_run()),
            Err(error) => Err(Failure::environment(
                &format!("cannot read {}", self.0.join(name).display()),
                &error,
            )),
        }
    }

    /// The name of the scenario, and the summary.
    fn summary(&self) -> Result<(String, Value), Failure> {
        let Some(file) = self.open("summary.json")? else { return Err(self.is_no_run()) };
        let path = self.0.join("summary.json");
        let run: Value = serde_json::from_reader(io::BufReader::new(file)).map_err(|error| {
            Failure::bad_input(format!(
                "{}:{}:{}: {error}\n  = help: the file is not as `servesim run` wrote it; run again",
                path.display(),
                error.line(),
                error.column()
            ))
        })?;
        match (run["scenario"]["name"].as_str(), &run["summary"]) {
            (Some(name), summary @ Value::Object(_)) => Ok((name.to_owned(), summary.clone())),
            _ => Err(self.is_no_run()),
        }
    }

    fn read<T>(
        &self,
        name: &str,
        read: impl FnOnce(File) -> Result<T, NotARun>,
    ) -> Result<Option<T>, Failure> {
        let Some(file) = self.open(name)? else { return Ok(None) };
        let path = self.0.join(name);
        read(file).map(Some).map_err(|wrong| {
            let line = wrong.line.map(|line| format!(":{line}")).unwrap_or_default();
            Failure::bad_input(format!(
                "{}{line}: {wrong}\n  = help: the file is not as `servesim run` wrote it; run again",
                path.display()
            ))
        })
    }
}
