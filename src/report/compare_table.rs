//! A comparison of two scenarios, for people and as rows.

use serde_json::Value;

use super::listing::{Listing, plain_table, tidy};
use super::style::{Style, count, number};
use super::summary_table::grounds;
use crate::compare::metric::Better;
use crate::compare::paired::Estimate;
use crate::compare::{Compared, Comparison, Pairs, Side, Verdict};
use crate::scenario::Scenario;
use comfy_table::CellAlignment;

/// What does not judge and is wanted anyway; all of it is in JSON and CSV.
const SHOWN: [&str; 16] = [
    "request_throughput",
    "goodput",
    "slo_attainment",
    "usd_per_1m_output_tokens",
    "output_throughput",
    "ttft_ms.mean",
    "ttft_ms.p99",
    "tpot_ms.mean",
    "tpot_ms.p99",
    "itl_ms.p99",
    "e2el_ms.mean",
    "e2el_ms.p99",
    "queue_ms.mean",
    "preemptions",
    "batch_size.mean",
    "kv_usage_peak",
];

/// The same of one class of requests.
const SHOWN_OF_CLASS: [&str; 6] =
    ["ttft_ms.mean", "ttft_ms.p99", "tpot_ms.mean", "tpot_ms.p99", "e2el_ms.mean", "e2el_ms.p99"];

/// Differences that are listed.
const MOST_DIFFERENCES: usize = 8;

/// What the two sides are called, and in what they differ.
#[derive(Clone, Debug)]
pub struct Names {
    a: String,
    b: String,
    differences: Vec<String>,
}

impl Names {
    pub fn of(a: &Scenario, b: &Scenario) -> Self {
        let json = |scenario: &Scenario| {
            serde_json::to_value(scenario).expect("a scenario has only string keys")
        };
        let (left, right) = (json(a), json(b));
        let mut differences = Vec::new();
        for key in ["model", "precision", "kv-cache-dtype", "hardware", "engine", "fleet"] {
            // What is set shows in what is effective.
            differ(key, &left[key], &right[key], &mut differences);
        }
        differences.retain(|line| !line.starts_with("engine.settings."));
        let more = differences.len().saturating_sub(MOST_DIFFERENCES);
        differences.truncate(MOST_DIFFERENCES);
        if more > 0 {
            differences.push(format!("and {more} more"));
        }
        Self { a: a.name.clone(), b: b.name.clone(), differences }
    }
}

