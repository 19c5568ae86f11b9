//! What comes with the program and is always the same is read here, once, and not by every run: the
//! catalogue, the profiles and the JSON Schema become constants (`src/embedded.rs` has their type).
//!
//! Files that stay text are embedded by folder, and the compiler does not see that a folder has one
//! more: without this a new scenario would appear only after its loader is next compiled.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

const SCHEMA: &str = "docs/scenario.schema.json";

/// Folders of TOML files, each with the constant that it becomes.
const FOLDERS: [(&str, &str); 6] = [
    ("GPUS", "hardware/gpus"),
    ("INSTANCES", "hardware/instances"),
    ("GPU_PROFILES", "calibration/fitted/gpus"),
    ("INTERCONNECT_PROFILES", "calibration/fitted/interconnects"),
    ("DEPLOYMENT_PROFILES", "calibration/fitted/deployments"),
    ("WEIGHT_KERNEL_PROFILES", "calibration/fitted/weight-kernels"),
];

fn main() {
    for path in ["scenarios", "hardware", "calibration", SCHEMA, "build.rs"] {
        println!("cargo::rerun-if-changed={path}");
    }
    fixed_address();

    let mut code = String::new();
    let schema = fs::read_to_string(SCHEMA).expect("the schema is committed");
    let schema = serde_json::from_str(&schema).expect("the schema is JSON");
    writeln!(code, "pub static SCHEMA: Value = {};", json(&schema)).expect("text takes all");
    for (name, folder) in FOLDERS {
        writeln!(code, "pub static {name}: Folder = &[").expect("text takes all");
        for path in files(folder, "toml") {
            let text = fs::read_to_string(&path).expect("a file that was listed");
            let mut table: toml::Table =
                toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            // Of profiles, for those that are read by another version than wrote them.
            table.remove("format");
            let table = toml(&toml::Value::Table(table));
            writeln!(code, "    ({:?}, {table}),", stem(&path)).expect("text takes all");
        }
        code.push_str("];\n");
    }
    code.push_str("pub static DATASETS: Folder = &[");
    for path in files("scenarios/data", "csv") {
        let text = fs::read_to_string(&path).expect("a file that was listed");
        writeln!(code, "    ({:?}, {}),", stem(&path), lengths(&text)).expect("text takes all");
    }
    code.push_str("];\n");
    let folder = env::var_os("OUT_DIR").expect("cargo names a folder");
    fs::write(Path::new(&folder).join("embedded.rs"), code).expect("cargo's folder is there");
}

/// Has the program linked to lie at a fixed address. Thousands of pointers in its constants would
/// else be moved at every start, and the pages that hold them copied: a quarter of a millisecond.
fn fixed_address() {
    let target = |what: &str| env::var(format!("CARGO_CFG_TARGET_{what}")).unwrap_or_default();
    if target("OS") == "linux" && target("ENV") == "gnu" {
        println!("cargo::rustc-link-arg-bin=servesim=-no-pie");
    }
}

/// Those with this ending, in the order of their names.
fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("it is there").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == ending));
    paths.sort_by_key(|path| path.file_stem().map(ToOwned::to_owned));
    paths
}

fn stem(path: &Path) -> &str {
    path.file_stem().and_then(|stem| stem.to_str()).expect("a name in ASCII")
}

/// A list of pairs, from the columns that `scenario::lengths` would choose, too.
fn lengths(csv: &str) -> String {
    assert!(!csv.contains('"'), "a data set of ours needs no quotes");
    let mut rows = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let header = rows.next().expect("a header line");
    let columns = ["llama2_input_tokens", "max_new_tokens"].map(|name| {
        header.iter().position(|column| *column == name).unwrap_or_else(|| panic!("no {name}"))
    });
    list(rows.map(|row| list(columns.iter().map(|at| format!("Value::Integer({})", row[*at])))))
}

fn json(value: &serde_json::Value) -> String {
    use serde_json::Value;
    match value {
        Value::Null => panic!("the schema has no null"),
        Value::Bool(b) => format!("Value::Boolean({b})"),
        Value::Number(n) => match n.as_i64() {
            Some(n) => format!("Value::Integer({n})"),
            None => format!("Value::Float({:?})", n.as_f64().expect("a number that fits")),
        },
        Value::String(text) => format!("Value::Text({text:?})"),
        Value::Array(items) => list(items.iter().map(json)),
        Value::Object(entries) => table(entries.iter().map(|(key, value)| (key, json(value)))),
    }
}

fn toml(value: &toml::Value) -> String {
    use toml::Value;
    match value {
        Value::Boolean(b) => format!("Value::Boolean({b})"),
        Value::Integer(n) => format!("Value::Integer({n})"),
        Value::Float(x) => format!("Value::Float({x:?})"),
        Value::String(text) => format!("Value::Text({text:?})"),
        Value::Array(items) => list(items.iter().map(toml)),
        Value::Table(entries) => table(entries.iter().map(|(key, value)| (key, toml(value)))),
        Value::Datetime(_) => panic!("dates are text in these files"),
    }
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("Value::List(&[{}])", items.collect::<Vec<_>>().join(","))
}

fn table<'a>(entries: impl Iterator<Item = (&'a String, String)>) -> String {
    let entries: Vec<_> = entries.map(|(key, value)| format!("({key:?},{value})")).collect();
    format!("Value::Table(&[{}])", entries.join(","))
}
