//! How accurate predictions are, for people, and as the section of a page.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Listing;
use super::style::{Style, number};
use crate::accuracy::{
    Accuracy, By, Group, LIMIT_MEDIAN, LIMIT_P90, OperatorError, ServingRow, coverage, groups,
};

/// Marks between which a page has its section.
const BEGIN: &str = "<!-- accuracy: written by `servesim accuracy --write`, do not edit -->";
const END: &str = "<!-- end of accuracy -->";

fn percent(value: f64) -> String {
    format!("{value:.1} %")
}

fn signed(value: f64) -> String {
    format!("{value:+.1} %")
}

/// One row per group.
pub fn groups_listing(all: &[Group]) -> Listing {
    let mut listing = Listing::new(&[
        ("by", "by"),
        ("name", "name"),
        ("rows", "rows"),
        ("mean_percent", "mean error"),
        ("median_percent", "median"),
        ("p90_percent", "p90"),
        ("bias_percent", "bias"),
        ("worst_percent", "worst"),
        ("within_80_percent", "within 80 %"),
        ("within_95_percent", "within 95 %"),
    ]);
    let figure = |value: f64| Value::from((value * 100.0).round() / 100.0);
    for group in all {
        listing.push(vec![
            group.by.name().into(),
            group.name.clone().into(),
            group.rows.into(),
            figure(group.mean_percent),
            figure(group.median_percent),
            figure(group.p90_percent),
            figure(group.bias_percent),
            figure(group.worst_percent),
            group.within_80_percent.map(figure).into(),
            group.within_95_percent.map(figure).into(),
        ]);
    }
    listing
}

/// One row per published number.
pub fn rows_listing(rows: &[ServingRow]) -> Listing {
    let mut listing = Listing::new(&[
        ("suite", "suite"),
        ("group", "group"),
        ("row", "row"),
        ("gpu", "GPU"),
        ("engine", "engine"),
        ("model", "model"),
        ("quantity", "quantity"),
        ("measured", "measured"),
        ("predicted", "predicted"),
        ("error_percent", "error, %"),
        ("fitted", "in the fit"),
        ("trust", "trust"),
        ("low_80", "80 % from"),
        ("high_80", "to"),
        ("low_95", "95 % from"),
        ("high_95", "to"),
    ]);
    for row in rows {
        let text = |text: &str| Value::from(text);
        listing.push(vec![
            text(&row.suite),
            text(&row.group),
            text(&row.row),
            text(&row.gpu),
            text(&row.engine),
            text(&row.model),
            text(&row.quantity),
            row.measured.into(),
            row.predicted.into(),
            row.error_percent.into(),
            row.fitted.into(),
            row.trust.map(|trust| trust.name()).into(),
            row.low_80.into(),
            row.high_80.into(),
            row.low_95.into(),
            row.high_95.into(),
        ]);
    }
    listing
}

/// One row per GPU, surface and source; with the verdict of the limits where those are meant.
pub fn operators_listing(errors: &[OperatorError], with_limits: bool) -> Listing {
    let mut columns = vec![
        ("gpu", "GPU"),
        ("surface", "surface"),
        ("source", "source"),
        ("from", "from"),
        ("rows", "rows"),
        ("median_percent", "median, %"),
        ("p90_percent", "p90, %"),
    ];
    if with_limits {
        columns.push(("limits", "limits"));
    }
    let mut listing = Listing::new(&columns);
    for error in errors {
        let mut cells: Vec<Value> = vec![
            error.gpu.clone().into(),
            error.surface.clone().into(),
            error.source.clone().into(),
            error.from.clone().into(),
            error.rows.into(),
            error.median_percent.into(),
            error.p90_percent.into(),
        ];
        if with_limits {
            cells.push(if error.meets_limits() { "met" } else { "missed" }.into());
        }
        listing.push(cells);
    }
    listing
}

/// What the groups of the serving rows are, in the order of a page.
pub fn all_groups(rows: &[ServingRow]) -> Vec<Group> {
    By::ALL.iter().flat_map(|by| groups(rows, *by)).collect()
}

