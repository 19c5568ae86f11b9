//! The layers of the program and the purity of its core, held by reading the sources.
//!
//! A module may use only what stands in its own layer or in one before it. The core (every layer up
//! to `metrics`) does no I/O, reads no clock, holds no global state, starts no thread and prints
//! nothing: a simulation is a function of its scenario and seed.

use std::fs;
use std::path::{Path, PathBuf};

/// Top-level modules by layer, in the order in which they may use each other.
const LAYERS: &[&[&str]] = &[
    &["units", "time", "named", "random", "embedded"],
    &["request", "model", "hardware", "engine_name"],
    &["cost", "kv_cache"],
    &["scheduler"],
    &["engine", "workload"],
    &["metrics"],
    &["trace"],
    &["scenario"],
    &[
        "deploy",
        "uncertainty",
        "calibrate",
        "sweep",
        "compare",
        "conformance",
        "validate",
        "accuracy",
        "load_test",
    ],
    &["report"],
    &["tui"],
    &["cli"],
    &["main"],
];

/// The last layer of the core.
const LAST_PURE: &str = "metrics";

/// What the core must not name, and why.
const IMPURE: &[(&str, &str)] = &[
    ("std::fs", "reads or writes files"),
    ("std::io", "does I/O"),
    ("std::net", "uses the network"),
    ("std::env", "depends on the environment"),
    ("std::process", "depends on the process"),
    ("std::thread", "starts threads"),
    ("rayon", "starts threads"),
    ("thread_local", "holds global state"),
    ("static mut", "holds global state"),
    ("LazyLock", "holds global state"),
    ("OnceLock", "holds global state"),
    ("Mutex", "shares mutable state"),
    ("RwLock", "shares mutable state"),
    ("Instant", "reads a clock"),
    ("SystemTime", "reads a clock"),
    ("print!", "prints"),
    ("println!", "prints"),
    ("eprint!", "prints"),
    ("eprintln!", "prints"),
    ("dbg!", "prints"),
    ("thread_rng", "draws from a generator without a seed"),
    ("rand::rng", "draws from a generator without a seed"),
];

/// What reports must not name: they make bytes, and only the command line writes them.
const IMPURE_REPORT: &[(&str, &str)] = &[
    ("std::fs", "reads or writes files"),
    ("std::env", "depends on the environment"),
    ("Instant", "reads a clock"),
    ("SystemTime", "reads a clock"),
    ("println!", "prints"),
    ("eprintln!", "prints"),
];

const MAX_LINES: usize = 800;

#[test]
fn modules_use_only_the_layers_before_their_own() {
    let problems: Vec<_> = sources().iter().flat_map(layer_violations).collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn the_core_is_pure() {
    let problems: Vec<_> = sources().iter().flat_map(purity_violations).collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn no_file_is_longer_than_a_reader_can_hold() {
    for source in sources() {
        let lines = source.text.lines().count();
        assert!(
            lines <= MAX_LINES,
            "{} has {lines} lines, over {MAX_LINES}",
            source.path.display()
        );
    }
}

#[test]
fn every_module_of_the_crate_has_a_layer() {
    for source in sources() {
        let module = &source.module[0];
        assert!(module == "lib" || layer_of(module).is_some(), "give {module} a layer above");
    }
}

struct Source {
    path: PathBuf,
    /// Below `src`: `["metrics", "slo"]` for `metrics/slo.rs`.
    module: Vec<String>,
    text: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let module = path.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        Self { path: path.into(), module, text: text.to_owned() }
    }

    fn complain(&self, line: usize, what: &str) -> String {
        format!("src/{}:{line}: {what}", self.path.display())
    }
}

/// Every source file but those that hold only tests.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of sources") {
            let path = entry.expect("an entry of a folder").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let below = path.strip_prefix(&root).expect("a path below src");
                let text = fs::read_to_string(&path).expect("a source is UTF-8");
                found.push(Source::new(below.to_str().expect("a plain name"), &text));
            }
        }
    }
    found.retain(|source| source.module.last().is_none_or(|name| name != "tests"));
    found.retain(|source| !source.module.iter().any(|name| name == "tests"));
    assert!(found.len() > 10, "the sources are where they are looked for");
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

fn layer_violations(source: &Source) -> Vec<String> {
    let module = &source.module[0];
    // The crate's root names all modules.
    let Some(own) = layer_of(module) else { return Vec::new() };
    let code = code_of(&source.text);
    let mut problems = Vec::new();
    for (line, used) in used_modules(source, &code) {
        if layer_of(&used).is_some_and(|layer| layer > own) {
            problems.push(source.complain(line, &format!("{module} must not use {used}")));
        }
    }
    problems
}

