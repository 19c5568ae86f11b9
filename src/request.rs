//! A request: what a client asks for, and what has become of it so far.

use std::sync::Arc;

use crate::time::SimTime;

/// Slot of a live request in its [`RequestTable`]; reused after the request has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u32);

impl RequestId {
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a client asks for. Lengths are in tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestSpec {
    pub prompt_tokens: u32,
    /// The limit that the client sets (`max_tokens`, `max_new_tokens`).
    pub max_output_tokens: u32,
    /// Where the model would stop by itself: the position of the end-of-sequence token, counted
    /// from 1. Beyond `max_output_tokens` it is never reached.
    pub stop_at: u32,
    /// Smaller is more urgent (vLLM's meaning).
    pub priority: i32,
    /// The time limit after which the server answers with what it has (TGIS).
    pub deadline: Option<SimTime>,
    /// The closed-loop client that sent it; in an open loop the number of the conversation, or 0
    /// where every request stands alone.
    pub client: u32,
    /// Which of the workload's tenants it is of; 0 where there are none.
    pub tenant: u16,
    /// Which tokens the prompt holds, as far as prefix caching can see; `None`: shared with nobody.
    pub content: Option<Arc<PromptContent>>,
}

impl RequestSpec {
    /// A request whose output has exactly `output_tokens` tokens and whose prompt nobody shares.
    pub fn fixed(prompt_tokens: u32, output_tokens: u32) -> Self {
        Self {
            prompt_tokens,
            max_output_tokens: output_tokens,
            stop_at: u32::MAX,
            priority: 0,
            deadline: None,
            client: 0,
            tenant: 0,
            content: None,
        }
    }
}

/// The token ids of a prompt as runs of consecutive numbers; two prompts share a prefix where these
/// agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptContent {
    pub runs: Vec<TokenRun>,
    /// The k-th output token (from 0) has id `output_base + k`.
    pub output_base: u64,
}

/// Token ids `first, first + 1, ...`, `len` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenRun {
    pub first: u64,
    pub len: u32,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// The end-of-sequence token came.
    Stop,
    /// `max_output_tokens`, or the longest sequence that the engine allows.
    Length,
    /// The server's time limit passed (TGIS).
    TimeLimit,
    /// The client went away.
    Aborted,
    /// The engine dropped it because it can never run (vLLM V0's "ignored").
    Ignored,
    /// Others have displaced it again and again while nobody got a token: the real engine would go on
    /// so for ever, and here it is given up (vLLM).
    Starved,
    /// Refused at the door: too long, or too many requests in flight.
    Refused,
    /// The GPU ran out of memory in a step that it took part in.
    OutOfMemory,
    /// The client had waited long enough.
    TimedOut,
    /// Turned away by the router: too many requests in the fleet (status 429).
    Rejected,
    /// No replica took requests (status 503).
    Unavailable,
    /// Its replica failed.
    ReplicaFailed,
}

impl FinishReason {
    /// Whether the client got the answer that it asked for.
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Stop | Self::Length)
    }

    /// Whether the same request may be answered if it is sent again.
    pub const fn may_pass(self) -> bool {
        matches!(self, Self::TimedOut | Self::Rejected | Self::Unavailable | Self::ReplicaFailed)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::TimeLimit => "time-limit",
            Self::Aborted => "aborted",
            Self::Ignored => "ignored",
            Self::Starved => "starved",
            Self::Refused => "refused",
            Self::OutOfMemory => "out-of-memory",
            Self::TimedOut => "timed-out",
            Self::Rejected => "rejected",
            Self::Unavailable => "unavailable",
            Self::ReplicaFailed => "replica-failed",
        }
    }
}

/// A live request with its raw instants, from which every metric is computed.
#[derive(Clone, Debug)]
pub struct Request {
    /// Counts all requests of the run in order of arrival, from 0.
    pub uid: u64,
    pub spec: RequestSpec,
    /// When the engine has got it: each attempt is a new request to it.
    pub arrival: SimTime,
    /// When its client sent it first.
    pub sent: SimTime,
    /// The replica that it was routed to.
    pub replica: u16,
    /// When a step that works on it first began.
    pub first_scheduled: Option<SimTime>,
    pub first_token: Option<SimTime>,
    /// When its newest token left, kept only while that differs from the rest of the batch.
    pub last_token: SimTime,
    /// Whether it has got a token since it was last admitted.
    pub decoding: bool,
    /// Prompt tokens found in the prefix cache at first admission.
    pub cached_tokens: u32,
    pub preemptions: u32,
    /// How often its client has sent it again.
    pub retries: u16,
    /// How often the router has, after a replica had failed.
    pub resent: u16,
    /// Whether its client has given this attempt up.
    pub client_gone: bool,
}

impl Request {
    pub fn new(uid: u64, spec: RequestSpec, arrival: SimTime) -> Self {
        Self {
            uid,
            spec,
            arrival,
            sent: arrival,
            replica: 0,
            first_scheduled: None,
            first_token: None,
            last_token: arrival,
            decoding: false,
            cached_tokens: 0,
            preemptions: 0,
            retries: 0,
            resent: 0,
            client_gone: false,
        }
    }

    /// The same request when it is sent again at `now`: nothing is left of this attempt.
    pub fn again(&self, now: SimTime) -> Self {
        let new = Self::new(self.uid, self.spec.clone(), now);
        let Self { sent, preemptions, retries, resent, .. } = *self;
        Self { sent, preemptions, retries, resent, ..new }
    }

    /// Attempts before this one.
    pub fn attempt(&self) -> u32 {
        u32::from(self.retries) + u32::from(self.resent)
    }
}

/// The live requests of a run: a slab, so that memory follows the requests in flight and not those
/// that have passed. Insertion and removal are O(1); slots are reused last-freed-first.
#[derive(Debug, Default)]
pub struct RequestTable {
    slots: Vec<Option<Request>>,
    free: Vec<RequestId>,
}

impl RequestTable {
    pub fn insert(&mut self, request: Request) -> RequestId {
        if let Some(id) = self.free.pop() {
            self.slots[id.index()] = Some(request);
            return id;
        }
        let id = RequestId(u32::try_from(self.slots.len()).expect("fewer than 2^32 live requests"));
        self.slots.push(Some(request));
        id
    }

    pub fn remove(&mut self, id: RequestId) {
        let slot = &mut self.slots[id.index()];
        assert!(slot.is_some(), "a request is removed once");
        *slot = None;
        self.free.push(id);
    }

    pub fn get(&self, id: RequestId) -> &Request {
        self.slots[id.index()].as_ref().expect("the id of a live request")
    }

    /// The request in a slot, if one is there.
    pub fn find(&self, id: RequestId) -> Option<&Request> {
        self.slots.get(id.index())?.as_ref()
    }

    pub fn get_mut(&mut self, id: RequestId) -> &mut Request {
        self.slots[id.index()].as_mut().expect("the id of a live request")
    }

    /// Requests in flight.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The live requests, in slot order.
    pub fn iter(&self) -> impl Iterator<Item = (RequestId, &Request)> {
        (0u32..).map(RequestId).zip(&self.slots).filter_map(|(id, slot)| Some((id, slot.as_ref()?)))
    }
}
