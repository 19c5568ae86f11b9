//! What one key means for another, and for the world outside the file: names against catalogues,
//! data files, parallelism against model and machine. Collects all problems.

mod deployment;
pub mod engine;
mod fleet;
pub mod workload;

use std::io;
use std::path::PathBuf;

use serde_json::json;

use super::diagnostic::{Diagnostic, SourceId, Sources, Span};
use super::document::{Node, Table};
use super::load::ReadFile;
use super::raw::RawScenario;
use super::registry::Registry;
use super::shape::TakenOut;
use super::{EngineSpec, Scenario};

/// What checks look at and where they report.
pub struct Context<'a> {
    /// The tree with the places of keys and values.
    pub table: &'a Table,
    /// Keys that were written but are unusable, and reported already.
    pub taken: &'a TakenOut,
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
        let header = self.table.find(table).map(|node| node.key_span.clone());
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
    let model = deployment::model(&raw.model, &mut context);
    let instance = deployment::instance(&raw.hardware, &mut context);
    let price = instance
        .as_ref()
        .and_then(|instance| deployment::price(&raw.hardware, instance, &mut context));
    let profile = deployment::profile(&raw.hardware, &mut context);
    let precision = model.as_ref().and_then(|model| {
        deployment::precision(&raw.model, model, instance.as_ref(), &mut context)
    });
    let name = engine::name(&raw.engine, &mut context);
    if let Some(name) = name {
        engine::foreign_settings(name, &mut context);
    }
    let spread = deployment::spread(
        &raw.engine,
        model.as_ref(),
        instance.as_ref(),
        &mut context,
        &mut notes,
    );
    let engine = match (name, &model, &instance) {
        (Some(name), Some(model), Some(instance)) => {
            let (tensor_parallel_size, replicas) = spread;
            let settings = engine::settings(name.base(), &raw.engine);
            let effective = engine::effective(
                name.base(),
                &settings,
                model,
                &instance.gpu,
                tensor_parallel_size,
                &mut context,
                &mut notes,
            );
            let own = custom_settings.remove(name.name()).unwrap_or_else(|| json!({}));
            let custom = engine::custom(name, own, &mut context).ok();
            if name.is_custom() {
                notes.push(format!(
                    "{name} replaces the scheduler of {base}; memory rules, CUDA graphs, host \
                     costs and measured profile are those of {base}",
                    base = name.base()
                ));
            }
            custom.map(|custom| EngineSpec {
                name,
                tensor_parallel_size,
                replicas,
                settings,
                effective,
                custom,
            })
        }
        _ => None,
    };
    let fleet = fleet::fleet(raw.fleet, spread.1, &mut context);
    let workload = workload::workload(raw.workload, &mut context, &mut notes);
    let measure = workload::measure(raw.measure, workload.as_ref(), &mut context);
    if let (Some(workload), Some(engine)) = (&workload, &engine) {
        notes.extend(workload::without_effect(workload, &engine.effective));
        if let Some(fleet) = &fleet {
            notes.extend(fleet::without_effect(fleet, workload, &engine.effective));
        }
    }

    let (model, instance, engine) = (model?, instance?, engine?);
    let default_name = format!("{} on {}, {}", model.name, instance.name, engine.name);
    Some(Scenario {
        name: raw.name.unwrap_or(default_name),
        precision: precision?,
        kv_cache_dtype: engine.effective.kv_cache_dtype(),
        model,
        hardware: super::HardwareSpec {
            instance,
            price,
            deployment: raw.hardware.deployment.unwrap_or_else(|| "auto".into()),
            profile,
        },
        engine,
        fleet,
        workload: workload?,
        measure: measure?,
        notes,
    })
}
