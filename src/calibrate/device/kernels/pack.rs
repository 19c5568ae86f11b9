//! Numbers as the kernels store them.

use half::f16;

/// Numbers that are their little-endian bytes.
pub trait Plain: Copy {
    const BYTES: usize;
    fn write(self, out: &mut Vec<u8>);
    fn read(bytes: &[u8]) -> Self;
}

macro_rules! plain {
    ($($T:ty),+) => {$(
        impl Plain for $T {
            const BYTES: usize = size_of::<$T>();
            fn write(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn read(bytes: &[u8]) -> Self {
                Self::from_le_bytes(bytes.try_into().expect("as many bytes as the number has"))
            }
        }
    )+};
}

plain!(u8, u32, i32, f32, f16);

pub fn to_bytes<T: Plain>(values: &[T]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(values.len() * T::BYTES);
    values.iter().for_each(|value| value.write(&mut bytes));
    bytes
}

pub fn from_bytes<T: Plain>(bytes: &[u8]) -> Vec<T> {
    bytes.chunks_exact(T::BYTES).map(T::read).collect()
}

/// Where the weights of 16 columns of a row go in memory: the tensor cores' lane `q` needs columns
/// `2q, 2q + 1, 2q + 8, 2q + 9`.
const LANE_ORDER: [usize; 16] = [0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15];

/// Weights in 8 bits, `[n][k]`, from -128 to 127, as `Int8Weights` of `gemm.cu` has them.
pub fn pack_int8(weights: &[i8], k: usize) -> Vec<u8> {
    assert!(k.is_multiple_of(16), "rows are whole groups of 16");
    let biased = |weight: i8| (i16::from(weight) + 128) as u8;
    weights
        .chunks_exact(16)
        .flat_map(|group| LANE_ORDER.map(|column| biased(group[column])))
        .collect()
}

/// Weights in 4 bits, `[n][k]`, from -8 to 7, as `Int4Weights` of `gemm.cu` has them: word `q` of 32
/// columns holds lane `q`'s pairs.
pub fn pack_int4(weights: &[i8], k: usize) -> Vec<u8> {
    assert!(k.is_multiple_of(32), "rows are whole groups of 32");
    let mut packed = Vec::with_capacity(weights.len() / 2);
    for group in weights.chunks_exact(32) {
        for lane in 0..4 {
            let mut word = 0u32;
            for pair in 0..4 {
                let column = pair * 8 + lane * 2;
                let biased = |weight: i8| (i32::from(weight) + 8) as u32 & 15;
                word |= biased(group[column]) << (4 * pair);
                word |= biased(group[column + 1]) << (4 * pair + 16);
            }
            word.write(&mut packed);
        }
    }
    packed
}

/// Numbers that look random, evenly spread from -1 to 1; the same for the same seed.
pub fn noise(count: usize, seed: u32) -> impl Iterator<Item = f32> {
    (0..count as u32).map(move |i| {
        let mut x = i.wrapping_mul(0x9e37_79b9).wrapping_add(seed);
        x = (x ^ (x >> 16)).wrapping_mul(0x85eb_ca6b);
        x = (x ^ (x >> 13)).wrapping_mul(0xc2b2_ae35);
        x ^= x >> 16;
        ((x >> 20) as f32 - 2048.0) / 2048.0
    })
}

pub fn half_noise(count: usize, seed: u32, scale: f32) -> Vec<f16> {
    noise(count, seed).map(|x| f16::from_f32(x * scale)).collect()
}
