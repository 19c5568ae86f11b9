//! Which precisions each engine generation could serve; from its documentation, partly from memory.

use crate::engine_name::EngineName;
use crate::model::{KvCacheDtype, WeightFormat};

pub(super) fn loads(engine: EngineName, format: WeightFormat) -> bool {
    use WeightFormat::{
        Awq, Bitsandbytes, BitsandbytesFp4, BitsandbytesNf4, Eetq, Fp8, Gptq, Marlin, None,
    };
    match engine {
        EngineName::Tgis2023 | EngineName::Tgis2024 => {
            matches!(format, None | Bitsandbytes | Gptq)
        }
        EngineName::TgiV2 | EngineName::TgiV3 | EngineName::Static => true,
        EngineName::Vllm0_2_7 => matches!(format, None | Awq | Gptq),
        EngineName::Vllm0_4_2 => matches!(format, None | Awq | Gptq | Marlin | Fp8),
        EngineName::Vllm0_13 | EngineName::Vllm0_32 => match format {
            None | Awq | Gptq | Marlin | Fp8 | Bitsandbytes | BitsandbytesNf4 => true,
            BitsandbytesFp4 | Eetq => false,
        },
    }
}

pub(super) fn stores_kv(engine: EngineName, kv: KvCacheDtype) -> bool {
    use KvCacheDtype::{Auto, Fp8E4m3, Fp8E5m2};
    match engine {
        EngineName::Static => true,
        EngineName::Vllm0_4_2 => matches!(kv, Auto | Fp8E5m2),
        EngineName::Vllm0_13 | EngineName::Vllm0_32 | EngineName::TgiV3 => {
            matches!(kv, Auto | Fp8E5m2 | Fp8E4m3)
        }
        EngineName::Vllm0_2_7 | EngineName::TgiV2 | EngineName::Tgis2023 | EngineName::Tgis2024 => {
            kv == Auto
        }
    }
}
