//! Who asks, and how: tenants, the prompt beginnings that they share, and conversations.
//!
//! Token ids stand for content. A conversation's own tokens are numbered by their place in it, so
//! that the prompt of each turn begins with the one before and its answer; a shared beginning is a
//! run of ids that all conversations with that beginning have.

use std::sync::Arc;

use rand::RngExt;
use rand::rngs::ChaCha8Rng;
use rand_distr::{Distribution, Exp1};
use serde::Serialize;

use crate::engine::observer::RequestRecord;
use crate::random::{self, Use};
use crate::request::{PromptContent, RequestSpec, TokenRun};
use crate::time::SimDuration;

use super::{LengthPair, LengthSource, Lengths};

/// How the requests of one tenant look.
#[derive(Clone, Debug, PartialEq)]
pub struct Tenant {
    /// Its share of the conversations, relative to the shares of the others.
    pub share: f64,
    /// Smaller is more urgent.
    pub priority: i32,
    pub lengths: LengthSource,
    pub prefix: Option<SharedPrefix>,
    /// Without it every request stands alone.
    pub sessions: Option<Sessions>,
}

/// A beginning that prompts have in common, such as a system prompt; it comes on top of their
/// lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SharedPrefix {
    pub tokens: u32,
    /// How many different ones there are; each conversation has one of them, all alike likely.
    pub count: u16,
}

/// Conversations of several turns: each prompt is all that was said before and something new.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Sessions {
    pub turns: Turns,
    /// From an answer to the next turn, on average.
    pub think_time: SimDuration,
    /// Whether the pauses are exponentially distributed, or all the same.
    pub exponential: bool,
}

/// How many turns a conversation has.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Turns {
    Fixed(u32),
    /// Each turn is the last with the same probability: a geometric distribution with this mean.
    Mean(f64),
}

/// Beginnings lie in the upper half of the token ids, conversations in the lower.
const PREFIXES: u64 = 1 << 63;

/// A conversation that has begun.
#[derive(Debug)]
pub(super) struct Conversation {
    id: u64,
    client: u32,
    tenant: u16,
    priority: i32,
    prefix: Option<TokenRun>,
    /// Tokens said so far, the shared beginning left out.
    history: u32,
    /// What is still to be asked, the next turn last.
    turns: Vec<Turn>,
}

#[derive(Clone, Copy, Debug)]
struct Turn {
    lengths: LengthPair,
    think_time: SimDuration,
}

impl Conversation {
    /// The next turn.
    fn ask(&mut self) -> RequestSpec {
        let Turn { lengths, .. } = self.turns.pop().expect("a conversation with a turn left");
        let own = self.history.saturating_add(lengths.input);
        let run = TokenRun { first: self.id << 32, len: own };
        let content = PromptContent {
            runs: self.prefix.into_iter().chain([run]).collect(),
            output_base: run.first + u64::from(own),
        };
        let shared = self.prefix.map_or(0, |prefix| prefix.len);
        // What is asked is history when the answer comes.
        self.history = own;
        RequestSpec {
            client: self.client,
            tenant: self.tenant,
            priority: self.priority,
            content: Some(Arc::new(content)),
            ..RequestSpec::fixed(own.saturating_add(shared), lengths.output)
        }
    }

    /// Hears the answer. The pause before the next turn, if there is one: who was not answered asks
    /// no more.
    pub(super) fn hear(&mut self, answer: &RequestRecord) -> Option<SimDuration> {
        let turn = self.turns.last().filter(|_| answer.outcome.is_success())?;
        self.history = self.history.saturating_add(answer.output_tokens);
        Some(turn.think_time)
    }

    /// The turn after an answer that was heard.
    pub(super) fn go_on(&mut self) -> RequestSpec {
        self.ask()
    }
}

/// All tenants together: hands out the first request of one conversation after the other.
///
/// Each draw has a stream of its own for each tenant and client, so that nothing depends on which
/// client is answered first.
#[derive(Debug)]
pub struct Mix {
    tenants: Vec<Asker>,
    /// Whose turn it is.
    choice: Choice,
    /// Conversations begun so far.
    begun: u64,
    /// Whether conversations of an open loop are told apart by the client of their requests.
    numbered: bool,
}

