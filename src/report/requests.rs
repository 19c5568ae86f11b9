//! `requests.csv`: one row per request, with raw instants and what is computed from them.

use std::io::{self, Write};

use crate::engine::observer::{NO_REPLICA, Observer, RequestRecord};
use crate::metrics::slo::tpot;
use crate::time::SimTime;

use super::row::Row;

/// Instants in nanoseconds since the start of the run, so that they are exact; latencies in
/// milliseconds. A field is empty where the request did not get that far.
pub const REQUESTS_HEADER: &str = "seed,request,client,replica,priority,outcome,prompt_tokens,\
output_tokens,cached_tokens,preemptions,arrival_ns,first_scheduled_ns,first_token_ns,ended_ns,\
queue_ms,ttft_ms,tpot_ms,e2el_ms,normalized_latency_ms,tenant,retries\n";

/// Writes a row as each request ends, so that memory does not grow with their number.
#[derive(Debug)]
pub struct RequestsCsv<W> {
    seed: u64,
    writer: W,
    /// The first failure; nothing is written after it.
    error: Option<io::Error>,
    row: Row,
    /// By number; empty where requests are of one kind.
    tenants: Vec<String>,
}

impl<W: Write> RequestsCsv<W> {
    /// Rows only: the header is the caller's, who may write several runs one after the other.
    pub const fn new(seed: u64, tenants: Vec<String>, writer: W) -> Self {
        Self { seed, writer, error: None, row: Row::new(), tenants }
    }

    /// Flushes and gives the writer back, or the first failure of any row.
    pub fn finish(mut self) -> io::Result<W> {
        if let Some(error) = self.error {
            return Err(error);
        }
        self.writer.flush()?;
        Ok(self.writer)
    }
}

impl<W: Write> Observer for RequestsCsv<W> {
    fn on_request(&mut self, r: &RequestRecord) {
        if self.error.is_some() {
            return;
        }
        self.row.clear();
        let tenant = self.tenants.get(usize::from(r.tenant)).map_or("", String::as_str);
        write(&mut self.row, self.seed, tenant, r);
        self.error = self.writer.write_all(self.row.line()).err();
    }
}

fn write(row: &mut Row, seed: u64, tenant: &str, r: &RequestRecord) {
    let instant = |at: Option<SimTime>| at.map(SimTime::as_nanos);
    let per_token =
        (r.output_tokens > 0).then(|| r.e2e().as_nanos() as f64 / 1e6 / f64::from(r.output_tokens));
    row.whole(seed)
        .whole(r.uid)
        .whole(r.client)
        .whole_if((r.replica != NO_REPLICA).then_some(r.replica))
        .whole(r.priority)
        .text(r.outcome.name())
        .whole(r.prompt_tokens)
        .whole(r.output_tokens)
        .whole(r.cached_tokens)
        .whole(r.preemptions)
        .whole(r.arrival.as_nanos())
        .whole_if(instant(r.first_scheduled))
        .whole_if(instant(r.first_token))
        .whole(r.ended.as_nanos())
        .millis_if(r.queue())
        .millis_if(r.ttft())
        .millis_if(tpot(r))
        .millis_if(Some(r.e2e()))
        .number_if(per_token)
        .text(tenant)
        .whole(r.retries);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::observer::Outcome;
    use crate::request::FinishReason;

    fn record() -> RequestRecord {
        RequestRecord {
            uid: 7,
            client: 2,
            replica: 1,
            priority: 0,
            tenant: 0,
            arrival: SimTime::from_nanos(1_000_000),
            first_scheduled: Some(SimTime::from_nanos(3_000_000)),
            first_token: Some(SimTime::from_nanos(51_000_000)),
            ended: SimTime::from_nanos(151_000_000),
            prompt_tokens: 100,
            output_tokens: 6,
            cached_tokens: 16,
            preemptions: 0,
            retries: 0,
            outcome: Outcome::Ended(FinishReason::Length),
        }
    }

    fn written(records: &[RequestRecord]) -> String {
        let mut csv = RequestsCsv::new(1, Vec::new(), REQUESTS_HEADER.as_bytes().to_vec());
        records.iter().for_each(|record| csv.on_request(record));
        String::from_utf8(csv.finish().unwrap()).unwrap()
    }

    #[test]
    fn a_row_has_the_instants_and_what_follows_from_them() {
        let text = written(&[record()]);
        let row = text.lines().nth(1).unwrap();
        let instants = "1000000,3000000,51000000,151000000";
        assert_eq!(row, format!("1,7,2,1,0,length,100,6,16,0,{instants},2,50,20,150,25,,0"));
    }

    #[test]
    fn a_request_that_never_ran_has_empty_fields() {
        let mut refused = record();
        refused.first_scheduled = None;
        refused.first_token = None;
        refused.output_tokens = 0;
        refused.outcome = Outcome::Ended(FinishReason::Refused);
        let text = written(&[refused]);
        let row = text.lines().nth(1).unwrap();
        assert!(row.contains(",refused,") && row.ends_with(",,,151000000,,,,150,,,0"), "{row}");
        let commas = |line: &str| line.matches(',').count();
        assert_eq!(commas(row), commas(text.lines().next().unwrap()));
    }

    #[test]
    fn the_first_failure_to_write_is_kept_until_the_end() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut csv = RequestsCsv::new(1, Vec::new(), Full);
        csv.on_request(&record());
        csv.on_request(&record());
        assert_eq!(csv.finish().err().map(|e| e.kind()), Some(io::ErrorKind::StorageFull));
    }
}
