//! The engines that scenarios may name: the built-in ones, and those of one's own.
//!
//! An engine of one's own is a scheduler with a name, settings, and a built-in engine that it is
//! like. It replaces that engine's scheduler and nothing else: memory rules, CUDA graphs, host costs
//! and measured profile are those of the built-in engine, and so is the table of settings from which
//! they come. What that table holds beyond them are rules of the scheduler that was replaced, and is
//! refused. The registry is a value that is handed down; there is no global list.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::engine_name::{EngineFamily, EngineName};
use crate::named::UnknownName;
use crate::scheduler::Scheduler;

use super::schema::{self, Schema};

/// An engine of one's own: how scenarios name it, what they may set, and its scheduler.
///
/// The doc comments and `#[schemars(range(...))]` of the settings become their entries in the JSON
/// Schema, by which a scenario is checked before the settings are read. A settings type therefore
/// says `#[serde(rename_all = "kebab-case", deny_unknown_fields)]`, and `default` unless a key is
/// required.
pub trait CustomEngine: 'static {
    /// What scenarios call it, in kebab-case: `engine.name`, and the table `[engine.NAME]`.
    const NAME: &'static str;
    /// One line for `servesim list engines`.
    const ABOUT: &'static str;
    /// Whose memory rules, CUDA graphs, host costs, measured profile and settings table it has.
    const LIKE: EngineName;
    /// What `[engine.NAME]` may hold.
    type Settings: DeserializeOwned + Serialize + JsonSchema + fmt::Debug + Send + Sync;

    /// What one setting means for another.
    fn check(settings: &Self::Settings) -> Result<(), BadSetting> {
        let _ = settings;
        Ok(())
    }

    /// A fresh scheduler for one replica.
    fn scheduler(settings: &Self::Settings, server: &Server) -> Box<dyn Scheduler>;
}

/// A setting of `[engine.NAME]` that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadSetting {
    /// As it is written in the table.
    pub key: &'static str,
    pub problem: String,
    pub help: String,
}

/// What a server has settled when its scheduler starts, whatever its family calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server {
    /// Longest prompt and output together, in tokens.
    pub max_model_len: u32,
    /// Most sequences in a step.
    pub max_num_seqs: u32,
    /// Token budget of a step; no limit where the family has none.
    pub max_num_batched_tokens: u32,
    /// Tokens in a KV block; 1 where the cache is not paged.
    pub block_size: u32,
    /// Blocks that requests can have.
    pub kv_blocks: u32,
}

/// A custom engine with its settings read.
pub trait Configured: fmt::Debug + Send + Sync {
    fn scheduler(&self, server: &Server) -> Box<dyn Scheduler>;

    /// The settings, defaults filled in.
    fn settings(&self) -> Value;
}

/// `PhantomData<fn() -> E>`: an engine is named, never held.
struct WithSettings<E: CustomEngine>(E::Settings, PhantomData<fn() -> E>);

impl<E: CustomEngine> fmt::Debug for WithSettings<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple(E::NAME).field(&self.0).finish()
    }
}

impl<E: CustomEngine> Configured for WithSettings<E> {
    fn scheduler(&self, server: &Server) -> Box<dyn Scheduler> {
        E::scheduler(&self.0, server)
    }

    fn settings(&self) -> Value {
        serde_json::to_value(&self.0).expect("what was read from a table can be written as one")
    }
}

/// Why settings cannot be used.
#[derive(Clone, Debug)]
pub(super) enum SettingsFault {
    /// The settings type refuses the table as a whole.
    Unreadable(String),
    Bad(BadSetting),
}

type Configure = fn(Value) -> Result<Arc<dyn Configured>, SettingsFault>;

fn configure<E: CustomEngine>(table: Value) -> Result<Arc<dyn Configured>, SettingsFault> {
    let settings: E::Settings = serde_json::from_value(table)
        .map_err(|error| SettingsFault::Unreadable(error.to_string()))?;
    E::check(&settings).map_err(SettingsFault::Bad)?;
    Ok(Arc::new(WithSettings::<E>(settings, PhantomData)))
}

/// An engine by the name that scenarios give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineId {
    name: &'static str,
    base: EngineName,
}

impl EngineId {
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// The engine itself, or the built-in one that it is like.
    pub const fn base(self) -> EngineName {
        self.base
    }