/// All of it, on a few screens.
pub fn render(accuracy: &Accuracy, style: Style) -> String {
    let mut text = format!("{}\n", style.bold("predictions against published serving runs"));
    text.push_str(&groups_listing(&all_groups(&accuracy.serving)).to_table());
    text.push_str(&style.dim(
        "errors in per cent, of models that have not seen the row; within: how often the \
         measurement lies in the predicted interval\n",
    ));
    let all = accuracy.operators.len() + accuracy.links_and_kernels.len();
    let held_out = accuracy.operators.iter().chain(&accuracy.links_and_kernels);
    let met = held_out.filter(|error| error.meets_limits()).count();
    text.push_str(&format!(
        "\n{}\n",
        style.bold("single operators, rows held out from the fits of their own GPU")
    ));
    text.push_str(&operators_listing(&accuracy.operators, true).to_table());
    text.push_str(&format!("\n{}\n", style.bold("links, and kernels for quantised weights")));
    text.push_str(&operators_listing(&accuracy.links_and_kernels, true).to_table());
    text.push_str(&format!(
        "{met} of {all} meet the limits: median {} and p90 {}\n",
        percent(LIMIT_MEDIAN),
        percent(LIMIT_P90)
    ));
    text.push_str(&format!(
        "\n{}\n",
        style.bold("single operators, without the tables of their own GPU")
    ));
    text.push_str(&operators_listing(&accuracy.left_out, false).to_table());
    for note in &accuracy.notes {
        text.push_str(&style.dim(&format!("note: {note}\n")));
    }
    text
}

/// The section of a page, marks included.
pub fn markdown(accuracy: &Accuracy) -> String {
    let mut text = format!("{BEGIN}\n\n");
    text.push_str(
        "Errors of predictions against published serving runs, of models that have not seen the row \
         (where\na constant was fitted on a row, the fit was made again without it). `Within` says \
         how often a\nmeasurement lies in the interval predicted for it (`run --intervals`).\n\n",
    );
    let rows = &accuracy.serving;
    text.push_str(
        "| Red Hat, Table 2 (`validate redhat`) | measured tok/s | predicted | error | expected in \
         95 % | in the fit |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for row in rows.iter().filter(|row| row.suite == "redhat") {
        let range = row.low_95.zip(row.high_95).map_or("-".to_owned(), |(low, high)| {
            format!("{} .. {}", number(low, 3), number(high, 3))
        });
        text.push_str(&format!(
            "| {} | {} | {} | {} | {range} | {} |\n",
            row.row,
            number(row.measured, 4),
            number(row.predicted, 4),
            row.error_percent.map_or("-".to_owned(), signed),
            if row.fitted { "yes" } else { "no" },
        ));
    }
    text.push('\n');
    text.push_str("| | rows | mean error | median | bias | worst | within 80 % | within 95 % |\n");
    text.push_str("| --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for by in [By::Suite, By::Gpu, By::Engine, By::Model, By::Trust, By::All] {
        for group in groups(rows, by) {
            let cell = |value: Option<f64>| value.map_or("-".into(), |v| format!("{v:.0} %"));
            let what = match by {
                By::Suite | By::All => group.name.clone(),
                _ => format!("{by} {}", group.name),
            };
            text.push_str(&format!(
                "| {what} | {} | {} | {} | {} | {} | {} | {} |\n",
                group.rows,
                percent(group.mean_percent),
                percent(group.median_percent),
                signed(group.bias_percent),
                signed(group.worst_percent),
                cell(group.within_80_percent),
                cell(group.within_95_percent),
            ));
        }
    }
    text.push_str(
        "\nIntervals out of sample: for each suite, what the others would have to add to their \
         intervals (a\nstandard deviation) for 95 % of their rows to lie within, and what share of \
         its own lies within\nwith it.\n\n| suite | rows | within 95 % | the others ask for | \
         then within |\n| --- | --- | --- | --- | --- |\n",
    );
    for suite in coverage(rows) {
        text.push_str(&format!(
            "| {} | {} | {:.0} % | {:.0} % | {:.0} % |\n",
            suite.suite,
            suite.rows,
            suite.within_95_percent,
            100.0 * suite.others_ask,
            suite.then_95_percent,
        ));
    }
    text.push_str(&format!(
        "\nSingle operators: median / p90 of the error in per cent, on rows held out from the fit \
         (worst\nsource; limits {LIMIT_MEDIAN:.0} / {LIMIT_P90:.0}, * where missed).\n\n"
    ));
    text.push_str(&matrix(&accuracy.operators, true));
    text.push_str("\nLinks (all-reduce) and kernels for quantised weights, by profile:\n\n");
    text.push_str(&matrix(&accuracy.links_and_kernels, true));
    text.push_str(
        "\nThe same without any table of the GPU itself: its surfaces carried over from another \
         GPU, scaled by\nnominal figures.\n\n",
    );
    let transferred: Vec<OperatorError> =
        accuracy.left_out.iter().filter(|error| error.is_transfer()).cloned().collect();
    text.push_str(&matrix(&transferred, false));
    text.push_str(&format!("\n{END}\n"));
    text
}

