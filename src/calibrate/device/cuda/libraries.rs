//! NVIDIA's libraries that are used where they are found: cuBLAS, NVML, NCCL.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr;

use libloading::Library;

use super::driver::Driver;
use crate::calibrate::device::kernels::gemm::{Operands, Problem};
use crate::calibrate::device::kernels::{Buffer, Runner, RunnerError};

fn load(names: &[&str]) -> Option<Library> {
    // SAFETY: NVIDIA's libraries; loading one runs its initialisers only.
    names.iter().find_map(|name| unsafe { Library::new(*name) }.ok())
}

/// A function of `library`, copied out of it; the library must live longer.
macro_rules! function {
    ($library:expr, $name:literal, $Type:ty) => {
        // SAFETY: the signature is that of the library's header.
        unsafe { $library.get::<$Type>($name).map(|found| *found) }
    };
}

type Handle = *mut c_void;
type GemmEx = unsafe extern "C" fn(
    Handle,
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    *const c_void,
    *const c_void,
    c_int,
    c_int,
    *const c_void,
    c_int,
    c_int,
    *const c_void,
    *mut c_void,
    c_int,
    c_int,
    c_int,
    c_int,
) -> c_int;

/// cuBLAS on one GPU's stream.
pub struct Cublas {
    handle: Handle,
    gemm: GemmEx,
    destroy: unsafe extern "C" fn(Handle) -> c_int,
    _library: Library,
}

// cublas_api.h, library_types.h
const OP_N: c_int = 0;
const OP_T: c_int = 1;
const R_16F: c_int = 2;
const COMPUTE_32F: c_int = 68;
const GEMM_DEFAULT: c_int = -1;

impl Cublas {
    /// `None` where the library is not found or does not start.
    pub fn open(driver: &Driver) -> Option<Self> {
        let library =
            load(&["libcublas.so.12", "libcublas.so.13", "libcublas.so", "cublas64_12.dll"])?;
        type Create = unsafe extern "C" fn(*mut Handle) -> c_int;
        type SetStream = unsafe extern "C" fn(Handle, *mut c_void) -> c_int;
        type SetWorkspace = unsafe extern "C" fn(Handle, *mut c_void, usize) -> c_int;
        type Destroy = unsafe extern "C" fn(Handle) -> c_int;
        let create = function!(library, b"cublasCreate_v2", Create).ok()?;
        let set_stream = function!(library, b"cublasSetStream_v2", SetStream).ok()?;
        let set_workspace = function!(library, b"cublasSetWorkspace_v2", SetWorkspace).ok()?;
        let destroy = function!(library, b"cublasDestroy_v2", Destroy).ok()?;
        let gemm = function!(library, b"cublasGemmEx", GemmEx).ok()?;
        // With memory of its own it would allocate while a graph is recorded.
        let workspace = driver.allocate(WORKSPACE).ok()?;
        let mut handle = ptr::null_mut();
        // SAFETY: the driver's context is current; stream and memory live as long as the driver,
        // which outlives this.
        unsafe {
            if create(&raw mut handle) != 0 {
                return None;
            }
            let memory = workspace.address as *mut c_void;
            let ready = set_stream(handle, driver.stream.cast()) == 0
                && set_workspace(handle, memory, WORKSPACE as usize) == 0;
            if !ready {
                destroy(handle);
                return None;
            }
        }
        Some(Self { handle, gemm, destroy, _library: library })
    }

    /// Enqueues `c = a w^T` in half precision with single-precision sums.
    pub fn multiply(&self, problem: &Problem, operands: &Operands) -> Result<(), RunnerError> {
        let [m, n, k] = [problem.m, problem.n, problem.k].map(|x| x as c_int);
        let (one, zero) = (1.0f32, 0.0f32);
        let pointer = |buffer: Buffer| buffer.address as *mut c_void;
        // cuBLAS stores columns: what is c[m][n] by rows is its transpose, w a^T.
        // SAFETY: the operands hold matrices of these shapes; scalars are read before it returns.
        let status = unsafe {
            (self.gemm)(
                self.handle,
                OP_T,
                OP_N,
                n,
                m,
                k,
                ptr::from_ref(&one).cast(),
                pointer(operands.w),
                R_16F,
                k,
                pointer(operands.a),
                R_16F,
                k,
                ptr::from_ref(&zero).cast(),
                pointer(operands.c),
                R_16F,
                n,
                COMPUTE_32F,
                GEMM_DEFAULT,
            )
        };
        if status == 0 { Ok(()) } else { Err(RunnerError(format!("cuBLAS fails with {status}"))) }
    }
}

/// What NVIDIA recommends for Hopper; others take less.
const WORKSPACE: u64 = 32 << 20;

impl Drop for Cublas {
    fn drop(&mut self) {
        // SAFETY: made by `open`, and its work has been waited for.
        unsafe { (self.destroy)(self.handle) };
    }
}

/// NVML: what a GPU does besides computing.
pub struct Nvml {
    device: *mut c_void,
    clock: unsafe extern "C" fn(*mut c_void, c_int, *mut c_uint) -> c_int,
    temperature: unsafe extern "C" fn(*mut c_void, c_int, *mut c_uint) -> c_int,
    pub driver_version: String,
    _library: Library,
}

