//! Which replica a request goes to.
//!
//! A policy sees what a real router would: the request with its prompt and its session, and of each
//! replica how much it has been sent and what its metrics say. It returns a decision; the engine
//! acts on it.

mod prefix_aware;

use rand::RngExt;
use rand::rngs::ChaCha8Rng;
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64;

use crate::named::named_enum;
use crate::random::{self, Use};
use crate::request::Request;

pub use prefix_aware::{PrefixAware, PrefixAwareSettings};

/// What a router sees of a replica that takes requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReplicaLoad {
    pub replica: u16,
    /// What it takes, relative to the others; above zero.
    pub weight: f64,
    /// Requests sent to it and not yet answered.
    pub outstanding: u32,
    /// KV cache in use, in blocks where the engine has them, else in tokens. As of the newest step
    /// that has been scheduled; zero unless the router asks for it.
    pub kv_used: u64,
    pub kv_total: u64,
}

impl Default for ReplicaLoad {
    fn default() -> Self {
        Self { replica: 0, weight: 1.0, outstanding: 0, kv_used: 0, kv_total: 0 }
    }
}

impl ReplicaLoad {
    /// Of an idle replica.
    pub(super) fn of(replica: u16) -> Self {
        Self { replica, ..Self::default() }
    }

    /// How long the next request would wait here, in arbitrary units.
    fn expected_delay(&self) -> f64 {
        (f64::from(self.outstanding) + 1.0) / self.weight
    }

    /// Share of the KV cache in use.
    fn kv_usage(&self) -> f64 {
        if self.kv_total == 0 { 0.0 } else { self.kv_used as f64 / self.kv_total as f64 }
    }
}

/// Chooses a replica for each request, once, at its arrival.
pub trait Router {
    /// An index into `loads`, which is never empty and lists replicas by their number.
    fn route(&mut self, request: &Request, loads: &[ReplicaLoad]) -> usize;

    /// Whether `loads` must tell the use of KV caches.
    fn looks_at_kv(&self) -> bool {
        false
    }

    /// A replica has started anew, with an empty cache.
    fn forget(&mut self, _replica: u16) {}
}

named_enum! {
    /// How requests are spread over replicas.
    pub enum RouterPolicy as "router" {
        RoundRobin = "round-robin",
        Random = "random",
        LeastOutstanding = "least-outstanding",
        LeastKv = "least-kv",
        PowerOfTwo = "power-of-two",
        PrefixAware = "prefix-aware",
        SessionSticky = "session-sticky",
    }
}

/// A policy with its settings.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RouterSettings {
    pub policy: RouterPolicy,
    pub prefix_aware: PrefixAwareSettings,
    /// Whether requests tell their session: clients of a closed loop, conversations.
    #[serde(skip)]
    pub sessions: bool,
    /// What the KV cache of a replica holds, in tokens: as much as a prefix-aware router remembers.
    /// By number; the last is that of all that follow.
    #[serde(skip)]
    pub kv_tokens: Vec<u64>,
}

impl Default for RouterSettings {
    fn default() -> Self {
        Self {
            policy: RouterPolicy::LeastOutstanding,
            prefix_aware: PrefixAwareSettings::default(),
            sessions: false,
            kv_tokens: Vec::new(),
        }
    }
}

impl RouterSettings {
    /// A fresh router, whose random numbers follow from `seed`.
    pub fn router(&self, seed: u64) -> Box<dyn Router> {
        let rng = || random::stream(seed, Use::Router);
        match self.policy {
            RouterPolicy::RoundRobin => Box::new(RoundRobin::default()),
            RouterPolicy::Random => Box::new(Random { rng: rng() }),
            RouterPolicy::LeastOutstanding => Box::new(LeastOutstanding),
            RouterPolicy::LeastKv => Box::new(LeastKv),
            RouterPolicy::PowerOfTwo => Box::new(PowerOfTwo { rng: rng() }),
            RouterPolicy::PrefixAware => {
                Box::new(PrefixAware::new(self.prefix_aware, &self.kv_tokens))
            }
            // Without a session to stick to, production routers fall back on the load as well.
            RouterPolicy::SessionSticky if !self.sessions => Box::new(LeastOutstanding),
            RouterPolicy::SessionSticky => Box::new(SessionSticky),
        }
    }
}

/// Each replica in turn, heavier ones more often: the smooth weighted round robin of nginx
/// (`ngx_http_upstream_round_robin.c`), in which all earn their weight at each request and who is
/// chosen pays for all. Those that were not asked about earn nothing, so that requests of several
/// models do not take each other's turns.
#[derive(Debug, Default)]
pub struct RoundRobin {
    /// By number of the replica.
    earned: Vec<f64>,
}

impl Router for RoundRobin {
    fn route(&mut self, _: &Request, loads: &[ReplicaLoad]) -> usize {
        let (mut chosen, mut most, mut all) = (0, f64::NEG_INFINITY, 0.0);
        for (i, load) in loads.iter().enumerate() {
            let number = usize::from(load.replica);
            if self.earned.len() <= number {
                self.earned.resize(number + 1, 0.0);
            }
            let earned = &mut self.earned[number];
            *earned += load.weight;
            all += load.weight;
            if *earned > most {
                (chosen, most) = (i, *earned);
            }
        }
        self.earned[usize::from(loads[chosen].replica)] -= all;
        chosen
    }

