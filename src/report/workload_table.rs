//! What a workload will send, for people: figures and plots in characters.

use comfy_table::CellAlignment;
use serde_json::{Value, json};

use super::Listing;
use super::style::{Style, count, number};
use crate::workload::{LengthProfile, Profile};

/// Columns of the plot of rates, and lines of its height.
const COLUMNS: usize = 60;
const LINES: usize = 6;
/// Longest bar of a histogram.
const BAR: usize = 40;

/// Figures and plots.
pub fn render(name: &str, profile: &Profile, tenants: &[String], style: Style) -> String {
    let mut text = format!("{}\n\n", style.bold(name));
    text.push_str(&figures(profile, tenants).to_table());
    if profile.requests == 0 {
        return text;
    }
    text.push_str(&format!("\n{}\n", style.bold("requests per second over time")));
    text.push_str(&rates(&profile.rate));
    for (title, lengths) in
        [("prompt tokens", &profile.input_tokens), ("output tokens", &profile.output_tokens)]
    {
        text.push_str(&format!("\n{}\n", style.bold(title)));
        text.push_str(&histogram(lengths));
    }
    text
}

/// One row per figure.
pub fn figures(profile: &Profile, tenants: &[String]) -> Listing {
    let mut listing = Listing::new(&[("figure", "figure"), ("value", "value")]);
    let mut row = |name: &str, value: Value| listing.push(vec![name.into(), value]);
    let rounded = |value: f64| json!((value * 1e4).round() / 1e4);
    row("requests", profile.requests.into());
    row("last arrival, s", rounded(profile.last_arrival_s));
    row("requests per second", profile.mean_rate.map_or(Value::Null, rounded));
    row("CV of the gaps", profile.gap_cv.map_or(Value::Null, rounded));
    for window in &profile.windows {
        let of = |what: &str| format!("{what} in windows of {} s", window.width_s);
        row(&of("peak to mean"), rounded(window.peak_to_mean));
        row(&of("variance to mean"), rounded(window.dispersion));
    }
    for (name, lengths) in
        [("prompt tokens", &profile.input_tokens), ("output tokens", &profile.output_tokens)]
    {
        row(&format!("{name}, mean"), rounded(lengths.mean));
        let percentiles = [
            ("p50", lengths.p50),
            ("p90", lengths.p90),
            ("p99", lengths.p99),
            ("max", lengths.max),
        ];
        for (percentile, tokens) in percentiles {
            row(&format!("{name}, {percentile}"), tokens.into());
        }
    }
    if let Some(share) = profile.shared_prefix_fraction {
        let name = match profile.shared_prefix_of {
            Some(first) => format!("share of prompts seen before (first {first} requests)"),
            None => "share of prompts seen before".to_owned(),
        };
        row(&name, rounded(share));
    }
    for (name, sent) in tenants.iter().zip(&profile.tenants) {
        row(&format!("requests of {name}"), (*sent).into());
    }
    listing
}

/// A plot of columns, its scale on the left and the time below.
fn rates(rate: &[(f64, f64)]) -> String {
    let Some(&(last, _)) = rate.last() else { return String::new() };
    let width = rate.get(1).map_or(1.0, |(start, _)| *start);
    // Several stretches to a column where there are more than columns.
    let per_column = rate.len().div_ceil(COLUMNS);
    let columns: Vec<f64> = rate
        .chunks(per_column)
        .map(|chunk| chunk.iter().map(|(_, rate)| rate).sum::<f64>() / chunk.len() as f64)
        .collect();
    let top = columns.iter().copied().fold(0.0, f64::max);
    const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let mut text = String::new();
    for line in (0..LINES).rev() {
        let label = match line {
            0 => "0".to_owned(),
            l if l == LINES - 1 => number(top, 3),
            _ => String::new(),
        };
        let bars: String = columns
            .iter()
            .map(|rate| {
                let eighths = (rate / top * (LINES * 8) as f64).round() as usize;
                EIGHTHS[eighths.saturating_sub(line * 8).min(8)]
            })
            .collect();
        text.push_str(format!("{label:>8} ┤{bars}").trim_end());
        text.push('\n');
    }
    let end = format!("{} s", number(last + width, 4));
    let gap = columns.len().saturating_sub(end.chars().count() + 1).max(1);
    text.push_str(&format!("{:>9} 0{}{end}\n", "", " ".repeat(gap)));
    text
}

/// Bars side by side, one for each bin.
fn histogram(lengths: &LengthProfile) -> String {
    let most = lengths.histogram.iter().map(|bin| bin.2).max().unwrap_or(0).max(1);
    let mut table = super::listing::plain_table();
    for &(from, to, requests) in &lengths.histogram {
        let eighths = (requests as f64 / most as f64 * (BAR * 8) as f64).ceil() as usize;
        const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
        let bar = format!("{}{}", "█".repeat(eighths / 8), PARTS[eighths % 8]);
        let from = if from == to {
            count(f64::from(from))
        } else {
            format!("{} - {}", count(f64::from(from)), count(f64::from(to)))
        };
        table.add_row([from, count(requests as f64), bar]);
    }
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        let right = i < 2;
        column.set_cell_alignment(if right { CellAlignment::Right } else { CellAlignment::Left });
    }
    super::listing::tidy(&table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_has_its_peak_at_the_top_and_bars_in_proportion() {
        let rate: Vec<(f64, f64)> = (0..8).map(|i| (f64::from(i), f64::from(i))).collect();
        let text = rates(&rate);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), LINES + 1, "{text}");
        assert_eq!(lines[0], "    7.00 ┤      ▁█", "{text}");
        assert_eq!(lines[5], "       0 ┤ ▇██████", "{text}");
        assert!(lines[6].ends_with("8.000 s"), "{text}");
        let lengths = LengthProfile {
            histogram: vec![(1, 1, 10), (2, 3, 5), (4, 7, 0)],
            ..LengthProfile::default()
        };
        let bars: Vec<usize> =
            histogram(&lengths).lines().map(|line| line.matches('█').count()).collect();
        assert_eq!(bars, [40, 20, 0]);
    }
}
