//! What a scheduler holds between two calls, gathered by walking all of it.
//!
//! Schedulers keep sums and counters so that a step costs O(changes). An audit counts the same
//! things one by one, and tells what the promises of the engine are, so that
//! [`crate::engine::invariants`] can hold the two together.

use crate::kv_cache::KvAudit;
use crate::request::RequestId;

/// How far an audit goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Who runs and who waits.
    Queues,
    /// Also every KV block.
    Blocks,
}

/// A scheduler's state, complete.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Audit {
    /// Requests on the GPU, in batch order.
    pub running: Vec<Holding>,
    /// Requests that wait, the next first.
    pub waiting: Vec<RequestId>,
    pub order: QueueOrder,
    pub limits: Limits,
    /// Where the KV units are; `None` where the engine has none, or where nobody asked.
    pub kv: Option<KvAudit>,
    /// What its own sums and counters get wrong.
    pub broken: Vec<Broken>,
}

impl Audit {
    /// Notes that a kept `sum` is not what `counted` says.
    pub fn compare(&mut self, rule: Rule, what: &str, kept: u64, counted: u64) {
        if kept != counted {
            self.broken
                .push(Broken { rule, what: format!("{what}: {kept} kept, {counted} found") });
        }
    }
}

/// A request on the GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    pub id: RequestId,
    /// Tokens that have KV, or get it in the step that is decided.
    pub tokens: u64,
    /// KV units that it holds.
    pub units: u64,
}

/// Who leaves the waiting queue first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueueOrder {
    /// The engine picks as it sees fit.
    #[default]
    Any,
    /// The head, and nobody overtakes it.
    HeadFirst,
}

/// What a step may hold at most; `None` where the engine sets no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Sequences in a step.
    pub seqs: Option<u64>,
    /// Tokens in a step that holds prompts.
    pub prompt_tokens: Option<u64>,
}

/// What must hold at every step of every run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Each token that a step made is in exactly one request's count.
    TokensConserved,
    /// Free, held and cached blocks are all there are, and none is free twice.
    BlocksConserved,
    /// A block has as many references as holders.
    ReferenceCounts,
    /// Nothing is scheduled without the KV blocks for it.
    BlocksForTokens,
    TokenBudget,
    SequenceLimit,
    /// Nobody overtakes, where the engine promises it.
    AdmissionOrder,
    /// A request that has arrived runs or waits until it ends, once.
    NoRequestLost,
    /// Somebody gets a token in the end.
    NoStarvation,
    MonotoneTime,
    /// The terms of a step add up to it.
    TermsAddUp,
}

impl Rule {
    pub const fn name(self) -> &'static str {
        match self {
            Self::TokensConserved => "tokens are conserved",
            Self::BlocksConserved => "blocks are conserved",
            Self::ReferenceCounts => "references are counted",
            Self::BlocksForTokens => "nothing runs without blocks",
            Self::TokenBudget => "token budget",
            Self::SequenceLimit => "sequence limit",
            Self::AdmissionOrder => "admission order",
            Self::NoRequestLost => "no request is lost",
            Self::NoStarvation => "nobody starves",
            Self::MonotoneTime => "time goes forward",
            Self::TermsAddUp => "terms add up",
        }
    }
}

/// Something that a scheduler knows wrong about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    pub rule: Rule,
    pub what: String,
}
