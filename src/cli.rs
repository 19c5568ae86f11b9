//! The command line: the only part that reads files and clocks, prints, and ends the process.

mod accuracy;
mod args;
mod calibrate;
mod capacity;
mod compare;
mod conformance;
mod input;
mod list;
mod memory;
mod output;
mod progress;
mod record;
mod report;
mod run;
mod schema;
mod stopwatch;
mod sweep;
mod validate;
mod workload;

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use clap::Parser;

use crate::scenario::{Diagnostics, Registry};
use args::{Cli, Command};

/// Exit code after SIGINT, as shells have it: 128 + 2.
const INTERRUPTED: i32 = 130;

/// How a command ended that did what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// The answer is no: does not fit, bound broken, worse, diverges.
    Negative,
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub enum Failure {
    /// What the user gave is wrong; the text says what, where and what to do.
    BadInput(String),
    /// The input was fine and the machine was not: disk full, no permission.
    Environment(String),
    /// Nobody reads what is printed any more.
    BrokenPipe,
}

impl Failure {
    fn environment(what: &str, error: &dyn Error) -> Self {
        Self::Environment(format!("error: {what}: {error}"))
    }

    /// A message without a place to point at.
    fn bad_input(message: impl fmt::Display) -> Self {
        Self::BadInput(format!("error: {message}"))
    }

    pub fn exit_code(&self) -> u8 {
        match self {
            Self::BadInput(_) => 2,
            Self::Environment(_) => 3,
            Self::BrokenPipe => 0,
        }
    }
}

impl From<Diagnostics> for Failure {
    fn from(diagnostics: Diagnostics) -> Self {
        Self::BadInput(diagnostics.render(output::stderr_colour()))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadInput(text) | Self::Environment(text) => f.write_str(text),
            Self::BrokenPipe => Ok(()),
        }
    }
}

/// Parses the process's arguments and does what they ask. Usage errors end the process with 2 here.
pub fn main() -> ExitCode {
    main_with(&Registry::builtin())
}

/// The same with engines of one's own: a program that registers one is the whole command line.
pub fn main_with(registry: &Registry) -> ExitCode {
    output::exit_on_interrupt();
    match dispatch(&Cli::parse().command, registry) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Negative) => ExitCode::from(1),
        Err(failure) => {
            output::complain(&failure.to_string());
            ExitCode::from(failure.exit_code())
        }
    }
}

fn dispatch(command: &Command, registry: &Registry) -> Result<Outcome, Failure> {
    match command {
        Command::Run(args) => run::run(args, registry),
        Command::Memory(args) => memory::run(args, registry),
        Command::Workload(args) => workload::run(args, registry),
        Command::Sweep(args) => sweep::run(args, registry),
        Command::Capacity(args) => capacity::run(args, registry),
        Command::Compare(args) => compare::run(args, registry),
        Command::Validate(args) => validate::run(args, registry),
        Command::Accuracy(args) => accuracy::run(args),
        Command::Calibrate(args) => calibrate::run(args, registry),
        Command::Conformance(args) => conformance::run(args),
        Command::Record(args) => record::run(args, registry),
        Command::Report(args) => report::run(args),
        Command::List(args) => list::run(args, registry),
        Command::Schema(args) => schema::run(args, registry),
    }
}
