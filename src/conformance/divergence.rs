//! The first place where two schedules part, and how it is shown.

use std::fmt;

use serde_json::{Map, Value};

/// The first place where our schedule and the recorded one part.
#[derive(Clone, Debug, PartialEq)]
pub struct Divergence {
    /// The list that differs: `steps`, `finished`, `results`, `summary`.
    pub list: &'static str,
    /// Position in that list, from 0.
    pub index: usize,
    pub expected: Option<Value>,
    pub actual: Option<Value>,
    /// Keys whose values differ.
    pub fields: Vec<String>,
    /// The last entry on which both agree.
    pub before: Option<Value>,
    /// What our scheduler held when it decided the step, as both had it until then.
    pub state: Option<State>,
}

/// Who runs and who waits, by the recording's own numbers, and how much memory is free.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// In batch order.
    pub running: Vec<u64>,
    /// The next first.
    pub waiting: Vec<u64>,
    /// In blocks where the engine has them, else in tokens.
    pub kv_free: u64,
    pub kv_total: u64,
}

impl State {
    /// Gives requests another name.
    pub(super) fn rename(&mut self, name: impl Fn(u64) -> u64) {
        for request in self.running.iter_mut().chain(&mut self.waiting) {
            *request = name(*request);
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "    running  {}", requests(&self.running))?;
        writeln!(f, "    waiting  {}", requests(&self.waiting))?;
        writeln!(f, "    KV free  {} of {}", self.kv_free, self.kv_total)
    }
}

/// So many as can be read, and how many there are.
fn requests(numbers: &[u64]) -> String {
    const MOST: usize = 24;
    let shown: Vec<String> = numbers.iter().take(MOST).map(u64::to_string).collect();
    let more = if numbers.len() > MOST { " ..." } else { "" };
    match numbers.len() {
        0 => "nobody".into(),
        n => format!("{}{more} ({n})", shown.join(" ")),
    }
}

/// The first entry in which two lists of objects differ.
pub(super) fn first_difference(
    list: &'static str,
    expected: &[Value],
    actual: &[Value],
) -> Option<Divergence> {
    let index =
        (0..expected.len().max(actual.len())).find(|&i| expected.get(i) != actual.get(i))?;
    let (expected_entry, actual_entry) = (expected.get(index), actual.get(index));
    let (left, right) = (object(expected_entry), object(actual_entry));
    let mut fields: Vec<String> = left
        .keys()
        .chain(right.keys())
        .filter(|k| left.get(*k) != right.get(*k))
        .cloned()
        .collect();
    fields.sort();
    fields.dedup();
    Some(Divergence {
        list,
        index,
        expected: expected_entry.cloned(),
        actual: actual_entry.cloned(),
        fields,
        before: index.checked_sub(1).map(|i| expected[i].clone()),
        state: None,
    })
}

/// When an entry begins: a step of vLLM in nanoseconds, one of a router in milliseconds.
fn seconds(entry: &Value) -> Option<f64> {
    let nanos = entry.get("t").and_then(Value::as_f64).map(|nanos| nanos * 1e-9);
    nanos.or_else(|| Some(entry.get("t0_ms").or(entry.get("t_ms"))?.as_f64()? * 1e-3))
}

fn object(entry: Option<&Value>) -> Map<String, Value> {
    entry.and_then(Value::as_object).cloned().unwrap_or_default()
}

