//! A run as one page that needs nothing else: figures, plots, and a timeline of its batches and
//! requests that can be moved and magnified.

use serde_json::{Value, json};

use super::chrome_trace::phases;
use super::lanes::lanes;
use super::run_records::{RequestRow, StepRow, Window};
use super::style::{count, number};
use crate::cost::CostTerm;

const PAGE: &str = include_str!("html/report.html");
const STYLE: &str = include_str!("html/report.css");
const SCRIPT: &str = include_str!("html/report.js");

/// What the page shows.
#[derive(Clone, Debug)]
pub struct Page<'a> {
    pub scenario: &'a str,
    /// `summary` of `summary.json`.
    pub summary: &'a Value,
    /// Titles and SVGs.
    pub plots: &'a [(&'a str, String)],
    pub requests: &'a [RequestRow],
    pub steps: &'a [StepRow],
    pub window: Window,
    /// What is not shown and how to see it.
    pub notes: &'a [String],
}

/// No instant of a run lies behind it, and a script can count up to it (2^53).
const LAST: u64 = 1 << 53;

/// Of the summary: a name, the key (with the statistic where there are several), and a unit.
const FIGURES: &[(&str, &[&str], &str)] = &[
    ("Requests answered", &["completed"], ""),
    ("Failed", &["failed"], ""),
    ("Unfinished at the end", &["unfinished"], ""),
    ("Duration", &["duration_s"], "s"),
    ("Output", &["output_throughput"], "tokens/s"),
    ("Answers", &["request_throughput"], "/s"),
    ("Time to first token, median", &["ttft_ms", "median"], "ms"),
    ("99th percentile", &["ttft_ms", "p99"], "ms"),
    ("Time per output token, median", &["tpot_ms", "median"], "ms"),
    ("99th percentile", &["tpot_ms", "p99"], "ms"),
    ("End to end, median", &["e2el_ms", "median"], "ms"),
    ("99th percentile", &["e2el_ms", "p99"], "ms"),
    ("Batch, mean", &["batch_size", "mean"], "sequences"),
    ("KV cache, peak", &["kv_usage_peak"], "of it"),
    ("Preemptions", &["preemptions"], ""),
    ("Price of output", &["usd_per_1m_output_tokens"], "USD per 1M tokens"),
    ("Trust", &["trust"], ""),
];

fn figures(summary: &Value) -> String {
    let mut rows = String::new();
    for (name, path, unit) in FIGURES {
        let value = path.iter().fold(summary, |value, key| &value[*key]);
        let value = match value {
            Value::Number(n) if n.is_u64() => count(n.as_f64().unwrap_or(f64::NAN)),
            Value::Number(n) => number(n.as_f64().unwrap_or(f64::NAN), 4),
            Value::String(text) => escaped(text),
            _ => continue,
        };
        rows.push_str(&format!("<tr><th>{name}</th><td>{value}</td><td>{unit}</td></tr>\n"));
    }
    rows
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// What the script draws. Rows are lists, not objects: there are thousands of them.
fn records(page: &Page<'_>) -> Value {
    let lanes = lanes(page.requests);
    let request = |(row, lane): (&RequestRow, &u32)| {
        json!([
            row.request,
            row.replica,
            lane,
            row.arrival_ns,
            row.ended_ns,
            phases(row),
            row.outcome,
            row.prompt_tokens,
            row.output_tokens,
            row.cached_tokens,
            row.preemptions,
            row.tenant
        ])
    };
    let step = |row: &StepRow| {
        json!([
            row.step,
            row.replica,
            row.kind,
            row.start_ns,
            row.end_ns,
            row.prefill_seqs,
            row.prefill_tokens,
            row.decode_seqs,
            row.decode_context,
            row.waiting,
            row.kv_used,
            row.kv_total,
            row.terms()
        ])
    };
    let terms = CostTerm::ALL.map(|term| term.name().replace('_', " "));
    json!({
        "terms": terms,
        "requests": page.requests.iter().zip(&lanes).map(request).collect::<Vec<_>>(),
        "steps": page.steps.iter().map(step).collect::<Vec<_>>(),
        "from": page.window.from,
        "until": page.window.until.min(LAST),
    })
}

impl Page<'_> {
    pub fn render(&self) -> String {
        let plots: String = self
            .plots
            .iter()
            .map(|(title, svg)| format!("<figure><figcaption>{title}</figcaption>{svg}</figure>\n"))
            .collect();
        let notes: String = self
            .notes
            .iter()
            .map(|note| format!("<p class=note>{}</p>\n", escaped(note)))
            .collect();
        // In a script element only its end tag would be taken for something else.
        let records = records(self).to_string().replace("</", "<\\/");
        fill(PAGE, |mark| match mark {
            "title" => escaped(self.scenario),
            "style" => STYLE.to_owned(),
            "figures" => figures(self.summary),
            "plots" => plots.clone(),
            "notes" => notes.clone(),
            "script" => SCRIPT.to_owned(),
            "records" => records.clone(),
            other => unreachable!("a mark {other} in the page"),
        })
    }
}

/// The template with each `{{mark}}` replaced; what is put in is not looked at again.
fn fill(template: &str, text: impl Fn(&str) -> String) -> String {
    let mut pieces = template.split("{{");
    let mut page = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (mark, rest) = piece.split_once("}}").expect("marks of the page are closed");
        page.push_str(&text(mark));
        page.push_str(rest);
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::run_records::tests as rows;

    fn page(scenario: &str) -> String {
        let requests = rows::requests(&[rows::request(0, [0, 10, 50, 150])]);
        let steps = rows::steps(&[rows::step(0, 10, 50)]);
        let summary = json!({"completed": 1, "ttft_ms": {"median": 50.0}, "trust": "fitted"});
        Page {
            scenario,
            summary: &summary,
            plots: &[("Latencies", "<svg></svg>".into())],
            requests: &requests.drawn,
            steps: &steps.drawn,
            window: Window::ALL,
            notes: &["a < b".into()],
        }
        .render()
    }

    #[test]
    fn the_page_holds_its_records_and_asks_nobody_for_anything() {
        let page = page("a run");
        let island =
            page.split_once("<script type=\"application/json\" id=\"records\">").unwrap().1;
        let records: Value =
            serde_json::from_str(island.split_once("</script>").unwrap().0).unwrap();
        assert_eq!(
            records["requests"][0][5],
            json!([
                ["queue", 0, 10_000_000],
                ["prefill", 10_000_000, 50_000_000],
                ["decode", 50_000_000, 150_000_000]
            ])
        );
        assert_eq!(records["steps"][0][7], 3);
        for fetched in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!page.replace("http://www.w3.org/", "").contains(fetched), "{fetched}");
        }
        assert!(!page.contains("{{"), "every mark is filled");
    }

    #[test]
    fn text_of_a_scenario_is_text_and_not_markup() {
        let page = page("</script><b>\"x\" {{records}}");
        assert!(page.contains("&lt;/script&gt;&lt;b&gt;&quot;x&quot; {{records}}"));
        assert!(page.contains("a &lt; b") && !page.contains("<b>"));
        assert_eq!(page.matches("</script>").count(), 2);
    }

    #[test]
    fn figures_that_a_summary_lacks_are_left_out() {
        let page = page("a run");
        assert!(
            page.contains("<td>50.00</td><td>ms</td>") || page.contains("<td>50</td><td>ms</td>")
        );
        assert!(!page.contains("Preemptions</th>"));
    }
}
