//! What one key means for another, and for the world outside the file: names against catalogues,
//! data files, parallelism against model and machine. Collects all problems.

mod deployment;
pub mod engine;
mod files;
mod fleet;
mod models;
mod pools;
pub mod workload;

use std::io;
use std::path::PathBuf;

use serde_json::json;

use super::diagnostic::{Diagnostic, SourceId, Sources, Span};
use super::document::{Node, Table};
use super::load::ReadFile;
use super::raw::{RawKind, RawScenario};
use super::registry::Registry;
use super::shape::TakenOut;
use super::{EngineSpec, FleetSpec, HardwareSpec, KindSpec, Scenario, WorkloadSpec};

/// What checks look at and where they report.
pub struct Context<'a> {
    /// The tree with the places of keys and values.
    pub table: &'a Table,
    /// Keys that were written but are unusable, and reported already.
    pub taken: &'a TakenOut,
    /// The pool whose tables `table` has, if it is not the scenario's own.
    pub pool: Option<PoolPlace<'a>>,
    /// The scenario file; `None` where there are only flags.
    pub file: Option<SourceId>,
    /// What paths in a text are relative to; the working directory for those that are not listed.
    pub folders: &'a [(SourceId, PathBuf)],
    pub files: &'a dyn ReadFile,
    /// The engines that the scenario may name.
    pub registry: &'a Registry,
    pub sources: &'a mut Sources,
    pub errors: &'a mut Vec<Diagnostic>,
}

/// Where a pool stands.
#[derive(Clone, Copy, Debug)]
pub struct PoolPlace<'a> {
    pub name: &'a str,
    /// The tree of the whole scenario.
    pub document: &'a Table,
}

impl Context<'_> {
    fn node(&self, path: &str) -> Option<&Node> {
        debug_assert!(self.registry.schema().at(path).is_some(), "{path} is no key of a scenario");
        self.table.find(path)
    }

    /// Where the value of a key stands.
    fn span(&self, path: &str) -> Option<Span> {
        self.node(path).map(|node| node.span.clone())
    }

    /// Where a key, or the header of a table, stands.
    fn key_span(&self, path: &str) -> Option<Span> {
        self.node(path).map(|node| node.key_span.clone())
    }

    fn report(&mut self, diagnostic: Diagnostic) {
        self.errors.push(diagnostic);
    }

    /// Points at the value of a key, or, where the key is not written, at nothing.
    fn problem_at(
        &self,
        path: &str,
        title: impl Into<String>,
        label: impl Into<String>,
    ) -> Diagnostic {
        self.pointing(self.span(path), title, label)
    }

    fn pointing(
        &self,
        span: Option<Span>,
        title: impl Into<String>,
        label: impl Into<String>,
    ) -> Diagnostic {
        let (diagnostic, label) = (Diagnostic::new(title), label.into());
        match (span, self.file) {
            (Some(span), _) => diagnostic.at(span, label),
            (None, Some(file)) => diagnostic.within(file).note(label),
            (None, None) => diagnostic.note(label),
        }
    }

    /// Adds a second place, if that key is written.
    fn because(&self, diagnostic: Diagnostic, path: &str, label: impl Into<String>) -> Diagnostic {
        match self.span(path) {
            Some(span) => diagnostic.because(span, label),
            None => diagnostic.note(label),
        }
    }

    /// Reports that a required key is missing, unless it was written and found wrong.
    fn missing(&mut self, path: &str, help: impl Into<String>) {
        if self.taken.covers(path) {
            return;
        }
        let (table, key) = path.rsplit_once('.').unwrap_or(("", path));
        let header = |tree: &Table, path: &str| tree.find(path).map(|node| node.key_span.clone());
        let (table, header) = match &self.pool {
            None => (table.to_owned(), header(self.table, table)),
            Some(PoolPlace { name, document }) => {
                let pool = format!("fleet.pools.{name}");
                let table = format!("{pool}.{table}");
                let header = header(document, &table).or_else(|| header(document, &pool));
                (table, header)
            }
        };
        let diagnostic = match (header, self.file) {
            (Some(span), _) => Diagnostic::new(format!("`{key}` is missing in [{table}]"))
                .at(span, format!("no `{key}` here")),
            (None, Some(file)) => {
                Diagnostic::new(format!("[{table}] with `{key}` is missing")).within(file)
            }
            (None, None) => Diagnostic::new(format!("`{path}` is missing")),
        };
        self.errors.push(diagnostic.help(help));
    }

    /// The value of a required key; reports where it is missing.
    fn need<T>(&mut self, value: Option<T>, path: &str, help: &str) -> Option<T> {
        if value.is_none() {
            self.missing(path, help);
        }
        value
    }

    /// Reads the file that the value at `path` names: relative to the text in which it is written,
    /// to the working directory if it comes from a flag.
    fn read(&self, path: &str, name: &str) -> (PathBuf, io::Result<Vec<u8>>) {
        let full = self.path(path, name);
        let bytes = self.files.read(&full);
        (full, bytes)
    }

    fn path(&self, path: &str, name: &str) -> PathBuf {
        let source = self.node(path).map(|node| node.span.source);
        let folder = self.folders.iter().find(|(id, _)| Some(*id) == source);
        folder.map_or_else(|| PathBuf::from(name), |(_, folder)| folder.join(name))
    }
}

/// Whether a name that is not in the catalogue is meant as a path.
fn looks_like_path(name: &str) -> bool {
    name.contains(['/', '\\'])
        || name.ends_with(".toml")
        || name.ends_with(".json")
        || name.ends_with(".csv")
}