    fn forget(&mut self, replica: u16) {
        if let Some(earned) = self.earned.get_mut(usize::from(replica)) {
            *earned = 0.0;
        }
    }
}

/// Any replica, as likely as its weight says.
#[derive(Debug)]
pub struct Random {
    rng: ChaCha8Rng,
}

impl Router for Random {
    fn route(&mut self, _: &Request, loads: &[ReplicaLoad]) -> usize {
        draw(loads, None, &mut self.rng)
    }
}

/// A replica as likely as its weight says, but not this one.
fn draw(loads: &[ReplicaLoad], but: Option<usize>, rng: &mut ChaCha8Rng) -> usize {
    let others = loads.len() - usize::from(but.is_some());
    let alike = loads.iter().all(|load| load.weight == loads[0].weight);
    if alike {
        let drawn = rng.random_range(0..others);
        return drawn + usize::from(but.is_some_and(|but| drawn >= but));
    }
    let weights = || loads.iter().enumerate().filter(|(i, _)| Some(*i) != but);
    let all: f64 = weights().map(|(_, load)| load.weight).sum();
    let mut left = rng.random::<f64>() * all;
    let mut last = 0;
    for (i, load) in weights() {
        last = i;
        left -= load.weight;
        if left < 0.0 {
            break;
        }
    }
    last
}

/// The replica with the fewest unanswered requests for its weight; among equals the first.
#[derive(Debug, Default)]
pub struct LeastOutstanding;

impl Router for LeastOutstanding {
    fn route(&mut self, _: &Request, loads: &[ReplicaLoad]) -> usize {
        least_outstanding(loads)
    }
}

fn least_outstanding(loads: &[ReplicaLoad]) -> usize {
    let (mut shortest, mut least) = (f64::INFINITY, 0);
    for (i, load) in loads.iter().enumerate() {
        let delay = load.expected_delay();
        if delay < shortest {
            (shortest, least) = (delay, i);
        }
    }
    least
}

/// The replica whose KV cache is emptiest; among equals the one with the fewest unanswered requests
/// for its weight, so that a burst does not all go to one before its metrics tell.
#[derive(Debug, Default)]
pub struct LeastKv;

impl Router for LeastKv {
    fn route(&mut self, _: &Request, loads: &[ReplicaLoad]) -> usize {
        let emptiest = (0..loads.len()).min_by(|&a, &b| {
            let (a, b) = (&loads[a], &loads[b]);
            let delay = || a.expected_delay().total_cmp(&b.expected_delay());
            a.kv_usage().total_cmp(&b.kv_usage()).then_with(delay)
        });
        emptiest.expect("a deployment has at least one replica")
    }

    fn looks_at_kv(&self) -> bool {
        true
    }
}

/// Of two replicas drawn at random the one with the fewer unanswered requests for its weight, the
/// first drawn among equals: join the shortest queue with the power of two choices (Mitzenmacher
/// 2001); drawn by weight, without which fast servers would be asked too rarely (Mukhopadhyay and
/// Mazumdar 2015).
#[derive(Debug)]
pub struct PowerOfTwo {
    rng: ChaCha8Rng,
}

impl Router for PowerOfTwo {
    fn route(&mut self, _: &Request, loads: &[ReplicaLoad]) -> usize {
        if loads.len() == 1 {
            return 0;
        }
        let first = draw(loads, None, &mut self.rng);
        let second = draw(loads, Some(first), &mut self.rng);
        let shorter = loads[second].expected_delay() < loads[first].expected_delay();
        if shorter { second } else { first }
    }
}

/// All requests of a session go to one replica, as long as that is there.
///
/// By rendezvous hashing: when a replica comes or goes, only the sessions that gain or lose it move,
/// which is what the hash rings of production routers are for. Weights as in weighted rendezvous
/// hashing (Schindelhauer and Schomaker 2005): the largest `-weight / ln(hash)` wins.
#[derive(Debug, Default)]
pub struct SessionSticky;

impl Router for SessionSticky {
    fn route(&mut self, request: &Request, loads: &[ReplicaLoad]) -> usize {
        let session = request.spec.client;
        let score = |i: &usize| {
            let mut bytes = [0; 6];
            bytes[..4].copy_from_slice(&session.to_le_bytes());
            bytes[4..].copy_from_slice(&loads[*i].replica.to_le_bytes());
            // In (0, 1), with the 53 bits that a double holds.
            let unit = ((xxh3_64(&bytes) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
            -loads[*i].weight / unit.ln()
        };
        let heaviest = (0..loads.len()).max_by(|a, b| score(a).total_cmp(&score(b)));
        heaviest.expect("a deployment has at least one replica")
    }
}

#[cfg(test)]
mod tests;
