//! Quantities with their units in the type.
//!
//! Fields are private and there is no `Deref`: the only operators are those that mean something,
//! such as `Bytes / Bandwidth -> SimDuration`. Files write units out (`"24 GiB"`, `"600 GB/s"`);
//! a bare number is an error that names the accepted forms.

use std::fmt;
use std::ops::{Add, AddAssign, Div, Mul, Sub};

use crate::time::SimDuration;

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(u64);

impl Bytes {
    pub const ZERO: Self = Self(0);
    pub const KIB: u64 = 1 << 10;
    pub const MIB: u64 = 1 << 20;
    pub const GIB: u64 = 1 << 30;

    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    pub const fn from_mib(mib: u64) -> Self {
        Self(mib * Self::MIB)
    }

    /// To the nearest byte; negative and NaN become zero.
    pub fn from_f64(bytes: f64) -> Self {
        Self((bytes + 0.5) as u64)
    }

    pub fn from_gib_f64(gib: f64) -> Self {
        Self::from_f64(gib * Self::GIB as f64)
    }

    pub const fn get(self) -> u64 {
        self.0
    }

    pub fn as_f64(self) -> f64 {
        self.0 as f64
    }

    pub fn as_gib(self) -> f64 {
        self.0 as f64 / Self::GIB as f64
    }

    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// `self * factor`, to the nearest byte.
    pub fn scale(self, factor: f64) -> Self {
        Self::from_f64(self.0 as f64 * factor)
    }
}

impl Add for Bytes {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Bytes {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Bytes {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

impl Mul<u64> for Bytes {
    type Output = Self;
    fn mul(self, n: u64) -> Self {
        Self(self.0.saturating_mul(n))
    }
}

impl Div<u64> for Bytes {
    type Output = Self;
    fn div(self, n: u64) -> Self {
        Self(self.0 / n)
    }
}

/// How many whole times `other` fits; `other` must not be zero.
impl Div for Bytes {
    type Output = u64;
    fn div(self, other: Self) -> u64 {
        self.0 / other.0
    }
}

impl std::iter::Sum for Bytes {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let b = self.0 as f64;
        match self.0 {
            0..Self::KIB => write!(f, "{} B", self.0),
            Self::KIB..Self::MIB => write!(f, "{:.1} KiB", b / Self::KIB as f64),
            Self::MIB..Self::GIB => write!(f, "{:.1} MiB", b / Self::MIB as f64),
            _ => write!(f, "{:.2} GiB", b / Self::GIB as f64),
        }
    }
}

/// Bytes per second.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Bandwidth(f64);

impl Bandwidth {
    pub const fn from_gb_per_s(gb: f64) -> Self {
        Self(gb * 1e9)
    }

    pub const fn bytes_per_s(self) -> f64 {
        self.0
    }

    pub fn as_gb_per_s(self) -> f64 {
        self.0 * 1e-9
    }
}

impl Mul<f64> for Bandwidth {
    type Output = Self;
    fn mul(self, efficiency: f64) -> Self {
        Self(self.0 * efficiency)
    }
}

impl Div<Bandwidth> for Bytes {
    type Output = SimDuration;
    fn div(self, bandwidth: Bandwidth) -> SimDuration {
        SimDuration::from_secs_f64(self.0 as f64 / bandwidth.0)
    }
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} GB/s", self.as_gb_per_s())
    }
}

/// Floating-point operations; a multiply-add counts as two.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Flops(f64);

impl Flops {
    pub const fn new(flops: f64) -> Self {
        Self(flops)
    }

    pub const fn get(self) -> f64 {
        self.0
    }
}

impl Add for Flops {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

/// Floating-point operations per second.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct FlopRate(f64);

impl FlopRate {
    pub const fn from_tflops(tflops: f64) -> Self {
        Self(tflops * 1e12)
    }

    pub const fn per_s(self) -> f64 {
        self.0
    }

