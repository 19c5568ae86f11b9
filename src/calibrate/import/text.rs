//! A profile as the text that is committed.

use crate::cost::profile::{FORMAT, GpuProfile};
use crate::cost::sourced::significant;
use crate::hardware::Gpu;

/// The profile as text: one line for each coefficient.
pub fn to_toml(profile: &GpuProfile, gpu: &Gpu) -> String {
    let table = toml::Table::try_from(profile).expect("a profile is plain data");
    let mut text = format!("# {}, written by `servesim calibrate --from-tables`.\n", gpu.product);
    text.push_str(&format!("format = {FORMAT}\n"));
    if let Some(note) = table.get("note") {
        text.push_str(&format!("note = {note}\n"));
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

fn write_tables(text: &mut String, path: &str, table: &toml::Table) {
    for (name, entry) in table {
        let Some(inner) = entry.as_table() else { continue };
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let coefficients = inner.values().all(|v| v.get("value").is_some());
        if !coefficients {
            write_tables(text, &path, inner);
            continue;
        }
        text.push_str(&format!("\n[{path}]\n"));
        for (key, number) in inner {
            let part = |name: &str| &number[name];
            text.push_str(&format!(
                "{key} = {{ value = {}, provenance = {}, source = {} }}\n",
                rounded(part("value")),
                part("provenance"),
                part("source")
            ));
        }
    }
}