/// The leaves in which two values differ, as `key: a -> b`.
fn differ(key: &str, a: &Value, b: &Value, into: &mut Vec<String>) {
    match (a, b) {
        _ if a == b => {}
        (Value::Object(left), Value::Object(right)) => {
            for name in left.keys().chain(right.keys().filter(|name| !left.contains_key(*name))) {
                let of = |object: &serde_json::Map<String, Value>| {
                    object.get(name).cloned().unwrap_or(Value::Null)
                };
                differ(&format!("{key}.{name}"), &of(left), &of(right), into);
            }
        }
        _ => {
            let text = |value: &Value| match value {
                Value::Null => "-".to_owned(),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            into.push(format!("{key}: {} -> {}", text(a), text(b)));
        }
    }
}

/// For people: the verdict first, then what judges, then the rest and the classes.
pub fn render(names: &Names, compared: &Comparison, style: Style) -> String {
    let mut text = format!("A  {}\nB  {}\n", style.bold(&names.a), style.bold(&names.b));
    for line in &names.differences {
        text.push_str(&style.dim(&format!("   {line}\n")));
    }
    text.push_str(&format!("\n{}\n{}\n", headline(compared, style), basis(compared)));
    text.push_str(&trust(compared));
    text.push('\n');
    let judges: Vec<_> = of_all(compared).filter(|metric| metric.judged.is_some()).collect();
    text.push_str(&table("what judges", &judges, style));
    let shown =
        of_all(compared).filter(|metric| metric.judged.is_none() && SHOWN.contains(&metric.metric));
    text.push('\n');
    text.push_str(&table("what does not", &shown.collect::<Vec<_>>(), style));
    for class in compared.classes.iter().skip(1) {
        let of_class = compared.metrics.iter().filter(|metric| {
            metric.class == class.class && SHOWN_OF_CLASS.contains(&metric.metric)
        });
        let of_class: Vec<_> = of_class.collect();
        let answered = format!(
            "{}: {} answered under A, {} under B\n",
            class.class,
            count(class.completed_a.round()),
            count(class.completed_b.round()),
        );
        text.push('\n');
        text.push_str(&answered);
        text.push_str(&table("", &of_class, style));
    }
    text
}

/// What each side's figures rest on; once, where it is the same of both.
fn trust(compared: &Comparison) -> String {
    let founded = |side: &Side| {
        let trust = side.summary.trust?;
        let grounds = grounds(&side.summary).replace('\n', ", ");
        Some(format!("{trust}: {grounds}"))
    };
    match compared.sides.each_ref().map(founded) {
        [Some(a), Some(b)] if a == b => format!("trust  {a}\n"),
        sides => {
            let sides = ["A", "B"].into_iter().zip(sides);
            sides.filter_map(|(name, of)| Some(format!("trust  {name}: {}\n", of?))).collect()
        }
    }
}

/// What is assumed, one note a line.
pub fn notes(notes: &[String], style: Style) -> String {
    let line = |note: &String| format!("{}\n", style.dim(&format!("note: {note}")));
    notes.iter().map(line).collect()
}

fn of_all(compared: &Comparison) -> impl Iterator<Item = &Compared> {
    let all = compared.classes.first().map_or("", |class| class.class.as_str());
    compared.metrics.iter().filter(move |metric| metric.class == all)
}

/// The verdict, and which metrics it comes from.
fn headline(compared: &Comparison, style: Style) -> String {
    let judges = |verdict: Verdict| -> Vec<String> {
        let judges = compared.metrics.iter().filter(|metric| metric.judged.is_some());
        let that = judges.filter(|metric| metric.verdict == verdict);
        that.map(|metric| format!("{} {}", metric.metric, change(metric))).collect()
    };
    let mut worse = judges(Verdict::Worse);
    worse.extend(
        compared
            .missing
            .iter()
            .filter(|missing| missing.under_a && !missing.under_b)
            .map(|missing| format!("{} has no figure under B", missing.metric)),
    );
    let (better, unclear) = (judges(Verdict::Better), judges(Verdict::Unclear));
    let mut parts = Vec::new();
    for (what, metrics) in [("worse", worse), ("better", better), ("unclear", unclear)] {
        if !metrics.is_empty() {
            parts.push(format!("{what} in {}", metrics.join(", ")));
        }
    }
    let parts = parts.join("; ");
    match compared.verdict {
        Verdict::Worse => style.bad(&format!("B is {parts}")),
        Verdict::Better => style.good(&format!("B is {parts}")),
        Verdict::Same => style.good("B is as good as A: every judge is within its tolerance"),
        _ => format!("B is {parts}{}", more_seeds(compared)),
    }
}

/// How many seeds would make the widest interval of an unclear judge as narrow as its tolerance.
fn more_seeds(compared: &Comparison) -> String {
    let Pairs::Seeds(seeds) = compared.pairs else { return String::new() };
    let unclear = compared.metrics.iter().filter(|metric| metric.verdict == Verdict::Unclear);
    let wanted = unclear
        .filter_map(|metric| {
            let (judged, relative) = (metric.judged?, metric.relative?);
            let half = (relative.high? - relative.low?) / 2.0;
            (judged.tolerance > 0.0).then(|| (half / judged.tolerance).powi(2) * f64::from(seeds))
        })
        .fold(0.0, f64::max);
    if wanted > f64::from(seeds) && wanted < 1e5 {
        // Rounded up to what people type.
        let step = 10f64.powf(wanted.log10().floor()).max(10.0) / 2.0;
        format!("\nabout {} pairs would tell (--seeds)", count((wanted / step).ceil() * step))
    } else {
        String::new()
    }
}

/// What the intervals and the verdict rest on.
fn basis(compared: &Comparison) -> String {
    let judges = compared.metrics.iter().filter(|metric| metric.judged.is_some()).count();
    let others = compared.metrics.len() - judges;
    let judge =
        if judges == 1 { "1 metric judges".into() } else { format!("{judges} metrics judge") };
    match compared.pairs {
        Pairs::Seeds(1) => format!(
            "one run of each, in which nothing is drawn: differences are exact, of this trace\n\
             {judge}; {others} others are told and do not"
        ),
        Pairs::Seeds(seeds) => format!(
            "{seeds} pairs of runs, each pair with the same requests\n{}",
            chance(&judge, others)
        ),
        Pairs::Sections(sections) => format!(
            "one run of each over the same trace: intervals from {sections} sections of it where \
             requests tell,\nother figures are exact\n{}",
            chance(&judge, others)
        ),
    }
}

fn chance(judge: &str, others: usize) -> String {
    format!(
        "{judge}; a B that is not worse is called so by one of them with a chance of 2.5 % (Holm)\n\
         {others} others are told and do not judge: one in 20 differs by chance"
    )
}

fn table(title: &str, metrics: &[&Compared], style: Style) -> String {
    if metrics.is_empty() {
        return String::new();
    }
    let mut table = plain_table();
    let mut header = vec![title, "A", "B", "change", "95 % interval"];
    let judge = metrics.iter().any(|metric| metric.judged.is_some());
    header.extend(judge.then_some("tolerance"));
    header.push("");
    let last = header.len() - 1;
    table.set_header(header);
    for metric in metrics {
        let mut cells = vec![
            metric.metric.to_owned(),
            number(metric.a, 4),
            number(metric.b, 4),
            change(metric),
            interval(metric),
        ];
        cells.extend(metric.judged.map(|judged| percent(judged.tolerance)));
        cells.push(verdict(metric, style));
        table.add_row(cells);
    }
    for i in 0..=last {
        let column = table.column_mut(i).expect("a column for each heading");
        let alignment =
            if i == 0 || i == last { CellAlignment::Left } else { CellAlignment::Right };
        column.set_cell_alignment(alignment);
        column.set_padding((0, 2));
    }
    tidy(&table)
}

fn verdict(metric: &Compared, style: Style) -> String {
    let text = metric.verdict.name();
    match (metric.judged, metric.verdict) {
        (Some(_), Verdict::Worse) => style.bad(text),
        (Some(_), Verdict::Better) => style.good(text),
        (None, Verdict::Unclear) => String::new(),
        _ => text.to_owned(),
    }
}

/// `+5.2 %`; in the metric's own unit where A has nothing of it.
fn change(metric: &Compared) -> String {
    match metric.relative {
        Some(relative) => signed_percent(relative.value),
        None if metric.difference.value == 0.0 => "0 %".into(),
        None => signed(metric.difference.value, &number(metric.difference.value, 3)),
    }
}

fn interval(metric: &Compared) -> String {
    let bounds = |estimate: Estimate| Some((estimate.low?, estimate.high?));
    match (metric.relative.and_then(bounds), bounds(metric.difference)) {
        (Some((low, high)), _) if low < high => {
            format!("{} to {}", signed_percent(low), signed_percent(high))
        }
        (_, Some((low, high))) if low < high => {
            let text = |value: f64| signed(value, &number(value, 3));
            format!("{} to {}", text(low), text(high))
        }
        _ => "exact".into(),
    }
}

fn signed_percent(share: f64) -> String {
    signed(share, &percent(share))
}

/// Two decimals below ten percent, since runs with the same requests tell such differences.
fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let text = if percent.abs() < 10.0 { format!("{percent:.2}") } else { number(percent, 3) };
    let text =
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{} %", if text == "-0" { "0" } else { text })
}

