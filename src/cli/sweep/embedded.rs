//! The sweeps that come with the program.

use std::path::Path;

use include_dir::{Dir, include_dir};

use super::super::Failure;
use crate::named::nearest;
use crate::scenario::{Diagnostics, DiskFiles, ReadFile, Source};

static SWEEPS: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/sweeps");

/// Names of the embedded sweeps, in alphabetical order.
pub fn names() -> Vec<String> {
    let stem = |file: &include_dir::File<'_>| {
        Some(file.path().to_str()?.strip_suffix(".toml")?.to_owned())
    };
    let mut names: Vec<String> = SWEEPS.files().filter_map(stem).collect();
    names.sort();
    names
}

/// The embedded sweep of this name.
pub fn embedded(name: &str) -> Option<Source> {
    let name = name.strip_prefix("sweeps/").unwrap_or(name);
    let name = name.strip_suffix(".toml").unwrap_or(name);
    let file = SWEEPS.get_file(format!("{name}.toml"))?;
    Some(Source::file(format!("sweeps/{name}.toml"), file.contents()))
}

/// The sweep that a user names: a file, or else an embedded one.
pub fn open(name: &str) -> Result<Source, Failure> {
    match DiskFiles.read(Path::new(name)) {
        Ok(text) => Ok(Source::file(name, text)),
        Err(error) => embedded(name).ok_or_else(|| {
            let names = names();
            let help = match nearest(name, names.iter().map(String::as_str)) {
                Some(near) => format!("an embedded sweep has a similar name: {near}"),
                None => "give the path of a file, or a name of `servesim list sweeps`".into(),
            };
            Diagnostics::without_place(format!("cannot read the sweep {name:?}: {error}"), help)
                .into()
        }),
    }
}
