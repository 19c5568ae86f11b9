//! Where results go: the terminal, and files that are complete or absent.

use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, IsTerminal, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use tempfile::NamedTempFile;

use super::Failure;
use crate::report::Style;

/// What an interrupt meets.
struct Interrupt {
    /// Files are whole: the program may end here and now.
    may_end: Arc<AtomicBool>,
    /// One came while they were not.
    came: Arc<AtomicBool>,
    /// Held while files are put in their place.
    writing: Mutex<()>,
}

static INTERRUPT: LazyLock<Interrupt> = LazyLock::new(|| Interrupt {
    may_end: Arc::new(AtomicBool::new(true)),
    came: Arc::default(),
    writing: Mutex::default(),
});

/// Ends the program with 130 on SIGINT and SIGTERM. What was finished stays; what was being computed
/// leaves nothing behind, because unfinished rows lie in files without a name.
///
/// The handlers end it or leave a mark, and no thread waits for them: starting one costs a small
/// run a twentieth of its time.
pub fn exit_on_interrupt() {
    let Interrupt { may_end, came, .. } = &*INTERRUPT;
    for signal in [SIGINT, SIGTERM] {
        // Without a handler the signal's default ends the program too, only with another code.
        let _ = flag::register_conditional_shutdown(signal, super::INTERRUPTED, may_end.clone());
        let _ = flag::register(signal, came.clone());
    }
}

/// Does what an interrupt must not cut in two: it waits until this is done.
pub fn whole<T>(write: impl FnOnce() -> T) -> T {
    let Interrupt { may_end, came, writing } = &*INTERRUPT;
    let _one_at_a_time = writing.lock().unwrap_or_else(PoisonError::into_inner);
    may_end.store(false, Ordering::SeqCst);
    let done = write();
    // In this order: an interrupt between the two lines ends the program by itself.
    may_end.store(true, Ordering::SeqCst);
    if came.load(Ordering::SeqCst) {
        std::process::exit(super::INTERRUPTED);
    }
    done
}

/// Colours for standard output: only on a terminal, and not where `NO_COLOR` is set (no-color.org).
pub fn stdout_style() -> Style {
    Style { colour: wants_colour(io::stdout().is_terminal()) }
}

/// Whether messages on standard error are coloured.
pub fn stderr_colour() -> bool {
    wants_colour(io::stderr().is_terminal())
}

fn wants_colour(terminal: bool) -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    terminal && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Writes to standard output. A reader that has gone away (`| head`) is no error of ours.
pub fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::BrokenPipe,
        _ => Failure::environment("cannot write to standard output", &error),
    })
}

/// Writes a message to standard error; where that fails there is nobody to tell.
pub fn complain(message: &str) {
    if !message.is_empty() {
        let _ = writeln!(io::stderr().lock(), "{message}");
    }
}

/// Writes one file as it is made: beside its target, and renamed once it is complete. The folder is
/// made where it is missing. What is no regular file (a pipe, a device) is written to and not replaced.
pub fn write_file<T>(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let failed = |error: &io::Error| cannot_write(path, error);
    let target = match fs::metadata(path) {
        Ok(there) if there.is_dir() => {
            return Err(Failure::bad_input(format!(
                "{} is a folder\n  = help: give the name of a file",
                path.display()
            )));
        }
        Ok(there) if !there.is_file() => {
            let open = File::options().write(true).open(path);
            let mut writer = BufWriter::new(open.map_err(|error| failed(&error))?);
            let made = fill(&mut writer)?;
            writer.flush().map_err(|error| failed(&error))?;
            return Ok(made);
        }
        // A link stays one, and what it points at is replaced.
        Ok(_) => fs::canonicalize(path).map_err(|error| failed(&error))?,
        Err(_) => path.to_owned(),
    };
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    make_folder(folder)?;
    let staged = staging_file(folder).map_err(|error| failed(&error))?;
    let mut writer = BufWriter::with_capacity(1 << 18, staged);
    let made = fill(&mut writer)?;
    let staged = writer.into_inner().map_err(|error| failed(error.error()))?;
    whole(|| staged.persist(&target)).map_err(|error| failed(&error.error))?;
    Ok(made)
}

