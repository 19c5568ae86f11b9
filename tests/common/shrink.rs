//! From a script that fails to a small one, and to a file that `servesim conformance` replays.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use servesim::conformance::{self, Run};
use servesim::time::SimTime;

use super::CurvedCost;
use super::script::{Ask, Script, Wrap};

/// The smallest script found that still fails: fewer requests first, then simpler ones.
pub fn shrink(mut script: Script, fails: impl Fn(&Script) -> bool) -> Script {
    assert!(fails(&script), "only what fails is shrunk");
    while fewer(&mut script, &fails) || simpler(&mut script, &fails) {}
    script
}

/// Leaves out runs of requests, long ones first (Zeller and Hildebrandt 2002, "Simplifying and
/// isolating failure-inducing input").
fn fewer(script: &mut Script, fails: &impl Fn(&Script) -> bool) -> bool {
    let before = script.asks.len();
    let mut run = before / 2;
    while run > 0 {
        let mut at = 0;
        while at < script.asks.len() {
            let mut smaller = script.clone();
            smaller.asks.drain(at..(at + run).min(script.asks.len()));
            if !smaller.asks.is_empty() && fails(&smaller) {
                *script = smaller;
            } else {
                at += run;
            }
        }
        run /= 2;
    }
    script.asks.len() < before
}

fn simpler(script: &mut Script, fails: &impl Fn(&Script) -> bool) -> bool {
    let changes: [fn(&mut Ask); 7] = [
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
    let mut changed = false;
    let mut keep = |script: &mut Script, simpler: Script| {
        let new = format!("{:?}", simpler.asks) != format!("{:?}", script.asks);
        if new && fails(&simpler) {
            *script = simpler;
            changed = true;
        }
    };
    for at in 0..script.asks.len() {
        for change in changes {
            let mut simpler = script.clone();
            change(&mut simpler.asks[at]);
            keep(script, simpler);
        }
    }
    let mut together = script.clone();
    for ask in &mut together.asks {
        ask.at = SimTime::ZERO;
    }
    keep(script, together);
    changed
}

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
