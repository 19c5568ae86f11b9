//! `servesim sweep`: a grid of scenarios in parallel, resumable, in shards.

mod embedded;
mod finish;
mod merge;
mod store;

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;

use rayon::prelude::*;

pub use embedded::{embedded, names};

use super::args::{SweepArgs, SweepCommand};
use super::progress::PointsDone;
use super::stopwatch::Stopwatch;
use super::{Failure, Outcome, output};
use crate::scenario::{DiskFiles, Override, Registry, Source};
use crate::sweep::journal::{CHUNK, Header};
use crate::sweep::{Point, Shard, Sweep};
use store::{Store, chunk_length};

/// More points than this are started only on request.
const UNASKED: u64 = 100_000;
/// More combinations than this are not even counted, where conditions have to be tried on each.
const UNCOUNTED: u128 = 50_000_000;

pub fn run(args: &SweepArgs, registry: &Registry) -> Result<Outcome, Failure> {
    if let Some(SweepCommand::Merge(args)) = &args.merge {
        return merge::run(args, registry);
    }
    output::check_parquet(args.parquet)?;
    let name = args.sweep.as_deref().expect("required without a subcommand");
    let shard = match &args.shard {
        None => Shard::WHOLE,
        Some(text) => Shard::from_environment(text, |name| std::env::var(name).ok())
            .map_err(|error| Failure::bad_input(format!("--shard: {error}")))?,
    };
    let source = embedded::open(name)?;
    let sweep = load(&source, &args.set, registry)?;
    let points = count(&sweep, args.yes || args.dry_run)?;
    if args.dry_run {
        output::print(format!("{} points\n", grouped(points)).as_bytes())?;
        return Ok(Outcome::Done);
    }
    let Source::File { path, text } = &source else { unreachable!("a sweep comes from a file") };
    let text = String::from_utf8_lossy(text);
    let header = Header::new(&sweep, points, shard, (&path.to_string_lossy(), &text, &args.set));
    let store = Store::open(args.out.as_deref(), header.clone())?;
    work(&sweep, &header, shard, &store, args.jobs)?;
    let rows = store.into_rows()?;
    if shard != Shard::WHOLE {
        let own = grouped(header.own_points());
        let all = grouped(points);
        let line = format!(
            "shard {shard}: {own} of {all} points are done; `servesim sweep merge` puts the shards \
             together\n"
        );
        output::print(line.as_bytes())?;
        return Ok(Outcome::Done);
    }
    let outcome = finish::finish(vec![rows], Some(&sweep), args.out.as_deref(), args.format)?;
    if let Some(out) = args.out.as_deref().filter(|_| args.parquet) {
        output::OutDir::create(out)?.write_parquet(&["points"])?;
    }
    Ok(outcome)
}

fn load(source: &Source, set: &[String], registry: &Registry) -> Result<Sweep, Failure> {
    let overrides: Vec<Override> = set.iter().map(|text| Override::set(text)).collect();
    Ok(Sweep::load(source, &overrides, &DiskFiles, registry)?)
}

/// How many points there are, if that many are to be run.
fn count(sweep: &Sweep, yes: bool) -> Result<u64, Failure> {
    let combinations = sweep.combinations();
    if sweep.has_conditions() && combinations > UNCOUNTED && !yes {
        return Err(too_many(&format!("{} combinations before `where`", grouped(combinations))));
    }
    let points = if sweep.has_conditions() {
        let mut points = 0u64;
        for point in sweep.points() {
            point?;
            points += 1;
        }
        points
    } else {
        u64::try_from(combinations)
            .map_err(|_| Failure::bad_input("the sweep has more than 2^64 points"))?
    };
    if points == 0 {
        return Err(sweep.nothing_left().into());
    }
    if points > UNASKED && !yes && !ask(points)? {
        return Err(too_many(&format!("{} points", grouped(points))));
    }
    Ok(points)
}

fn too_many(what: &str) -> Failure {
    Failure::BadInput(format!(
        "error: the sweep has {what}, and more than {} are started only on request\n  = help: add \
         --yes, take fewer values, or split the sweep with --shard I/N",
        grouped(UNASKED)
    ))
}

/// Asks whoever sits at the terminal; nobody there is a no.
fn ask(points: u64) -> Result<bool, Failure> {
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Ok(false);
    }
    let mut stderr = io::stderr().lock();
    let question = format!("The sweep has {} points. Run them all? [y/N] ", grouped(points));
    let mut answer = String::new();
    stderr
        .write_all(question.as_bytes())
        .and_then(|()| stderr.flush())
        .and_then(|()| io::stdin().lock().read_line(&mut answer))
        .map_err(|error| Failure::environment("cannot ask", &error))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn grouped(n: impl Into<u128>) -> String {
    let digits = n.into().to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Runs what is not in the store yet, chunk by chunk.
fn work(
    sweep: &Sweep,
    header: &Header,
    shard: Shard,
    store: &Store,
    jobs: Option<u16>,
) -> Result<(), Failure> {
    let done = store.done();
    if done.points == header.own_points() {
        return Ok(());
    }
    if done.points > 0 {
        output::complain(&format!(
            "{} of {} points were done before",
            grouped(done.points),
            grouped(header.own_points())
        ));
    }
    let watch = Stopwatch::start();
    let progress = PointsDone::new(header.own_points(), done.points, watch.started());
    let threads = rayon::ThreadPoolBuilder::new()
        .num_threads(jobs.map_or(0, usize::from))
        .build()
        .map_err(|error| Failure::environment("cannot start threads", &error))?;
    let mut own = sweep.points().filter(|point| match point {
        Ok(point) => shard.has(point.number),
        Err(_) => true,
    });
    for chunk in 0.. {
        let length = usize::try_from(chunk_length(header, chunk)).expect("a chunk is short");
        if length == 0 {
            break;
        }
        let points: Vec<Point> = own.by_ref().take(length).collect::<Result<_, _>>()?;
        if chunk < done.chunks {
            continue;
        }
        let missing = |point: &&Point| {
            let place = header.place(point.number).expect("the shard's own point");
            place / CHUNK != done.chunks || !done.in_chunk.contains(&place)
        };
        let missing: Vec<&Point> = points.iter().filter(missing).collect();
        threads.install(|| {
            missing.into_par_iter().try_for_each(|point| -> Result<(), Failure> {
                store.append(point.number, &sweep.row(*point, &DiskFiles))?;
                progress.one_more();
                Ok(())
            })
        })?;
    }
    Ok(())
}

/// What stands in a journal's header, for a sweep that is to be loaded again.
fn reload(header: &Header, registry: &Registry) -> Option<Sweep> {
    let source = Source::file(Path::new(&header.file), header.text.as_bytes());
    let sweep = load(&source, &header.set, registry).ok()?;
    (sweep.fingerprint() == header.sweep).then_some(sweep)
}