/// Puts one file in its place: complete, or as it was before.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    write_file(path, |out| out.write_all(bytes).map_err(|error| cannot_write(path, &error)))
}

/// The reason without the name of the staging file, which is none of the user's.
fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    let reason = error.to_string();
    let reason = reason.split(" at path ").next().unwrap_or_default();
    Failure::Environment(format!("error: cannot write {}: {reason}", path.display()))
}

/// Makes a folder, and those above it, where they are missing.
pub fn make_folder(folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder).map_err(|error| {
        Failure::environment(&format!("cannot make the folder {}", folder.display()), &error)
    })
}

/// A folder for results. Files appear in it only when all of them are complete, and one program at a
/// time works in it.
#[derive(Debug)]
pub struct OutDir {
    folder: PathBuf,
    /// The folder itself, locked as long as this is open; none where it cannot be.
    _lock: Option<File>,
}

impl OutDir {
    /// Makes the folder where it is missing.
    pub fn create(folder: &Path) -> Result<Self, Failure> {
        make_folder(folder)?;
        // Where folders cannot be opened or locked, two runs at once are the user's to avoid.
        let lock = File::open(folder).ok();
        if let Some(Err(TryLockError::WouldBlock)) = lock.as_ref().map(File::try_lock) {
            return Err(Failure::Environment(format!(
                "error: another run is writing in {}\n  = help: wait for it, or choose another \
                 folder",
                folder.display()
            )));
        }
        Ok(Self { folder: folder.to_owned(), _lock: lock })
    }

    /// A file without a name for rows that come while the simulation runs. It is gone when the
    /// program ends, however it ends.
    pub fn scratch(&self) -> Result<BufWriter<File>, Failure> {
        let file = tempfile::tempfile_in(&self.folder).map_err(|error| self.failure(&error))?;
        Ok(BufWriter::with_capacity(1 << 18, file))
    }

    /// Puts files in their place, replacing older ones: each is written beside its target and then
    /// renamed, and none is renamed before all are written.
    pub fn write(&self, files: Vec<(&str, Vec<Content>)>) -> Result<(), Failure> {
        self.write_of(&[], files)
    }

    /// The same for files of which there are more kinds, `all`: one of those that is not written now
    /// is another run's, and goes.
    pub fn write_of(&self, all: &[&str], files: Vec<(&str, Vec<Content>)>) -> Result<(), Failure> {
        whole(|| self.place(all, files))
    }

    fn place(&self, all: &[&str], files: Vec<(&str, Vec<Content>)>) -> Result<(), Failure> {
        let old = all.iter().filter(|name| !files.iter().any(|(written, _)| written == *name));
        let old: Vec<PathBuf> = old.map(|name| self.folder.join(name)).collect();
        let mut staged = Vec::with_capacity(files.len());
        for (name, parts) in files {
            let path = self.folder.join(name);
            let file = stage(&self.folder, parts).map_err(|error| cannot_write(&path, &error))?;
            staged.push((path, file));
        }
        for path in old {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    let what = format!("cannot remove {}, of an earlier run", path.display());
                    return Err(Failure::environment(&what, &error));
                }
                _ => {}
            }
        }
        for (path, file) in staged {
            file.persist(&path).map_err(|error| cannot_write(&path, &error.error))?;
        }
        Ok(())
    }

    /// Puts a Parquet table beside each of the CSV files of the folder that are named.
    #[cfg(feature = "parquet")]
    pub fn write_parquet(&self, names: &[&str]) -> Result<(), Failure> {
        let mut tables = Vec::with_capacity(names.len());
        for name in names {
            let path = self.folder.join(name).with_extension("csv");
            let csv = File::open(&path).map_err(|error| self.failure(&error))?;
            let made = tempfile::tempfile_in(&self.folder).map_err(|error| self.failure(&error))?;
            let table = crate::report::parquet::from_csv(csv, made).map_err(|error| {
                Failure::environment(&format!("cannot make a table of {}", path.display()), &error)
            })?;
            tables.push((format!("{name}.parquet"), table));
        }
        let (names, tables): (Vec<_>, Vec<_>) = tables.into_iter().unzip();
        let tables = tables.into_iter().map(|table| vec![Content::Scratch(table)]);
        self.write(names.iter().map(String::as_str).zip(tables).collect())
    }

    /// Never asked for: [`check_parquet`] has refused.
    #[cfg(not(feature = "parquet"))]
    pub fn write_parquet(&self, _names: &[&str]) -> Result<(), Failure> {
        check_parquet(true)
    }

    pub fn failure(&self, error: &io::Error) -> Failure {
        Failure::environment(&format!("cannot write in {}", self.folder.display()), error)
    }
}