fn signed(value: f64, text: &str) -> String {
    // What is rounded to nothing has no sign.
    let nothing = text == "0" || text == "0 %";
    if value > 0.0 && !nothing { format!("+{text}") } else { text.to_owned() }
}

/// One row for each metric of each class.
pub fn rows(compared: &Comparison) -> Listing {
    let mut listing = Listing::new(&[
        ("class", "class"),
        ("metric", "metric"),
        ("better", "better"),
        ("a", "A"),
        ("b", "B"),
        ("difference", "difference"),
        ("difference_low", "low"),
        ("difference_high", "high"),
        ("relative", "relative"),
        ("relative_low", "low"),
        ("relative_high", "high"),
        ("verdict", "verdict"),
        ("judges", "judges"),
        ("tolerance", "tolerance"),
        ("p_worse", "p worse"),
        ("p_better", "p better"),
    ]);
    for metric in &compared.metrics {
        let (difference, relative) = (metric.difference, metric.relative);
        let bound = |of: fn(Estimate) -> Option<f64>| Value::from(relative.and_then(of));
        listing.push(vec![
            metric.class.clone().into(),
            metric.metric.into(),
            metric
                .better
                .map(|better| match better {
                    Better::Lower => "lower",
                    Better::Higher => "higher",
                })
                .into(),
            metric.a.into(),
            metric.b.into(),
            difference.value.into(),
            difference.low.into(),
            difference.high.into(),
            bound(|relative| Some(relative.value)),
            bound(|relative| relative.low),
            bound(|relative| relative.high),
            metric.verdict.name().into(),
            metric.judged.is_some().into(),
            metric.judged.map(|judged| judged.tolerance).into(),
            metric.judged.map(|judged| judged.p_worse).into(),
            metric.judged.map(|judged| judged.p_better).into(),
        ]);
    }
    listing
}

/// Both figures of each pair of runs.
pub fn pairs(compared: &Comparison) -> Listing {
    let mut listing = Listing::new(&[
        ("pair", "pair"),
        ("class", "class"),
        ("metric", "metric"),
        ("a", "A"),
        ("b", "B"),
    ]);
    for sample in &compared.samples {
        listing.push(vec![
            sample.pair.into(),
            sample.class.clone().into(),
            sample.metric.into(),
            sample.a.into(),
            sample.b.into(),
        ]);
    }
    listing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_show_their_sign_and_what_is_nothing_has_none() {
        let cases = [
            (0.052, "+5.2 %"),
            (-0.25, "-25 %"),
            (0.123, "+12.3 %"),
            (0.0, "0 %"),
            (-0.00001, "0 %"),
        ];
        for (share, text) in cases {
            assert_eq!(signed_percent(share), text);
        }
        assert_eq!(signed_percent(0.00001), "0 %");
        assert_eq!(signed_percent(12.0), "+1,200 %");
    }
}
