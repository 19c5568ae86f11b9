//! From a file and flags to a [`Scenario`]: the passes in order, and the only access to files.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use include_dir::{Dir, include_dir};
use serde_json::Value as Json;

use super::diagnostic::{Diagnostic, Diagnostics, SourceId, Sources};
use super::document::{self, Table};
use super::overrides::Assignment;
use super::raw::RawScenario;
use super::registry::Registry;
use super::validate::CustomSettings;
use super::{Override, Scenario, overrides, shape, validate};
use crate::named::nearest;
use crate::trace::TraceFile;

/// Access to files, so that everything else is a function of its arguments.
pub trait ReadFile {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// A file to be read piece by piece, and again.
    fn trace(&self, path: &Path) -> io::Result<TraceFile> {
        Ok(TraceFile::Memory(self.read(path)?.into()))
    }
}

/// The file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskFiles;

/// Larger than any list of lengths that is of use, and small enough to hold.
const MAX_FILE_BYTES: u64 = 1 << 30;

impl ReadFile for DiskFiles {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = std::fs::File::open(path)?;
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(io::Error::other("the file is larger than 1 GiB"));
        }
        Ok(bytes)
    }

    fn trace(&self, path: &Path) -> io::Result<TraceFile> {
        TraceFile::on_disk(path)
    }
}

/// Files that exist only in memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryFiles(pub BTreeMap<PathBuf, Vec<u8>>);

impl ReadFile for MemoryFiles {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// Where a scenario's keys come from, before flags.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file and its text; paths inside it are relative to its folder.
    File { path: PathBuf, text: Vec<u8> },
    /// Flags only.
    Flags,
}

impl Source {
    pub fn file(path: impl Into<PathBuf>, text: impl Into<Vec<u8>>) -> Self {
        Self::File { path: path.into(), text: text.into() }
    }
}

static SCENARIOS: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/scenarios");

/// The scenario that runs when none is named.
pub const DEFAULT_SCENARIO: &str = "redhat/llama-2-7b-g5.2xlarge";

/// The embedded scenario of this name, such as `redhat/llama-2-7b-g5.2xlarge`; `scenarios/` in front
/// and `.toml` behind may be there or not.
pub fn embedded(name: &str) -> Option<Source> {
    let name = embedded_key(name);
    let file = SCENARIOS.get_file(format!("{name}.toml"))?;
    Some(Source::file(format!("scenarios/{name}.toml"), file.contents()))
}

/// A name without what may stand around it.
fn embedded_key(name: &str) -> &str {
    let name = name.strip_prefix("scenarios/").unwrap_or(name);
    name.strip_suffix(".toml").unwrap_or(name)
}

/// Names of the embedded scenarios, in alphabetical order.
pub fn embedded_names() -> Vec<String> {
    fn collect(dir: &Dir<'_>, out: &mut Vec<String>) {
        for file in dir.files() {
            if let Some(name) = file.path().to_str().and_then(|name| name.strip_suffix(".toml")) {
                out.push(name.replace('\\', "/"));
            }
        }
        dir.dirs().for_each(|dir| collect(dir, out));
    }
    let mut names = Vec::new();
    collect(&SCENARIOS, &mut names);
    names.sort();
    names
}

/// The scenario that a user names: a file, or else an embedded scenario.
pub fn open(name: &str, files: &dyn ReadFile) -> Result<Source, Diagnostics> {
    match files.read(Path::new(name)) {
        Ok(text) => Ok(Source::file(name, text)),
        Err(error) => embedded(name).ok_or_else(|| {
            let names = embedded_names();
            let near = nearest(embedded_key(name), names.iter().map(String::as_str));
            let help = match near {
                Some(near) => format!("an embedded scenario has a similar name: {near}"),
                None => "give the path of a file, or a name of `servesim list scenarios`".into(),
            };
            Diagnostics::without_place(format!("cannot read the scenario {name:?}: {error}"), help)
        }),
    }
}

/// Reads, overrides, checks: a scenario of a built-in engine, or everything that is wrong with it.
pub fn load(
    source: &Source,
    overrides: &[Override],
    files: &dyn ReadFile,
) -> Result<Scenario, Diagnostics> {
    load_with(source, overrides, files, &Registry::builtin())
}

/// The same where more engines may be named.
pub fn load_with(
    source: &Source,
    overrides: &[Override],
    files: &dyn ReadFile,
    registry: &Registry,
) -> Result<Scenario, Diagnostics> {
    let (mut template, mut errors) = Template::parse(source, registry)?;
    let readable = errors.is_empty();
    template.override_with(overrides, &mut errors);
    if !readable {
        // What a broken text seems to say is no basis for more: the rest would report what the
        // parser lost as missing.
        shape::check(&mut template.table, registry.schema(), &mut errors);
        return Err(Diagnostics::new(template.sources, errors));
    }
    template.finish(errors, files)
}

/// A scenario that has been read and not yet checked: what a sweep completes with the values of
/// each of its points.
#[derive(Clone, Debug)]
pub struct Template {
    sources: Sources,
    table: Table,
    /// The scenario file, if there is one.
    file: Option<SourceId>,
    /// What paths in a text are relative to; the working directory for those that are not listed.
    folders: Vec<(SourceId, PathBuf)>,
    registry: Registry,
}

