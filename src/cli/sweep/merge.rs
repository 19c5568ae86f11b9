//! `servesim sweep merge`: shards become the whole, or it says what is missing.

use super::super::args::MergeArgs;
use super::super::{Failure, Outcome, output};
use super::store::Rows;
use super::{finish, grouped, reload};
use crate::scenario::Registry;

pub fn run(args: &MergeArgs, registry: &Registry) -> Result<Outcome, Failure> {
    output::check_parquet(args.parquet)?;
    let mut shards: Vec<Rows> =
        args.shards.iter().map(|folder| Rows::open(folder)).collect::<Result<_, _>>()?;
    let first = shards[0].header.clone();
    for rows in &shards[1..] {
        if !rows.header.is_of_the_same_sweep(&first) || rows.header.shards != first.shards {
            let about = |header: &crate::sweep::journal::Header| {
                format!(
                    "{:?}, {} points, shard {}",
                    header.name,
                    grouped(header.points),
                    header.shard_name()
                )
            };
            return Err(Failure::BadInput(format!(
                "error: {} is a shard of another sweep\n  = note: it is of {}\n  = note: {} is of \
                 {}\n  = help: give the shards of one sweep, made with the same file, the same --set \
                 and the same version of the program",
                rows.path().display(),
                about(&rows.header),
                shards[0].path().display(),
                about(&first),
            )));
        }
    }
    shards.sort_by_key(|rows| rows.header.shard);
    if let Some(pair) = shards.windows(2).find(|pair| pair[0].header.shard == pair[1].header.shard)
    {
        return Err(Failure::BadInput(format!(
            "error: shard {} is there twice: {} and {}\n  = help: leave one out",
            pair[0].header.shard_name(),
            pair[0].path().display(),
            pair[1].path().display(),
        )));
    }
    complete(&mut shards)?;
    // Read through once to count; once more from the start to merge.
    let shards = reopen(&shards)?;
    let sweep = reload(&first, registry);
    let outcome = finish::finish(shards, sweep.as_ref(), Some(&args.out), args.format)?;
    if args.parquet {
        output::OutDir::create(&args.out)?.write_parquet(&["points"])?;
    }
    Ok(outcome)
}

/// An error that says which points are missing, if any are.
fn complete(shards: &mut [Rows]) -> Result<(), Failure> {
    let header = shards[0].header.clone();
    let mut missing = Vec::new();
    for index in 0..header.shards {
        let name = format!("{index}/{}", header.shards);
        let Some(rows) = shards.iter_mut().find(|rows| rows.header.shard == index) else {
            missing.push(format!("shard {name} is not given"));
            continue;
        };
        let own = rows.header.own_points();
        let mut there = 0;
        for place in 0..own {
            there += u64::from(rows.row(index + place * header.shards)?.is_some());
        }
        if there < own {
            missing.push(format!(
                "shard {name} in {} has {} of its {} points: run it again, it goes on where it was",
                rows.path().display(),
                grouped(there),
                grouped(own)
            ));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = missing.iter().map(|line| format!("  = note: {line}")).collect();
    Err(Failure::BadInput(format!(
        "error: the sweep {:?} is not complete\n{}",
        header.name,
        lines.join("\n")
    )))
}

fn reopen(shards: &[Rows]) -> Result<Vec<Rows>, Failure> {
    shards
        .iter()
        .map(|rows| Rows::open(rows.path().parent().expect("a journal lies in a folder")))
        .collect()
}
