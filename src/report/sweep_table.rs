//! The ranking of a sweep for people.

use serde_json::Value;

use super::Listing;
use super::style::{Style, count, number};
use crate::sweep::analysis::{BreakEven, Candidate, Cell, Front, Load, Report, Setting};
use crate::sweep::sensitivity::Sensitivity;

/// Cells, fronts and reigns beyond these stay in the JSON.
const MOST_CELLS: usize = 12;
const MOST_FRONTS: usize = 8;
const MOST_FRONT_POINTS: usize = 12;

/// Ranking, fronts, break-even points and sensitivity, `top` rows of each ranking.
pub fn render(report: &Report, top: usize, style: Style) -> String {
    let statuses: Vec<String> =
        report.statuses.iter().map(|(name, n)| format!("{} {name}", count(*n as f64))).collect();
    let mut text = format!(
        "{}: {} points ({})\n",
        style.bold(&report.name),
        count(report.points as f64),
        statuses.join(", ")
    );
    let direction = if report.less_is_better { "least" } else { "most" };
    if !report.cells.is_empty() {
        text.push_str(&format!("ranked by {} ({direction} first)\n", report.by));
    }
    for cell in report.cells.iter().take(MOST_CELLS) {
        text.push('\n');
        text.push_str(&render_cell(cell, report, top, style));
    }
    more(&mut text, report.cells.len(), MOST_CELLS, "rankings");
    for reigns in report.break_even.iter().take(MOST_CELLS) {
        text.push_str(&render_break_even(reigns, report, style));
    }
    let fronts: Vec<&Front> = report.fronts.iter().filter(|f| f.points.len() > 1).collect();
    for front in fronts.iter().take(MOST_FRONTS) {
        text.push_str(&render_front(front, style));
    }
    more(&mut text, fronts.len(), MOST_FRONTS, "fronts");
    for note in &report.notes {
        text.push_str(&style.dim(&format!("\nnote: {note}")));
        text.push('\n');
    }
    text
}

fn more(text: &mut String, all: usize, shown: usize, what: &str) {
    if all > shown {
        text.push_str(&format!(
            "\n... and {} more {what} in report.json (--out DIR)\n",
            all - shown
        ));
    }
}

/// What a cell or a front is about.
fn title(given: &[Setting], load: Option<&Load>) -> String {
    let mut parts: Vec<String> = given
        .iter()
        .map(|(key, value)| match key.as_str() {
            "model.name" | "model.config" => value.clone(),
            _ => format!("{} {value}", key.rsplit('.').next().unwrap_or(key)),
        })
        .collect();
    parts.extend(load.map(load_text));
    if parts.is_empty() { "all points".to_owned() } else { parts.join(", ") }
}

fn load_text(load: &Load) -> String {
    format!("{} {}", amount(load.value), unit(load))
}

/// A load: users are whole, and rates have no more digits than they need.
fn amount(load: f64) -> String {
    if load.fract() == 0.0 { count(load) } else { number(load, 3) }
}

fn unit(load: &Load) -> &'static str {
    match (load.key.ends_with(".clients"), load.value == 1.0) {
        (true, true) => "user",
        (true, false) => "users",
        (false, _) => "requests/s",
    }
}

fn cell_of(value: Option<f64>) -> Value {
    value.map_or(Value::Null, |value| number(value, 4).into())
}

fn render_cell(cell: &Cell, report: &Report, top: usize, style: Style) -> String {
    let mut text = format!("{}\n", style.bold(&title(&cell.given, cell.load.as_ref())));
    let by_cost = report.by == "usd_per_1m_output_tokens";
    let by_throughput = report.by == "output_throughput";
    let mut columns = vec![("rank", "#"), ("deployment", "deployment")];
    if !(by_cost || by_throughput) {
        columns.push(("objective", "objective"));
    }
    columns.extend([
        ("usd", "USD/1M out"),
        ("throughput", "tok/s"),
        ("ttft", "TTFT p99 ms"),
        ("tpot", "TPOT p99 ms"),
        ("trust", "trust"),
        ("verdict", "why"),
    ]);
    let mut listing = Listing::new(&columns);
    for candidate in cell.ranking.iter().take(top) {
        let Candidate { rank, label, objective, .. } = candidate;
        let mut cells = vec![rank.map_or(Value::from("-"), Value::from), label.clone().into()];
        if !(by_cost || by_throughput) {
            cells.push(cell_of(*objective));
        }
        cells.extend([
            cell_of(candidate.usd_per_1m_output_tokens),
            cell_of(candidate.output_throughput),
            cell_of(candidate.ttft_ms_p99),
            cell_of(candidate.tpot_ms_p99),
            candidate.trust.map(|trust| trust.name()).into(),
            candidate.verdict.clone().into(),
        ]);
        listing.push(cells);
    }
    text.push_str(&listing.to_table());
    if cell.ranking.len() > top {
        text.push_str(&format!("... and {} more\n", cell.ranking.len() - top));
    }
    if let Some(sensitivity) = &cell.sensitivity {
        text.push_str(&style.dim(&render_sensitivity(sensitivity)));
        text.push('\n');
    }
    text
}

