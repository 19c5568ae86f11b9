//! The kernels compiled anew, where NVRTC is found: the PTX that the binary carries belongs to its
//! sources, and no architecture spills registers.
//!
//! `SERVESIM_NVRTC` names the folder of `libnvrtc.so.12` and its builtins (of PyPI's
//! `nvidia-cuda-nvrtc-cu12`); without it the loader's own places are searched.

use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::{fs, ptr};

use libloading::Library;

const SOURCES: [&str; 4] = ["stream", "elementwise", "gemm", "attention"];
/// What the binary carries, and what wrote it.
const PTX: [&str; 2] = ["compute_75", "compute_80"];
const WRITTEN_BY: &str = "V12.2.140";
const CUBIN: [&str; 4] = ["sm_80", "sm_86", "sm_89", "sm_90"];

struct Nvrtc(Library);

type Status = c_int;
type Program = *mut c_void;

impl Nvrtc {
    fn find() -> Option<Self> {
        let folder = std::env::var_os("SERVESIM_NVRTC").map(PathBuf::from);
        if let Some(folder) = &folder {
            let mut files: Vec<_> = fs::read_dir(folder)
                .unwrap_or_else(|error| panic!("SERVESIM_NVRTC {}: {error}", folder.display()))
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.to_string_lossy().contains("libnvrtc-builtins.so"))
                .collect();
            files.sort();
            for builtins in files {
                // SAFETY: NVIDIA's library, which NVRTC would load itself if it found it.
                std::mem::forget(unsafe { Library::new(builtins) });
            }
        }
        let folder = folder.unwrap_or_default();
        ["libnvrtc.so.12", "libnvrtc.so.13", "libnvrtc.so"].iter().find_map(|name| {
            // SAFETY: NVIDIA's library; loading it runs its initialisers only.
            unsafe { Library::new(folder.join(name)) }.ok().map(Self)
        })
    }

    /// Calls a function that takes a program and something more.
    fn call<T>(&self, name: &str, program: Program, argument: T) -> Status {
        // SAFETY: the signatures of nvrtc.h, where `T` is a pointer.
        unsafe {
            let function = self
                .0
                .get::<unsafe extern "C" fn(Program, T) -> Status>(name.as_bytes())
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            function(program, argument)
        }
    }

    fn text(&self, size: &str, get: &str, program: Program) -> String {
        let mut bytes = 0usize;
        assert_eq!(self.call(size, program, &raw mut bytes), 0, "{size}");
        let mut text = vec![0u8; bytes];
        assert_eq!(self.call(get, program, text.as_mut_ptr()), 0, "{get}");
        String::from_utf8_lossy(&text).trim_end_matches('\0').to_owned()
    }

    /// Text of the PTX, and the log.
    fn compile(&self, source: &str, architecture: &str, more: &[&str]) -> (String, String) {
        let folder = kernels();
        let text = fs::read_to_string(folder.join(format!("{source}.cu"))).unwrap();
        let (text, name) =
            (CString::new(text).unwrap(), CString::new(format!("{source}.cu")).unwrap());
        let mut options = vec![
            format!("--gpu-architecture={architecture}"),
            format!("--include-path={}", folder.display()),
            "--std=c++17".to_owned(),
        ];
        options.extend(more.iter().map(|option| (*option).to_owned()));
        let options: Vec<CString> = options.into_iter().map(|o| CString::new(o).unwrap()).collect();
        let pointers: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
        type Create = unsafe extern "C" fn(
            *mut Program,
            *const c_char,
            *const c_char,
            c_int,
            *const *const c_char,
            *const *const c_char,
        ) -> Status;
        type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Status;
        let mut program: Program = ptr::null_mut();
        // SAFETY: the signatures of nvrtc.h; all strings live until the calls return.
        let status = unsafe {
            let create = self.0.get::<Create>(b"nvrtcCreateProgram").unwrap();
            let made =
                create(&raw mut program, text.as_ptr(), name.as_ptr(), 0, ptr::null(), ptr::null());
            assert_eq!(made, 0, "nvrtcCreateProgram");
            let compile = self.0.get::<Compile>(b"nvrtcCompileProgram").unwrap();
            compile(program, pointers.len() as c_int, pointers.as_ptr())
        };
        let log = self.text("nvrtcGetProgramLogSize", "nvrtcGetProgramLog", program);
        assert_eq!(status, 0, "{source} for {architecture}: {log}");
        (self.text("nvrtcGetPTXSize", "nvrtcGetPTX", program), log)
    }
}

fn kernels() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("calibration/kernels")
}

/// Registers and spilled bytes of each kernel, from the assembler's remarks.
fn resources(log: &str) -> BTreeMap<String, (u32, u32)> {
    let number_before = |line: &str, what: &str| -> u32 {
        let before = line.split(what).next().unwrap_or_default();
        before.split_whitespace().last().and_then(|word| word.parse().ok()).unwrap_or(0)
    };
    let mut found = BTreeMap::new();
    let mut kernel = String::new();
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            kernel = rest.split('\'').next().unwrap_or_default().to_owned();
        } else if line.contains("bytes spill stores") {
            let bytes = number_before(line, " bytes spill stores")
                + number_before(line, " bytes spill loads");
            found.entry(kernel.clone()).or_insert((0, 0)).1 = bytes;
        } else if line.contains("Used ") {
            found.entry(kernel.clone()).or_insert((0, 0)).0 = number_before(line, " registers");
        }
    }
    found
}

#[test]
fn the_ptx_belongs_to_its_sources() {
    let Some(nvrtc) = Nvrtc::find() else {
        eprintln!("skipped: no NVRTC (set SERVESIM_NVRTC)");
        return;
    };
    for source in SOURCES {
        for architecture in PTX {
            let (fresh, _) = nvrtc.compile(source, architecture, &[]);
            let path = kernels().join(format!("ptx/{source}.{architecture}.ptx"));
            let kept = fs::read_to_string(&path).unwrap();
            assert!(kept.contains(WRITTEN_BY), "{} is from another NVRTC", path.display());
            // Other versions write other text; that they compile it is what they can tell.
            if fresh.contains(WRITTEN_BY) {
                assert!(fresh == kept, "{} is stale: run build.py", path.display());
            }
        }
    }
}

#[test]
fn no_kernel_spills_registers() {
    let Some(nvrtc) = Nvrtc::find() else {
        eprintln!("skipped: no NVRTC (set SERVESIM_NVRTC)");
        return;
    };
    let mut table: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for source in SOURCES {
        for architecture in CUBIN {
            let (_, log) = nvrtc.compile(source, architecture, &["--ptxas-options=-v"]);
            let kernels = resources(&log);
            assert!(!kernels.is_empty(), "{source} for {architecture}: no remarks in {log:?}");
            for (kernel, (registers, spilled)) in kernels {
                assert!(spilled == 0, "{kernel} for {architecture} spills {spilled} bytes");
                assert!((1..=255).contains(&registers), "{kernel} for {architecture}: {registers}");
                table.entry(kernel).or_default().push(registers);
            }
        }
    }
    println!("registers        {CUBIN:?}");
    table.iter().for_each(|(kernel, registers)| println!("{kernel:<18}{registers:?}"));
    assert!(table.len() >= 25, "{}", table.len());
}
