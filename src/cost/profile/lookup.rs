//! Which embedded profile serves a deployment.
//!
//! GPU: by name, else from the datasheet. Links: those that were measured with the deployment, then
//! (instance, environment), then instance, then the kind of link. Deployment: (instance, engine,
//! environment), then (instance, engine or its family), then the engine, then its family. An instance stands for itself first and then for its
//! family (`g5` for `g5.12xlarge`). File names spell the key.

use crate::cost::weight_kernel::WeightKernel;
use crate::embedded::{
    self, DEPLOYMENT_PROFILES, Folder, GPU_PROFILES, INTERCONNECT_PROFILES, Value,
    WEIGHT_KERNEL_PROFILES,
};
use crate::engine_name::EngineName;
use crate::hardware::{Gpu, InstanceType, Interconnect};

use super::{
    DeploymentProfile, GpuProfile, InterconnectProfile, ProfileError, WeightKernelProfile,
};

/// Those of `calibration/fitted`.
const GPUS: (&str, Folder) = ("gpus", GPU_PROFILES);
const INTERCONNECTS: (&str, Folder) = ("interconnects", INTERCONNECT_PROFILES);
const DEPLOYMENTS: (&str, Folder) = ("deployments", DEPLOYMENT_PROFILES);
const WEIGHT_KERNELS: (&str, Folder) = ("weight-kernels", WEIGHT_KERNEL_PROFILES);

/// A profile and how near it is to what was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Found<T> {
    pub profile: T,
    /// The file under `calibration/fitted`; `None` if the datasheet serves.
    pub file: Option<String>,
    pub matched: Match,
}

/// What the profile was chosen by, from nearest to farthest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Match {
    /// The environment on this instance (or GPU): nothing is assumed to carry over.
    Exact,
    /// The instance, in whatever environment it was measured.
    Instance,
    /// The engine or the kind of link, on other machines.
    Generic,
    /// Nominal figures.
    Datasheet,
}

impl Match {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Instance => "instance",
            Self::Generic => "generic",
            Self::Datasheet => "datasheet",
        }
    }
}

/// Reads the first file of `folder` that there is among `names`.
fn first<T>(
    (folder, files): (&str, Folder),
    names: impl IntoIterator<Item = (String, Match)>,
    read: impl Fn(&str, Value) -> Result<T, ProfileError>,
) -> Result<Option<Found<T>>, ProfileError> {
    for (name, matched) in names {
        if let Some(file) = embedded::find(files, &name) {
            let path = format!("{folder}/{name}.toml");
            let profile = read(&path, file)?;
            return Ok(Some(Found { profile, file: Some(path), matched }));
        }
    }
    Ok(None)
}

/// An instance's own name, then its family's.
fn instance_keys(instance: &str) -> impl Iterator<Item = &str> + Clone {
    let family = instance.split_once('.').map(|(family, _)| family);
    [Some(instance), family].into_iter().flatten()
}

/// The profile that the GPU's own file brings, else the embedded one of its name, else one made
/// from its datasheet.
pub fn gpu(gpu: &Gpu) -> Result<Found<GpuProfile>, ProfileError> {
    if let Some(own) = &gpu.calibration {
        let file = format!("{}: calibration", gpu.name);
        let text = toml::to_string(own).expect("a TOML table can be written again");
        let profile = GpuProfile::from_toml(&file, text.as_bytes())?;
        return Ok(Found { profile, file: Some(file), matched: Match::Exact });
    }
    let found = first(GPUS, [(gpu.name.clone(), Match::Exact)], GpuProfile::from_embedded)?;
    Ok(found.unwrap_or_else(|| Found {
        profile: GpuProfile::from_datasheet(gpu),
        file: None,
        matched: Match::Datasheet,
    }))
}

/// The profile of the instance's links; `None` for an instance with a single GPU.
pub fn interconnect(
    instance: &InstanceType,
    environment: Option<&str>,
) -> Result<Option<Found<InterconnectProfile>>, ProfileError> {
    let Some(link) = &instance.interconnect else { return Ok(None) };
    let mut names = Vec::new();
    if let Some(environment) = environment {
        for key in instance_keys(&instance.name) {
            names.push((format!("{key}--{environment}"), Match::Exact));
            if let Some(found) = links_of_another_engine(key, environment)? {
                return Ok(Some(on(found, link)));
            }
        }
    }
    names.extend(instance_keys(&instance.name).map(|key| (key.to_owned(), Match::Instance)));
    names.push((format!("link--{}", link.link), Match::Generic));
    match first(INTERCONNECTS, names, InterconnectProfile::from_embedded)? {
        Some(found) => Ok(Some(on(found, link))),
        None => Err(ProfileError::NoInterconnect {
            instance: instance.name.clone(),
            link: link.link.to_string(),
        }),
    }
}

