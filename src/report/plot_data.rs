//! Series for plots: batch size, queue and KV use over time.

use std::fmt::Write as _;

use crate::metrics::Timeline;

/// Columns of `timeline.csv`. `kv_usage` is empty where the batch did not change.
pub const TIMELINE_HEADER: &str = "seed,start_s,end_s,busy,batch_size,waiting,kv_usage\n";

/// One row per interval of the timeline, without the header.
pub fn timeline_rows(seed: u64, timeline: &Timeline) -> Vec<u8> {
    let mut text = String::new();
    for p in timeline.points() {
        let kv_usage = p.kv_usage.map(|usage| usage.to_string()).unwrap_or_default();
        writeln!(
            text,
            "{seed},{},{},{},{},{},{kv_usage}",
            p.start_s, p.end_s, p.busy, p.batch_size, p.waiting
        )
        .expect("a String takes any text");
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::Occupancy;
    use crate::time::SimTime;

    #[test]
    fn every_row_has_the_columns_of_the_header() {
        let mut timeline = Timeline::default();
        let occupancy = Occupancy { running: 3, ..Occupancy::default() };
        timeline.add(SimTime::ZERO, SimTime::from_nanos(5_000_000), &occupancy);
        let mut bytes = TIMELINE_HEADER.as_bytes().to_vec();
        bytes.extend(timeline_rows(1, &timeline));
        let mut reader = ::csv::Reader::from_reader(bytes.as_slice());
        let rows: Vec<_> = reader.records().collect::<Result<_, _>>().unwrap();
        assert_eq!(rows.len(), 5);
        assert_eq!((&rows[0][4], &rows[0][6]), ("3", ""));
    }
}
