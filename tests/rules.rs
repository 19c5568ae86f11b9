//! `docs/rules.md` says what the schedulers do: it is made from their rule sets.

use servesim::deploy;
use servesim::report;

#[test]
fn the_page_of_rules_is_what_the_code_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/rules.md");
    let made = report::rules::markdown(&deploy::rules::of_all_engines());
    if std::env::var_os("RULES").is_some_and(|value| value == "overwrite") {
        std::fs::write(path, &made).expect("the page can be written");
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        made == kept.replace("\r\n", "\n"),
        "docs/rules.md is out of date; make it again with: RULES=overwrite cargo test --test rules"
    );
}

#[test]
fn versions_that_differ_in_a_rule_differ_in_its_words() {
    let rules = deploy::rules::of_all_engines();
    assert_eq!(rules.len(), 8);
    for (at, (engine, texts)) in rules.iter().enumerate() {
        for (other, others) in &rules[..at] {
            assert_ne!(texts, others, "{engine} and {other}");
        }
        for (heading, text) in texts.rows() {
            assert!(!text.is_empty() && !text.contains(['|', '\n']), "{engine}, {heading}: {text}");
        }
    }
}
