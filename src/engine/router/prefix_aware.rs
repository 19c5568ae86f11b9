//! The replica that has seen the beginning of the prompt.

use std::collections::HashSet;
use std::sync::Arc;

use serde::Serialize;

use super::{ReplicaLoad, Router, least_outstanding};
use crate::kv_cache::prefix::{BlockKey, ContentKeys};
use crate::request::Request;

/// Tokens by which prompts are compared; engines cache blocks of about this size.
const CHUNK: u32 = 16;

/// When to follow the cache and when the load. Names and defaults of the cache-aware policy of
/// SGLang's router (sgl-router, `policies/cache_aware.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PrefixAwareSettings {
    /// Share of the prompt above which the longest match decides.
    pub cache_threshold: f64,
    /// The load decides where the busiest replica has more unanswered requests than the idlest by
    /// more than this ...
    pub balance_abs_threshold: u32,
    /// ... and by more than this factor.
    pub balance_rel_threshold: f64,
}

impl Default for PrefixAwareSettings {
    fn default() -> Self {
        Self { cache_threshold: 0.3, balance_abs_threshold: 64, balance_rel_threshold: 1.5 }
    }
}

/// Sends a prompt to the replica that has been sent the longest part of its beginning.
///
/// Like the real one it knows only what it has sent, not what the replicas have kept: it remembers
/// for each as many tokens as its KV cache holds, the newest ones. Where the load is uneven, or
/// nobody has seen enough of the prompt, the fewest unanswered requests decide.
#[derive(Debug)]
pub struct PrefixAware {
    settings: PrefixAwareSettings,
    /// By number of the replica.
    sent: Vec<Remembered>,
    /// Chunks remembered of each, by number; the last is that of all that follow.
    capacities: Vec<usize>,
}

impl PrefixAware {
    /// `kv_tokens` as in [`super::RouterSettings`].
    pub fn new(settings: PrefixAwareSettings, kv_tokens: &[u64]) -> Self {
        let chunks =
            |tokens: &u64| usize::try_from(tokens / u64::from(CHUNK)).unwrap_or(usize::MAX);
        Self { settings, sent: Vec::new(), capacities: kv_tokens.iter().map(chunks).collect() }
    }

    fn capacity(&self, replica: usize) -> usize {
        self.capacities.get(replica).or(self.capacities.last()).map_or(1, |&chunks| chunks.max(1))
    }

    fn choose(&self, keys: &[BlockKey], prompt_tokens: u32, loads: &[ReplicaLoad]) -> usize {
        let least = least_outstanding(loads);
        let by_weight = |load: &ReplicaLoad| f64::from(load.outstanding) / load.weight;
        let fewest = by_weight(&loads[least]);
        let most = loads.iter().map(by_weight).fold(fewest, f64::max);
        let settings = &self.settings;
        let uneven = most - fewest > f64::from(settings.balance_abs_threshold)
            && most > settings.balance_rel_threshold * fewest;
        if uneven || keys.is_empty() {
            return least;
        }
        let matched = |load: &ReplicaLoad| {
            let sent = self.sent.get(usize::from(load.replica));
            sent.map_or(0, |sent| keys.iter().take_while(|key| sent.contains(key)).count())
        };
        let mut best = (least, matched(&loads[least]));
        for (i, load) in loads.iter().enumerate() {
            let here = matched(load);
            let ahead = load.expected_delay() < loads[best.0].expected_delay();
            if here > best.1 || (here == best.1 && ahead) {
                best = (i, here);
            }
        }
        let share = best.1 as f64 * f64::from(CHUNK) / f64::from(prompt_tokens.max(1));
        if share > settings.cache_threshold { best.0 } else { least }
    }
}

impl Router for PrefixAware {
    fn route(&mut self, request: &Request, loads: &[ReplicaLoad]) -> usize {
        let keys = chunks(request);
        let chosen = self.choose(&keys, request.spec.prompt_tokens, loads);
        let replica = usize::from(loads[chosen].replica);
        if self.sent.len() <= replica {
            self.sent.resize_with(replica + 1, Remembered::default);
        }
        let capacity = self.capacity(replica);
        for key in keys {
            self.sent[replica].insert(key, capacity);
        }
        chosen
    }

    fn forget(&mut self, replica: u16) {
        if let Some(sent) = self.sent.get_mut(usize::from(replica)) {
            *sent = Remembered::default();
        }
    }
}

/// Keys of the whole chunks of a prompt, each of the chunk and all before it.
fn chunks(request: &Request) -> Vec<BlockKey> {
    let Some(content) = &request.spec.content else { return Vec::new() };
    let mut keys = ContentKeys::new(Arc::clone(content));
    (0..request.spec.prompt_tokens / CHUNK).map(|i| keys.key(i, CHUNK)).collect()
}

/// The chunks of about the last `capacity` sent, in two generations: when the younger has half of
/// them, the older is dropped. Each operation is O(1), and nothing depends on the order of a set.
#[derive(Debug, Default)]
struct Remembered {
    young: HashSet<BlockKey>,
    old: HashSet<BlockKey>,
}

impl Remembered {
    fn contains(&self, key: &BlockKey) -> bool {
        self.young.contains(key) || self.old.contains(key)
    }

    fn insert(&mut self, key: BlockKey, capacity: usize) {
        self.young.insert(key);
        if self.young.len() > capacity / 2 {
            self.old = std::mem::take(&mut self.young);
        }
    }
}
