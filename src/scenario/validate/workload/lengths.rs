//! How long prompts and outputs are: a data set, or a distribution for each side.

use std::sync::Arc;

use super::super::super::LengthSpec;
use super::super::super::lengths::{self, MAX_TOKENS};
use super::super::super::raw::{
    RawHistogram, RawLengths, RawLogNormal, RawNormal, RawUniform, RawZipf, Tokens,
};
use super::super::{Context, looks_like_path};
use crate::named::nearest;
use crate::workload::{LengthDistribution, LengthOrder, LengthPair, LengthSource};

/// What flags alone ask for when they say nothing of lengths.
const DEFAULT_DATASET: &str = "openorca-006";

/// The lengths of the table at `at`, `workload.lengths` or a tenant's.
pub(super) fn lengths(
    at: &str,
    raw: &RawLengths,
    closed: bool,
    context: &mut Context<'_>,
    notes: &mut Vec<String>,
) -> Option<LengthSpec> {
    let order = raw.order.unwrap_or(if closed {
        LengthOrder::PerClientShuffle
    } else {
        LengthOrder::Shuffle
    });
    let at_dataset = format!("{at}.dataset");
    let sides = [Side::input(at, raw), Side::output(at, raw)];
    let kinds: Vec<String> = sides.iter().flat_map(|side| side.given(context)).collect();
    match (&raw.dataset, kinds.first()) {
        (Some(_), Some(kind)) => {
            let problem = context
                .pointing(
                    context.key_span(kind),
                    "lengths come from a data set or from a distribution, not both",
                    "and a distribution",
                )
                .help("keep one of them");
            let problem = context.because(problem, &at_dataset, "a data set");
            context.report(problem);
            None
        }
        (Some(name), None) => {
            let pairs = dataset(&at_dataset, name, context, notes)?;
            Some(LengthSpec { name: name.clone(), source: LengthSource::Pairs { pairs, order } })
        }
        (None, Some(_)) => {
            let [input, output] = sides.map(|side| side.distribution(context));
            Some(drawn(input?, output?, order))
        }
        (None, None) if context.taken.any_in(at, &["order"]) => None,
        (None, None) if context.file.is_none() => {
            notes.push(format!(
                "no lengths given: those of {DEFAULT_DATASET} are assumed (flags: --lengths, \
                 --input-len, --output-len)"
            ));
            let pairs = dataset(&at_dataset, DEFAULT_DATASET, context, notes)?;
            let source = LengthSource::Pairs { pairs, order };
            Some(LengthSpec { name: DEFAULT_DATASET.into(), source })
        }
        (None, None) => {
            context.missing(
                &at_dataset,
                "add dataset = \"openorca-006\", or fixed = { input = 512, output = 128 }",
            );
            None
        }
    }
}

