//! The GPUs and instances that come with the program, one TOML file each under `hardware/`.

use serde::de::DeserializeOwned;

use crate::embedded::{self, Folder, GPUS, INSTANCES, Value};
use crate::named::UnknownName;

use super::{Gpu, InstanceType};

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
    /// `key` is the path of what is wrong, or of the table that lacks something.
    #[error("{name}: {key} {reason}")]
    Value { name: String, key: &'static str, reason: String },
}

/// Names of the GPUs, in alphabetical order.
pub fn gpu_names() -> impl Iterator<Item = &'static str> {
    names(GPUS)
}

/// Names of the instances, in alphabetical order.
pub fn instance_names() -> impl Iterator<Item = &'static str> {
    names(INSTANCES)
}

/// The GPU of this name.
pub fn gpu(name: &str) -> Result<Gpu, CatalogError> {
    match embedded::find(GPUS, name) {
        Some(file) => Gpu::from_file(name, read(name, file)?),
        None => Err(CatalogError::UnknownGpu(UnknownName::new("GPU", name, gpu_names().collect()))),
    }
}

/// The instance of this name, with its GPU.
pub fn instance(name: &str) -> Result<InstanceType, CatalogError> {
    match embedded::find(INSTANCES, name) {
        Some(file) => InstanceType::from_file(name, read(name, file)?, gpu),
        None => {
            let known = instance_names().collect();
            Err(CatalogError::UnknownInstance(UnknownName::new("instance", name, known)))
        }
    }
}

fn names(folder: Folder) -> impl Iterator<Item = &'static str> {
    folder.iter().map(|(name, _)| *name)
}

fn read<T: DeserializeOwned>(name: &str, file: Value) -> Result<T, CatalogError> {
    file.read().map_err(|error| CatalogError::Syntax {
        name: name.to_owned(),
        message: error.to_string(),
        span: None,
    })
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