fn purity_violations(source: &Source) -> Vec<String> {
    let module = &source.module[0];
    let last_pure = layer_of(LAST_PURE).expect("the core has a last layer");
    let forbidden = match layer_of(module) {
        Some(layer) if layer <= last_pure => IMPURE,
        _ if module == "report" => IMPURE_REPORT,
        _ => return Vec::new(),
    };
    let code = code_of(&source.text);
    let mut problems = Vec::new();
    for (number, line) in (1..).zip(code.lines()) {
        for (name, why) in forbidden {
            if has_name(line, name) {
                problems.push(source.complain(number, &format!("{name} {why}")));
            }
        }
    }
    problems.extend(
        hash_iterations(&code)
            .into_iter()
            .map(|(line, what)| source.complain(line, &format!("{what} has no defined order"))),
    );
    problems
}

/// Modules of this crate that `code` names, through `crate::`, `servesim::` or `super::`.
fn used_modules(source: &Source, code: &str) -> Vec<(usize, String)> {
    let mut used = Vec::new();
    for root in ["crate::", "servesim::"] {
        for (at, _) in code.match_indices(root) {
            if !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                first_segments(&code[at + root.len()..], |name| used.push((at, name)));
            }
        }
    }
    // `super` reaches the crate's root after as many steps as the module is deep.
    let depth = source.module.len();
    let climb = "super::".repeat(depth);
    for (at, _) in code.match_indices(climb.as_str()) {
        if !code[..at].ends_with("super::") {
            first_segments(&code[at + climb.len()..], |name| used.push((at, name)));
        }
    }
    let line_of = |at: usize| code[..at].matches('\n').count() + 1;
    used.into_iter().map(|(at, name)| (line_of(at), name)).collect()
}

