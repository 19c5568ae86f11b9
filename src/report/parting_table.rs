//! Where two schedules part, side by side, and a workload that shows it.

use std::collections::BTreeMap;

use super::listing::{plain_table, tidy};
use super::style::{Style, count, number};
use crate::compare::schedule::{Agreement, Member, Parting, Schedules, StepView};
use crate::compare::witness::{BLOCK_TOKENS, Witness};

/// Requests of a batch, and of a witness, that are printed.
const MOST: usize = 12;

/// For people: the step at which they part, or that they do not.
pub fn render(schedules: &Schedules, witness: Option<&Witness>, style: Style) -> String {
    match schedules {
        Schedules::Agree(agreement) => agree(agreement),
        Schedules::Part(parting) => {
            let mut text = format!(
                "\n{} in step {} of replica {} (from 0), {:.6} s after the start\n(first seed; both \
                 with A's requests, and A's times of steps)\n{}",
                style.bold("the schedules part"),
                parting.step,
                parting.replica,
                parting.at.as_secs_f64(),
                side_by_side(parting, style),
            );
            match witness {
                Some(witness) => text.push_str(&shown_by(witness, style)),
                None => text.push_str(
                    "no trace shows it: prompts go on with earlier answers, which a trace of these \
                     requests cannot say\n",
                ),
            }
            text
        }
    }
}

fn agree(agreement: &Agreement) -> String {
    let Agreement { requests, steps, all, cost } = agreement;
    let which = if *all { "all" } else { "the first" };
    let clock = match cost {
        Some(cost) => format!(
            "what differs is what steps cost: step {} lasts {} ms under A and {} ms under B",
            cost.step,
            number(cost.a_ms, 5),
            number(cost.b_ms, 5),
        ),
        None => "and their steps cost the same".to_owned(),
    };
    format!(
        "\nthe schedules agree in {} steps, over {which} {} requests\n(first seed; both with A's \
         requests, and A's times of steps); {clock}\n",
        count(*steps as f64),
        count(*requests as f64),
    )
}

/// The step under A and under B; what differs is marked.
fn side_by_side(parting: &Parting, style: Style) -> String {
    let mut table = plain_table();
    table.set_header(["", "", "A", "B"]);
    let mut row = |what: &str, of: &dyn Fn(&StepView) -> String| {
        let text = |view: &Option<StepView>| view.as_ref().map_or_else(|| "-".into(), of);
        let (a, b) = (text(&parting.a), text(&parting.b));
        let mark = if a == b { " " } else { "*" };
        table.add_row([mark.to_owned(), what.to_owned(), a, b]);
    };
    row("begins", &|view| format!("{:.6} s", view.start.as_secs_f64()));
    row("sequences", &|view| view.sequences.to_string());
    row("tokens", &|view| view.tokens.to_string());
    let parts = |view: &Option<StepView>| -> BTreeMap<u64, Member> {
        let batch = view.iter().flat_map(|view| &view.batch);
        batch.map(|member| (member.request, *member)).collect()
    };
    let (a, b) = (parts(&parting.a), parts(&parting.b));
    let numbers = a.keys().chain(b.keys().filter(|number| !a.contains_key(*number)));
    let mut differ: Vec<u64> = numbers.copied().filter(|n| a.get(n) != b.get(n)).collect();
    differ.sort_unstable();
    for number in differ.iter().take(MOST) {
        row(&format!("request {number}"), &|view| {
            let member = view.batch.iter().find(|member| member.request == *number);
            member.map_or_else(
                || "-".into(),
                |m| format!("{} after {}", plural(m.new_tokens.into(), "token"), m.computed_tokens),
            )
        });
    }
    row("admitted", &|view| numbers_of(&view.admitted));
    row("preempted", &|view| numbers_of(&view.preempted));
    row("running, waiting", &|view| format!("{}, {}", view.running, view.waiting));
    row("KV used", &|view| format!("{} of {}", view.kv_used, view.kv_total));
    let mut text: String = tidy(&table).lines().map(|line| format!("{line}\n")).collect();
    let same = a.len().max(b.len()).saturating_sub(differ.len());
    if differ.len() > MOST {
        text.push_str(&format!("... and {} more requests differ\n", differ.len() - MOST));
    }
    if let Some(before) = &parting.before {
        text.push_str(&style.dim(&format!(
            "{} the same part in both; the step before was the same: {}, {}, from {:.6} s\n",
            if same == 1 { "1 request has".into() } else { format!("{same} requests have") },
            plural(u64::from(before.sequences), "sequence"),
            plural(before.tokens, "token"),
            before.start.as_secs_f64(),
        )));
    }
    text
}

fn plural(number: u64, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

fn numbers_of(requests: &[u64]) -> String {
    let shown: Vec<String> = requests.iter().take(MOST).map(u64::to_string).collect();
    match requests.len() {
        0 => "nobody".into(),
        n if n > MOST => format!("{} ... ({n})", shown.join(" ")),
        _ => shown.join(" "),
    }
}

fn shown_by(witness: &Witness, style: Style) -> String {
    let requests = &witness.requests;
    let mut text = format!(
        "{} of {} shows it, in step {} (--witness FILE writes it; then --trace FILE in place of the \
         workload{}):\n",
        style.bold("a workload"),
        if requests.len() == 1 {
            "1 request".into()
        } else {
            format!("{} requests", requests.len())
        },
        witness.parting.step,
        if witness.shares_prompts() {
            format!(" and --set workload.trace.hash-block-size={BLOCK_TOKENS}")
        } else {
            String::new()
        },
    );
    for line in String::from_utf8_lossy(&witness.trace()).lines().take(MOST) {
        text.push_str(&format!("  {line}\n"));
    }
    if requests.len() > MOST {
        text.push_str(&format!("  ... and {} more\n", requests.len() - MOST));
    }
    text
}
