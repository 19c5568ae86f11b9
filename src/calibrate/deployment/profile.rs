//! A deployment's profile as text.

use serde_json::{Map, Value};

use crate::cost::profile::{DeploymentProfile, FORMAT};

/// The profile with one line for each coefficient.
pub fn to_toml(profile: &DeploymentProfile) -> String {
    // As JSON the fields keep the order of their declaration; text and numbers are written alike.
    let object = serde_json::to_value(profile).expect("a profile is plain data");
    let mut text =
        format!("# Written by `servesim calibrate --fit-deployment`.\nformat = {FORMAT}\n");
    write_table(&mut text, "", object.as_object().expect("a profile has fields"));
    text
}

/// Whether a value stands in one line: a coefficient, a list of them, or less.
fn is_line(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.contains_key("value") && fields.contains_key("source"),
        Value::Array(items) => items.iter().all(is_line),
        _ => true,
    }
}

fn write_table(text: &mut String, path: &str, table: &Map<String, Value>) {
    let within = |name: &str| {
        if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
    };
    for (key, value) in table.iter().filter(|(_, value)| is_line(value)) {
        match value {
            Value::Array(items) => {
                let items: String = items.iter().map(|i| format!("    {},\n", inline(i))).collect();
                text.push_str(&format!("{key} = [\n{items}]\n"));
            }
            value => text.push_str(&format!("{key} = {}\n", inline(value))),
        }
    }
    for (name, value) in table.iter().filter(|(_, value)| !is_line(value)) {
        let (tables, open, close) = match value {
            Value::Array(items) => (items.as_slice(), "[[", "]]"),
            value => (std::slice::from_ref(value), "[", "]"),
        };
        for inner in tables.iter().filter_map(Value::as_object) {
            text.push_str(&format!("\n{open}{}{close}\n", within(name)));
            write_table(text, &within(name), inner);
        }
    }
}

fn inline(value: &Value) -> String {
    let Value::Object(fields) = value else { return value.to_string() };
    let fields: Vec<String> =
        fields.iter().map(|(key, value)| format!("{key} = {value}")).collect();
    format!("{{ {} }}", fields.join(", "))
}
