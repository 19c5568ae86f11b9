//! Numbers that say where they come from.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::units::{Bandwidth, Bytes, FlopRate, parse_quantity, rounded};

/// How much a number may be trusted, from best to worst.
///
/// Written `measured`, `fitted`, `datasheet`, `transferred from X` or `assumed`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Provenance {
    /// Read off a measurement of this very thing.
    Measured,
    /// A parameter of a curve through measurements of this very thing.
    Fitted,
    /// Fitted or measured on the named thing and carried over, scaled where that is said.
    TransferredFrom(String),
    /// The vendor's nominal figure, or a generic fraction of it.
    Datasheet,
    /// A choice that no data supports yet.
    Assumed,
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Measured => f.pad("measured"),
            Self::Fitted => f.pad("fitted"),
            Self::Datasheet => f.pad("datasheet"),
            Self::Assumed => f.pad("assumed"),
            Self::TransferredFrom(origin) => write!(f, "transferred from {origin}"),
        }
    }
}

impl std::str::FromStr for Provenance {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("transferred from ")) {
            ("measured", _) => Ok(Self::Measured),
            ("fitted", _) => Ok(Self::Fitted),
            ("datasheet", _) => Ok(Self::Datasheet),
            ("assumed", _) => Ok(Self::Assumed),
            (_, Some(origin)) if !origin.trim().is_empty() => {
                Ok(Self::TransferredFrom(origin.trim().to_owned()))
            }
            _ => Err(format!(
                "unknown provenance {text:?}; write measured, fitted, datasheet, assumed or \
                 \"transferred from X\""
            )),
        }
    }
}

impl Serialize for Provenance {
    fn serialize<S: Serializer>(&self, ser: S) -> Result<S::Ok, S::Error> {
        ser.serialize_str(&self.to_string())
    }
}

impl<'de> Deserialize<'de> for Provenance {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        String::deserialize(de)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A value, how it was come by, and from what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sourced<T> {
    pub value: T,
    pub provenance: Provenance,
    pub source: String,
}

impl<T> Sourced<T> {
    pub fn new(value: T, provenance: Provenance, source: impl Into<String>) -> Self {
        Self { value, provenance, source: source.into() }
    }
}

/// A kernel coefficient in seconds. Unlike `SimDuration` it keeps fractions of a nanosecond: a
/// coefficient of 18.4 ns is multiplied by thousands of tokens before it is rounded.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Seconds(pub f64);

impl Seconds {
    pub const fn from_micros(us: f64) -> Self {
        Self(us * 1e-6)
    }

    pub const fn get(self) -> f64 {
        self.0
    }
}

impl std::str::FromStr for Seconds {
    type Err = crate::units::ParseUnitError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const UNITS: &[(&str, f64)] = &[("ns", 1e-9), ("us", 1e-6), ("ms", 1e-3), ("s", 1.0)];
        parse_quantity(text, UNITS, "a time", "\"18.4 ns\", \"7.5 us\", \"0.45 ms\"").map(Self)
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, unit) = match self.0.abs() {
            s if s < 1e-6 => (self.0 * 1e9, "ns"),
            s if s < 1e-3 => (self.0 * 1e6, "us"),
            s if s < 1.0 => (self.0 * 1e3, "ms"),
            _ => (self.0, "s"),
        };
        // 5.42e-6 is not quite 5.42 of 1e-6.
        write!(f, "{} {unit}", rounded(value, 12))
    }
}

/// What a fit has found, with four digits: more would be noise.
pub fn significant(value: f64) -> f64 {
    rounded(value, 4)
}

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, ser: S) -> Result<S::Ok, S::Error> {
        ser.serialize_str(&self.to_string())
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        String::deserialize(de)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A coefficient that a fit can read and write as one number in base units: seconds, bytes per
/// second, operations per second, bytes, or a plain ratio.
pub trait Coefficient {
    fn base(&self) -> f64;
    fn from_base(base: f64) -> Self;
}

impl Coefficient for Seconds {
    fn base(&self) -> f64 {
        self.0
    }
    fn from_base(base: f64) -> Self {
        Self(base)
    }
}

impl Coefficient for f64 {
    fn base(&self) -> f64 {
        *self
    }
    fn from_base(base: f64) -> Self {
        base
    }
}

impl Coefficient for Bandwidth {
    fn base(&self) -> f64 {
        self.bytes_per_s()
    }
    fn from_base(base: f64) -> Self {
        Self::from_gb_per_s(base * 1e-9)
    }
}

impl Coefficient for FlopRate {
    fn base(&self) -> f64 {
        self.per_s()
    }
    fn from_base(base: f64) -> Self {
        Self::from_tflops(base * 1e-12)
    }
}

impl Coefficient for Bytes {
    fn base(&self) -> f64 {
        self.as_f64()
    }
    fn from_base(base: f64) -> Self {
        Self::from_f64(base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn provenance_is_read_back_as_it_is_written() {
        for text in ["measured", "fitted", "datasheet", "assumed", "transferred from l40s"] {
            assert_eq!(text.parse::<Provenance>().unwrap().to_string(), text);
        }
        assert!("guessed".parse::<Provenance>().is_err());
        assert!("transferred from ".parse::<Provenance>().is_err());
    }

    #[test]
    fn a_coefficient_keeps_fractions_of_a_nanosecond() {
        assert_eq!("18.4 ns".parse::<Seconds>().unwrap(), Seconds(18.4 * 1e-9));
        assert!("18.4".parse::<Seconds>().unwrap_err().to_string().contains("no unit"));
    }
}
