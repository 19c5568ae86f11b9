//! Prices: what an instance costs, where, since when, and who says so.

use serde::{Deserialize, Serialize};

use crate::named::named_enum;
use crate::units::UsdPerHour;

named_enum! {
    /// The `price-kind` key.
    pub enum PriceKind as "price kind" {
        OnDemand = "on-demand",
        Spot = "spot",
        Reserved = "reserved",
    }
}

/// A price of a whole instance, Linux, without storage or traffic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Price {
    pub usd: UsdPerHour,
    pub region: String,
    /// A day on which the price was in force, as far as the source says.
    pub date: PriceDate,
    pub kind: PriceKind,
    pub source: String,
    /// A price that only counts when its list is asked for, such as the one a study used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price_list: Option<String>,
}

/// A year, month or day: `2026`, `2024-01`, `2024-01-31`. A coarser date sorts before a finer one
/// in the same period.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PriceDate(String);

impl PriceDate {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for PriceDate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

impl<'de> Deserialize<'de> for PriceDate {
    fn deserialize<D: serde::Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        let text = String::deserialize(de)?;
        let in_range = |part: &str, digits, range: std::ops::RangeInclusive<u32>| {
            part.len() == digits
                && part.bytes().all(|b| b.is_ascii_digit())
                && part.parse().is_ok_and(|n| range.contains(&n))
        };
        let parts: Vec<&str> = text.split('-').collect();
        let valid = matches!(parts.len(), 1..=3)
            && in_range(parts[0], 4, 2000..=2999)
            && parts.get(1).is_none_or(|month| in_range(month, 2, 1..=12))
            && parts.get(2).is_none_or(|day| in_range(day, 2, 1..=31));
        if valid {
            Ok(Self(text))
        } else {
            Err(serde::de::Error::custom(format!(
                "{text:?} is not a date; write \"2024\", \"2024-01\" or \"2024-01-31\""
            )))
        }
    }
}
