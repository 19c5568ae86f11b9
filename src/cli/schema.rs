//! `servesim schema`: the JSON Schema of the scenario file, for editors and checkers.

use super::args::SchemaArgs;
use super::{Failure, Outcome, output};
use crate::report::json;
use crate::scenario::schema::json_schema;

pub fn run(_: &SchemaArgs) -> Result<Outcome, Failure> {
    output::print(&json::pretty(json_schema()))?;
    Ok(Outcome::Done)
}
