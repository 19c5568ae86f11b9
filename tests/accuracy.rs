//! The README's figures of accuracy are those that the program keeps.

use servesim::accuracy::{self, Accuracy};
use servesim::report::accuracy_table;
use servesim::validate::{self, Suite};

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

/// The study's Table 2 and its claims take minutes here, for their fits and seeds.
#[test]
fn the_stated_bounds_hold() {
    for suite in accuracy::SUITES.into_iter().filter(|suite| *suite != Suite::Redhat) {
        let report = validate::run(suite, false).expect("a suite of embedded data");
        let broken: Vec<_> = report.checks.iter().filter(|check| !check.holds).collect();
        assert!(broken.is_empty(), "{suite}: {broken:?}");
    }
}
