//! The GPUs and instances that come with the program, one TOML file each under `hardware/`.

use include_dir::{Dir, include_dir};
use serde::de::DeserializeOwned;

use crate::named::UnknownName;

use super::{Gpu, InstanceType};

static GPUS: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/hardware/gpus");
static INSTANCES: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/hardware/instances");

/// Why a GPU or an instance could not be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    #[error("{0}; or give a TOML file of your own")]
    UnknownGpu(UnknownName),
    #[error("{0}; or give a TOML file of your own, or --gpu NAME --num-gpus N")]
    UnknownInstance(UnknownName),
    /// `span` is the range of bytes that the message is about.
    #[error("{name}: {message}")]
    Syntax { name: String, message: String, span: Option<std::ops::Range<usize>> },
    #[error("{name}: {reason}")]
    Value { name: String, reason: String },
}

/// Names of the GPUs, in alphabetical order.
pub fn gpu_names() -> impl Iterator<Item = &'static str> {
    names(&GPUS)
}

/// Names of the instances, in alphabetical order.
pub fn instance_names() -> impl Iterator<Item = &'static str> {
    names(&INSTANCES)
}

/// The GPU of this name; only its own file is parsed.
pub fn gpu(name: &str) -> Result<Gpu, CatalogError> {
    match GPUS.get_file(format!("{name}.toml")) {
        Some(file) => Gpu::from_toml(name, file.contents()),
        None => Err(CatalogError::UnknownGpu(UnknownName::new("GPU", name, gpu_names().collect()))),
    }
}

/// The instance of this name; only its own file and its GPU's are parsed.
pub fn instance(name: &str) -> Result<InstanceType, CatalogError> {
    match INSTANCES.get_file(format!("{name}.toml")) {
        Some(file) => InstanceType::from_toml(name, file.contents()),
        None => {
            let known = instance_names().collect();
            Err(CatalogError::UnknownInstance(UnknownName::new("instance", name, known)))
        }
    }
}

fn names(dir: &'static Dir<'static>) -> impl Iterator<Item = &'static str> {
    dir.files().filter_map(|file| file.path().file_name()?.to_str()?.strip_suffix(".toml"))
}

pub(super) fn read_toml<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, CatalogError> {
    let syntax =
        |message: String, span| CatalogError::Syntax { name: name.to_owned(), message, span };
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        syntax(format!("not UTF-8 text at byte {at}"), Some(at..at + 1))
    })?;
    toml::from_str(text).map_err(|error| syntax(error.message().to_owned(), error.span()))
}
