//! `servesim schema`: the JSON Schemas of our files, for editors and checkers.

use super::args::{SchemaArgs, SchemaOf};
use super::{Failure, Outcome, output};
use crate::report::json;
use crate::scenario::Registry;
use crate::sweep;

pub fn run(args: &SchemaArgs, registry: &Registry) -> Result<Outcome, Failure> {
    output::print(&match args.of {
        SchemaOf::Scenario => json::pretty(&registry.schema().to_json()),
        SchemaOf::Sweep => json::pretty(&sweep::schema::json_schema(registry.schema())),
    })?;
    Ok(Outcome::Done)
}
