//! The models that come with the program: `config.json` fields under `scenarios/models`.

use include_dir::{Dir, include_dir};

use crate::named::nearest;

use super::{ModelConfig, ModelError};

static FILES: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/scenarios/models");

/// Names of the presets, in alphabetical order.
pub fn presets() -> impl Iterator<Item = &'static str> {
    FILES.files().filter_map(|file| file.path().file_name()?.to_str()?.strip_suffix(".json"))
}

/// The preset of this name; only its own file is parsed. `None` where there is none.
pub fn preset(name: &str) -> Option<Result<ModelConfig, ModelError>> {
    let file = FILES.get_file(format!("{name}.json"))?;
    Some(ModelConfig::from_hf_json(name, file.contents()))
}

/// As [`preset`], with an error that suggests the nearest name.
pub fn find(name: &str) -> Result<ModelConfig, ModelError> {
    preset(name).unwrap_or_else(|| {
        Err(ModelError::UnknownPreset {
            name: name.chars().take(80).collect(),
            suggestion: nearest(name, presets()).map(str::to_owned),
            known: presets().map(str::to_owned).collect(),
        })
    })
}
