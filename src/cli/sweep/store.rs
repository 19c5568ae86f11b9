//! The journal of a sweep on disk: appended to while points finish, read in order when they have.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::super::{Failure, output};
use crate::sweep::journal::{self, Header};

/// The journal in a sweep's folder.
pub const JOURNAL: &str = "journal";

/// How long finished points may be in the hands of the operating system alone. A program that dies
/// loses nothing of them; a machine that does loses so much.
const SYNC_EVERY: Duration = Duration::from_secs(2);

/// A journal that is open for this run alone.
#[derive(Debug)]
pub struct Store {
    header: Header,
    path: PathBuf,
    done: Done,
    writer: Mutex<Writer>,
}

/// What a journal has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Chunks all of whose points are there.
    pub chunks: u64,
    /// Points of the chunk after them.
    pub in_chunk: BTreeSet<u64>,
    /// Points in all.
    pub points: u64,
    /// Length of the lines that are whole, in bytes.
    length: u64,
}

#[derive(Debug)]
struct Writer {
    file: File,
    length: u64,
    synced: Instant,
}

impl Store {
    /// Opens the journal in `folder`, or one without a name that is gone with the program. Points
    /// that an earlier run finished are kept if it was of the same sweep.
    pub fn open(folder: Option<&Path>, header: Header) -> Result<Self, Failure> {
        let Some(folder) = folder else {
            let file = tempfile::tempfile()
                .map_err(|error| Failure::environment("cannot make a temporary file", &error))?;
            let path = PathBuf::from("a temporary file");
            return Self::start(file, path, header);
        };
        let path = folder.join(JOURNAL);
        let open = || {
            std::fs::create_dir_all(folder)?;
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)
        };
        let file = open().map_err(|error| failure(&path, &error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::Environment(format!(
                    "error: another run is working in {}\n  = help: wait for it, or choose another \
                     folder",
                    folder.display()
                )));
            }
            // A file system without locks is no reason to stop; two runs at once are then the
            // user's to avoid.
            Err(TryLockError::Error(error)) => {
                output::complain(&format!(
                    "warning: {} cannot be locked ({error}); do not start a second run there",
                    path.display()
                ));
            }
        }
        let empty = file.metadata().map_err(|error| failure(&path, &error))?.len() == 0;
        if empty { Self::start(file, path, header) } else { Self::resume(file, path, header) }
    }

    fn start(mut file: File, path: PathBuf, header: Header) -> Result<Self, Failure> {
        let line = header.line();
        output::whole(|| file.write_all(&line)).map_err(|error| {
            // A first line that is cut would pass for somebody else's file.
            let _ = file.set_len(0);
            failure(&path, &error)
        })?;
        let length = line.len() as u64;
        let writer = Mutex::new(Writer { file, length, synced: Instant::now() });
        Ok(Self { header, path, done: Done { length, ..Done::default() }, writer })
    }

    fn resume(mut file: File, path: PathBuf, header: Header) -> Result<Self, Failure> {
        let (old, done) = scan(&file, &path)?;
        if !old.is_of_the_same_sweep(&header) {
            return Err(Failure::BadInput(format!(
                "error: {} has the points of another sweep\n  = note: that one is {:?} with {} \
                 points, of {}; this one is {:?} with {}\n  = note: a change of the sweep's values, \
                 its base, its data or of the program makes it another one\n  = help: choose another \
                 folder, or remove {}",
                path.display(),
                old.name,
                old.points,
                old.file,
                header.name,
                header.points,
                path.display(),
            )));
        }
        if (old.shard, old.shards) != (header.shard, header.shards) {
            return Err(Failure::BadInput(format!(
                "error: {} has shard {} of this sweep, and this run is shard {}\n  = help: give each \
                 shard a folder of its own",
                path.display(),
                old.shard_name(),
                header.shard_name(),
            )));
        }
        let length = file.metadata().map_err(|error| failure(&path, &error))?.len();
        if length > done.length {
            // The line that was being written when the machine stopped.
            file.set_len(done.length).map_err(|error| failure(&path, &error))?;
        }
        file.seek(SeekFrom::Start(done.length)).map_err(|error| failure(&path, &error))?;
        let writer = Mutex::new(Writer { file, length: done.length, synced: Instant::now() });
        // The old header stays: it tells where the sweep was first read.
        Ok(Self { header, path, done, writer })
    }

    pub const fn done(&self) -> &Done {
        &self.done
    }

    /// Adds a finished point; from any thread.
    pub fn append(&self, number: u64, row: &[u8]) -> Result<(), Failure> {
        let line = journal::row_line(number, row);
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let written = output::whole(|| {
            let written = writer.file.write_all(&line);
            if written.is_err() {
                // What is whole stays; half a line does not.
                let length = writer.length;
                let _ = writer.file.set_len(length);
                let _ = writer.file.seek(SeekFrom::Start(length));
            }
            written
        });
        written.map_err(|error| self.failure(&error))?;
        writer.length += line.len() as u64;
        if writer.synced.elapsed() > SYNC_EVERY {
            writer.file.sync_data().map_err(|error| self.failure(&error))?;
            writer.synced = Instant::now();
        }
        Ok(())
    }

    /// The rows in order; to be called when no thread appends any more.
    pub fn into_rows(self) -> Result<Rows, Failure> {
        let writer = self.writer.into_inner().unwrap_or_else(PoisonError::into_inner);
        writer.file.sync_data().map_err(|error| failure(&self.path, &error))?;
        Rows::of(writer.file, self.path, self.header)
    }

    fn failure(&self, error: &io::Error) -> Failure {
        failure(&self.path, error)
    }
}

