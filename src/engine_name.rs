//! The engines that are modelled, by name.

use crate::named::named_enum;

named_enum! {
    /// An engine generation: its scheduling and memory rules are those of that version's server.
    pub enum EngineName as "engine" {
        Tgis2023 = "tgis-2023",
        Tgis2024 = "tgis-2024",
        TgiV2 = "tgi-v2",
        TgiV3 = "tgi-v3",
        Vllm0_2_7 = "vllm-0.2.7",
        Vllm0_4_2 = "vllm-0.4.2",
        Vllm0_13 = "vllm-0.13",
        Vllm0_32 = "vllm-0.32",
        Static = "static",
    }
}

named_enum! {
    /// Engines that share a settings table, `[engine.FAMILY]`.
    pub enum EngineFamily as "engine family" {
        Tgis = "tgis",
        Tgi = "tgi",
        Vllm = "vllm",
        Static = "static",
    }
}

impl EngineName {
    pub const fn family(self) -> EngineFamily {
        match self {
            Self::Tgis2023 | Self::Tgis2024 => EngineFamily::Tgis,
            Self::TgiV2 | Self::TgiV3 => EngineFamily::Tgi,
            Self::Vllm0_2_7 | Self::Vllm0_4_2 | Self::Vllm0_13 | Self::Vllm0_32 => {
                EngineFamily::Vllm
            }
            Self::Static => EngineFamily::Static,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_name_starts_with_its_family() {
        for engine in EngineName::ALL {
            assert!(engine.name().starts_with(engine.family().name()), "{engine}");
        }
    }
}