/// The names that a path or a `{...}` group of paths starts with.
fn first_segments(rest: &str, mut each: impl FnMut(String)) {
    let name = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let Some(group) = rest.strip_prefix('{') else { return each(name(rest)) };
    let (mut depth, mut start) = (0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return each(name(&group[start..at])),
            '}' => depth -= 1,
            ',' if depth == 0 => {
                each(name(&group[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// Whether `line` has `name` as a whole name, not as part of a longer one.
fn has_name(line: &str, name: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(name)
        .any(|(at, _)| !line[..at].ends_with(part) && !line[at + name.len()..].starts_with(part))
}

/// Loops over a `HashMap` or `HashSet` that `code` declares: their order differs from run to run.
fn hash_iterations(code: &str) -> Vec<(usize, String)> {
    let mut names: Vec<String> = Vec::new();
    for line in code.lines().filter(|line| line.contains("HashMap") || line.contains("HashSet")) {
        let before = line.split("Hash").next().unwrap_or_default();
        let declared = before.trim_end_matches(|c: char| !(c == ':' || c == '='));
        let name: String = declared
            .trim_end_matches([':', '=', ' '])
            .chars()
            .rev()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        let name: String = name.chars().rev().collect();
        if !name.is_empty() && name != "collections" && name != "std" {
            names.push(name);
        }
    }
    const WALKS: [&str; 8] =
        ["iter", "iter_mut", "into_iter", "keys", "values", "values_mut", "drain", "retain"];
    let mut found = Vec::new();
    for (number, line) in (1..).zip(code.lines()) {
        for name in &names {
            let walked = WALKS.iter().any(|walk| has_name(line, &format!("{name}.{walk}")));
            let looped = line.split(" in ").nth(1).is_some_and(|rest| {
                let rest = rest.trim_start_matches(['&', ' ']).trim_start_matches("mut ");
                let rest = rest.trim_start_matches("self.");
                rest.strip_prefix(name.as_str())
                    .is_some_and(|after| after.trim_start().starts_with('{'))
            });
            if walked || looped {
                found.push((number, format!("walking the hash table `{name}`")));
            }
        }
    }
    found
}

/// The source without comments, text in quotes and test modules; lines stay where they are.
fn code_of(text: &str) -> String {
    without_tests(&without_comments_and_text(text))
}

fn without_comments_and_text(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    // Replaces what is skipped by its newlines.
    let skip = |code: &mut String, skipped: &str| {
        code.extend(skipped.chars().filter(|&c| c == '\n'));
    };
    while let Some(c) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with("r#\"") || rest.starts_with("br#\"") {
            rest.find("\"#").map_or(rest.len(), |end| end + 2)
        } else if c == '"' {
            let mut escaped = false;
            let end = rest.char_indices().skip(1).find(|&(_, c)| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            end.map_or(rest.len(), |(at, _)| at + 1)
        } else if let Some(length) = char_literal(rest) {
            length
        } else {
            code.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        skip(&mut code, &rest[..length]);
        rest = &rest[length..];
    }
    code
}

/// Length of the character literal that `rest` starts with; a lifetime is none.
fn char_literal(rest: &str) -> Option<usize> {
    let inner = rest.strip_prefix('\'')?;
    if let Some(escape) = inner.strip_prefix('\\') {
        let first = escape.chars().next()?.len_utf8();
        return escape[first..].find('\'').map(|end| 2 + first + end + 1);
    }
    let first = inner.chars().next()?.len_utf8();
    inner[first..].starts_with('\'').then_some(1 + first + 1)
}

/// Tests may use anything: they do not ship.
fn without_tests(code: &str) -> String {
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        kept.push_str(&rest[..at]);
        let item = &rest[at..];
        let body = item.find(['{', ';']).unwrap_or(item.len() - 1);
        let mut end = body + 1;
        if item[body..].starts_with('{') {
            let mut depth = 0;
            for (at, c) in item[body..].char_indices() {
                depth += i32::from(c == '{') - i32::from(c == '}');
                if depth == 0 {
                    end = body + at + 1;
                    break;
                }
            }
        }
        kept.extend(item[..end].chars().filter(|&c| c == '\n'));
        rest = &item[end..];
    }
    kept + rest
}

/// The checker itself: it must see what it is there for.
mod checker {
    use super::*;

    fn layers(path: &str, text: &str) -> Vec<String> {
        layer_violations(&Source::new(path, text))
    }

    fn purity(path: &str, text: &str) -> Vec<String> {
        purity_violations(&Source::new(path, text))
    }

    #[test]
    fn a_use_of_a_later_layer_is_seen_however_it_is_written() {
        for text in [
            "use crate::metrics::Recorder;",
            "use crate::{\n    time::SimTime,\n    metrics::{Recorder, Slo},\n};",
            "fn f() { crate::metrics::f() }",
            "use super::super::metrics::Slo;",
            "use servesim::metrics;",
        ] {
            let problems = layers("scheduler/tgis.rs", text);
            assert_eq!(problems.len(), 1, "{text}: {problems:?}");
            assert!(problems[0].contains("scheduler must not use metrics"), "{problems:?}");
        }
    }

    #[test]
    fn a_use_of_an_earlier_layer_is_allowed() {
        for text in ["use crate::cost::StepCost;", "use super::Scheduler;", "// use crate::cli;"] {
            assert_eq!(layers("scheduler/tgis.rs", text), [""; 0]);
        }
    }

    #[test]
    fn impure_names_are_seen_with_their_line() {
        let problems =
            purity("engine.rs", "\nuse std::time::Instant;\nfn f() { println!(\"x\") }\n");
        assert_eq!(
            problems,
            ["src/engine.rs:2: Instant reads a clock", "src/engine.rs:3: println! prints"]
        );
        for text in ["static mut N: u32 = 0;", "use std::fs;", "use rayon::prelude::*;"] {
            assert_eq!(purity("metrics/slo.rs", text).len(), 1, "{text}");
        }
    }

    #[test]
    fn what_only_looks_impure_is_let_through() {
        let text = "/// An Instant.\nfn instantaneous() { \"std::fs\"; '\"'; \"println!\"; }\n\
                    struct InstantRate<'a>(&'a str);\n";
        assert_eq!(purity("engine.rs", text), [""; 0]);
        assert_eq!(purity("cli/run.rs", "use std::fs;"), [""; 0]);
    }

    #[test]
    fn tests_inside_a_file_may_use_anything() {
        let text = "fn f() {}\n#[cfg(test)]\nmod tests {\n    use crate::cli;\n    fn g() { println!(); }\n}\n";
        assert_eq!(layers("engine.rs", text), [""; 0]);
        assert_eq!(purity("engine.rs", text), [""; 0]);
        let after = format!("{text}use std::fs;\n");
        assert_eq!(purity("engine.rs", &after), ["src/engine.rs:7: std::fs reads or writes files"]);
    }

    #[test]
    fn walking_a_hash_table_is_seen_and_looking_up_is_not() {
        let declared = "struct S {\n    map: HashMap<u32, u32>,\n}\n";
        for walk in
            ["for (k, v) in &self.map {", "self.map.values().sum()", "for x in self.map.drain() {"]
        {
            assert_eq!(purity("cost.rs", &format!("{declared}{walk}")).len(), 1, "{walk}");
        }
        let let_bound = "let mut seen = HashSet::new();\nfor x in &seen {";
        assert_eq!(purity("cost.rs", let_bound).len(), 1);
        assert_eq!(purity("cost.rs", &format!("{declared}self.map.get(&1)")), [""; 0]);
    }
}
