//! The committed profiles that come from operator tables are what the import writes.
//!
//! The tables are not part of the project. Where they are at hand the profiles are made again and
//! compared byte by byte; elsewhere their checksums tell a hand's edit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use servesim::calibrate::import::{
    Tables, links_names, links_to_toml, to_toml, weight_kernel_names, weight_kernel_to_toml,
};
use servesim::calibrate::table::{self, Timing};
use servesim::cost::profile::{
    FORMAT, GpuProfile, InterconnectProfile, ProfileError, WeightKernelProfile,
};
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
    let links = |name: &str| {
        let profile = tables.links(name).expect("the tables have rows of these links");
        (format!("interconnects/{name}.toml"), links_to_toml(&profile))
    };
    let kernel = |name: &str| {
        let profile = tables.weight_kernel(name).expect("the tables have rows of this kernel");
        (format!("weight-kernels/{name}.toml"), weight_kernel_to_toml(&profile))
    };
    let made = gpus.into_iter().map(profile).chain(links_names().map(links));
    made.chain(weight_kernel_names().map(kernel)).collect()
}

/// Paths under `calibration/fitted` of the files that tables give.
fn written() -> Vec<String> {
    let gpus = files(&Path::new(FITTED).join("gpus"), "toml").into_iter().map(|path| {
        format!("gpus/{}", path.file_name().and_then(|name| name.to_str()).expect("a name"))
    });
    let links = links_names().map(|name| format!("interconnects/{name}.toml"));
    let kernels = weight_kernel_names().map(|name| format!("weight-kernels/{name}.toml"));
    let mut paths: Vec<String> = gpus.chain(links).chain(kernels).collect();
    paths.sort();
    paths
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
    let text = |path: String| (path.clone(), text_of(&Path::new(FITTED).join(path)));
    let committed: BTreeMap<String, String> = written().into_iter().map(text).collect();
    assert!(committed.len() >= 20, "{} profiles", committed.len());
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
    for path in written() {
        let text = text_of(&Path::new(FITTED).join(&path));
        let mut lines = text.lines();
        let by = "written by `servesim calibrate --from-tables`.";
        assert!(lines.next().is_some_and(|line| line.ends_with(by)), "{path}");
        assert_eq!(lines.next(), Some(format!("format = {FORMAT}").as_str()), "{path}");
        let read = |text: &[u8]| -> Result<usize, ProfileError> {
            Ok(match path.split('/').next().expect("a folder") {
                "gpus" => GpuProfile::from_toml(&path, text)?.fits.len(),
                "interconnects" => InterconnectProfile::from_toml(&path, text)?.fits.len(),
                _ => WeightKernelProfile::from_toml(&path, text)?.fits.len(),
            })
        };
        let fits = read(text.as_bytes());
        assert!(fits.is_ok(), "{path}: {fits:?}");
        if !path.starts_with("gpus/") {
            assert!(fits.is_ok_and(|fits| fits > 0), "{path} does not say how good it is");
        }
    }
}
