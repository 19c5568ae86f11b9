//! One GPU through its driver: memory, kernels, streams, events. Only `libcuda` is needed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{CString, c_int, c_void};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use crate::calibrate::device::kernels::{Buffer, Launch, Runner, RunnerError};
use crate::calibrate::device::{DeviceError, Effort, Sample};

macro_rules! ptx {
    ($name:literal) => {
        include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/calibration/kernels/ptx/",
            $name,
            ".ptx"
        ))
    };
}

/// `(name, PTX for Turing, PTX from Ampere on)`.
const MODULES: [(&str, &str, &str); 4] = [
    ("stream", ptx!("stream.compute_75"), ptx!("stream.compute_80")),
    ("elementwise", ptx!("elementwise.compute_75"), ptx!("elementwise.compute_80")),
    ("gemm", ptx!("gemm.compute_75"), ptx!("gemm.compute_80")),
    ("attention", ptx!("attention.compute_75"), ptx!("attention.compute_80")),
];

/// CUDA 12.2, R535: the first driver that reads the kernels' PTX (ISA 8.2).
const OLDEST: (i32, &str) = (12_020, "12.2 (R535)");

/// A GPU with a stream of its own.
pub struct Driver {
    device: sys::CUdevice,
    pub context: sys::CUcontext,
    pub stream: sys::CUstream,
    modules: Vec<sys::CUmodule>,
    functions: RefCell<BTreeMap<&'static str, sys::CUfunction>>,
    allocations: RefCell<Vec<sys::CUdeviceptr>>,
}

pub fn failed(what: &str, error: DriverError) -> RunnerError {
    let name = error.error_name().map_or("unknown error".into(), |name| name.to_string_lossy());
    RunnerError(format!("{what}: {name}"))
}

/// Loads the driver and starts it; the number of GPUs.
pub fn start() -> Result<u32, DeviceError> {
    // SAFETY: looks for the library and lets go of it; loading NVIDIA's driver has no other effect.
    if !unsafe { sys::is_culib_present() } {
        return Err(DeviceError::new(
            "no NVIDIA driver on this machine: libcuda.so.1 (nvcuda.dll) is not found",
            "install the driver (R535 or later); in a container, start it with the GPU (docker run \
             --gpus all); without an NVIDIA GPU use --device cpu, or --from-tables with tables \
             measured elsewhere",
        ));
    }
    let mut version: c_int = 0;
    // SAFETY: writes one number; it works before cuInit.
    let asked = unsafe { sys::cuDriverGetVersion(&raw mut version) }.result();
    if asked.is_err() || version < OLDEST.0 {
        return Err(DeviceError::new(
            format!(
                "the NVIDIA driver is for CUDA {}.{}; the kernels need {}",
                version / 1000,
                version % 1000 / 10,
                OLDEST.1
            ),
            "update the driver",
        ));
    }
    result::init().map_err(|error| {
        DeviceError::new(
            failed("the NVIDIA driver does not start", error).0,
            "see whether nvidia-smi lists a GPU; CUDA_VISIBLE_DEVICES may hide it, a container may \
             lack it (docker run --gpus all), and after a driver update the machine must restart",
        )
    })?;
    let count = result::device::get_count().map_err(unexpected)?;
    u32::try_from(count).map_err(|_| DeviceError::new("the driver counts no GPUs", "restart it"))
}

fn unexpected(error: DriverError) -> DeviceError {
    DeviceError::new(
        failed("the NVIDIA driver failed", error).0,
        "see nvidia-smi and the kernel's log (dmesg | grep NVRM)",
    )
}

/// What the driver says of a GPU.
#[derive(Clone, Debug)]
pub struct Attributes {
    pub name: String,
    pub compute_capability: (u32, u32),
    pub multiprocessors: u32,
    pub l2_bytes: u64,
    pub clock_mhz: u32,
    pub memory_bytes: u64,
    pub bus_id: CString,
}