/// GPUs by surfaces; of several sources the worst.
fn matrix(errors: &[OperatorError], with_limits: bool) -> String {
    let mut surfaces: Vec<&str> = Vec::new();
    let mut cells: BTreeMap<(&str, &str), &OperatorError> = BTreeMap::new();
    for error in errors {
        if !surfaces.contains(&error.surface.as_str()) {
            surfaces.push(&error.surface);
        }
        let worst = cells.entry((&error.gpu, &error.surface)).or_insert(error);
        if error.p90_percent > worst.p90_percent {
            *worst = error;
        }
    }
    surfaces.sort_unstable();
    let mut text = format!("| | {} |\n", surfaces.join(" | "));
    text.push_str(&format!("| --- |{}\n", " --- |".repeat(surfaces.len())));
    let mut gpus: Vec<&str> = cells.keys().map(|(gpu, _)| *gpu).collect();
    gpus.dedup();
    for gpu in gpus {
        let row = surfaces.iter().map(|surface| match cells.get(&(gpu, *surface)) {
            None => "-".to_owned(),
            Some(error) => {
                let missed = if with_limits && !error.meets_limits() { " *" } else { "" };
                let figure = |value| number(value, 2);
                format!("{} / {}{missed}", figure(error.median_percent), figure(error.p90_percent))
            }
        });
        text.push_str(&format!("| {gpu} | {} |\n", row.collect::<Vec<_>>().join(" | ")));
    }
    text
}

/// `page` with `section` in the place of its own; `None` if it has no place for one.
pub fn replace_section(page: &str, section: &str) -> Option<String> {
    let from = page.find(BEGIN)?;
    let to = from + page[from..].find(END)? + END.len();
    Some(format!("{}{}{}", &page[..from], section.trim_end(), &page[to..]))
}

/// What a page without a place for the section has to be given.
pub fn marks() -> String {
    format!("{BEGIN}\n{END}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(gpu: &str, surface: &str, median: f64, p90: f64) -> OperatorError {
        OperatorError {
            gpu: gpu.into(),
            surface: surface.into(),
            source: "test".into(),
            from: String::new(),
            rows: 100,
            median_percent: median,
            p90_percent: p90,
        }
    }

    #[test]
    fn the_section_of_a_page_is_replaced_between_its_marks() {
        let page = format!("# title\n{BEGIN}\nold\n{END}\nrest\n");
        let new = replace_section(&page, &format!("{BEGIN}\nnew\n{END}\n")).unwrap();
        assert_eq!(new, format!("# title\n{BEGIN}\nnew\n{END}\nrest\n"));
        assert_eq!(replace_section("# title\n", "new"), None);
    }

    #[test]
    fn the_worst_source_stands_for_a_surface_and_a_miss_is_marked() {
        let errors = [
            error("l4", "gemm", 5.0, 12.0),
            error("l4", "gemm", 6.0, 25.0),
            error("a40", "b", 2.0, 3.0),
        ];
        let text = matrix(&errors, true);
        assert!(text.contains("| l4 | - | 6.0 / 25 * |"), "{text}");
        assert!(text.contains("| a40 | 2.0 / 3.0 | - |"), "{text}");
    }
}