/// Both entries side by side, one field a line, those that differ marked; of lists only the
/// elements that differ. Then the state in which both still agreed.
impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "first difference: {}[{}]", self.list, self.index)?;
        if let Some(seconds) = self.expected.as_ref().or(self.actual.as_ref()).and_then(seconds) {
            write!(f, " at {seconds:.6} s")?;
        }
        writeln!(f, ", in {}", self.fields.join(", "))?;
        match (&self.expected, &self.actual) {
            (Some(_), Some(_)) => {}
            (Some(entry), None) => return writeln!(f, "  only recorded:  {entry}"),
            (None, Some(entry)) => return writeln!(f, "  only simulated: {entry}"),
            (None, None) => return Ok(()),
        }
        let (left, right) = (object(self.expected.as_ref()), object(self.actual.as_ref()));
        let mut rows = vec![Row::new(" ", "", "recorded", "simulated")];
        for key in left.keys().chain(right.keys().filter(|key| !left.contains_key(*key))) {
            compare(key, left.get(key), right.get(key), &mut rows);
        }
        let width = |of: fn(&Row) -> &str| rows.iter().map(|row| of(row).len()).max().unwrap_or(0);
        let (keys, column) = (width(|row| &row.key), width(|row| &row.recorded));
        for row in &rows {
            let Row { mark, key, recorded, simulated } = row;
            let line = format!("  {mark} {key:keys$}  {recorded:column$}  {simulated}");
            writeln!(f, "{}", line.trim_end())?;
        }
        if let Some(state) = &self.state {
            writeln!(f, "  state before it, by request:")?;
            state.fmt(f)?;
        }
        if let Some(before) = &self.before {
            writeln!(f, "  the entry before it, in both: {before}")?;
        }
        Ok(())
    }
}

struct Row {
    mark: &'static str,
    key: String,
    recorded: String,
    simulated: String,
}

impl Row {
    fn new(
        mark: &'static str,
        key: impl Into<String>,
        recorded: impl Into<String>,
        simulated: impl Into<String>,
    ) -> Self {
        let (key, recorded, simulated) = (key.into(), recorded.into(), simulated.into());
        Self { mark, key, recorded, simulated }
    }
}

/// Adds what there is to show of one field.
fn compare(key: &str, left: Option<&Value>, right: Option<&Value>, rows: &mut Vec<Row>) {
    let show = |value: Option<&Value>| value.map_or("-".to_owned(), Value::to_string);
    match (left, right) {
        (Some(Value::Array(a)), Some(Value::Array(b))) if a.iter().any(Value::is_array) => {
            let (most, same) = (a.len().max(b.len()), |at: &usize| a.get(*at) == b.get(*at));
            let agree = (0..most).filter(same).count();
            rows.push(Row::new(" ", key, format!("{agree} of {most} entries agree"), ""));
            for at in (0..most).filter(|at| !same(at)) {
                rows.push(Row::new("*", format!("{key}[{at}]"), show(a.get(at)), show(b.get(at))));
            }
        }
        _ => {
            let mark = if left == right { " " } else { "*" };
            rows.push(Row::new(mark, key, show(left), show(right)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_report_marks_what_differs_and_names_the_time_and_the_state_before() {
        let before = json!({"i": 0, "t": 0, "s": [[0, 5, 0]], "rw": [1, 0]});
        let recorded = json!({"i": 1, "t": 2_500_000, "s": [[0, 1, 5], [1, 4, 0]], "rw": [2, 0]});
        let ours = json!({"i": 1, "t": 2_500_000, "s": [[0, 1, 5]], "rw": [1, 1], "p": [1]});
        let found = first_difference("steps", &[before.clone(), recorded], &[before, ours]);
        let state = State { running: vec![0], waiting: vec![1], kv_free: 3, kv_total: 9 };
        let found = Divergence { state: Some(state), ..found.expect("they differ") };
        let expected = "\
first difference: steps[1] at 0.002500 s, in p, rw, s
          recorded              simulated
    i     1                     1
    t     2500000               2500000
    s     1 of 2 entries agree
  * s[1]  [1,4,0]               -
  * rw    [2,0]                 [1,1]
  * p     -                     [1]
  state before it, by request:
    running  0 (1)
    waiting  1 (1)
    KV free  3 of 9
  the entry before it, in both: {\"i\":0,\"t\":0,\"s\":[[0,5,0]],\"rw\":[1,0]}
";
        assert_eq!(found.to_string(), expected);
    }

    #[test]
    fn a_schedule_that_stops_early_diverges_where_it_stops() {
        let steps = [json!({"i": 0}), json!({"i": 1})];
        let found = first_difference("steps", &steps, &steps[..1]).expect("one is missing");
        assert_eq!((found.index, found.actual), (1, None));
        assert!(first_difference("steps", &steps, &steps).is_none());
    }
}
