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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplicaLoad {
    pub replica: u16,
    /// Requests sent to it and not yet answered.
    pub outstanding: u32,
    /// KV cache in use, in blocks where the engine has them, else in tokens. As of the newest step
    /// that has been scheduled; zero unless the router asks for it.
    pub kv_used: u64,
    pub kv_total: u64,
}

impl ReplicaLoad {
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
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RouterSettings {
    pub policy: RouterPolicy,
    pub prefix_aware: PrefixAwareSettings,
    /// Whether requests tell their session: clients of a closed loop, conversations.
    #[serde(skip)]
    pub sessions: bool,
    /// What the KV cache of a replica holds, in tokens: as much as a prefix-aware router remembers.
    #[serde(skip)]
    pub kv_tokens: u64,
}

impl Default for RouterSettings {
    fn default() -> Self {
        Self {
            policy: RouterPolicy::LeastOutstanding,
            prefix_aware: PrefixAwareSettings::default(),
            sessions: false,
            kv_tokens: 0,
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
                Box::new(PrefixAware::new(self.prefix_aware, self.kv_tokens))
            }
            // Without a session to stick to, production routers fall back on the load as well.
            RouterPolicy::SessionSticky if !self.sessions => Box::new(LeastOutstanding),
            RouterPolicy::SessionSticky => Box::new(SessionSticky),
        }
    }
}

/// Each replica in turn.
#[derive(Debug, Default)]
pub struct RoundRobin {
    next: usize,
}

impl Router for RoundRobin {
    fn route(&mut self, _: &Request, loads: &[ReplicaLoad]) -> usize {
        let chosen = self.next % loads.len();
        self.next = chosen + 1;
        chosen
    }
}

/// Any replica, all as likely.
#[derive(Debug)]
pub struct Random {
    rng: ChaCha8Rng,
}

impl Router for Random {
    fn route(&mut self, _: &Request, loads: &[ReplicaLoad]) -> usize {
        self.rng.random_range(0..loads.len())
    }
}

/// The replica with the fewest unanswered requests; among equals the first.
#[derive(Debug, Default)]
pub struct LeastOutstanding;

impl Router for LeastOutstanding {
    fn route(&mut self, _: &Request, loads: &[ReplicaLoad]) -> usize {
        least_outstanding(loads)
    }
}

fn least_outstanding(loads: &[ReplicaLoad]) -> usize {
    let fewest = (0..loads.len()).min_by_key(|&i| loads[i].outstanding);
    fewest.expect("a deployment has at least one replica")
}

/// The replica whose KV cache is emptiest; among equals the one with the fewest unanswered requests,
/// so that a burst does not all go to one before its metrics tell.
#[derive(Debug, Default)]
pub struct LeastKv;

impl Router for LeastKv {
    fn route(&mut self, _: &Request, loads: &[ReplicaLoad]) -> usize {
        let emptiest = (0..loads.len()).min_by(|&a, &b| {
            let (a, b) = (&loads[a], &loads[b]);
            a.kv_usage().total_cmp(&b.kv_usage()).then(a.outstanding.cmp(&b.outstanding))
        });
        emptiest.expect("a deployment has at least one replica")
    }

    fn looks_at_kv(&self) -> bool {
        true
    }
}

/// Of two replicas drawn at random the one with the fewer unanswered requests, the first drawn
/// among equals: join the shortest queue with the power of two choices (Mitzenmacher 2001).
#[derive(Debug)]
pub struct PowerOfTwo {
    rng: ChaCha8Rng,
}

impl Router for PowerOfTwo {
    fn route(&mut self, _: &Request, loads: &[ReplicaLoad]) -> usize {
        if loads.len() == 1 {
            return 0;
        }
        let first = self.rng.random_range(0..loads.len());
        let other = self.rng.random_range(0..loads.len() - 1);
        let second = other + usize::from(other >= first);
        if loads[second].outstanding < loads[first].outstanding { second } else { first }
    }
}

/// All requests of a session go to one replica, as long as that is there.
///
/// By rendezvous hashing: when a replica comes or goes, only the sessions that gain or lose it move,
/// which is what the hash rings of production routers are for.
#[derive(Debug, Default)]
pub struct SessionSticky;

impl Router for SessionSticky {
    fn route(&mut self, request: &Request, loads: &[ReplicaLoad]) -> usize {
        let session = request.spec.client;
        let heaviest = (0..loads.len()).max_by_key(|&i| {
            let mut bytes = [0; 6];
            bytes[..4].copy_from_slice(&session.to_le_bytes());
            bytes[4..].copy_from_slice(&loads[i].replica.to_le_bytes());
            xxh3_64(&bytes)
        });
        heaviest.expect("a deployment has at least one replica")
    }
}

#[cfg(test)]
mod tests;