fn failure(path: &Path, error: &io::Error) -> Failure {
    Failure::environment(&format!("cannot write {}", path.display()), error)
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::environment(&format!("cannot read {}", path.display()), error)
}

/// A journal's lines, one after the other.
#[derive(Debug)]
struct Lines {
    reader: BufReader<File>,
    line: Vec<u8>,
}

/// Longer than any row: what has no end of line by then is no journal.
const LONGEST_LINE: u64 = 1 << 26;

impl Lines {
    fn new(mut file: File) -> io::Result<Self> {
        file.seek(SeekFrom::Start(0))?;
        Ok(Self { reader: BufReader::with_capacity(1 << 16, file), line: Vec::new() })
    }

    /// The next line without its end; `None` at the end of the file or in the middle of a line.
    fn next(&mut self) -> io::Result<Option<&[u8]>> {
        self.line.clear();
        self.reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut self.line)?;
        Ok(self.line.strip_suffix(b"\n"))
    }
}

fn header_of(lines: &mut Lines, path: &Path) -> Result<Header, Failure> {
    let first = lines.next().map_err(|error| unreadable(path, &error))?;
    first.and_then(Header::parse).ok_or_else(|| {
        Failure::BadInput(format!(
            "error: {} is no journal of a sweep that this program can read\n  = help: choose \
             another folder",
            path.display()
        ))
    })
}

/// What a journal has, up to the first line that is not whole.
fn scan(file: &File, path: &Path) -> Result<(Header, Done), Failure> {
    let copy = file.try_clone().map_err(|error| unreadable(path, &error))?;
    let mut lines = Lines::new(copy).map_err(|error| unreadable(path, &error))?;
    let header = header_of(&mut lines, path)?;
    let mut done = Done { length: lines.line.len() as u64, ..Done::default() };
    while let Some(line) = lines.next().map_err(|error| unreadable(path, &error))? {
        let place = journal::parse_row(line).and_then(|(number, _)| header.place(number));
        let Some(place) = place.filter(|place| place / header.chunk == done.chunks) else { break };
        let length = lines.line.len() as u64;
        if done.in_chunk.insert(place) {
            done.points += 1;
        }
        done.length += length;
        if done.in_chunk.len() as u64 == chunk_length(&header, done.chunks) {
            done.chunks += 1;
            done.in_chunk.clear();
        }
    }
    Ok((header, done))
}

/// How many points a chunk has.
pub fn chunk_length(header: &Header, chunk: u64) -> u64 {
    header.chunk.min(header.own_points().saturating_sub(chunk * header.chunk))
}

/// Rows in the order of the points, with the memory of one chunk.
#[derive(Debug)]
pub struct Rows {
    pub header: Header,
    path: PathBuf,
    lines: Lines,
    chunk: u64,
    /// Rows of the current chunk by place, not yet asked for.
    ready: BTreeMap<u64, Vec<u8>>,
}

impl Rows {
    /// Opens the journal of a folder.
    pub fn open(folder: &Path) -> Result<Self, Failure> {
        let path = folder.join(JOURNAL);
        let file = File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Failure::BadInput(format!(
                "error: {} has no journal of a sweep\n  = help: give the folders that `servesim \
                 sweep --shard I/N --out DIR` made",
                folder.display()
            )),
            _ => unreadable(&path, &error),
        })?;
        let mut lines = Lines::new(file).map_err(|error| unreadable(&path, &error))?;
        let header = header_of(&mut lines, &path)?;
        Ok(Self { header, path, lines, chunk: 0, ready: BTreeMap::new() })
    }

    fn of(file: File, path: PathBuf, header: Header) -> Result<Self, Failure> {
        let mut lines = Lines::new(file).map_err(|error| unreadable(&path, &error))?;
        header_of(&mut lines, &path)?;
        Ok(Self { header, path, lines, chunk: 0, ready: BTreeMap::new() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The row of the point with this number; `None` if it is not there. To be asked for in rising
    /// order.
    pub fn row(&mut self, number: u64) -> Result<Option<Vec<u8>>, Failure> {
        let Some(place) = self.header.place(number) else { return Ok(None) };
        if place / self.header.chunk > self.chunk {
            self.chunk = place / self.header.chunk;
            self.ready.clear();
        }
        while !self.ready.contains_key(&place) {
            let line = self.lines.next().map_err(|error| unreadable(&self.path, &error))?;
            let Some((number, row)) = line.and_then(journal::parse_row) else { return Ok(None) };
            let Some(found) = self.header.place(number) else { return Ok(None) };
            match (found / self.header.chunk).cmp(&self.chunk) {
                std::cmp::Ordering::Equal => {
                    self.ready.insert(found, row.to_vec());
                }
                // Points of a chunk that was given up.
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Greater => return Ok(None),
            }
        }
        Ok(self.ready.remove(&place))
    }
}
