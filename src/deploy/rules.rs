//! The rules of every engine with a real original, with the settings that its server has by default.

use crate::engine_name::EngineName;
use crate::scenario::{self, MemoryFiles, Override, Source};
use crate::scheduler::rules::RuleTexts;

use super::Deployment;

/// Where the defaults are taken: they depend on model and GPU in places.
pub const REFERENCE_MODEL: &str = "llama-2-7b";
pub const REFERENCE_GPU: &str = "a100-80gb";

/// Each engine's rules, from the settings that a scheduler of it would run with.
pub fn of_all_engines() -> Vec<(EngineName, RuleTexts)> {
    EngineName::ALL.iter().filter_map(|&engine| Some((engine, of(engine)?))).collect()
}

/// `None` for an engine without an original.
fn of(engine: EngineName) -> Option<RuleTexts> {
    let flags = [
        ("--model", "model.name", REFERENCE_MODEL),
        ("--gpu", "hardware.gpu", REFERENCE_GPU),
        ("--engine", "engine.name", engine.name()),
    ];
    let flags = flags.map(|(flag, key, value)| Override::flag(flag, key, value));
    let scenario = scenario::load(&Source::Flags, &flags, &MemoryFiles::default())
        .expect("the reference is a scenario");
    let deployment = Deployment::new(&scenario).expect("the reference starts under every engine");
    deployment.engine_config().rules()
}
