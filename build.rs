//! Files are embedded by folder, and the compiler does not see that a folder has one more: without
//! this a new scenario would appear only after its loader is next compiled.
//!
//! The JSON Schema, which every run reads, is embedded without the spaces that people read it by.

use std::path::Path;
use std::{env, fs};

const SCHEMA: &str = "docs/scenario.schema.json";

fn main() {
    for path in ["scenarios", "hardware", "calibration", SCHEMA, "build.rs"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let schema = fs::read_to_string(SCHEMA).expect("the schema is committed");
    let folder = env::var_os("OUT_DIR").expect("cargo names a folder");
    let compact = Path::new(&folder).join("scenario.schema.json");
    fs::write(compact, without_spaces(&schema)).expect("cargo's folder can be written");
}

/// JSON without what stands between its tokens.
fn without_spaces(json: &str) -> String {
    let (mut quoted, mut escaped) = (false, false);
    let keep = |c: &char| {
        let keep = quoted || !c.is_ascii_whitespace();
        quoted ^= *c == '"' && !escaped;
        escaped = *c == '\\' && !escaped;
        keep
    };
    json.chars().filter(keep).collect()
}
