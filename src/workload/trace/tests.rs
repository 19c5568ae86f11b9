use super::*;
use proptest::prelude::*;

struct Rows(Vec<TraceRow>, usize);

impl TraceSource for Rows {
    fn next_row(&mut self) -> Option<TraceRow> {
        self.1 += 1;
        self.0.get(self.1 - 1).cloned()
    }

    fn rewind(&mut self) {
        self.1 = 0;
    }
}

const RULES: ReplayRules = ReplayRules {
    start: SimTime::ZERO,
    end: SimTime::MAX,
    time_scale: 1.0,
    rate_scale: 1.0,
    repeat_after: None,
    block_tokens: 4,
};

fn row(ms: u64) -> TraceRow {
    TraceRow { at: SimTime::from_nanos(ms * 1_000_000), input: 10, output: 5, ..Default::default() }
}

fn replay(rows: &[TraceRow], rules: ReplayRules, requests: Option<u64>) -> Vec<(u64, RequestSpec)> {
    let mut replay = Replay::new(Rows(rows.to_vec(), 0), rules, requests, None);
    std::iter::from_fn(|| {
        let at = replay.next_arrival()?;
        Some((at.as_nanos(), replay.take()))
    })
    .collect()
}

fn times(rows: &[TraceRow], rules: ReplayRules, requests: Option<u64>) -> Vec<u64> {
    replay(rows, rules, requests).into_iter().map(|(at, _)| at / 1_000_000).collect()
}

fn tokens(spec: &RequestSpec) -> Vec<u64> {
    let runs = &spec.content.as_ref().unwrap().runs;
    runs.iter().flat_map(|run| (0..u64::from(run.len)).map(|k| run.first.wrapping_add(k))).collect()
}

fn shared(a: &RequestSpec, b: &RequestSpec) -> usize {
    tokens(a).iter().zip(tokens(b)).take_while(|(a, b)| **a == *b).count()
}

#[test]
fn a_window_is_cut_scaled_and_repeated() {
    let rows: Vec<_> = [0, 100, 200, 300, 400].map(row).into();
    assert_eq!(times(&rows, RULES, None), [0, 100, 200, 300, 400]);
    let at = |ms: u64| SimTime::from_nanos(ms * 1_000_000);
    let window = ReplayRules { start: at(100), end: at(400), ..RULES };
    assert_eq!(times(&rows, window, None), [0, 100, 200]);
    let slow = ReplayRules { time_scale: 2.5, ..window };
    assert_eq!(times(&rows, slow, None), [0, 250, 500]);
    let again = ReplayRules { repeat_after: Some(SimDuration::from_millis(300)), ..window };
    assert_eq!(times(&rows, again, Some(7)), [0, 100, 200, 300, 400, 500, 600]);
    let again = ReplayRules { time_scale: 0.5, ..again };
    assert_eq!(times(&rows, again, Some(5)), [0, 50, 100, 150, 200]);
}

#[test]
fn a_repeated_window_that_sends_nothing_ends() {
    let rules =
        ReplayRules { rate_scale: 0.1, repeat_after: Some(SimDuration::from_secs(1)), ..RULES };
    assert_eq!(times(&[row(0), row(1)], rules, None), [0; 0]);
    assert_eq!(times(&[], rules, None), [0; 0]);
}

#[test]
fn a_higher_rate_spreads_copies_over_the_time_to_the_next_row() {
    let rows: Vec<_> = [0, 100, 300].map(row).into();
    let rules = ReplayRules { rate_scale: 2.0, ..RULES };
    assert_eq!(times(&rows, rules, None), [0, 50, 100, 200, 300, 300]);
    let rules = ReplayRules { rate_scale: 0.5, ..RULES };
    assert_eq!(times(&rows, rules, None), [100]);
}

proptest! {
    #[test]
    fn rates_scale_exactly(n in 1usize..300, scale in 0.01f64..5.0) {
        let rows: Vec<_> = (0..n as u64).map(|i| row(i * 10)).collect();
        let sent = times(&rows, ReplayRules { rate_scale: scale, ..RULES }, None);
        prop_assert_eq!(sent.len(), (n as f64 * scale) as usize);
        prop_assert!(sent.windows(2).all(|pair| pair[0] <= pair[1]));
    }

    #[test]
    fn times_scale_exactly(ms in prop::collection::vec(0u64..100_000, 1..50), scale in 0.01f64..5.0) {
        let mut ms = ms;
        ms.sort_unstable();
        let rows: Vec<_> = ms.iter().copied().map(row).collect();
        let sent = replay(&rows, ReplayRules { time_scale: scale, ..RULES }, None);
        for ((got, _), ms) in sent.iter().zip(&ms) {
            prop_assert_eq!(*got, ((ms * 1_000_000) as f64 * scale).round() as u64);
        }
    }
}

#[test]
fn prompts_share_their_leading_blocks() {
    let with = |ms, input, blocks: &[u64]| TraceRow { input, blocks: blocks.into(), ..row(ms) };
    let rows = [with(0, 11, &[7, 8, 9]), with(1, 12, &[7, 8, 5]), with(2, 20, &[6, 8, 9])];
    let sent = replay(&rows, RULES, None);
    assert_eq!(shared(&sent[0].1, &sent[1].1), 8);
    assert_eq!(shared(&sent[0].1, &sent[2].1), 0);
    for (_, spec) in &sent {
        assert_eq!(tokens(spec).len(), spec.prompt_tokens as usize);
    }
}

#[test]
fn prompts_of_a_session_go_on_where_the_last_answer_ended() {
    let turn = |ms, input, output| TraceRow { input, output, session: Some(3), ..row(ms) };
    let rows = [turn(0, 10, 5), turn(9, 30, 5), TraceRow { session: Some(4), ..row(10) }];
    let sent = replay(&rows, RULES, None);
    let content = sent[0].1.content.as_ref().unwrap();
    let mut said = tokens(&sent[0].1);
    said.extend(content.output_base..content.output_base + 5);
    assert!(tokens(&sent[1].1).starts_with(&said));
    assert_eq!(shared(&sent[0].1, &sent[2].1), 0);
}

#[test]
fn a_shared_beginning_ends_where_the_row_says() {
    let with = |ms, id| TraceRow { prefix: Some(id), prefix_tokens: 6, ..row(ms) };
    let sent = replay(&[with(0, 1), with(1, 1), with(2, 2)], RULES, None);
    assert_eq!(shared(&sent[0].1, &sent[1].1), 6);
    assert_eq!(shared(&sent[0].1, &sent[2].1), 0);
    assert_eq!(replay(&[row(0)], RULES, None)[0].1.content, None);
}

#[test]
fn copies_and_later_passes_are_other_peoples_requests() {
    let with = |ms| TraceRow { blocks: vec![1, 2, 3], ..row(ms) };
    let rules =
        ReplayRules { rate_scale: 2.0, repeat_after: Some(SimDuration::from_secs(1)), ..RULES };
    let sent = replay(&[with(0), with(100)], rules, Some(8));
    let same = |a: usize, b: usize| shared(&sent[a].1, &sent[b].1);
    assert_eq!([same(0, 2), same(1, 3), same(4, 6)], [10, 10, 10]);
    assert_eq!([same(0, 1), same(0, 4), same(1, 5), same(0, 5)], [0; 4]);
}
