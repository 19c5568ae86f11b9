//! The GPU kernels without a GPU: the same sources, launches and checks, on the CPU.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;

use libloading::{Library, Symbol};
use servesim::calibrate::device::kernels::check::{self, Checked};
use servesim::calibrate::device::kernels::work::{self, Setup};
use servesim::calibrate::device::kernels::{Buffer, Launch, MAX_SHARED, Runner, RunnerError};
use servesim::calibrate::device::{Effort, Probe, StreamKind, probe};
use servesim::calibrate::table::Operator;

type Allocate = unsafe extern "C" fn(usize) -> *mut c_void;
type LaunchKernel = unsafe extern "C" fn(
    *const c_char,
    *const c_uint,
    c_uint,
    usize,
    *const *const c_void,
    c_int,
) -> *const c_char;

/// `calibration/kernels/host`: kernels that run as C++, thread by thread.
struct HostRunner {
    library: Library,
    /// In which order threads run between two barriers.
    descending: bool,
}

fn kernels() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("calibration/kernels")
}

/// The C++ compiler, if there is one.
fn compiler() -> Option<String> {
    let named = std::env::var("CXX").ok();
    let known = ["g++", "clang++", "c++"].map(str::to_owned);
    named.into_iter().chain(known).find(|name| {
        Command::new(name).arg("--version").output().is_ok_and(|out| out.status.success())
    })
}

/// `None` where there is no compiler or no fibers to run threads as.
fn build(folder: &Path) -> Option<PathBuf> {
    if !cfg!(target_os = "linux") {
        eprintln!("skipped: the kernels' host build needs Linux");
        return None;
    }
    let Some(compiler) = compiler() else {
        eprintln!("skipped: no C++ compiler (g++, clang++ or CXX)");
        return None;
    };
    let library = folder.join("kernels.so");
    let done = Command::new(&compiler)
        .args([
            "-std=c++17",
            "-O2",
            "-U_FORTIFY_SOURCE",
            "-DSERVESIM_HOST",
            "-shared",
            "-fPIC",
            "-o",
        ])
        .arg(&library)
        .arg(kernels().join("host/kernels.cpp"))
        .output()
        .expect("the compiler runs");
    assert!(done.status.success(), "{compiler}: {}", String::from_utf8_lossy(&done.stderr));
    Some(library)
}

impl HostRunner {
    fn memory(buffer: Buffer) -> *mut u8 {
        buffer.address as *mut u8
    }
}

impl Runner for HostRunner {
    fn allocate(&self, bytes: u64) -> Result<Buffer, RunnerError> {
        // SAFETY: the library's own signature.
        let memory = unsafe {
            let allocate: Symbol<'_, Allocate> = self.library.get(b"servesim_allocate").unwrap();
            allocate(bytes as usize)
        };
        assert!(!memory.is_null(), "no memory for {bytes} bytes");
        Ok(Buffer { address: memory as u64, bytes })
    }

    fn upload(&self, to: Buffer, bytes: &[u8]) -> Result<(), RunnerError> {
        assert!(bytes.len() as u64 <= to.bytes);
        // SAFETY: `allocate` gave at least that many bytes.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), Self::memory(to), bytes.len()) };
        Ok(())
    }

    fn download(&self, from: Buffer) -> Result<Vec<u8>, RunnerError> {
        // SAFETY: as in `upload`; fresh memory is filled.
        Ok(unsafe { std::slice::from_raw_parts(Self::memory(from), from.bytes as usize) }.to_vec())
    }

