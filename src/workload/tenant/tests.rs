use super::*;
use crate::engine::observer::Outcome;
use crate::request::FinishReason;
use crate::time::SimTime;
use crate::workload::{
    ArrivalProcess, Arrivals, ClosedLoop, LengthDistribution, OpenLoop, Workload,
};

const fn millis(ms: u64) -> SimDuration {
    SimDuration::from_millis(ms)
}

fn tenant(sessions: Option<Sessions>) -> Tenant {
    let uniform = |max| LengthDistribution::Uniform { min: 1, max };
    Tenant {
        share: 1.0,
        priority: 0,
        lengths: LengthSource::Drawn { input: uniform(100), output: uniform(50) },
        prefix: Some(SharedPrefix { tokens: 40, count: 3 }),
        sessions,
    }
}

fn chat(turns: Turns) -> Option<Sessions> {
    Some(Sessions { turns, think_time: millis(500), exponential: true })
}

fn open(tenants: &[Tenant], requests: u64) -> OpenLoop {
    let process = ArrivalProcess::Poisson { request_rate: 5.0, rescale: false };
    let arrivals = Arrivals::new(&process, Some(requests), None, 1);
    OpenLoop::new(arrivals, Mix::open_loop(tenants, 1), millis(3), Some(requests), None)
}

/// A request, when it was sent and when it was answered.
#[derive(Clone, Debug)]
struct Sent {
    spec: RequestSpec,
    at: SimTime,
    answered: SimTime,
}

/// Lets a server answer each request after `service(spec)`; whoever would have to wait longer than
/// the others is overtaken.
fn drive(workload: &mut dyn Workload, service: impl Fn(&RequestSpec) -> SimDuration) -> Vec<Sent> {
    let mut sent: Vec<Sent> = Vec::new();
    let mut open: Vec<(SimTime, usize)> = Vec::new();
    loop {
        open.sort_unstable();
        let reply = open.first().copied();
        let arrival = workload.next_arrival();
        match (arrival, reply) {
            (None, None) => return sent,
            (Some(at), reply) if reply.is_none_or(|(end, _)| at <= end) => {
                let spec = workload.take();
                let answered = at + service(&spec);
                open.push((answered, sent.len()));
                sent.push(Sent { spec, at, answered });
            }
            (_, Some((end, index))) => {
                open.remove(0);
                let spec = &sent[index].spec;
                workload.on_reply(&RequestRecord {
                    uid: index as u64,
                    client: spec.client,
                    replica: 0,
                    priority: spec.priority,
                    tenant: spec.tenant,
                    arrival: sent[index].at,
                    first_scheduled: None,
                    first_token: None,
                    ended: end,
                    prompt_tokens: spec.prompt_tokens,
                    output_tokens: spec.max_output_tokens,
                    cached_tokens: 0,
                    preemptions: 0,
                    retries: 0,
                    outcome: Outcome::Ended(FinishReason::Length),
                });
            }
            (Some(_), None) => unreachable!("without an answer to wait for, the arrival is next"),
        }
    }
}

/// The token ids of a request's prompt and answer.
fn tokens(spec: &RequestSpec) -> (Vec<u64>, Vec<u64>) {
    let content = spec.content.as_ref().expect("a prompt with content");
    let prompt: Vec<u64> =
        content.runs.iter().flat_map(|run| (run.first..).take(run.len as usize)).collect();
    assert_eq!(prompt.len(), spec.prompt_tokens as usize);
    (prompt, (content.output_base..).take(spec.max_output_tokens as usize).collect())
}

fn by_client(sent: &[Sent]) -> std::collections::BTreeMap<u32, Vec<Sent>> {
    let mut clients: std::collections::BTreeMap<u32, Vec<Sent>> = Default::default();
    for request in sent {
        clients.entry(request.spec.client).or_default().push(request.clone());
    }
    clients
}

#[test]
fn each_turn_begins_with_all_that_was_said_and_waits_for_the_answer() {
    let mut workload = open(&[tenant(chat(Turns::Fixed(4)))], 400);
    let sent = drive(&mut workload, |spec| millis(u64::from(spec.prompt_tokens)));
    let conversations = by_client(&sent);
    assert!(conversations.len() >= 100);
    let complete = conversations.values().filter(|turns| turns.len() == 4).count();
    assert!(complete > 80, "{complete}");
    for turns in conversations.values() {
        for pair in turns.windows(2) {
            assert!(pair[1].at >= pair[0].answered + millis(3), "a turn before its answer");
            let (mut before, answer) = tokens(&pair[0].spec);
            before.extend(answer);
            let (after, _) = tokens(&pair[1].spec);
            assert!(after.len() > before.len() && after.starts_with(&before));
        }
    }
}

#[test]
fn conversations_share_a_beginning_and_nothing_else() {
    let mut workload = open(&[tenant(None)], 300);
    let sent = drive(&mut workload, |_| millis(1));
    let prompts: Vec<Vec<u64>> = sent.iter().map(|sent| tokens(&sent.spec).0).collect();
    let mut counts = std::collections::BTreeMap::<u64, u32>::new();
    for (i, a) in prompts.iter().enumerate() {
        *counts.entry(a[0]).or_default() += 1;
        for b in &prompts[..i] {
            let same = a.iter().zip(b).take_while(|(x, y)| x == y).count();
            assert!(same == 0 || same == 40, "{same} tokens shared");
        }
    }
    assert_eq!(counts.len(), 3, "three different beginnings");
    assert!(counts.values().all(|n| (70..130).contains(n)), "{counts:?}");
}