impl Template {
    /// Reads `source`; what is wrong with its syntax comes back beside what could be read.
    fn parse(source: &Source, registry: &Registry) -> Result<(Self, Vec<Diagnostic>), Diagnostics> {
        let mut template = Self {
            sources: Sources::default(),
            table: Table::default(),
            file: None,
            folders: Vec::new(),
            registry: registry.clone(),
        };
        let mut errors = Vec::new();
        if let Source::File { path, text } = source {
            let (id, table, problems) = template.add_text(path, text)?;
            template.table = table;
            template.file = Some(id);
            errors = problems;
        }
        Ok((template, errors))
    }

    /// Reads `source`, all of which must be TOML.
    pub fn read(source: &Source, registry: &Registry) -> Result<Self, Diagnostics> {
        match Self::parse(source, registry)? {
            (template, errors) if errors.is_empty() => Ok(template),
            (template, errors) => Err(Diagnostics::new(template.sources, errors)),
        }
    }

    /// Adds a text that diagnostics can point into and that paths can be relative to, and parses
    /// it.
    pub fn add_text(
        &mut self,
        path: &Path,
        text: &[u8],
    ) -> Result<(SourceId, Table, Vec<Diagnostic>), Diagnostics> {
        let name = path.display().to_string();
        let text = std::str::from_utf8(text).map_err(|error| not_text(&name, text, error))?;
        let id = self.sources.add(name, text);
        let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
        self.folders.push((id, folder));
        let (table, problems) = document::parse(id, text);
        Ok((id, table, problems))
    }

    /// Adds a text of another kind, from which values will be assigned; paths in it are relative to
    /// its folder.
    pub fn add_values(&mut self, path: &Path, text: &str) -> SourceId {
        let id = self.sources.add(path.display().to_string(), text);
        self.folders.push((id, path.parent().map(Path::to_path_buf).unwrap_or_default()));
        id
    }

    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// The engines that the scenario may name.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The keys and values so far.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The node at a dotted path, if it is written.
    pub fn find(&self, path: &str) -> Option<&document::Node> {
        self.table.find(path)
    }

    /// Flags replace keys.
    pub fn override_with(&mut self, overrides: &[Override], errors: &mut Vec<Diagnostic>) {
        let files: Vec<SourceId> = self.folders.iter().map(|(id, _)| *id).collect();
        let Self { table, registry, sources, .. } = self;
        overrides::apply(table, &files, overrides, registry, sources, errors);
    }

    /// Values of other texts replace keys.
    pub fn assign(&mut self, assignments: &[Assignment], errors: &mut Vec<Diagnostic>) {
        overrides::assign_all(&mut self.table, assignments, &self.registry, errors);
    }

    /// The scenario with `assignments` put in.
    pub fn with(
        &self,
        assignments: &[Assignment],
        files: &dyn ReadFile,
    ) -> Result<Scenario, Diagnostics> {
        let mut template = self.clone();
        let mut errors = Vec::new();
        template.assign(assignments, &mut errors);
        template.finish(errors, files)
    }

    fn finish(
        mut self,
        mut errors: Vec<Diagnostic>,
        files: &dyn ReadFile,
    ) -> Result<Scenario, Diagnostics> {
        let taken = shape::check(&mut self.table, self.registry.schema(), &mut errors);
        let mut json = self.table.to_json();
        let custom = take_custom_settings(&mut json, &self.registry);
        let raw = match serde_json::from_value::<RawScenario>(json) {
            Ok(raw) => raw,
            Err(error) => {
                // The schema check takes out all that the structs refuse, unless the two disagree.
                errors.push(Diagnostic::new(format!("the scenario cannot be read: {error}")));
                return Err(Diagnostics::new(self.sources, errors));
            }
        };
        let context = validate::Context {
            table: &self.table,
            taken: &taken,
            pool: None,
            file: self.file,
            folders: &self.folders,
            files,
            registry: &self.registry,
            sources: &mut self.sources,
            errors: &mut errors,
        };
        match validate::scenario(raw, custom, context) {
            Some(scenario) if errors.is_empty() => Ok(scenario),
            Some(_) => Err(Diagnostics::new(self.sources, errors)),
            None => {
                debug_assert!(!errors.is_empty(), "a scenario is refused with a reason");
                if errors.is_empty() {
                    errors.push(Diagnostic::new("the scenario is incomplete"));
                }
                Err(Diagnostics::new(self.sources, errors))
            }
        }
    }
}

/// The tables of custom engines, which are for their own code to read.
pub(super) fn take_custom_settings(json: &mut Json, registry: &Registry) -> CustomSettings {
    let Some(engine) = json.get_mut("engine").and_then(Json::as_object_mut) else {
        return CustomSettings::new();
    };
    let names = registry.custom().map(|(id, _)| id.name());
    names.filter_map(|name| Some((name.to_owned(), engine.shift_remove(name)?))).collect()
}

fn not_text(name: &str, bytes: &[u8], error: std::str::Utf8Error) -> Diagnostics {
    let at = error.valid_up_to();
    let line = bytes[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
    Diagnostics::without_place(
        format!("{name} is not UTF-8 text: byte {at}, in line {line}"),
        "give a TOML file, saved as UTF-8",
    )
}