/// The tables of settings of custom engines as they are written, by the engine's name.
pub type CustomSettings = serde_json::Map<String, serde_json::Value>;

/// `None` only if something was reported, or taken out before.
pub fn scenario(
    raw: RawScenario,
    mut custom_settings: CustomSettings,
    mut context: Context<'_>,
) -> Option<Scenario> {
    let mut notes = Vec::new();
    let RawScenario { name, model, hardware, engine, fleet, workload, measure } = raw;
    let in_pools = fleet.as_ref().is_some_and(|fleet| !fleet.pools.is_empty())
        || context.taken.covers("fleet.pools");
    // In a fleet with pools the scenario's own tables are what theirs are laid over.
    let kind = if in_pools {
        None
    } else {
        let raw = RawKind { model, hardware, engine };
        kind(&raw, &mut custom_settings, &mut context, &mut notes)
    };
    let replicas = kind.as_ref().map_or(1, |kind| kind.engine.replicas);
    let fleet = fleet.map(|raw| fleet::fleet(raw, replicas, &mut context, &mut notes));
    let workload = workload::workload(workload, &mut context, &mut notes);
    let measure = workload::measure(measure, workload.as_ref(), &mut context);

    let (kind, fleet) = match fleet {
        None => (kind, None),
        Some(fleet) => {
            let fleet = fleet?;
            let first = fleet.pools.first().map(|pool| pool.kind.clone());
            (kind.or(first), Some(fleet))
        }
    };
    let (kind, workload) = (kind?, workload?);
    let alone = [(None, &kind)];
    let pools = fleet.iter().flat_map(|fleet| &fleet.pools);
    let kinds: Vec<_> = pools.map(|pool| (Some(pool.name.as_str()), &pool.kind)).collect();
    let kinds = if kinds.is_empty() { &alone[..] } else { &kinds[..] };
    notes.extend(models::asked_for(&workload, kinds, &mut context));
    notes.extend(without_effect(fleet.as_ref(), &workload, kinds));

    let title = |name: fn(&KindSpec) -> &str| {
        let mut names: Vec<&str> = Vec::new();
        for (_, kind) in kinds {
            if !names.contains(&name(kind)) {
                names.push(name(kind));
            }
        }
        names.join(" and ")
    };
    let name = name.unwrap_or_else(|| {
        let instances = title(|kind| &kind.hardware.instance.name);
        let engines = title(|kind| kind.engine.name.name());
        format!("{} on {instances}, {engines}", title(|kind| &kind.model.name))
    });
    let KindSpec { model, precision, kv_cache_dtype, hardware, engine } = kind;
    Some(Scenario {
        name,
        model,
        precision,
        kv_cache_dtype,
        hardware,
        engine,
        fleet,
        workload,
        measure: measure?,
        notes,
    })
}

/// What of the workload or the router the engines make nothing of: of all pools once, of some with
/// their names.
fn without_effect(
    fleet: Option<&FleetSpec>,
    workload: &WorkloadSpec,
    kinds: &[(Option<&str>, &KindSpec)],
) -> Vec<String> {
    let noted = kinds.iter().map(|(name, kind)| {
        let mut notes = workload::without_effect(workload, &kind.engine.effective);
        if let Some(fleet) = fleet {
            notes.extend(fleet::without_effect(fleet, workload, &kind.engine.effective));
        }
        (name.unwrap_or_default(), notes)
    });
    pools::told(&noted.collect::<Vec<_>>())
}

/// A machine with the engine on it and what that serves.
fn kind(
    raw: &RawKind,
    custom_settings: &mut CustomSettings,
    context: &mut Context<'_>,
    notes: &mut Vec<String>,
) -> Option<KindSpec> {
    let model = deployment::model(&raw.model, context);
    let instance = deployment::instance(&raw.hardware, context);
    let price =
        instance.as_ref().and_then(|instance| deployment::price(&raw.hardware, instance, context));
    let profile = deployment::profile(&raw.hardware, context);
    let precision = model
        .as_ref()
        .and_then(|model| deployment::precision(&raw.model, model, instance.as_ref(), context));
    let name = engine::name(&raw.engine, context);
    if let Some(name) = name {
        engine::foreign_settings(name, context);
    }
    let (tensor_parallel_size, replicas) =
        deployment::spread(&raw.engine, model.as_ref(), instance.as_ref(), context, notes);
    let (name, model, instance) = (name?, model?, instance?);
    let settings = engine::settings(name.base(), &raw.engine);
    let effective = engine::effective(
        name.base(),
        &settings,
        &model,
        &instance.gpu,
        tensor_parallel_size,
        context,
        notes,
    );
    let own = custom_settings.remove(name.name()).unwrap_or_else(|| json!({}));
    let custom = engine::custom(name, own, context);
    if name.is_custom() {
        notes.push(format!(
            "{name} replaces the scheduler of {base}; memory rules, CUDA graphs, host costs and \
             measured profile are those of {base}",
            base = name.base()
        ));
    }
    Some(KindSpec {
        precision: precision?,
        kv_cache_dtype: effective.kv_cache_dtype(),
        model,
        hardware: HardwareSpec {
            instance,
            price,
            deployment: raw.hardware.deployment.clone().unwrap_or_else(|| "auto".into()),
            profile,
        },
        engine: EngineSpec {
            name,
            tensor_parallel_size,
            replicas,
            settings,
            effective,
            custom: custom.ok()?,
        },
    })
}
