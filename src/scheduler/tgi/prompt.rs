//! Prompts as keys of the prefix cache: runs of consecutive token ids, compared without unrolling.

use crate::request::Request;

/// Token ids `first, first + 1, ...`, `len` of them. Ids of different spaces differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    space: u64,
    first: u64,
    len: u32,
}

/// Tokens that any request may share; private tokens live in a space of their own request.
const SHARED: u64 = 0;

/// The tokens of a prompt. What the workload does not describe is shared with no other request, but
/// a request does share it with itself: see the put-back quirk in [`super::blocks`].
pub(super) fn prompt_runs(request: &Request) -> Box<[Run]> {
    let mut left = request.spec.prompt_tokens;
    let mut runs = Vec::new();
    for run in request.spec.content.iter().flat_map(|content| &content.runs) {
        let len = run.len.min(left);
        left -= len;
        if len > 0 {
            runs.push(Run { space: SHARED, first: run.first, len });
        }
    }
    if left > 0 {
        runs.push(Run { space: request.uid + 1, first: 0, len: left });
    }
    runs.into_boxed_slice()
}

/// A view of some tokens of a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tokens<'a> {
    runs: &'a [Run],
    /// Tokens of the first run that lie before the view.
    skip: u32,
    len: u32,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(runs: &'a [Run]) -> Self {
        Self { runs, skip: 0, len: runs.iter().map(|run| run.len).sum() }
    }

    pub(super) fn len(self) -> u32 {
        self.len
    }

    /// The first `len` tokens.
    pub(super) fn first(self, len: u32) -> Self {
        Self { len: len.min(self.len), ..self }
    }

    /// What remains after the first `count` tokens.
    pub(super) fn after(mut self, count: u32) -> Self {
        self.len -= count;
        self.skip += count;
        while let Some(run) = self.runs.first().filter(|run| self.skip >= run.len) {
            self.skip -= run.len;
            self.runs = &self.runs[1..];
        }
        self
    }

    /// The longest stretch of consecutive ids at the start.
    fn stretch(self) -> Option<Run> {
        let run = self.runs.first().filter(|_| self.len > 0)?;
        let len = (run.len - self.skip).min(self.len);
        Some(Run { first: run.first + u64::from(self.skip), len, ..*run })
    }

    /// How many tokens at the start agree.
    pub(super) fn shared_prefix(mut self, mut other: Self) -> u32 {
        let mut shared = 0;
        while let (Some(left), Some(right)) = (self.stretch(), other.stretch()) {
            if (left.space, left.first) != (right.space, right.first) {
                break;
            }
            let len = left.len.min(right.len);
            shared += len;
            (self, other) = (self.after(len), other.after(len));
        }
        shared
    }

    pub(super) fn to_runs(mut self) -> Vec<Run> {
        let mut runs = Vec::new();
        while let Some(run) = self.stretch() {
            runs.push(run);
            self = self.after(run.len);
        }
        runs
    }

    /// A fingerprint of all tokens (FNV-1a over their ids), however they are cut into runs.
    pub(super) fn fingerprint(mut self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut mix = |word: u64| hash = (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3);
        while let Some(run) = self.stretch() {
            for id in run.first..run.first + u64::from(run.len) {
                // Ids are small: spread them over the word, else neighbours would share high bits.
                mix(run.space);
                mix(id.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            }
            self = self.after(run.len);
        }
        hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unrolled(runs: &[Run]) -> Vec<(u64, u64)> {
        runs.iter().flat_map(|r| (0..u64::from(r.len)).map(|k| (r.space, r.first + k))).collect()
    }

    fn runs() -> impl Strategy<Value = Vec<Run>> {
        let run =
            (0u64..2, 0u64..4, 1u32..5).prop_map(|(space, first, len)| Run { space, first, len });
        prop::collection::vec(run, 1..6)
    }

    proptest! {
        #[test]
        fn views_agree_with_the_unrolled_tokens(a in runs(), b in runs(), cut in 0usize..12) {
            let (tokens, all) = (Tokens::new(&a), unrolled(&a));
            let other = unrolled(&b);
            let shared = all.iter().zip(&other).take_while(|(x, y)| x == y).count();
            prop_assert_eq!(tokens.shared_prefix(Tokens::new(&b)) as usize, shared);
            let cut = cut.min(all.len());
            let (head, tail) = (tokens.first(cut as u32), tokens.after(cut as u32));
            prop_assert_eq!(unrolled(&head.to_runs()), all[..cut].to_vec());
            prop_assert_eq!(unrolled(&tail.to_runs()), all[cut..].to_vec());
            let single: Vec<Run> =
                all.iter().map(|&(space, first)| Run { space, first, len: 1 }).collect();
            prop_assert_eq!(tokens.fingerprint(), Tokens::new(&single).fingerprint());
        }
    }
}
