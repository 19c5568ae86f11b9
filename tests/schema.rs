//! `docs/scenario.schema.json`, which editors read and every run checks its file against, is what
//! the types say.

use servesim::report::json;
use servesim::scenario::schema;

#[test]
fn the_committed_schema_is_what_the_types_say() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/scenario.schema.json");
    let made = String::from_utf8(json::pretty(&schema::generate())).expect("JSON is text");
    if std::env::var_os("SCHEMA").is_some_and(|value| value == "overwrite") {
        std::fs::write(path, &made).expect("the schema can be written");
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        made == kept.replace("\r\n", "\n"),
        "docs/scenario.schema.json is out of date; make it again with: \
         SCHEMA=overwrite cargo test --test schema"
    );
}