    pub const fn family(self) -> EngineFamily {
        self.base.family()
    }

    pub fn is_custom(self) -> bool {
        self.name != self.base.name()
    }
}

impl From<EngineName> for EngineId {
    fn from(base: EngineName) -> Self {
        Self { name: base.name(), base }
    }
}

impl fmt::Display for EngineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name)
    }
}

/// A custom engine as the registry holds it.
#[derive(Clone, Debug)]
struct Entry {
    id: EngineId,
    about: &'static str,
    configure: Configure,
}

/// The engines by name.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    custom: Vec<Entry>,
    /// The schema with the custom engines in it; `None` while there are none.
    schema: Option<Schema>,
}

impl Registry {
    /// The engines that come with the program.
    pub fn builtin() -> Self {
        Self::default()
    }

    /// One engine more.
    ///
    /// # Panics
    /// If the name is taken, or is not kebab-case.
    #[must_use]
    pub fn with<E: CustomEngine>(mut self) -> Self {
        let name = E::NAME;
        let kebab = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(!name.is_empty() && name.chars().all(kebab), "{name:?} is not kebab-case");
        let mut schema = self.schema().to_json();
        let engine = &mut schema["properties"]["engine"]["properties"];
        assert!(engine.get(name).is_none(), "`{name}` is a key of [engine] already");
        assert!(self.find(name).is_err(), "there is an engine {name:?} already");
        let about = format!("Settings of {name}, which in all else is like {}.", E::LIKE);
        engine[name] = schema::of_settings::<E::Settings>(&about);
        let names = engine["name"]["enum"].as_array_mut().expect("engine names are an enum");
        names.push(name.into());
        self.schema = Some(Schema::leak(&schema));
        let id = EngineId { name, base: E::LIKE };
        self.custom.push(Entry { id, about: E::ABOUT, configure: configure::<E> });
        self
    }

    /// The JSON Schema of the scenario file with the settings of all engines.
    pub fn schema(&self) -> Schema {
        self.schema.unwrap_or_else(Schema::scenario)
    }

    /// All engines, the built-in ones first.
    pub fn engines(&self) -> impl Iterator<Item = EngineId> {
        let built_in = EngineName::ALL.iter().map(|&name| EngineId::from(name));
        built_in.chain(self.custom.iter().map(|entry| entry.id))
    }

    /// The engines of one's own, each with its one line.
    pub fn custom(&self) -> impl Iterator<Item = (EngineId, &'static str)> {
        self.custom.iter().map(|entry| (entry.id, entry.about))
    }

    pub fn find(&self, name: &str) -> Result<EngineId, UnknownName> {
        self.engines().find(|id| id.name == name).ok_or_else(|| {
            UnknownName::new("engine", name, self.engines().map(EngineId::name).collect())
        })
    }

    /// Reads the settings of a custom engine; `None` for a built-in one.
    pub(super) fn configure(
        &self,
        id: EngineId,
        table: Value,
    ) -> Option<Result<Arc<dyn Configured>, SettingsFault>> {
        let entry = self.custom.iter().find(|entry| entry.id == id)?;
        Some((entry.configure)(table))
    }
}

/// Settings of the family's table that act through memory, CUDA graphs or [`Server`], and so apply
/// to a custom engine as well.
pub const fn inherited_settings(family: EngineFamily) -> &'static [&'static str] {
    match family {
        EngineFamily::Vllm => &[
            "max-model-len",
            "gpu-memory-utilization",
            "max-num-seqs",
            "max-num-batched-tokens",
            "block-size",
            "kv-cache-dtype",
            "num-gpu-blocks-override",
            "enforce-eager",
        ],
        EngineFamily::Tgi => &[
            "max-input-tokens",
            "max-total-tokens",
            "max-batch-prefill-tokens",
            "max-batch-size",
            "cuda-graphs",
            "cuda-memory-fraction",
            "kv-cache-dtype",
            "attention",
        ],
        EngineFamily::Tgis => {
            &["max-batch-size", "max-sequence-length", "flash-attention", "batch-safety-margin"]
        }
        EngineFamily::Static => {
            &["batch-size", "max-model-len", "gpu-memory-utilization", "kv-cache-dtype"]
        }
    }
}
