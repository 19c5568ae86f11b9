//! Keys that users of the real engines will try, and that are refused by name: a wrong prediction
//! that looks right is worse than none.

use super::document::Value;

/// Why a key is refused although it means something: it changes the result in ways that the
/// simulator has no model of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Dotted path; `*` stands for one part.
    path: &'static str,
    what: &'static str,
    /// The value with which the key changes nothing, so that settings can be copied unchanged.
    harmless: Harmless,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harmless {
    Nothing,
    One,
    False,
}

const fn not_modelled(path: &'static str, what: &'static str, harmless: Harmless) -> Refusal {
    Refusal { path, what, harmless }
}

const REFUSALS: &[Refusal] = &[
    not_modelled("engine.pipeline-parallel-size", "pipeline parallelism", Harmless::One),
    not_modelled("engine.data-parallel-size", "data parallelism inside one engine", Harmless::One),
    not_modelled("engine.expert-parallel-size", "expert parallelism", Harmless::One),
    not_modelled("engine.enable-expert-parallel", "expert parallelism", Harmless::False),
    not_modelled("engine.num-nodes", "tensor parallelism over several nodes", Harmless::One),
    not_modelled("engine.*.pipeline-parallel-size", "pipeline parallelism", Harmless::One),
    not_modelled("engine.*.data-parallel-size", "data parallelism", Harmless::One),
    not_modelled("engine.*.enable-expert-parallel", "expert parallelism", Harmless::False),
    not_modelled("engine.*.speculative-config", "speculative decoding", Harmless::Nothing),
    not_modelled("engine.*.speculative-model", "speculative decoding", Harmless::Nothing),
    not_modelled("engine.*.speculate", "speculative decoding", Harmless::Nothing),
    not_modelled("engine.*.enable-lora", "LoRA adapters", Harmless::False),
    not_modelled("engine.*.lora-adapters", "LoRA adapters", Harmless::Nothing),
    not_modelled("engine.*.kv-transfer-config", "prefill/decode disaggregation", Harmless::Nothing),
    not_modelled("engine.*.cpu-offload-gb", "offloading to CPU memory", Harmless::Nothing),
    not_modelled("engine.*.kv-offloading-size", "KV offloading", Harmless::Nothing),
    not_modelled(
        "engine.*.cuda-process-memory-fraction",
        "a cap on the process's share of the GPU",
        Harmless::One,
    ),
    not_modelled("engine.*.kv-cache-memory-bytes", "KV memory set by hand", Harmless::Nothing),
    not_modelled(
        "engine.*.prefill-schedule-interval",
        "prefills of every N-th step",
        Harmless::One,
    ),
    not_modelled("engine.*.stream-interval", "tokens sent in packets", Harmless::One),
    not_modelled("engine.*.performance-mode", "presets of several settings", Harmless::Nothing),
    not_modelled("engine.*.preemption-mode", "preemption by swapping", Harmless::Nothing),
    not_modelled("engine.*.scheduler-delay-factor", "delayed admission", Harmless::Nothing),
    not_modelled("engine.*.num-scheduler-steps", "multi-step scheduling", Harmless::One),
    not_modelled("engine.*.paged-attention", "the paged models of TGIS", Harmless::False),
    not_modelled("engine.*.max-num-partial-prefills", "partial-prefill limits", Harmless::One),
    not_modelled("engine.*.max-long-partial-prefills", "partial-prefill limits", Harmless::One),
];

pub fn lookup(path: &str) -> Option<&'static Refusal> {
    let matches = |pattern: &str| {
        let mut parts = path.split('.');
        let same =
            pattern.split('.').all(|want| parts.next().is_some_and(|p| want == "*" || want == p));
        same && parts.next().is_none()
    };
    REFUSALS.iter().find(|refusal| matches(refusal.path))
}

impl Refusal {
    pub fn is_harmless(&self, value: &Value) -> bool {
        match (self.harmless, value) {
            (Harmless::One, Value::Integer(n)) => *n == 1,
            (Harmless::One, Value::Float(x)) => *x == 1.0,
            (Harmless::False, Value::Boolean(on)) => !on,
            _ => false,
        }
    }

    pub fn title(&self, key: &str) -> String {
        format!("`{key}` is not modelled")
    }

    pub fn label(&self) -> &'static str {
        self.what
    }

    pub fn help(&self) -> String {
        match self.harmless {
            Harmless::One => "leave it out, or set it to 1",
            Harmless::False => "leave it out, or set it to false",
            Harmless::Nothing => "leave it out; the result is then that of a server without it",
        }
        .into()
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema::Schema;
    use super::*;

    #[test]
    fn a_refused_key_set_to_what_changes_nothing_is_let_through() {
        let pipeline = lookup("engine.vllm.pipeline-parallel-size").unwrap();
        assert!(pipeline.is_harmless(&Value::Integer(1)));
        assert!(!pipeline.is_harmless(&Value::Integer(2)));
        let lora = lookup("engine.vllm.enable-lora").unwrap();
        assert!(
            lora.is_harmless(&Value::Boolean(false)) && !lora.is_harmless(&Value::Boolean(true))
        );
    }

    #[test]
    fn no_refused_key_is_also_a_known_one() {
        for (path, _) in Schema::scenario().keys() {
            assert_eq!(lookup(&path), None, "{path}");
        }
    }
}
