//! From a script that fails to a small one, and to a file that `servesim conformance` replays.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use servesim::compare::shrink::{self, AllSimpler, Simpler};
use servesim::conformance::{self, Run};
use servesim::time::SimTime;

use super::CurvedCost;
use super::script::{Ask, Script, Wrap};

/// The smallest script found that still fails: fewer requests first, then simpler ones.
pub fn shrink(script: Script, fails: impl Fn(&Script) -> bool) -> Script {
    assert!(fails(&script), "only what fails is shrunk");
    let Script { engine, asks } = script;
    let of = |asks: &[Ask]| Script { engine: engine.clone(), asks: asks.to_vec() };
    let asks = shrink::shrink(asks, &EACH, &ALL, u64::MAX, |asks| fails(&of(asks)));
    of(&asks)
}

const EACH: [Simpler<Ask>; 7] = [
    |ask| ask.gone = None,
    |ask| ask.spec.deadline = None,
    |ask| ask.spec.content = None,
    |ask| ask.spec.priority = 0,
    |ask| ask.spec.stop_at = u32::MAX,
    |ask| ask.spec.max_output_tokens = ask.spec.max_output_tokens.div_ceil(2),
    |ask| {
        // A prompt of another length has another content.
        if ask.spec.content.is_none() {
            ask.spec.prompt_tokens = ask.spec.prompt_tokens.div_ceil(2);
        }
    },
];

const ALL: [AllSimpler<Ask>; 1] = [|asks| asks.iter_mut().for_each(|ask| ask.at = SimTime::ZERO)];

/// Writes what the scheduler, with `wrap` around it, decides on `script`; the recording is named
/// after the property that does not hold.
pub fn save(script: &Script, property: &str, wrap: &Wrap) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("failing");
    fs::create_dir_all(&folder).expect("a folder below target");
    let name: String = property
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(60)
        .collect();
    let path = folder.join(format!("failing-{}-{name}.json", script.engine.name.name()));
    let run = Run {
        name: property,
        engine: script.engine.name,
        config: &script.engine.config,
        scheduler: wrap(script.engine.config.scheduler()),
        cost: Box::new(CurvedCost),
        workload: script.workload(&Default::default()),
        aborts: script.aborts(),
        stop_at: None,
    };
    let mut out = BufWriter::new(File::create(&path).expect("a file below target"));
    conformance::record(run, &mut out).expect("it is recorded");
    path
}
