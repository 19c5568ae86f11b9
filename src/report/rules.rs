//! The rules of the engines side by side: for a terminal, and as the page `docs/rules.md`.

use std::fmt::Write as _;

use crate::deploy::rules::{REFERENCE_GPU, REFERENCE_MODEL};
use crate::engine_name::EngineName;
use crate::scheduler::rules::RuleTexts;

use super::Listing;

/// A row for each rule and each way of it, with the engines that have it so.
pub fn listing(rules: &[(EngineName, RuleTexts)]) -> Listing {
    let mut listing =
        Listing::new(&[("rule", "rule"), ("engines", "engines"), ("is", "what they do")]);
    for (row, heading) in headings(rules).into_iter().enumerate() {
        for (text, engines) in ways(rules, row) {
            let engines: Vec<&str> = engines.iter().map(|engine| engine.name()).collect();
            listing.push(vec![heading.into(), engines.join(", ").into(), text.into()]);
        }
    }
    listing
}

/// The page: rules down, engines across.
pub fn markdown(rules: &[(EngineName, RuleTexts)]) -> String {
    let mut page = format!(
        "<!-- Made from the schedulers' own rule sets. To make it again:\n     \
         RULES=overwrite cargo test --test rules -->\n\n\
         # What the engines' schedulers do, version by version\n\n\
         Numbers are the defaults of each server for {REFERENCE_MODEL} on one {REFERENCE_GPU}; most \
         are settings of `[engine.FAMILY]`\n(`servesim schema`). The schedulers are held to schedules \
         recorded from the engines' own code\n(`servesim conformance`). `servesim list rules` prints \
         the same.\n\n"
    );
    page.push_str("| rule |");
    for (engine, _) in rules {
        write!(page, " {engine} |").expect("text grows");
    }
    page.push_str("\n| --- |");
    page.push_str(&" --- |".repeat(rules.len()));
    page.push('\n');
    for (row, heading) in headings(rules).into_iter().enumerate() {
        write!(page, "| **{heading}** |").expect("text grows");
        for (_, texts) in rules {
            write!(page, " {} |", texts.rows()[row].1).expect("text grows");
        }
        page.push('\n');
    }
    page
}

fn headings(rules: &[(EngineName, RuleTexts)]) -> Vec<&'static str> {
    let first = rules.first().map(|(_, texts)| texts.rows()).unwrap_or_default();
    first.into_iter().map(|(heading, _)| heading).collect()
}

/// The different texts of one rule, each with its engines, in the engines' order.
fn ways(rules: &[(EngineName, RuleTexts)], row: usize) -> Vec<(&str, Vec<EngineName>)> {
    let mut ways: Vec<(&str, Vec<EngineName>)> = Vec::new();
    for (engine, texts) in rules {
        let text = texts.rows()[row].1;
        match ways.iter_mut().find(|(other, _)| *other == text) {
            Some((_, engines)) => engines.push(*engine),
            None => ways.push((text, vec![*engine])),
        }
    }
    ways
}