    pub fn as_tflops(self) -> f64 {
        self.0 * 1e-12
    }
}

impl Div<FlopRate> for Flops {
    type Output = SimDuration;
    fn div(self, rate: FlopRate) -> SimDuration {
        SimDuration::from_secs_f64(self.0 / rate.0)
    }
}

impl fmt::Display for FlopRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} TFLOP/s", self.as_tflops())
    }
}

/// What a whole instance costs: US dollars per hour.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct UsdPerHour(f64);

impl UsdPerHour {
    pub const fn new(usd: f64) -> Self {
        Self(usd)
    }

    pub const fn get(self) -> f64 {
        self.0
    }

    /// US dollars for one million tokens at `tokens_per_s`; infinite at zero throughput.
    pub fn per_million_tokens(self, tokens_per_s: f64) -> f64 {
        self.0 / 3600.0 * 1e6 / tokens_per_s
    }
}

impl Mul<f64> for UsdPerHour {
    type Output = Self;
    fn mul(self, n: f64) -> Self {
        Self(self.0 * n)
    }
}

impl fmt::Display for UsdPerHour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} USD/h", self.0)
    }
}

/// Text that is not a quantity of the kind asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {what}: {reason}; write {examples}")]
pub struct ParseUnitError {
    pub text: String,
    pub what: &'static str,
    pub reason: String,
    pub examples: &'static str,
}

/// A finite, non-negative number followed by one of `units`; the result is in base units.
pub(crate) fn parse_quantity(
    text: &str,
    units: &[(&'static str, f64)],
    what: &'static str,
    examples: &'static str,
) -> Result<f64, ParseUnitError> {
    let fail = |reason: String| ParseUnitError { text: text.to_owned(), what, reason, examples };
    let trimmed = text.trim();
    let split = trimmed
        .char_indices()
        .find(|&(i, c)| {
            // An exponent's `e` belongs to the number only if digits follow it.
            let rest = &trimmed[i + c.len_utf8()..];
            let exponent = matches!(c, 'e' | 'E')
                && rest.trim_start_matches(['+', '-']).starts_with(|d: char| d.is_ascii_digit());
            !(c.is_ascii_digit() || matches!(c, '.' | '-' | '+' | '_') || exponent)
        })
        .map_or(trimmed.len(), |(i, _)| i);
    let (number, unit) = (trimmed[..split].replace('_', ""), trimmed[split..].trim());
    let names = || units.iter().map(|(n, _)| *n).collect::<Vec<_>>().join(", ");
    if number.is_empty() {
        return Err(fail("it does not start with a number".into()));
    }
    let value: f64 = number.parse().map_err(|_| fail(format!("{number:?} is not a number")))?;
    if unit.is_empty() {
        return Err(fail(format!("it has no unit (one of {})", names())));
    }
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        return Err(fail(format!("unknown unit {unit:?} (one of {})", names())));
    };
    let base = value * factor;
    if !base.is_finite() || base < 0.0 {
        return Err(fail("it must be zero or more, and finite".into()));
    }
    Ok(base)
}

/// `value` with so many significant digits.
pub fn rounded(value: f64, digits: i32) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10f64.powi(digits - 1 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

macro_rules! quantity_from_str {
    ($type:ident, $what:literal, $examples:literal, [$(($unit:literal, $factor:expr)),* $(,)?], $make:expr) => {
        impl std::str::FromStr for $type {
            type Err = ParseUnitError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                parse_quantity(text, &[$(($unit, $factor)),*], $what, $examples).map($make)
            }
        }
    };
}

quantity_from_str!(
    Bytes,
    "an amount of memory",
    "\"24 GiB\", \"512 MiB\", \"80 GB\"",
    [
        ("B", 1.0),
        ("KiB", Self::KIB as f64),
        ("MiB", Self::MIB as f64),
        ("GiB", Self::GIB as f64),
        ("TiB", (1u64 << 40) as f64),
        ("kB", 1e3),
        ("KB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
        ("TB", 1e12),
    ],
    Bytes::from_f64
);

quantity_from_str!(
    Bandwidth,
    "a bandwidth",
    "\"600 GB/s\", \"2.04 TB/s\"",
    [
        ("MB/s", 1e6),
        ("GB/s", 1e9),
        ("TB/s", 1e12),
        ("MiB/s", Bytes::MIB as f64),
        ("GiB/s", Bytes::GIB as f64),
    ],
    Bandwidth
);

quantity_from_str!(
    FlopRate,
    "a rate of floating-point operations",
    "\"70 TFLOP/s\"",
    [("GFLOP/s", 1e9), ("TFLOP/s", 1e12), ("PFLOP/s", 1e15), ("TOP/s", 1e12),],
    FlopRate
);

quantity_from_str!(UsdPerHour, "a price", "\"1.212 USD/h\"", [("USD/h", 1.0)], UsdPerHour);

/// Reads a quantity from a string in a file, and writes it back in base units.
macro_rules! quantity_serde {
    ($($type:ty => $show:expr),* $(,)?) => {$(
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
                let text = String::deserialize(de)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, ser: S) -> Result<S::Ok, S::Error> {
                let show: fn(&$type) -> String = $show;
                ser.serialize_str(&show(self))
            }
        }
    )*};
}

