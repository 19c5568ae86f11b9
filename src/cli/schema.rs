//! `servesim schema`: the JSON Schema of the scenario file, for editors and checkers.

use super::args::SchemaArgs;
use super::{Failure, Outcome, output};
use crate::report::json;
use crate::scenario::Registry;

pub fn run(_: &SchemaArgs, registry: &Registry) -> Result<Outcome, Failure> {
    output::print(&json::pretty(registry.schema()))?;
    Ok(Outcome::Done)
}
