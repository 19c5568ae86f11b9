//! The committed profiles that come from operator tables are what the import writes.
//!
//! The tables are not part of the project. Where they are at hand the profiles are made again and
//! compared byte by byte; elsewhere their checksums tell a hand's edit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use servesim::calibrate::import::{Tables, to_toml};
use servesim::calibrate::table::{self, Timing};
use servesim::cost::profile::{FORMAT, GpuProfile};
use servesim::hardware;
use servesim::scenario::diagnostic::Sources;
use xxhash_rust::xxh3::xxh3_64;

const FITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/calibration/fitted");
const CHECKSUMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/calibration/from-tables.xxh3");

const REMEDY: &str =
    "make the profiles again with: FROM_TABLES=overwrite cargo test --test from_tables";

/// Text of a committed file.
fn text_of(path: &Path) -> String {
    let text = std::fs::read_to_string(path);
    text.unwrap_or_else(|error| panic!("{}: {error}", path.display())).replace("\r\n", "\n")
}

/// Files of `folder` by name, in order.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|found| found == extension));
    paths.sort();
    paths
}

/// All rows of the operator tables, if they are here.
fn rows() -> Option<Vec<Timing>> {
    let shared = std::env::var_os("SERVESIM_SHARED").map_or("../shared".into(), PathBuf::from);
    let folder = shared.join("data/calibration");
    if !folder.exists() {
        let required = std::env::var_os("SERVESIM_REQUIRE_SHARED").is_some();
        assert!(!required, "SERVESIM_REQUIRE_SHARED is set, but {} is missing", folder.display());
        eprintln!("no operator tables in {}: only checksums are compared", folder.display());
        return None;
    }
    let mut sources = Sources::default();
    let read = |path: PathBuf| {
        let text = text_of(&path);
        let id = sources.add(path.display().to_string(), text.as_str());
        table::read(id, &text).expect("the tables can be read").1
    };
    Some(files(&folder, "csv").into_iter().flat_map(read).collect())
}

/// The profiles that the tables give, by path under `calibration/fitted`.
fn made(rows: &[Timing]) -> BTreeMap<String, String> {
    let tables = Tables::new(rows);
    let gpus = files(&Path::new(FITTED).join("gpus"), "toml");
    let profile = |path: PathBuf| {
        let name = path.file_stem().and_then(|stem| stem.to_str()).expect("a name").to_owned();
        let gpu = hardware::gpu(&name).expect("a GPU of the catalogue");
        (format!("gpus/{name}.toml"), to_toml(&tables.import(&gpu).profile, &gpu))
    };
    gpus.into_iter().map(profile).collect()
}

fn overwriting() -> bool {
    std::env::var_os("FROM_TABLES").is_some_and(|value| value == "overwrite")
}

fn checksums(texts: &BTreeMap<String, String>) -> String {
    let line =
        |(path, text): (&String, &String)| format!("{:016x}  {path}\n", xxh3_64(text.as_bytes()));
    texts.iter().map(line).collect()
}

#[test]
fn the_committed_profiles_are_what_the_import_writes() {
    let made = rows().map(|rows| made(&rows));
    if overwriting() {
        let made = made.expect("the tables are at hand: set SERVESIM_SHARED");
        for (path, text) in &made {
            std::fs::write(Path::new(FITTED).join(path), text).expect("it can be written");
        }
        std::fs::write(CHECKSUMS, checksums(&made)).expect("it can be written");
        return;
    }
    let paths = files(&Path::new(FITTED).join("gpus"), "toml");
    let committed: BTreeMap<String, String> = paths
        .iter()
        .map(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
            (format!("gpus/{name}"), text_of(path))
        })
        .collect();
    assert!(committed.len() >= 11, "{} profiles", committed.len());
    let kept = text_of(Path::new(CHECKSUMS));
    assert_eq!(checksums(&committed), kept, "a profile is not as it was written; {REMEDY}");
    for (path, made) in made.into_iter().flatten() {
        assert!(committed[&path] == made, "{path} is not what the tables give; {REMEDY}");
    }
}

#[test]
fn each_says_who_wrote_it_and_in_which_format() {
    if overwriting() {
        return;
    }
    for path in files(&Path::new(FITTED).join("gpus"), "toml") {
        let text = text_of(&path);
        let mut lines = text.lines();
        let by = "written by `servesim calibrate --from-tables`.";
        assert!(lines.next().is_some_and(|line| line.ends_with(by)), "{}", path.display());
        assert_eq!(lines.next(), Some(format!("format = {FORMAT}").as_str()), "{}", path.display());
        let profile = GpuProfile::from_toml("a committed profile", text.as_bytes());
        assert!(profile.is_ok(), "{}: {profile:?}", path.display());
    }
}