pub fn attributes(index: u32) -> Result<Attributes, DeviceError> {
    use sys::CUdevice_attribute as Attribute;
    let device = result::device::get(index as c_int).map_err(unexpected)?;
    let get = |attribute| {
        // SAFETY: the device is valid, since the driver gave it.
        let value = unsafe { result::device::get_attribute(device, attribute) };
        value.map(|value| value.unsigned_abs()).map_err(unexpected)
    };
    let mut bus_id = [0u8; 32];
    // SAFETY: writes at most as many bytes as said, ended by a zero.
    unsafe { sys::cuDeviceGetPCIBusId(bus_id.as_mut_ptr().cast(), 32, device) }
        .result()
        .map_err(unexpected)?;
    let end = bus_id.iter().position(|&byte| byte == 0).unwrap_or(bus_id.len());
    Ok(Attributes {
        name: result::device::get_name(device).map_err(unexpected)?,
        compute_capability: (
            get(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            get(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: get(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        l2_bytes: get(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?.into(),
        clock_mhz: get(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)? / 1000,
        // SAFETY: the device is valid.
        memory_bytes: unsafe { result::device::total_mem(device) }.map_err(unexpected)? as u64,
        bus_id: CString::new(&bus_id[..end]).unwrap_or_default(),
    })
}

impl Driver {
    /// Opens GPU `index` and loads the kernels, which the driver compiles for it.
    pub fn open(index: u32, compute_capability: (u32, u32)) -> Result<Self, DeviceError> {
        let device = result::device::get(index as c_int).map_err(unexpected)?;
        // SAFETY: the device is valid; the context is released in `drop`.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(|error| {
            DeviceError::new(
                failed("the GPU gives no context", error).0,
                "another process may hold it (compute mode) or its memory: see nvidia-smi",
            )
        })?;
        // SAFETY: the context was just made.
        unsafe { result::ctx::set_current(context) }.map_err(unexpected)?;
        let kind = result::stream::StreamKind::NonBlocking;
        let stream = result::stream::create(kind).map_err(unexpected)?;
        let mut modules = Vec::new();
        for (name, turing, ampere) in MODULES {
            let text = if compute_capability < (8, 0) { turing } else { ampere };
            let text = CString::new(text).expect("PTX has no zero byte");
            // SAFETY: the text ends with a zero, as the driver asks of PTX.
            let module = unsafe { result::module::load_data(text.as_ptr().cast()) };
            modules.push(module.map_err(|error| {
                DeviceError::new(
                    failed(&format!("the driver does not take the {name} kernels"), error).0,
                    "update the driver",
                )
            })?);
        }
        Ok(Self {
            device,
            context,
            stream,
            modules,
            functions: RefCell::default(),
            allocations: RefCell::default(),
        })
    }

    /// Makes it the GPU that this thread's calls go to.
    pub fn enter(&self) -> Result<(), RunnerError> {
        // SAFETY: the context lives as long as `self`.
        unsafe { result::ctx::set_current(self.context) }.map_err(|e| failed("context", e))
    }

    /// Bytes that can be allocated now.
    pub fn free_bytes(&self) -> Result<u64, RunnerError> {
        self.enter()?;
        result::mem_get_info().map(|(free, _)| free as u64).map_err(|e| failed("memory", e))
    }

    /// How many allocations there are, for [`Driver::release`].
    pub fn mark(&self) -> usize {
        self.allocations.borrow().len()
    }

    /// Frees what was allocated since `mark`, after all launches are done.
    pub fn release(&self, mark: usize) -> Result<(), RunnerError> {
        self.wait()?;
        for pointer in self.allocations.borrow_mut().drain(mark..) {
            // SAFETY: allocated by `allocate`, and nothing runs any more.
            unsafe { result::free_sync(pointer) }.map_err(|e| failed("cannot free memory", e))?;
        }
        Ok(())
    }

    /// Opens the memory of `other` to this GPU; false where the machine keeps them apart.
    pub fn reaches(&self, other: &Self) -> bool {
        let mut can: c_int = 0;
        // SAFETY: both devices are valid and their contexts live.
        unsafe {
            let asked = sys::cuDeviceCanAccessPeer(&raw mut can, self.device, other.device);
            if asked.result().is_err() || can == 0 || self.enter().is_err() {
                return false;
            }
            let opened = sys::cuCtxEnablePeerAccess(other.context, 0);
            let already = sys::CUresult::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED;
            opened == already || opened.result().is_ok()
        }
    }

    pub fn wait(&self) -> Result<(), RunnerError> {
        self.enter()?;
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::synchronize(self.stream) }
            .map_err(|e| failed("a kernel failed", e))
    }

    fn function(&self, kernel: &'static str) -> Result<sys::CUfunction, RunnerError> {
        if let Some(function) = self.functions.borrow().get(kernel) {
            return Ok(*function);
        }
        let found = self.modules.iter().find_map(|&module| {
            let name = CString::new(kernel).expect("a kernel's name has no zero byte");
            // SAFETY: the module is loaded as long as `self` lives.
            unsafe { result::module::get_function(module, name) }.ok()
        });
        let function = found.ok_or_else(|| RunnerError(format!("no kernel {kernel}")))?;
        self.functions.borrow_mut().insert(kernel, function);
        Ok(function)
    }

    /// Records what `calls` enqueues, so that it can be replayed without the host's part.
    pub fn capture(
        &self,
        calls: impl FnOnce() -> Result<(), RunnerError>,
    ) -> Result<Graph, RunnerError> {
        self.wait()?;
        let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is valid and idle.
        unsafe { result::stream::begin_capture(self.stream, mode) }
            .map_err(|e| failed("cannot record a graph", e))?;
        let called = calls();
        // SAFETY: recording ends also where a call failed.
        let graph = unsafe { result::stream::end_capture(self.stream) };
        called?;
        let graph = graph.map_err(|e| failed("cannot record a graph", e))?;
        // SAFETY: the graph was just recorded; it is no longer needed once instantiated.
        let instance = unsafe {
            let none = sys::CUgraphInstantiate_flags_enum(0);
            let instance = result::graph::instantiate(graph, none);
            let _ = result::graph::destroy(graph);
            instance
        };
        instance.map(Graph).map_err(|e| failed("cannot prepare a graph", e))
    }

    pub fn replay(&self, graph: &Graph) -> Result<(), RunnerError> {
        // SAFETY: graph and stream are valid.
        unsafe { result::graph::launch(graph.0, self.stream) }
            .map_err(|e| failed("a graph failed", e))
    }

    /// Seconds between two points of the stream around what `calls` enqueues.
    pub fn seconds(
        &self,
        calls: impl FnOnce() -> Result<(), RunnerError>,
    ) -> Result<f64, RunnerError> {
        // The default of cudarc's own events leaves time out.
        let flags = sys::CUevent_flags::CU_EVENT_DEFAULT;
        let broken = |error| failed("cannot take the time", error);
        let start = result::event::create(flags).map_err(broken)?;
        let end = result::event::create(flags).map_err(broken)?;
        // SAFETY: events and stream are valid until they are destroyed below.
        let timed = unsafe {
            result::event::record(start, self.stream)
                .map_err(broken)
                .and_then(|()| calls())
                .and_then(|()| {
                    result::event::record(end, self.stream).map_err(broken)?;
                    result::event::synchronize(end).map_err(|e| failed("a kernel failed", e))?;
                    result::event::elapsed(start, end).map_err(broken)
                })
        };
        // SAFETY: nothing uses them any more.
        unsafe {
            let _ = result::event::destroy(start);
            let _ = result::event::destroy(end);
        }
        timed.map(|milliseconds| f64::from(milliseconds) / 1e3)
    }

    /// Times `call`, which is told how often it has been called. About a millisecond of calls is
    /// one graph, at least `rotation` of them, so that the host's launches do not count; a sample
    /// is one replay.
    pub fn time(
        &self,
        effort: Effort,
        rotation: usize,
        mut call: impl FnMut(usize) -> Result<(), RunnerError>,
    ) -> Result<Sample, RunnerError> {
        // Code is loaded, clocks rise.
        (0..rotation.min(3)).try_for_each(&mut call)?;
        self.wait()?;
        let once = self.seconds(|| call(0))?.max(1e-6);
        let calls = ((1e-3 / once).ceil() as usize).clamp(1, 256).max(rotation.min(64));
        let graph = self.capture(|| (0..calls).try_for_each(&mut call))?;
        let (warm, repeats) = match effort {
            Effort::Quick => (1, 7),
            Effort::Full => (3, 21),
        };
        (0..warm).try_for_each(|_| self.replay(&graph))?;
        let samples: Result<Vec<f64>, RunnerError> = (0..repeats)
            .map(|_| self.seconds(|| self.replay(&graph)).map(|t| t / calls as f64))
            .collect();
        Ok(Sample::of(&samples?))
    }
}

/// Recorded launches.
pub struct Graph(sys::CUgraphExec);

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made by `capture`, and replays have been waited for by their events.
        let _ = unsafe { result::graph::exec_destroy(self.0) };
    }
}