/// Refuses Parquet in a build without it, before anything is simulated.
pub fn check_parquet(wanted: bool) -> Result<(), Failure> {
    if wanted && !cfg!(feature = "parquet") {
        return Err(Failure::bad_input(
            "this build writes no Parquet\n\
             help: leave out --parquet, or build with --features parquet",
        ));
    }
    Ok(())
}

/// A piece of a file.
#[derive(Debug)]
pub enum Content {
    Bytes(Vec<u8>),
    /// The rows of a scratch file.
    Scratch(File),
}

fn staging_file(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".servesim-");
    // A temporary file is private by default; a result is as readable as any other file.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

fn stage(folder: &Path, parts: Vec<Content>) -> io::Result<NamedTempFile> {
    let mut file = staging_file(folder)?;
    for part in parts {
        match part {
            Content::Bytes(bytes) => file.write_all(&bytes)?,
            Content::Scratch(mut rows) => {
                rows.seek(SeekFrom::Start(0))?;
                let mut buffer = vec![0; 1 << 18];
                loop {
                    match rows.read(&mut buffer)? {
                        0 => break,
                        n => file.write_all(&buffer[..n])?,
                    }
                }
            }
        }
    }
    file.flush()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_appear_complete_and_nothing_else_stays() {
        let folder = tempfile::tempdir().unwrap();
        let out = OutDir::create(&folder.path().join("a/b")).unwrap();
        let mut rows = out.scratch().unwrap();
        rows.write_all(b"1,2\n").unwrap();
        let rows = rows.into_inner().unwrap();
        let header = Content::Bytes(b"x,y\n".to_vec());
        out.write(vec![("rows.csv", vec![header, Content::Scratch(rows)])]).unwrap();
        let names: Vec<_> =
            fs::read_dir(&out.folder).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["rows.csv"]);
        assert_eq!(fs::read_to_string(out.folder.join("rows.csv")).unwrap(), "x,y\n1,2\n");
    }

    #[test]
    fn a_file_that_cannot_be_placed_leaves_nothing_half_written() {
        let folder = tempfile::tempdir().unwrap();
        let out = OutDir::create(folder.path()).unwrap();
        let error =
            out.write(vec![("missing/rows.csv", vec![Content::Bytes(vec![1])])]).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn two_programs_do_not_write_in_one_folder() {
        let folder = tempfile::tempdir().unwrap();
        let first = OutDir::create(folder.path()).unwrap();
        let second = OutDir::create(folder.path()).unwrap_err();
        assert_eq!(second.exit_code(), 3);
        assert!(second.to_string().contains("another run is writing"), "{second}");
        drop(first);
        assert!(OutDir::create(folder.path()).is_ok());
    }

    #[test]
    fn what_an_earlier_run_left_does_not_pass_for_this_ones() {
        let folder = tempfile::tempdir().unwrap();
        let out = OutDir::create(folder.path()).unwrap();
        let file = |name| (name, vec![Content::Bytes(vec![1])]);
        out.write_of(&["a", "b"], vec![file("a"), file("b"), file("c")]).unwrap();
        out.write_of(&["a", "b"], vec![file("a")]).unwrap();
        let there = |name: &str| out.folder.join(name).exists();
        assert!(there("a") && !there("b") && there("c"));
    }

    #[test]
    #[cfg(unix)]
    fn a_device_is_written_to_and_a_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        replace(Path::new("/dev/null"), b"gone").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());

        let (file, link) = (folder.path().join("deeper/file"), folder.path().join("link"));
        replace(&file, b"old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        replace(&link, b"new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"new");
    }

    #[test]
    fn a_folder_is_no_file_to_write() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(replace(folder.path(), b"").unwrap_err().exit_code(), 2);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_the_environments_failure() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), b"").unwrap();
        let error = OutDir::create(&folder.path().join("file/out")).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains("file/out"), "{error}");
    }
}
