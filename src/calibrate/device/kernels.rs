//! The kernels of `calibration/kernels`: how they are launched, what their arguments are, and a
//! check of each against plain Rust.
//!
//! A kernel runs on whatever implements [`Runner`]: a GPU, or in the tests the same sources compiled
//! for the CPU, so that geometry, arguments, packing and checks are right before they meet a GPU.

pub mod attention;
pub mod check;
pub mod gemm;
pub mod pack;
pub mod reference;
pub mod small;
pub mod work;

use std::fmt;

/// Bytes of one allocation on a device, from a device address on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    pub address: u64,
    pub bytes: u64,
}

/// One argument of a kernel, in the width in which the kernel takes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Argument {
    Address(u64),
    U64(u64),
    U32(u32),
    I32(i32),
    F32(f32),
}

impl Argument {
    /// As a little-endian word, of which a kernel reads the low bytes that its parameter has.
    pub fn word(&self) -> u64 {
        match *self {
            Self::Address(value) | Self::U64(value) => value,
            Self::U32(value) => value.into(),
            Self::I32(value) => u64::from(value as u32),
            Self::F32(value) => value.to_bits().into(),
        }
    }
}

impl From<Buffer> for Argument {
    fn from(buffer: Buffer) -> Self {
        Self::Address(buffer.address)
    }
}

impl From<Option<Buffer>> for Argument {
    fn from(buffer: Option<Buffer>) -> Self {
        Self::Address(buffer.map_or(0, |buffer| buffer.address))
    }
}

impl From<i32> for Argument {
    fn from(value: i32) -> Self {
        Self::I32(value)
    }
}

impl From<f32> for Argument {
    fn from(value: f32) -> Self {
        Self::F32(value)
    }
}

/// A kernel with its geometry and arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    pub kernel: &'static str,
    pub grid: [u32; 3],
    /// Threads of a block, in one dimension.
    pub threads: u32,
    /// Bytes of shared memory asked for at the launch.
    pub shared: u32,
    pub arguments: Vec<Argument>,
}

/// The largest shared memory of any launch: what every GPU grants without being asked twice.
pub const MAX_SHARED: u32 = 48 << 10;

/// A kernel's problem does not suit it, or the device failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunnerError(pub String);

impl fmt::Display for RunnerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RunnerError {}

/// What kernels run on. Launches follow each other in order.
pub trait Runner {
    /// Memory whose contents are undefined; freed with the runner.
    fn allocate(&self, bytes: u64) -> Result<Buffer, RunnerError>;
    fn upload(&self, to: Buffer, bytes: &[u8]) -> Result<(), RunnerError>;
    /// Waits for all launches, then copies.
    fn download(&self, from: Buffer) -> Result<Vec<u8>, RunnerError>;
    fn launch(&self, launch: &Launch) -> Result<(), RunnerError>;
}

/// Uploads plain numbers.
pub fn uploaded<T: pack::Plain>(runner: &dyn Runner, values: &[T]) -> Result<Buffer, RunnerError> {
    let bytes = pack::to_bytes(values);
    let buffer = runner.allocate(bytes.len() as u64)?;
    runner.upload(buffer, &bytes)?;
    Ok(buffer)
}

/// Downloads plain numbers.
pub fn downloaded<T: pack::Plain>(
    runner: &dyn Runner,
    buffer: Buffer,
) -> Result<Vec<T>, RunnerError> {
    Ok(pack::from_bytes(&runner.download(buffer)?))
}

/// A count as a kernel takes it; problems are far below 2^31.
fn int(value: usize) -> i32 {
    i32::try_from(value).expect("a probe's dimension is below 2^31")
}

fn uint(value: usize) -> u32 {
    u32::try_from(value).expect("a probe's grid is below 2^32")
}
