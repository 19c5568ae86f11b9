//! Files are embedded by folder, and the compiler does not see that a folder has one more: without
//! this a new scenario would appear only after its loader is next compiled.

fn main() {
    for folder in ["scenarios", "hardware", "calibration"] {
        println!("cargo::rerun-if-changed={folder}");
    }
}