fn drawn(
    (input_kind, input): (&'static str, LengthDistribution),
    (output_kind, output): (&'static str, LengthDistribution),
    order: LengthOrder,
) -> LengthSpec {
    let name = if input_kind == output_kind {
        input_kind.to_owned()
    } else {
        format!("{input_kind} and {output_kind}")
    };
    let source = match (input, output) {
        (LengthDistribution::Fixed(input), LengthDistribution::Fixed(output)) => {
            LengthSource::Pairs { pairs: Arc::new([LengthPair { input, output }]), order }
        }
        (input, output) => LengthSource::Drawn { input, output },
    };
    LengthSpec { name, source }
}

/// What is written of one side, input or output.
struct Side<'a> {
    /// The table of the lengths.
    at: &'a str,
    name: &'static str,
    /// The flag that fixes it.
    flag: &'static str,
    fixed: Option<Tokens>,
    uniform: Option<&'a RawUniform>,
    normal: Option<&'a RawNormal>,
    log_normal: Option<&'a RawLogNormal>,
    zipf: Option<&'a RawZipf>,
    histogram: Option<&'a RawHistogram>,
}

const KINDS: [&str; 6] = ["fixed", "uniform", "normal", "log-normal", "zipf", "histogram"];

impl<'a> Side<'a> {
    fn input(at: &'a str, raw: &'a RawLengths) -> Self {
        Self {
            at,
            name: "input",
            flag: "--input-len",
            fixed: raw.fixed.input,
            uniform: raw.uniform.input.as_ref(),
            normal: raw.normal.input.as_ref(),
            log_normal: raw.log_normal.input.as_ref(),
            zipf: raw.zipf.input.as_ref(),
            histogram: raw.histogram.input.as_ref(),
        }
    }

    fn output(at: &'a str, raw: &'a RawLengths) -> Self {
        Self {
            at,
            name: "output",
            flag: "--output-len",
            fixed: raw.fixed.output,
            uniform: raw.uniform.output.as_ref(),
            normal: raw.normal.output.as_ref(),
            log_normal: raw.log_normal.output.as_ref(),
            zipf: raw.zipf.output.as_ref(),
            histogram: raw.histogram.output.as_ref(),
        }
    }

    fn path(&self, kind: &str) -> String {
        format!("{}.{kind}.{}", self.at, self.name)
    }

    /// Paths of the kinds that are written, in the order of the text.
    fn given(&self, context: &Context<'_>) -> Vec<String> {
        let mut paths: Vec<String> = KINDS.iter().map(|kind| self.path(kind)).collect();
        paths.retain(|path| context.node(path).is_some());
        paths.sort_by_key(|path| context.key_span(path).map(|s| (s.source, s.range.start)));
        paths
    }

    /// The kind and its distribution.
    fn distribution(
        &self,
        context: &mut Context<'_>,
    ) -> Option<(&'static str, LengthDistribution)> {
        let given = self.given(context);
        if let [first, second, ..] = given.as_slice() {
            let title = format!("the {} has two distributions", self.name);
            let problem = context
                .pointing(context.key_span(second), title, "and another")
                .help("keep one of them");
            let problem = match context.key_span(first) {
                Some(span) => problem.because(span, "one"),
                None => problem,
            };
            context.report(problem);
            return None;
        }
        let Some(path) = given.first() else {
            // What was written of this side may have been taken out.
            if !KINDS.iter().any(|kind| context.taken.covers(&self.path(kind))) {
                let help = format!(
                    "give the {} tokens a distribution too, such as fixed.{} = 128 (flag: {})",
                    self.name, self.name, self.flag
                );
                context.missing(&self.path("fixed"), help);
            }
            return None;
        };
        if let Some(Tokens(tokens)) = self.fixed {
            return Some(("fixed", LengthDistribution::Fixed(tokens)));
        }
        if let Some(raw) = self.uniform {
            let (min, max) = range(path, raw.min, raw.max, None, context)?;
            return Some(("uniform", LengthDistribution::Uniform { min, max }));
        }
        if let Some(raw) = self.normal {
            let mean = need(raw.mean, path, "mean", "as in mean = 512", context);
            let stddev = need(raw.stddev, path, "stddev", "as in stddev = 128", context);
            let (min, max) = range(path, raw.min, raw.max, Some(MAX_TOKENS), context)?;
            let normal = LengthDistribution::Normal { mean: mean?, stddev: stddev?, min, max };
            return cut(path, normal, context).map(|normal| ("normal", normal));
        }
        if let Some(raw) = self.log_normal {
            let median = need(raw.median, path, "median", "as in median = 512", context);
            let sigma = need(raw.sigma, path, "sigma", "as in sigma = 0.8", context);
            let (min, max) = range(path, raw.min, raw.max, Some(MAX_TOKENS), context)?;
            let log = LengthDistribution::LogNormal { median: median?, sigma: sigma?, min, max };
            return cut(path, log, context).map(|log| ("log-normal", log));
        }
        if let Some(raw) = self.zipf {
            let (min, max) = range(path, raw.min, raw.max, None, context)?;
            let exponent = raw.exponent.unwrap_or(1.0);
            return Some(("zipf", LengthDistribution::Zipf { exponent, min, max }));
        }
        histogram(path, self.histogram?, context).map(|histogram| ("histogram", histogram))
    }
}

fn need<T>(
    value: Option<T>,
    table: &str,
    key: &str,
    example: &str,
    context: &mut Context<'_>,
) -> Option<T> {
    context.need(value, &format!("{table}.{key}"), example)
}

/// The cuts of a distribution; without a default, the upper one must be written.
fn range(
    table: &str,
    min: Option<Tokens>,
    max: Option<Tokens>,
    default_max: Option<u32>,
    context: &mut Context<'_>,
) -> Option<(u32, u32)> {
    let min = min.map_or(1, |Tokens(min)| min);
    let max = max.map(|Tokens(max)| max).or(default_max);
    let max = need(max, table, "max", "give the most tokens, as in max = 2048", context)?;
    if min > max {
        let problem = context
            .problem_at(&format!("{table}.max"), "max is below min", "nothing lies between")
            .help("swap the two, or make max larger");
        let problem = context.because(problem, &format!("{table}.min"), "at least this many");
        context.report(problem);
        return None;
    }
    Some((min, max))
}

/// Refuses cuts that leave so little of a distribution that it is no longer the one that was meant.
fn cut(
    table: &str,
    distribution: LengthDistribution,
    context: &mut Context<'_>,
) -> Option<LengthDistribution> {
    const LEAST: f64 = 1e-6;
    let share = distribution.share_within_cuts();
    if share >= LEAST {
        return Some(distribution);
    }
    let (key, label) = match context.span(&format!("{table}.min")) {
        Some(_) => (format!("{table}.min"), "less than a millionth of it lies between min and max"),
        None => (format!("{table}.max"), "less than a millionth of it lies below max"),
    };
    let problem = context
        .problem_at(&key, "the cuts leave nothing of the distribution", label)
        .help("move the cuts, or the middle of the distribution");
    context.report(problem);
    None
}

fn histogram(
    table: &str,
    raw: &RawHistogram,
    context: &mut Context<'_>,
) -> Option<LengthDistribution> {
    let edges = need(
        raw.edges.as_ref(),
        table,
        "edges",
        "give the bounds of the bins, as in edges = [1, 128, 512]",
        context,
    );
    let counts = need(
        raw.counts.clone(),
        table,
        "counts",
        "give a count for each bin, as in counts = [70, 30]",
        context,
    );
    let (edges, counts) = (edges?, counts?);
    let edges: Vec<u32> = edges.iter().map(|Tokens(edge)| *edge).collect();
    let (at_edges, at_counts) = (format!("{table}.edges"), format!("{table}.counts"));
    let problem = if edges.len() != counts.len() + 1 || counts.is_empty() {
        let problem = context
            .problem_at(
                &at_counts,
                "there is one edge more than bins",
                format!("{} bins", counts.len()),
            )
            .help("n counts have n + 1 edges around them");
        context.because(problem, &at_edges, format!("{} edges", edges.len()))
    } else if edges.windows(2).any(|pair| pair[0] >= pair[1]) {
        context
            .problem_at(&at_edges, "the edges of a histogram rise", "these do not")
            .help("sort them, and leave doubles out")
    } else if counts.iter().sum::<f64>() <= 0.0 {
        context
            .problem_at(&at_counts, "the histogram is empty", "all counts are zero")
            .help("give at least one bin a count above zero")
    } else {
        return Some(LengthDistribution::Histogram { edges, counts });
    };
    context.report(problem);
    None
}

/// Each client keeps an index into all pairs.
pub(super) fn permutations(
    at: &str,
    clients: u32,
    lengths: &LengthSpec,
    context: &mut Context<'_>,
) {
    const MAX_INDICES: u64 = 1 << 28;
    let LengthSource::Pairs { pairs, order } = &lengths.source else { return };
    let indices = u64::from(clients) * pairs.len() as u64;
    if *order == LengthOrder::PerClientShuffle && indices > MAX_INDICES {
        let problem = context
            .problem_at(
                &format!("{at}.dataset"),
                "the data set is too long for a permutation per client",
                format!("{} rows for each of {clients} clients", pairs.len()),
            )
            .help("set order = \"shuffle\" or \"sample\" beside it");
        context.report(problem);
    }
}

fn dataset(
    key: &str,
    name: &str,
    context: &mut Context<'_>,
    notes: &mut Vec<String>,
) -> Option<Arc<[LengthPair]>> {
    if let Some(pairs) = lengths::dataset(name) {
        return Some(pairs);
    }
    let (path, bytes) = context.read(key, name);
    let shown = path.display().to_string();
    let bytes = match bytes {
        Ok(bytes) => bytes,
        Err(error) => {
            let known: Vec<&str> = lengths::dataset_names().collect();
            let mut problem = context
                .problem_at(key, format!("cannot read the data set {shown}"), error.to_string())
                .help(format!(
                    "give the path of a CSV with the columns input_tokens,output_tokens, or an \
                     embedded data set: {}",
                    known.join(", ")
                ));
            if !looks_like_path(name)
                && let (Some(near), Some(span)) =
                    (nearest(name, known.into_iter()), context.span(key))
            {
                problem = problem.suggest("a similar name exists", span, format!("\"{near}\""));
            }
            context.report(problem);
            return None;
        }
    };
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let line = error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
            let problem = context
                .problem_at(
                    key,
                    format!("the data set {shown} is not text"),
                    format!("no UTF-8 at byte {at}, in line {line}"),
                )
                .help("give a CSV file saved as UTF-8");
            context.report(problem);
            return None;
        }
    };
    // Errors point into the CSV, so it joins the texts; a sound one need not be kept.
    let id = context.sources.next_id();
    match lengths::parse(id, &text) {
        Ok((pairs, note)) => {
            notes.extend(note);
            Some(pairs)
        }
        Err(problems) => {
            let added = context.sources.add(shown, text);
            debug_assert_eq!(added, id);
            let problems = problems.into_iter().map(|problem| match context.span(key) {
                Some(span) => problem.because(span, "the data set"),
                None => problem,
            });
            let problems: Vec<_> = problems.collect();
            context.errors.extend(problems);
            None
        }
    }
}