quantity_serde!(
    Bytes => |b| format!("{} B", b.get()),
    Bandwidth => |b| format!("{} GB/s", rounded(b.as_gb_per_s(), 12)),
    FlopRate => |r| format!("{} TFLOP/s", r.as_tflops()),
    UsdPerHour => |p| p.to_string(),
    SimDuration => exact_duration,
);

/// In the largest unit that gives a whole number, so that it reads back as the same duration.
fn exact_duration(d: &SimDuration) -> String {
    let ns = d.as_nanos();
    let units = [(1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us"), (1, "ns")];
    let (size, unit) =
        units.into_iter().find(|(size, _)| ns.is_multiple_of(*size)).unwrap_or((1, "ns"));
    format!("{} {unit}", ns / size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_with_their_units() {
        assert_eq!("24 GiB".parse::<Bytes>().unwrap(), Bytes::new(24 << 30));
        assert_eq!("22587MiB".parse::<Bytes>().unwrap(), Bytes::from_mib(22587));
        assert_eq!("600 GB/s".parse::<Bandwidth>().unwrap(), Bandwidth::from_gb_per_s(600.0));
        assert_eq!("1.5e1 GB/s".parse::<Bandwidth>().unwrap(), Bandwidth::from_gb_per_s(15.0));
        assert_eq!("70 TFLOP/s".parse::<FlopRate>().unwrap(), FlopRate::from_tflops(70.0));
        assert_eq!("1.212 USD/h".parse::<UsdPerHour>().unwrap(), UsdPerHour::new(1.212));
    }

    #[test]
    fn a_bare_number_is_refused_and_the_forms_are_named() {
        let error = "24".parse::<Bytes>().unwrap_err().to_string();
        assert!(error.contains("no unit") && error.contains("\"24 GiB\""), "{error}");
        let error = "24 parsec".parse::<Bytes>().unwrap_err().to_string();
        assert!(error.contains("unknown unit") && error.contains("GiB"), "{error}");
        assert!("-1 GiB".parse::<Bytes>().is_err());
        assert!("inf GiB".parse::<Bytes>().is_err());
    }

    #[test]
    fn dividing_work_by_a_rate_gives_a_time() {
        assert_eq!(
            Bytes::new(600_000_000_000) / Bandwidth::from_gb_per_s(600.0),
            SimDuration::from_secs(1)
        );
        assert_eq!(Flops::new(7e13) / FlopRate::from_tflops(70.0), SimDuration::from_secs(1));
    }

    #[test]
    fn price_and_throughput_give_dollars_per_million_tokens() {
        // Red Hat Table 2, first row: 38,713 tokens in 240 s at 1.212 USD/h cost 2.09 USD per 1M.
        let usd = UsdPerHour::new(1.212).per_million_tokens(38713.0 / 240.0);
        assert_eq!(format!("{usd:.2}"), "2.09");
    }
}
