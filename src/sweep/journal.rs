//! The journal of a sweep: lines that are only ever appended, so that whatever ends the program, the
//! points that were finished stay.
//!
//! The first line describes the sweep. Each further line is `checksum number row`. Points are worked
//! on in chunks of [`CHUNK`], one chunk after the other; so the lines are in order up to the order
//! within a chunk, and a journal of any length is read in order with the memory of one chunk.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::{Shard, Sweep};

/// Points that are worked on before any of the next begins.
pub const CHUNK: u64 = 1024;

/// What a line begins with; the number is the format's.
const MAGIC: &str = "servesim-sweep-1";

/// The first line: which sweep, which of its points, and how to read the rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Its fingerprint.
    pub sweep: String,
    pub name: String,
    /// Of the whole sweep, all shards together.
    pub points: u64,
    /// From 0.
    pub shard: u64,
    pub shards: u64,
    pub chunk: u64,
    pub columns: Vec<String>,
    /// Keys of the axes, which are columns too.
    pub axes: Vec<String>,
    /// How it can be loaded again: where its file is, the file's text, and `--set`.
    pub file: String,
    pub text: String,
    pub set: Vec<String>,
}

impl Header {
    pub fn new(sweep: &Sweep, points: u64, shard: Shard, origin: (&str, &str, &[String])) -> Self {
        let (file, text, set) = origin;
        Self {
            sweep: sweep.fingerprint().to_owned(),
            name: sweep.name().to_owned(),
            points,
            shard: shard.index(),
            shards: shard.count(),
            chunk: CHUNK,
            columns: sweep.header(),
            axes: sweep.axes().map(str::to_owned).collect(),
            file: file.to_owned(),
            text: text.to_owned(),
            set: set.to_vec(),
        }
    }

    /// How many of the points are this shard's.
    pub const fn own_points(&self) -> u64 {
        (self.points + self.shards - 1 - self.shard) / self.shards
    }

    /// The place among this shard's points of the point with this number, if it is one of them.
    pub const fn place(&self, number: u64) -> Option<u64> {
        let own = number % self.shards == self.shard && number < self.points;
        if own { Some(number / self.shards) } else { None }
    }

    pub fn shard_name(&self) -> String {
        format!("{}/{}", self.shard, self.shards)
    }

    /// Whether two journals are of the same sweep, shards aside; the place of its file may differ.
    pub fn is_of_the_same_sweep(&self, other: &Self) -> bool {
        (&self.sweep, self.points, self.chunk, &self.columns)
            == (&other.sweep, other.points, other.chunk, &other.columns)
    }

    pub fn line(&self) -> Vec<u8> {
        let json = serde_json::to_string(self).expect("a header has only string keys");
        line(&format!("{MAGIC} {json}"))
    }

    /// Reads the first line, without its end.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let rest = checked(text)?.strip_prefix(MAGIC.as_bytes())?.strip_prefix(b" ")?;
        serde_json::from_slice(rest).ok()
    }
}

/// A point's line.
pub fn row_line(number: u64, row: &[u8]) -> Vec<u8> {
    let row = std::str::from_utf8(row).expect("rows are text");
    line(&format!("{number} {row}"))
}

/// Number and row of a line without its end; `None` for a line that is not whole.
pub fn parse_row(text: &[u8]) -> Option<(u64, &[u8])> {
    let rest = checked(text)?;
    let space = rest.iter().position(|&b| b == b' ')?;
    let number = std::str::from_utf8(&rest[..space]).ok()?.parse().ok()?;
    Some((number, &rest[space + 1..]))
}

fn line(text: &str) -> Vec<u8> {
    format!("{:016x} {text}\n", xxh3_64(text.as_bytes())).into_bytes()
}

fn checked(line: &[u8]) -> Option<&[u8]> {
    let (sum, rest) = line.split_at_checked(16)?;
    let rest = rest.strip_prefix(b" ")?;
    let sum = u64::from_str_radix(std::str::from_utf8(sum).ok()?, 16).ok()?;
    (sum == xxh3_64(rest)).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_not_whole_is_told_from_one_that_is() {
        let line = row_line(17, b"17,abc,\"a, b\"");
        let whole = &line[..line.len() - 1];
        assert_eq!(parse_row(whole), Some((17, &b"17,abc,\"a, b\""[..])));
        for cut in 0..whole.len() {
            assert_eq!(parse_row(&whole[..cut]), None, "cut at {cut}");
        }
        let mut flipped = whole.to_vec();
        flipped[20] ^= 1;
        assert_eq!(parse_row(&flipped), None);
    }

    #[test]
    fn the_points_of_all_shards_add_up() {
        let header = |shard| Header {
            sweep: "s".into(),
            name: "n".into(),
            points: 10,
            shard,
            shards: 4,
            chunk: CHUNK,
            columns: vec!["point".into()],
            axes: Vec::new(),
            file: "f".into(),
            text: "t".into(),
            set: Vec::new(),
        };
        let own: Vec<u64> = (0..4).map(|shard| header(shard).own_points()).collect();
        assert_eq!(own, [3, 3, 2, 2]);
        assert_eq!(header(1).place(9), Some(2));
        assert_eq!(header(1).place(8), None);
        assert_eq!(header(1).place(13), None);
        let line = header(2).line();
        assert_eq!(Header::parse(&line[..line.len() - 1]), Some(header(2)));
    }
}