/// The links as they are on a machine whose nominal bandwidth may be another.
fn on(found: Found<InterconnectProfile>, link: &Interconnect) -> Found<InterconnectProfile> {
    Found { profile: found.profile.scaled_to(link.bandwidth), ..found }
}

/// Links that were fitted together with some engine in the environment: they are the machine's, not
/// the engine's. By name of the file, should there be several.
fn links_of_another_engine(
    instance: &str,
    environment: &str,
) -> Result<Option<Found<InterconnectProfile>>, ProfileError> {
    let (start, end) = (format!("{instance}--"), format!("--{environment}"));
    for (name, file) in DEPLOYMENT_PROFILES {
        if !name.starts_with(&start) || !name.ends_with(&end) {
            continue;
        }
        let path = format!("{}/{name}.toml", DEPLOYMENTS.0);
        if let Some(profile) = DeploymentProfile::from_embedded(&path, *file)?.links {
            return Ok(Some(Found { profile, file: Some(path), matched: Match::Exact }));
        }
    }
    Ok(None)
}

/// The profile of an engine on an instance.
pub fn deployment(
    instance: &str,
    engine: EngineName,
    environment: Option<&str>,
) -> Result<Found<DeploymentProfile>, ProfileError> {
    let family = engine.family();
    let engine_keys = [engine.name(), family.name()];
    let mut names = Vec::new();
    if let Some(environment) = environment {
        for key in instance_keys(instance) {
            names.push((format!("{key}--{engine}--{environment}"), Match::Exact));
        }
    }
    for key in instance_keys(instance) {
        names.extend(engine_keys.map(|engine| (format!("{key}--{engine}"), Match::Instance)));
    }
    names.extend(engine_keys.map(|engine| (engine.to_owned(), Match::Generic)));
    first(DEPLOYMENTS, names, DeploymentProfile::from_embedded)?.ok_or_else(|| {
        ProfileError::NoDeployment { engine: engine.to_string(), instance: instance.to_owned() }
    })
}

/// The profile of a kernel for quantised weights.
pub fn weight_kernel(kernel: WeightKernel) -> Result<Found<WeightKernelProfile>, ProfileError> {
    first(
        WEIGHT_KERNELS,
        [(kernel.name().to_owned(), Match::Generic)],
        WeightKernelProfile::from_embedded,
    )?
    .ok_or_else(|| ProfileError::NoWeightKernel { kernel: kernel.name().to_owned() })
}

/// All embedded profiles by path, for lists and tests.
pub fn files() -> impl Iterator<Item = (String, Value)> {
    let folders = [DEPLOYMENTS, GPUS, INTERCONNECTS, WEIGHT_KERNELS].into_iter();
    folders.flat_map(|(folder, files)| {
        files.iter().map(move |(name, file)| (format!("{folder}/{name}.toml"), *file))
    })
}

/// All that prices a deployment's steps besides the model and the engine's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Profiles {
    pub gpu: Found<GpuProfile>,
    /// `None` on an instance with a single GPU.
    pub interconnect: Option<Found<InterconnectProfile>>,
    pub deployment: Found<DeploymentProfile>,
}

impl Profiles {
    /// `environment` is the scenario's `deployment` key; `auto` names none.
    pub fn look_up(
        instance: &InstanceType,
        engine: EngineName,
        environment: Option<&str>,
    ) -> Result<Self, ProfileError> {
        let environment = environment.filter(|name| *name != "auto");
        let deployment = deployment(&instance.name, engine, environment)?;
        Self::around(instance, deployment, environment)
    }

    /// The same around a deployment profile of one's own.
    pub fn with_deployment(
        instance: &InstanceType,
        profile: DeploymentProfile,
        file: &str,
    ) -> Result<Self, ProfileError> {
        let file = Some(file.to_owned());
        Self::around(instance, Found { profile, file, matched: Match::Exact }, None)
    }

    fn around(
        instance: &InstanceType,
        deployment: Found<DeploymentProfile>,
        environment: Option<&str>,
    ) -> Result<Self, ProfileError> {
        let own_links = instance.interconnect.as_ref().zip(deployment.profile.links.clone());
        let interconnect = match own_links.filter(|_| deployment.matched == Match::Exact) {
            Some((link, profile)) => {
                let file = deployment.file.clone();
                Some(on(Found { profile, file, matched: Match::Exact }, link))
            }
            None => interconnect(instance, environment)?,
        };
        Ok(Self { gpu: gpu(&instance.gpu)?, interconnect, deployment })
    }
}