impl Nvml {
    pub fn open(bus_id: &CStr) -> Option<Self> {
        let library = load(&["libnvidia-ml.so.1", "nvml.dll"])?;
        type Init = unsafe extern "C" fn() -> c_int;
        type ByBusId = unsafe extern "C" fn(*const c_char, *mut *mut c_void) -> c_int;
        type Version = unsafe extern "C" fn(*mut c_char, c_uint) -> c_int;
        type Read = unsafe extern "C" fn(*mut c_void, c_int, *mut c_uint) -> c_int;
        let init = function!(library, b"nvmlInit_v2", Init).ok()?;
        let by_bus_id = function!(library, b"nvmlDeviceGetHandleByPciBusId_v2", ByBusId).ok()?;
        let version = function!(library, b"nvmlSystemGetDriverVersion", Version).ok()?;
        let clock = function!(library, b"nvmlDeviceGetClockInfo", Read).ok()?;
        let temperature = function!(library, b"nvmlDeviceGetTemperature", Read).ok()?;
        let mut device = ptr::null_mut();
        let mut text = [0 as c_char; 96];
        // SAFETY: each call writes within what it is given.
        unsafe {
            if init() != 0 || by_bus_id(bus_id.as_ptr(), &raw mut device) != 0 {
                return None;
            }
            if version(text.as_mut_ptr(), 96) != 0 {
                return None;
            }
            let driver_version = CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned();
            Some(Self { device, clock, temperature, driver_version, _library: library })
        }
    }

    /// Clock of the multiprocessors in MHz, and degrees Celsius.
    pub fn state(&self) -> Option<(u32, u32)> {
        const CLOCK_SM: c_int = 1;
        const TEMPERATURE_GPU: c_int = 0;
        let (mut clock, mut temperature) = (0, 0);
        // SAFETY: the device is NVML's own; each call writes one number.
        let read = unsafe {
            (self.clock)(self.device, CLOCK_SM, &raw mut clock) == 0
                && (self.temperature)(self.device, TEMPERATURE_GPU, &raw mut temperature) == 0
        };
        read.then_some((clock, temperature))
    }
}

type Communicator = *mut c_void;
type AllReduce = unsafe extern "C" fn(
    *const c_void,
    *mut c_void,
    usize,
    c_int,
    c_int,
    Communicator,
    *mut c_void,
) -> c_int;

/// NCCL over the first GPUs.
pub struct Nccl {
    communicators: Vec<Communicator>,
    all_reduce: AllReduce,
    group_start: unsafe extern "C" fn() -> c_int,
    group_end: unsafe extern "C" fn() -> c_int,
    destroy: unsafe extern "C" fn(Communicator) -> c_int,
    _library: Library,
}

impl Nccl {
    /// `None` where the library is not found or the GPUs do not reach each other.
    pub fn open(ranks: usize) -> Option<Self> {
        let library = load(&["libnccl.so.2", "libnccl.so"])?;
        type InitAll = unsafe extern "C" fn(*mut Communicator, c_int, *const c_int) -> c_int;
        type Group = unsafe extern "C" fn() -> c_int;
        type Destroy = unsafe extern "C" fn(Communicator) -> c_int;
        let init = function!(library, b"ncclCommInitAll", InitAll).ok()?;
        let all_reduce = function!(library, b"ncclAllReduce", AllReduce).ok()?;
        let group_start = function!(library, b"ncclGroupStart", Group).ok()?;
        let group_end = function!(library, b"ncclGroupEnd", Group).ok()?;
        let destroy = function!(library, b"ncclCommDestroy", Destroy).ok()?;
        let mut communicators = vec![ptr::null_mut(); ranks];
        // SAFETY: writes one communicator for each rank; a null list means the first devices.
        let status = unsafe { init(communicators.as_mut_ptr(), ranks as c_int, ptr::null()) };
        (status == 0).then_some(Self {
            communicators,
            all_reduce,
            group_start,
            group_end,
            destroy,
            _library: library,
        })
    }

    /// Enqueues the sum of each rank's halves into the same place.
    pub fn sum(&self, ranks: &[Driver], buffers: &[Buffer]) -> Result<(), RunnerError> {
        const FLOAT16: c_int = 6;
        const SUM: c_int = 0;
        // SAFETY: each buffer is memory of its rank, on whose stream the sum is enqueued.
        let status = unsafe {
            let mut status = (self.group_start)();
            for ((rank, buffer), communicator) in ranks.iter().zip(buffers).zip(&self.communicators)
            {
                let (memory, count) = (buffer.address as *mut c_void, buffer.bytes as usize / 2);
                let stream = rank.stream.cast();
                let enqueued =
                    (self.all_reduce)(memory, memory, count, FLOAT16, SUM, *communicator, stream);
                status = status.max(enqueued);
            }
            status.max((self.group_end)())
        };
        if status == 0 { Ok(()) } else { Err(RunnerError(format!("NCCL fails with {status}"))) }
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        for &communicator in &self.communicators {
            // SAFETY: made by `open`, and its work has been waited for.
            unsafe { (self.destroy)(communicator) };
        }
    }
}
