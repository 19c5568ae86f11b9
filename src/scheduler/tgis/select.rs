//! Which waiting requests form the next prefill (`queue.rs` of TGIS; `engines/tgis-tgi.md` A3).

use crate::time::{SimDuration, SimTime};

use super::weights::{BatchStats, WeightRules, Weights};

/// Later entries may pass one that does not fit only if they were queued within this time after it.
pub(super) const OVERTAKING_WINDOW: SimDuration = SimDuration::from_secs(1);

/// A waiting request as selection sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub input: u64,
    pub output: u64,
    pub queued_at: SimTime,
}

pub(super) type Prospects<'a> = dyn Fn(&mut Vec<(u64, u64)>) + 'a;

/// The running batch as selection sees it.
pub(super) struct Batch<'a> {
    pub count: u64,
    pub stats: BatchStats,
    /// Appends `(output, input)` of each running sequence, those with most output to come first;
    /// asked for only near the limit.
    pub prospects: &'a Prospects<'a>,
}

/// What selection has found, and the lists that it works with.
#[derive(Debug, Default)]
pub(super) struct Selection {
    /// Positions in the buffer, ascending.
    pub chosen: Vec<usize>,
    /// `(output, input)` of those, in the same order.
    accepted: Vec<(u64, u64)>,
    /// The same of them and of the running batch, those with most output to come first; empty as
    /// long as nobody comes near the limit.
    prospects: Vec<(u64, u64)>,
}

/// Those with most output to come stay first.
fn insert(prospects: &mut Vec<(u64, u64)>, sequence: (u64, u64)) {
    let longer = prospects.partition_point(|&(output, _)| output > sequence.0);
    prospects.insert(longer, sequence);
}

/// Chooses positions of `buffer`; none if nothing is to be prefilled now.
pub(super) fn select(
    weights: &Weights,
    max_batch_size: u64,
    min: u64,
    running: &Batch<'_>,
    buffer_len: u64,
    buffer: impl Iterator<Item = Candidate>,
    selection: &mut Selection,
) {
    let Selection { chosen, accepted, prospects } = selection;
    chosen.clear();
    accepted.clear();
    prospects.clear();
    // The seat test uses min, not 1: with 10 running, size 12 and min 9 nothing is admitted.
    if buffer_len < min || running.count + min > max_batch_size {
        return;
    }
    let Some(prefill_limit) = prefill_limit(weights, running) else { return };
    let limit = weights.rules.weight_limit();
    let mut stats = running.stats;
    let mut prefill = BatchStats::default();
    let mut total = running.count;
    let mut cut: Option<SimTime> = None;
    let skip = |cut: &mut Option<SimTime>, entry: &Candidate| {
        cut.get_or_insert(entry.queued_at + OVERTAKING_WINDOW);
    };

    for (position, entry) in buffer.enumerate() {
        if cut.is_some_and(|cut| entry.queued_at > cut) {
            break;
        }
        let mut with_entry = stats;
        with_entry.push(entry.input, entry.output);
        // The cheap upper bound first; only if it fails, the exact look-ahead.
        if weights.max_weight(&with_entry, total + 1) > limit {
            if prospects.is_empty() {
                (running.prospects)(prospects);
                accepted.iter().for_each(|&sequence| insert(prospects, sequence));
            }
            if weights.exceeds(prospects, (entry.output, entry.input)) {
                let position = u64::try_from(position).expect("a queue position fits u64");
                let so_far = u64::try_from(accepted.len()).expect("a batch fits u64");
                if so_far + buffer_len < min + position + 1 {
                    // Too few are left to reach min.
                    chosen.clear();
                    return;
                }
                skip(&mut cut, &entry);
                continue;
            }
        }
        let mut with_prompt = prefill;
        with_prompt.push(entry.input, 0);
        let prompts = u64::try_from(accepted.len()).expect("a batch fits u64") + 1;
        if (prefill_limit > 0 && weights.prefill_weight(&with_prompt, prompts) > prefill_limit)
            || weights.too_much_padding(&with_prompt, prompts)
        {
            skip(&mut cut, &entry);
            continue;
        }
        prefill = with_prompt;
        stats = with_entry;
        chosen.push(position);
        accepted.push((entry.output, entry.input));
        if !prospects.is_empty() {
            insert(prospects, (entry.output, entry.input));
        }
        total += 1;
        if total >= max_batch_size {
            break;
        }
    }
}

/// The prefill limit, scaled by the share of the weight limit that the running batch leaves free.
/// 0 is no limit; `None` admits nothing.
fn prefill_limit(weights: &Weights, running: &Batch<'_>) -> Option<u64> {
    let limit = weights.rules.prefill_limit();
    if limit == 0 || running.count == 0 {
        return Some(limit);
    }
    let weight = weights.initial_weight(&running.stats, running.count) as f64;
    let free = 1.0 - weight / weights.rules.weight_limit() as f64;
    let scaled = (free * limit as f64) as u64;
    match weights.rules {
        // A full batch scales the limit to 0, which 2023 then reads as "unlimited" (A7).
        WeightRules::Tgis2023 { .. } => Some(scaled),
        WeightRules::Tgis2024 { .. } => (scaled > 0).then_some(scaled),
    }
}