#[derive(Debug)]
enum Choice {
    Only,
    /// Drawn by cumulative shares.
    Drawn {
        shares: Vec<f64>,
        rng: Box<ChaCha8Rng>,
    },
    /// Each client belongs to a tenant: (tenant, its number among the tenant's clients).
    OfClients(Vec<(u16, u32)>),
}

#[derive(Debug)]
struct Asker {
    lengths: Lengths,
    priority: i32,
    prefix: Option<SharedPrefix>,
    sessions: Option<Sessions>,
    /// For each client, where something is drawn.
    prefixes: Vec<ChaCha8Rng>,
    turns: Vec<ChaCha8Rng>,
    pauses: Vec<ChaCha8Rng>,
}

impl Mix {
    /// The tenants of an open loop, each conversation drawn by their shares; at least one tenant.
    pub fn open_loop(tenants: &[Tenant], seed: u64) -> Self {
        let choice = if tenants.len() == 1 {
            Choice::Only
        } else {
            let mut sum = 0.0;
            let cumulative = tenants.iter().map(|tenant| {
                sum += tenant.share;
                sum
            });
            let shares = cumulative.collect();
            Choice::Drawn { shares, rng: Box::new(random::stream(seed, Use::Tenants)) }
        };
        let mut this = Self::new(tenants, choice, |_| 1, seed);
        this.numbered = tenants.iter().any(|tenant| tenant.sessions.is_some());
        this
    }

    /// The tenants of `clients` clients, who are spread over them by their shares.
    pub fn of_clients(tenants: &[Tenant], clients: u32, seed: u64) -> Self {
        if tenants.len() == 1 {
            return Self::new(tenants, Choice::Only, |_| clients, seed);
        }
        let of_clients = spread(tenants, clients);
        let mut counts = vec![0; tenants.len()];
        of_clients.iter().for_each(|&(tenant, _)| counts[usize::from(tenant)] += 1);
        Self::new(tenants, Choice::OfClients(of_clients), |tenant| counts[tenant], seed)
    }

    fn new(tenants: &[Tenant], choice: Choice, clients: impl Fn(usize) -> u32, seed: u64) -> Self {
        assert!(!tenants.is_empty(), "somebody asks");
        let askers = (0u16..)
            .zip(tenants)
            .map(|(number, tenant)| {
                let clients = clients(usize::from(number));
                Asker::new(tenant, number, clients, seed)
            })
            .collect();
        Self { tenants: askers, choice, begun: 0, numbered: false }
    }

    /// Whether any tenant has conversations of several turns.
    pub(super) fn has_sessions(&self) -> bool {
        self.tenants.iter().any(|tenant| tenant.sessions.is_some())
    }

    /// The first request of the next conversation of a client (0 in an open loop), and the rest of
    /// the conversation, if it has more turns.
    pub(super) fn begin(&mut self, client: u32) -> (RequestSpec, Option<Conversation>) {
        let (number, local) = match &mut self.choice {
            Choice::Only => (0, client),
            Choice::OfClients(clients) => clients[client as usize],
            Choice::Drawn { shares, rng } => {
                let all = shares.last().copied().unwrap_or(0.0);
                let at = rng.random::<f64>() * all;
                let chosen = shares.partition_point(|&end| end <= at).min(shares.len() - 1);
                (chosen as u16, 0)
            }
        };
        let id = self.begun;
        self.begun += 1;
        // Conversations of an open loop are their own clients.
        let client = if self.numbered { id as u32 } else { client };
        self.tenants[usize::from(number)].begin(number, id, client, local as usize)
    }
}

impl Asker {
    fn new(tenant: &Tenant, number: u16, clients: u32, seed: u64) -> Self {
        let streams = |wanted: bool, purpose: fn(u32) -> Use| -> Vec<ChaCha8Rng> {
            let clients = if wanted { 0..clients } else { 0..0 };
            clients.map(|c| random::tenant_stream(seed, number, purpose(c))).collect()
        };
        let geometric =
            tenant.sessions.is_some_and(|sessions| matches!(sessions.turns, Turns::Mean(_)));
        Self {
            lengths: Lengths::new(&tenant.lengths, clients, seed, number),
            priority: tenant.priority,
            prefix: tenant.prefix,
            sessions: tenant.sessions,
            prefixes: streams(tenant.prefix.is_some_and(|p| p.count > 1), Use::Prefixes),
            turns: streams(geometric, Use::Turns),
            pauses: streams(tenant.sessions.is_some_and(|s| s.exponential), Use::ThinkTimes),
        }
    }