impl Runner for Driver {
    fn allocate(&self, bytes: u64) -> Result<Buffer, RunnerError> {
        self.enter()?;
        let length = usize::try_from(bytes.max(16)).unwrap_or(usize::MAX);
        // SAFETY: the memory is freed by `release` or `drop`; kernels fill it before they read it.
        let pointer = unsafe { result::malloc_sync(length) }
            .map_err(|e| failed(&format!("no {} MiB of GPU memory", bytes >> 20), e))?;
        self.allocations.borrow_mut().push(pointer);
        Ok(Buffer { address: pointer, bytes })
    }

    fn upload(&self, to: Buffer, bytes: &[u8]) -> Result<(), RunnerError> {
        assert!(bytes.len() as u64 <= to.bytes, "more bytes than the buffer holds");
        self.enter()?;
        // SAFETY: the buffer holds that many bytes.
        unsafe { result::memcpy_htod_sync(to.address, bytes) }
            .map_err(|e| failed("cannot copy to the GPU", e))
    }

    fn download(&self, from: Buffer) -> Result<Vec<u8>, RunnerError> {
        self.wait()?;
        let mut bytes = vec![0u8; usize::try_from(from.bytes).unwrap_or(usize::MAX)];
        // SAFETY: the buffer holds that many bytes.
        unsafe { result::memcpy_dtoh_sync(&mut bytes, from.address) }
            .map_err(|e| failed("cannot copy from the GPU", e))?;
        Ok(bytes)
    }

    fn launch(&self, launch: &Launch) -> Result<(), RunnerError> {
        self.enter()?;
        let function = self.function(launch.kernel)?;
        // A kernel reads the low bytes that its parameter has.
        let mut values: Vec<u64> =
            launch.arguments.iter().map(|argument| argument.word()).collect();
        let mut pointers: Vec<*mut c_void> =
            values.iter_mut().map(|value| std::ptr::from_mut(value).cast()).collect();
        let [x, y, z] = launch.grid;
        // SAFETY: geometry and arguments are those that `tests/kernels.rs` runs on the CPU; the
        // driver copies the arguments before it returns.
        unsafe {
            result::launch_kernel(
                function,
                (x, y, z),
                (launch.threads, 1, 1),
                launch.shared,
                self.stream,
                &mut pointers,
            )
        }
        .map_err(|e| failed(&format!("cannot launch {}", launch.kernel), e))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Nothing can be done about a driver that fails to let go.
        let _ = self.release(0);
        // SAFETY: all of these were made by `open`, and nothing runs any more.
        unsafe {
            let _ = result::stream::destroy(self.stream);
            for &module in &self.modules {
                let _ = result::module::unload(module);
            }
            let _ = result::primary_ctx::release(self.device);
        }
    }
}