    fn launch(&self, launch: &Launch) -> Result<(), RunnerError> {
        assert!(launch.shared <= MAX_SHARED, "{launch:?}");
        assert!(launch.grid[1] < 65_536 && launch.grid[2] < 65_536, "{launch:?}");
        let values: Vec<u64> = launch.arguments.iter().map(|argument| argument.word()).collect();
        let pointers: Vec<*const c_void> =
            values.iter().map(|value| std::ptr::from_ref(value).cast()).collect();
        let name = CString::new(launch.kernel).unwrap();
        // SAFETY: the library's own signature; a kernel reads as many arguments as it has, each in
        // its own width, from little-endian words.
        let problem = unsafe {
            let run: Symbol<'_, LaunchKernel> = self.library.get(b"servesim_launch").unwrap();
            let problem = run(
                name.as_ptr(),
                launch.grid.as_ptr(),
                launch.threads,
                launch.shared as usize,
                pointers.as_ptr(),
                self.descending.into(),
            );
            (!problem.is_null()).then(|| CStr::from_ptr(problem).to_string_lossy().into_owned())
        };
        problem.map_or(Ok(()), |text| Err(RunnerError(format!("{}: {text}", launch.kernel))))
    }
}

#[test]
fn every_kernel_computes_what_it_should() {
    let folder = tempfile::tempdir().unwrap();
    let Some(path) = build(folder.path()) else { return };
    for descending in [false, true] {
        // SAFETY: our own library, which runs nothing when loaded.
        let library = unsafe { Library::new(&path) }.unwrap();
        let checked = check::all(&HostRunner { library, descending }).unwrap();
        for Checked { kernel, problem, error, tolerance } in &checked {
            println!("{kernel:<18} {problem:<34} {error:.1e} of {tolerance:.1e}");
        }
        let failed: Vec<_> = checked.iter().filter(|checked| !checked.passed()).collect();
        assert!(failed.is_empty(), "{failed:#?}");
        assert!(checked.len() >= 30, "{}", checked.len());
    }
}

/// Whether the host runs a probe's launches within seconds.
fn small(operator: &Operator) -> bool {
    match operator {
        Operator::Gemm { m, n, k } => *m <= 16 && n * k <= 300_000,
        Operator::Attention(batch) => {
            let tokens = batch.chunks * batch.chunk_tokens + batch.sequences * batch.context;
            tokens * batch.heads <= 8192 && batch.chunk_past < 600
        }
        Operator::Elementwise { tokens, hidden, .. } => tokens * hidden <= 40_000,
        Operator::AllReduce { .. } => false,
    }
}

#[test]
fn probes_lay_out_all_the_memory_that_their_launches_touch() {
    let folder = tempfile::tempdir().unwrap();
    let Some(path) = build(folder.path()) else { return };
    // SAFETY: our own library, which runs nothing when loaded.
    let library = unsafe { Library::new(&path) }.unwrap();
    let runner = HostRunner { library, descending: false };
    let setup = Setup { multiprocessors: 20, rotation_bytes: 300_000 };
    let shapes = probe::Shapes {
        weights: &[(256, 1024), (200, 384)],
        rows: &[1, 16],
        heads: &[(8, 2, 64), (4, 1, 128)],
        chunks: &[(70, 0), (20, 100)],
        decodes: &[(1, 900), (3, 130)],
        mixed: &[],
        widths: &[(1024, 2048)],
        tokens: &[1, 5],
        vocabulary: 2_000,
    };
    let mut ran = 0;
    for dtype in ["fp16", "w8a16", "w4a16"] {
        for probe in shapes.probes(dtype, Effort::Full) {
            let Probe::Operator { dtype, operator } = &probe else { continue };
            if !small(operator) {
                continue;
            }
            let ready = work::operator(&runner, dtype, operator, setup).unwrap();
            assert!(!ready.variants.is_empty(), "{probe}");
            for calls in &ready.variants {
                // The first and the last copy: guard pages end the rest.
                for call in [&calls[0], &calls[calls.len() - 1]] {
                    for launch in call {
                        runner.launch(launch).unwrap_or_else(|error| panic!("{probe}: {error}"));
                    }
                }
            }
            ran += 1;
        }
    }
    assert!(ran >= 40, "{ran}");
    for kind in StreamKind::ALL {
        let ready = work::stream(&runner, kind, 100_000, setup).unwrap();
        runner.launch(&ready.variants[0][0][0]).unwrap();
    }
}