    fn begin(
        &mut self,
        tenant: u16,
        id: u64,
        client: u32,
        local: usize,
    ) -> (RequestSpec, Option<Conversation>) {
        let prefix = self.prefix.map(|prefix| {
            let which = self.prefixes.get_mut(local).map_or(0, |r| r.random_range(0..prefix.count));
            let first = PREFIXES | u64::from(tenant) << 47 | u64::from(which) << 31;
            TokenRun { first, len: prefix.tokens }
        });
        let Some(sessions) = self.sessions else {
            let lengths = self.lengths.next(local as u32);
            if prefix.is_none() {
                let spec = RequestSpec::fixed(lengths.input, lengths.output);
                return (RequestSpec { client, tenant, priority: self.priority, ..spec }, None);
            }
            let turns = vec![Turn { lengths, think_time: SimDuration::ZERO }];
            let mut conversation = Conversation {
                id,
                client,
                tenant,
                priority: self.priority,
                prefix,
                history: 0,
                turns,
            };
            return (conversation.ask(), None);
        };
        let count = match sessions.turns {
            Turns::Fixed(turns) => turns,
            Turns::Mean(mean) => geometric(mean, &mut self.turns[local]),
        };
        // Drawn now and not turn by turn: what is asked does not depend on who is answered first.
        let mut turns: Vec<Turn> = (0..count)
            .map(|_| {
                let lengths = self.lengths.next(local as u32);
                let think_time = match self.pauses.get_mut(local) {
                    None => sessions.think_time,
                    Some(rng) => {
                        let unit: f64 = Exp1.sample(rng);
                        SimDuration::from_secs_f64(sessions.think_time.as_secs_f64() * unit)
                    }
                };
                Turn { lengths, think_time }
            })
            .collect();
        turns.reverse();
        let priority = self.priority;
        let mut conversation =
            Conversation { id, client, tenant, priority, prefix, history: 0, turns };
        let first = conversation.ask();
        (first, (!conversation.turns.is_empty()).then_some(conversation))
    }
}

/// A geometric number from 1 on with this mean, by inversion.
fn geometric(mean: f64, rng: &mut ChaCha8Rng) -> u32 {
    if mean <= 1.0 {
        return 1;
    }
    let stop = 1.0 / mean;
    let at: f64 = rng.random();
    // The casts saturate.
    1 + ((1.0 - at).ln() / (1.0 - stop).ln()) as u32
}

/// Each client's tenant: counts by largest remainder, and the tenants' clients mixed evenly, so that
/// those who start first are no one tenant's.
fn spread(tenants: &[Tenant], clients: u32) -> Vec<(u16, u32)> {
    let all: f64 = tenants.iter().map(|tenant| tenant.share).sum();
    let wanted: Vec<f64> =
        tenants.iter().map(|tenant| tenant.share / all * f64::from(clients)).collect();
    let mut counts: Vec<u32> = wanted.iter().map(|w| *w as u32).collect();
    let mut by_remainder: Vec<usize> = (0..tenants.len()).collect();
    by_remainder.sort_by(|&a, &b| wanted[b].fract().total_cmp(&wanted[a].fract()));
    let mut missing = clients - counts.iter().sum::<u32>().min(clients);
    for &tenant in by_remainder.iter().cycle() {
        if missing == 0 {
            break;
        }
        counts[tenant] += 1;
        missing -= 1;
    }
    // The k-th of n clients of a tenant stands at (k + 1/2) / n.
    let mut order: Vec<(f64, u16, u32)> = (0u16..)
        .zip(&counts)
        .flat_map(|(tenant, &n)| {
            (0..n).map(move |k| ((f64::from(k) + 0.5) / f64::from(n), tenant, k))
        })
        .collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    order.into_iter().map(|(_, tenant, k)| (tenant, k)).collect()
}

#[cfg(test)]
mod tests;
