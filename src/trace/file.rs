//! Where a trace is read from, once to be checked and again to be replayed.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::{ReadError, Reader, TimeUnit};
use crate::workload::{TraceRow, TraceSource};

/// A file that can be read again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceFile {
    Disk(PathBuf),
    Memory(Arc<[u8]>),
}

impl TraceFile {
    /// A file of the file system; a pipe is read once and kept.
    pub fn on_disk(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        if file.metadata()?.is_file() {
            return Ok(Self::Disk(path.to_owned()));
        }
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut file, &mut bytes)?;
        Ok(Self::Memory(bytes.into()))
    }

    pub fn open(&self) -> io::Result<Box<dyn BufRead>> {
        Ok(match self {
            Self::Disk(path) => Box::new(BufReader::with_capacity(1 << 16, File::open(path)?)),
            Self::Memory(bytes) => Box::new(Cursor::new(Arc::clone(bytes))),
        })
    }
}

/// The rows of a file that has been checked. Where it then cannot be read any more, the rows end, and
/// `failure` says why: the caller asks after the run.
pub struct FileRows {
    file: TraceFile,
    unit: Option<TimeUnit>,
    reader: Option<Reader<Box<dyn BufRead>>>,
    failure: Arc<OnceLock<String>>,
}

impl FileRows {
    pub fn new(file: TraceFile, unit: Option<TimeUnit>, failure: Arc<OnceLock<String>>) -> Self {
        let mut this = Self { file, unit, reader: None, failure };
        this.rewind();
        this
    }

    fn fail(&mut self, error: &ReadError) {
        self.reader = None;
        let text = match error {
            ReadError::Io(error) => error.to_string(),
            ReadError::Fault(fault) => {
                format!("it has changed since it was checked: {}", fault.title)
            }
        };
        // The first failure is the one to tell.
        let _ = self.failure.set(text);
    }
}

impl TraceSource for FileRows {
    fn next_row(&mut self) -> Option<TraceRow> {
        match self.reader.as_mut()?.next_row() {
            Ok(row) => row,
            Err(error) => {
                self.fail(&error);
                None
            }
        }
    }

    fn rewind(&mut self) {
        let opened = self.file.open().map_err(ReadError::Io);
        match opened.and_then(|input| Reader::new(input, self.unit)) {
            Ok(reader) => self.reader = Some(reader),
            Err(error) => self.fail(&error),
        }
    }
}
