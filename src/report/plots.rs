//! Pictures of a run as SVG.

use kuva::backend::svg::SvgBackend;
use kuva::prelude::{BarPlot, Layout, LegendPosition, LinePlot, Plot};
use kuva::render::figure::Figure;
use kuva::render::render::render_multiple;
use kuva::{Palette, TickFormat};

use super::run_records::{Latencies, TimelineRow};
use crate::metrics::Distribution;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 360.0;

/// Points of a cumulative distribution: each per cent, and the tail more finely.
fn percents() -> Vec<f64> {
    (0..99).map(f64::from).chain((0..=10).map(|tenth| 99.0 + f64::from(tenth) / 10.0)).collect()
}

/// Colours that people who see few of them tell apart (Wong 2011), without the pale yellow.
fn colour(i: usize) -> String {
    Palette::wong()[[0, 1, 2, 4, 5][i]].to_owned()
}

fn line(i: usize, name: &str, points: Vec<(f64, f64)>) -> LinePlot {
    LinePlot::new().with_data(points).with_color(colour(i)).with_stroke_width(1.8).with_legend(name)
}

/// The share of answered requests that took no longer, by latency. None if nothing was answered.
pub fn latencies(latencies: &Latencies) -> Option<String> {
    let Latencies { ttft, tpot, e2el, queue } = latencies;
    let kinds: [(&str, &Distribution); 4] = [
        ("time per output token", tpot),
        ("queue", queue),
        ("time to first token", ttft),
        ("end to end", e2el),
    ];
    let percents = percents();
    let mut plots = Vec::new();
    for (i, (name, values)) in kinds.into_iter().enumerate() {
        let Some(figures) = values.figures(&percents) else { continue };
        let points = figures.percentiles.iter().zip(&percents);
        // The axis is logarithmic: who did not wait at all cannot be on it.
        let points: Vec<(f64, f64)> = points
            .map(|(nanos, percent)| (nanos / 1e6, *percent))
            .filter(|(x, _)| *x > 0.0)
            .collect();
        if points.len() > 1 {
            plots.push(Plot::Line(line(i, name, points)));
        }
    }
    if plots.is_empty() {
        return None;
    }
    let layout = Layout::auto_from_plots(&plots)
        .with_width(WIDTH)
        .with_height(HEIGHT)
        .with_log_x()
        .with_x_label("milliseconds")
        .with_y_label("% of requests")
        .with_y_axis_min(0.0)
        .with_y_axis_max(100.0);
    Some(SvgBackend::new().render_scene(&render_multiple(plots, layout)))
}

/// Sequences that run, requests that wait and use of the KV cache over time. None without points.
pub fn load(points: &[TimelineRow]) -> Option<String> {
    if points.len() < 2 {
        return None;
    }
    let series = |value: &dyn Fn(&TimelineRow) -> f64| -> Vec<(f64, f64)> {
        points.iter().map(|p| (f64::midpoint(p.start_s, p.end_s), value(p))).collect()
    };
    let sequences = vec![
        Plot::Line(line(0, "running", series(&|p| p.batch_size))),
        Plot::Line(line(1, "waiting", series(&|p| p.waiting))),
    ];
    // Between the instants at which the batch changes it only grows.
    let mut kv = Vec::new();
    for point in points {
        if let Some(usage) = point.kv_usage {
            kv.push((f64::midpoint(point.start_s, point.end_s), 100.0 * usage));
        }
    }
    let rows = 1 + usize::from(kv.len() > 1);
    let mut layouts = vec![
        Layout::auto_from_plots(&sequences)
            .with_y_axis_min(0.0)
            .with_x_label("seconds")
            .with_y_label("requests")
            .with_legend_position(LegendPosition::OutsideRightTop),
    ];
    let mut cells = vec![sequences];
    if kv.len() > 1 {
        let kv = vec![Plot::Line(line(2, "KV cache", kv))];
        layouts.push(
            Layout::auto_from_plots(&kv)
                .with_y_axis_min(0.0)
                .with_y_axis_max(100.0)
                .with_x_label("seconds")
                .with_y_label("% in use")
                .with_legend_position(LegendPosition::OutsideRightTop),
        );
        cells.push(kv);
    }
    let figure = Figure::new(rows, 1)
        .with_plots(cells)
        .with_layouts(layouts)
        .with_figure_size(WIDTH, HEIGHT * 0.75 * rows as f64);
    Some(SvgBackend::new().render_scene(&figure.render()))
}

/// Seconds of steps by the term of their price, the largest first. None if no step ran.
pub fn time(terms: &[(String, f64)]) -> Option<String> {
    let mut terms: Vec<_> = terms.iter().filter(|(_, seconds)| *seconds > 0.0).collect();
    terms.sort_by(|a, b| b.1.total_cmp(&a.1));
    let all: f64 = terms.iter().map(|(_, seconds)| seconds).sum();
    if terms.is_empty() {
        return None;
    }
    let bars = terms.iter().map(|(name, seconds)| (name.replace('_', " "), 100.0 * seconds / all));
    let plots = vec![Plot::Bar(BarPlot::new().with_bars(bars).with_color(colour(3)))];
    let layout = Layout::auto_from_plots(&plots)
        .with_width(WIDTH)
        .with_height(HEIGHT)
        .with_y_axis_min(0.0)
        .with_y_tick_format(TickFormat::Auto)
        .with_y_label("% of the time in steps");
    Some(SvgBackend::new().render_scene(&render_multiple(plots, layout)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::run_records::tests::{request, requests};

    fn is_drawn(svg: Option<String>, words: &[&str]) {
        let svg = svg.unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert!(!svg.contains("NaN"), "a number that is none");
        for word in words {
            assert!(svg.contains(word), "{word} is missing");
        }
    }

    #[test]
    fn latencies_are_drawn_where_something_was_answered() {
        let read = requests(&[request(0, [0, 10, 50, 150]), request(1, [0, 0, 70, 250])]);
        is_drawn(
            latencies(&read.latencies),
            &["time to first token", "end to end", "milliseconds"],
        );
        assert_eq!(latencies(&Latencies::default()), None);
    }

    #[test]
    fn load_is_drawn_over_time_with_the_cache_where_there_is_one() {
        let point = |i: u32, kv_usage| TimelineRow {
            seed: 1,
            start_s: f64::from(i),
            end_s: f64::from(i + 1),
            batch_size: 3.0,
            waiting: 0.0,
            kv_usage,
        };
        let points: Vec<_> = (0..5).map(|i| point(i, Some(0.1))).collect();
        is_drawn(load(&points), &["running", "waiting", "KV cache", "seconds"]);
        let none: Vec<_> = (0..5).map(|i| point(i, None)).collect();
        assert!(!load(&none).unwrap().contains("KV cache"));
        assert_eq!(load(&points[..1]), None);
    }

    #[test]
    fn time_is_drawn_by_term_without_those_that_take_none() {
        let terms =
            [("linear", 3.0), ("kv_copy", 1.0), ("host", 0.0)].map(|(n, s)| (n.to_owned(), s));
        let svg = time(&terms);
        assert!(!svg.as_ref().unwrap().contains("host"));
        is_drawn(svg, &["linear", "kv copy"]);
        assert_eq!(time(&[]), None);
    }
}
