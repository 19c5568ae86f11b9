//! The README's figures of accuracy are those that the program keeps.

use servesim::accuracy::Accuracy;
use servesim::report::accuracy_table;

#[test]
fn the_readme_says_what_is_committed() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let kept = std::fs::read_to_string(path).expect("a README").replace("\r\n", "\n");
    let accuracy = Accuracy::committed().expect("committed figures can be read");
    let made = accuracy_table::replace_section(&kept, &accuracy_table::markdown(&accuracy))
        .expect("the README has a section for them");
    if std::env::var_os("ACCURACY").is_some_and(|value| value == "overwrite") {
        std::fs::write(path, &made).expect("the README can be written");
        return;
    }
    assert!(
        made == kept,
        "README.md is out of date; make its figures again with: ACCURACY=overwrite cargo test \
         --test accuracy"
    );
}