#[test]
fn what_is_asked_does_not_depend_on_who_is_answered_first() {
    let run = |service: fn(&RequestSpec) -> SimDuration| {
        let mut second = tenant(chat(Turns::Mean(3.0)));
        second.share = 2.0;
        let mut workload = open(&[tenant(chat(Turns::Fixed(3))), second], 300);
        let sent = drive(&mut workload, service);
        let asked = by_client(&sent);
        let lengths = |turns: &Vec<Sent>| -> Vec<(u32, u32, u16)> {
            let of = |s: &RequestSpec| (s.prompt_tokens, s.max_output_tokens, s.tenant);
            turns.iter().map(|turn| of(&turn.spec)).collect()
        };
        asked.values().take(60).map(lengths).collect::<Vec<_>>()
    };
    let slow = run(|spec| millis(u64::from(spec.max_output_tokens) * 40));
    let fast = run(|_| millis(1));
    for (slow, fast) in slow.iter().zip(&fast) {
        let both = slow.len().min(fast.len());
        assert_eq!(slow[..both], fast[..both]);
    }
}

#[test]
fn tenants_come_by_their_shares() {
    let shares = [1.0, 2.0, 5.0];
    let tenants = shares.map(|share| Tenant { share, prefix: None, ..tenant(None) });
    let mut workload = open(&tenants, 8000);
    let mut counts = [0.0; 3];
    for sent in drive(&mut workload, |_| millis(1)) {
        counts[usize::from(sent.spec.tenant)] += 1.0;
    }
    for (count, share) in counts.iter().zip(shares) {
        let want = 1000.0 * share;
        // Four standard deviations of a binomial.
        let bound = 4.0 * (want * (1.0 - share / 8.0)).sqrt();
        assert!((count - want).abs() < bound, "{counts:?}");
    }
}

#[test]
fn clients_of_a_closed_loop_are_spread_over_the_tenants() {
    let tenants = [1.0, 2.0, 5.0].map(|share| Tenant { share, ..tenant(None) });
    let clients = spread(&tenants, 16);
    let count = |tenant| clients.iter().filter(|(t, _)| *t == tenant).count();
    assert_eq!([count(0), count(1), count(2)], [2, 4, 10]);
    for tenant in 0..3 {
        let locals: Vec<u32> =
            clients.iter().filter(|(t, _)| *t == tenant).map(|(_, local)| *local).collect();
        assert_eq!(locals, (0..count(tenant) as u32).collect::<Vec<_>>());
    }
    assert!(clients[..4].iter().any(|(t, _)| *t != 2), "{clients:?}");
    assert_eq!(spread(&tenants, 1), [(2, 0)], "the largest share gets the only client");
}

#[test]
fn a_client_talks_one_conversation_after_the_other() {
    let tenants = [tenant(chat(Turns::Fixed(3)))];
    let mix = Mix::of_clients(&tenants, 4, 1);
    let mut workload = ClosedLoop::new(4, mix, millis(9000), millis(1), Some(120));
    let sent = drive(&mut workload, |spec| millis(u64::from(spec.prompt_tokens)));
    for (client, turns) in by_client(&sent) {
        assert!(turns.len() > 20, "client {client}");
        for (k, pair) in turns.windows(2).enumerate() {
            let (before, _) = tokens(&pair[0].spec);
            let (after, _) = tokens(&pair[1].spec);
            let goes_on = after.starts_with(&before);
            assert_eq!(goes_on, (k + 1) % 3 != 0, "turn {k} of client {client}");
            let pause = pair[1].at.since(pair[0].answered);
            assert!(goes_on || pause == millis(9001), "{pause} between conversations");
        }
    }
}

#[test]
fn turns_scatter_around_their_mean() {
    let mut rng = random::stream(3, Use::Turns(0));
    let n = 20_000;
    let turns: Vec<u32> = (0..n).map(|_| geometric(4.0, &mut rng)).collect();
    let mean = turns.iter().map(|&t| f64::from(t)).sum::<f64>() / f64::from(n);
    // The deviation of a geometric number with mean m is sqrt(m (m - 1)).
    assert!((mean - 4.0).abs() < 4.0 * 12f64.sqrt() / f64::from(n).sqrt(), "{mean}");
    let once = turns.iter().filter(|&&t| t == 1).count() as f64 / f64::from(n);
    assert!((once - 0.25).abs() < 0.013, "{once}");
    assert_eq!(geometric(1.0, &mut rng), 1);
}

#[test]
fn who_is_not_answered_asks_no_more() {
    let mut mix = Mix::of_clients(&[tenant(chat(Turns::Fixed(3)))], 1, 1);
    let (spec, rest) = mix.begin(0);
    let mut record = RequestRecord {
        uid: 0,
        client: 0,
        replica: 0,
        priority: 0,
        tenant: 0,
        arrival: SimTime::ZERO,
        first_scheduled: None,
        first_token: None,
        ended: SimTime::ZERO,
        prompt_tokens: spec.prompt_tokens,
        output_tokens: 0,
        cached_tokens: 0,
        preemptions: 0,
        retries: 0,
        outcome: Outcome::Ended(FinishReason::Refused),
    };
    let mut conversation = rest.unwrap();
    assert_eq!(conversation.hear(&record), None);
    record.outcome = Outcome::Ended(FinishReason::Stop);
    assert!(conversation.hear(&record).is_some());
}
