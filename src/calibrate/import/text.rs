//! Profiles as the text that is committed.

use serde::Serialize;

use crate::cost::profile::{FORMAT, GpuProfile, InterconnectProfile, WeightKernelProfile};
use crate::cost::sourced::significant;
use crate::hardware::Gpu;

/// The profile as text: one line for each coefficient.
pub fn to_toml(profile: &GpuProfile, gpu: &Gpu) -> String {
    text(&gpu.product, profile)
}

/// The same of links.
pub fn links_to_toml(profile: &InterconnectProfile) -> String {
    text("All-reduce", profile)
}

/// The same of a kernel for quantised weights.
pub fn weight_kernel_to_toml(profile: &WeightKernelProfile) -> String {
    text("Products of quantised weights", profile)
}

fn text(title: &str, profile: &impl Serialize) -> String {
    let table = toml::Table::try_from(profile).expect("a profile is plain data");
    let mut text = format!("# {title}, written by `servesim calibrate --from-tables`.\n");
    text.push_str(&format!("format = {FORMAT}\n"));
    for key in ["note", "nominal"] {
        if let Some(value) = table.get(key) {
            text.push_str(&format!("{key} = {value}\n"));
        }
    }
    write_tables(&mut text, "", &table);
    for fit in table.get("fit").and_then(toml::Value::as_array).into_iter().flatten() {
        text.push_str("\n[[fit]]\n");
        for (key, value) in fit.as_table().into_iter().flatten() {
            text.push_str(&format!("{key} = {value}\n"));
        }
    }
    text
}

/// The number as it was meant: a unit's factor leaves traces in the last digits.
fn rounded(value: &toml::Value) -> String {
    let text = value.as_str().unwrap_or_default();
    let number = text.split(' ').next().and_then(|number| number.parse::<f64>().ok());
    match (value.as_float(), number) {
        (Some(number), _) => toml::Value::Float(significant(number)).to_string(),
        (None, Some(number)) => match text.split_once(' ').map_or("", |(_, unit)| unit) {
            "B" => format!("\"{} MB\"", significant(1e-6 * number)),
            unit => format!("\"{} {unit}\"", significant(number)),
        },
        (None, None) => value.to_string(),
    }
}

/// A number with where it comes from, and for how many ranks it is if it says so.
fn number(entry: &toml::Value) -> String {
    let ranks = entry.get("ranks").map_or(String::new(), |ranks| format!("ranks = {ranks}, "));
    let part = |name: &str| &entry[name];
    format!(
        "{{ {ranks}value = {}, provenance = {}, source = {} }}",
        rounded(part("value")),
        part("provenance"),
        part("source")
    )
}

/// A table's numbers, then the tables in it.
fn write_tables(text: &mut String, path: &str, table: &toml::Table) {
    let lists = |value: &toml::Value| {
        let list = value.as_array()?;
        list.first()?.get("value").map(|_| list.clone())
    };
    let mut lines = String::new();
    for (key, value) in table {
        if value.get("value").is_some() {
            lines.push_str(&format!("{key} = {}\n", number(value)));
        } else if let Some(list) = lists(value) {
            lines.push_str(&format!("{key} = [\n"));
            list.iter().for_each(|entry| lines.push_str(&format!("    {},\n", number(entry))));
            lines.push_str("]\n");
        }
    }
    if !lines.is_empty() {
        text.push_str(&format!("\n[{path}]\n{lines}"));
    }
    for (name, value) in table {
        let Some(inner) = value.as_table().filter(|inner| !inner.contains_key("value")) else {
            continue;
        };
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        write_tables(text, &path, inner);
    }
}