fn render_sensitivity(s: &Sensitivity) -> String {
    let mut parts = Vec::new();
    if let Some(margin) = s.price_margin {
        parts.push(format!(
            "{} stays first until its price rises by {:.1} % (next: {})",
            s.winner,
            margin * 100.0,
            s.runner_up
        ));
    }
    let changed: Vec<String> = s
        .trials
        .iter()
        .filter(|trial| trial.winner != s.winner)
        .map(|trial| {
            format!(
                "with {:+.0} % bandwidth of {} {} wins",
                (trial.factor - 1.0) * 100.0,
                trial.bandwidth,
                trial.winner
            )
        })
        .collect();
    if changed.is_empty() {
        let spread: Vec<String> = s
            .trials
            .iter()
            .map(|trial| {
                format!(
                    "{} {:+.0} %: {:+.1} %",
                    trial.bandwidth,
                    (trial.factor - 1.0) * 100.0,
                    trial.objective_change * 100.0
                )
            })
            .collect();
        parts.push(format!("+-10 % bandwidth does not change the winner ({})", spread.join(", ")));
    } else {
        parts.push(changed.join(", "));
    }
    format!("sensitivity: {}", parts.join("; "))
}

fn render_break_even(all: &BreakEven, report: &Report, style: Style) -> String {
    let mut text = format!("\n{}\n", style.bold(&format!("by load: {}", title(&all.given, None))));
    let load = |value| load_text(&Load { key: all.key.clone(), value });
    for (i, reign) in all.reigns.iter().enumerate() {
        let from = load(reign.from);
        let winner = reign.winner.as_deref();
        let former = i.checked_sub(1).and_then(|i| all.reigns[i].winner.as_deref());
        let line = match (winner, former) {
            (Some(winner), Some(former)) => {
                let figures = match (reign.objective, reign.former) {
                    (Some(now), Some(was)) => {
                        let crossing = reign.crosses_at.map_or(String::new(), |at| {
                            format!("; they cross near {}", number(at, 3))
                        });
                        format!(
                            " ({} against {} {}{crossing})",
                            number(now, 3),
                            number(was, 3),
                            report.by
                        )
                    }
                    _ => format!(" ({former} no longer does what is asked)"),
                };
                format!("from {from} on, {winner} beats {former}{figures}")
            }
            (Some(winner), None) => {
                let when = match (i, all.reigns.len()) {
                    (0, 1) => "at every load".to_owned(),
                    (0, _) => format!("up to {}", load(reign.to)),
                    _ => format!("from {from} on"),
                };
                format!("{when}, {winner} is best")
            }
            (None, _) if all.reigns.len() == 1 => "nothing does what is asked at any load".into(),
            (None, _) => format!("from {from} on, nothing does what is asked"),
        };
        text.push_str(&format!("  {line}\n"));
    }
    text
}

fn render_front(front: &Front, style: Style) -> String {
    let heading = format!(
        "Pareto front of {} against {}: {}",
        front.figure,
        front.latency,
        title(&front.given, None)
    );
    let mut text = format!("\n{}\n", style.bold(&heading));
    let mut listing = Listing::new(&[
        ("deployment", "deployment"),
        ("load", "load"),
        ("figure", "figure"),
        ("latency", "latency ms"),
    ]);
    // Evenly along the front where it is long.
    let step = front.points.len().div_ceil(MOST_FRONT_POINTS).max(1);
    for point in front.points.iter().step_by(step) {
        listing.push(vec![
            point.label.clone().into(),
            point.load.map_or(Value::Null, |load| amount(load).into()),
            number(point.figure, 4).into(),
            number(point.latency, 4).into(),
        ]);
    }
    text.push_str(&listing.to_table());
    text
}
