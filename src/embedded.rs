//! What comes with the program, as values that lie in it as constants: the catalogue of hardware,
//! the calibrated profiles, the lists of lengths, the JSON Schema.
//!
//! The build reads the files (`build.rs`), so that a run neither parses them nor holds a copy. What
//! a user brings is read from its text; both are deserialised by the same types.

use serde::de::value::{Error, MapDeserializer, SeqDeserializer};
use serde::de::{Deserialize, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use serde::ser::{Serialize, Serializer};

/// A piece of TOML or JSON. Tables are in the order of the file as far as its parser keeps it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    Boolean(bool),
    Integer(i64),
    Float(f64),
    Text(&'static str),
    List(&'static [Value]),
    Table(&'static [(&'static str, Value)]),
}

/// Files by the stem of their name, in its order.
pub type Folder = &'static [(&'static str, Value)];

// Measured numbers may be near 1/pi by chance.
#[allow(clippy::approx_constant)]
mod files {
    use super::{Folder, Value};

    include!(concat!(env!("OUT_DIR"), "/embedded.rs"));
}

pub use files::{
    DATASETS, DEPLOYMENT_PROFILES, GPU_PROFILES, GPUS, INSTANCES, INTERCONNECT_PROFILES, SCHEMA,
    WEIGHT_KERNEL_PROFILES,
};

/// The file of this stem.
pub fn find(folder: Folder, stem: &str) -> Option<Value> {
    let at = folder.binary_search_by(|(name, _)| (*name).cmp(stem)).ok()?;
    Some(folder[at].1)
}

impl Value {
    /// The same value for as long as the program runs, which is how long its memory is kept; null,
    /// which has no meaning in our files, is left out.
    pub fn leak(json: &serde_json::Value) -> Option<Self> {
        use serde_json::Value as Json;
        let text = |text: &str| -> &'static str { Box::leak(text.into()) };
        Some(match json {
            Json::Null => return None,
            Json::Bool(b) => Self::Boolean(*b),
            Json::Number(n) => n
                .as_i64()
                .map_or_else(|| Self::Float(n.as_f64().unwrap_or(f64::NAN)), Self::Integer),
            Json::String(string) => Self::Text(text(string)),
            Json::Array(items) => {
                let items: Vec<_> = items.iter().filter_map(Self::leak).collect();
                Self::List(Vec::leak(items))
            }
            Json::Object(map) => {
                let entries = map
                    .iter()
                    .filter_map(|(key, value)| Self::leak(value).map(|value| (text(key), value)));
                Self::Table(Vec::leak(entries.collect()))
            }
        })
    }

    /// The entry of a table.
    pub fn get(self, key: &str) -> Option<Self> {
        self.entries().iter().find(|(name, _)| *name == key).map(|(_, value)| *value)
    }

    /// Of a table; none of anything else.
    pub const fn entries(self) -> &'static [(&'static str, Self)] {
        match self {
            Self::Table(entries) => entries,
            _ => &[],
        }
    }

    pub const fn as_text(self) -> Option<&'static str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub const fn as_list(self) -> Option<&'static [Self]> {
        match self {
            Self::List(items) => Some(items),
            _ => None,
        }
    }

    pub const fn as_f64(self) -> Option<f64> {
        match self {
            Self::Integer(n) => Some(n as f64),
            Self::Float(x) => Some(x),
            _ => None,
        }
    }

    /// Reads a type out of it.
    pub fn read<T: Deserialize<'static>>(self) -> Result<T, Error> {
        T::deserialize(self)
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, ser: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Boolean(b) => ser.serialize_bool(b),
            Self::Integer(n) => ser.serialize_i64(n),
            Self::Float(x) => ser.serialize_f64(x),
            Self::Text(text) => ser.serialize_str(text),
            Self::List(items) => ser.collect_seq(items),
            Self::Table(entries) => ser.collect_map(entries.iter().copied()),
        }
    }
}

impl<'de> IntoDeserializer<'de, Error> for Value {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Value {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Self::Boolean(b) => visitor.visit_bool(b),
            Self::Integer(n) => visitor.visit_i64(n),
            Self::Float(x) => visitor.visit_f64(x),
            Self::Text(text) => visitor.visit_borrowed_str(text),
            Self::List(items) => visitor.visit_seq(SeqDeserializer::new(items.iter().copied())),
            Self::Table(entries) => {
                visitor.visit_map(MapDeserializer::new(entries.iter().copied()))
            }
        }
    }

    /// What is written is there; what is not has no value here either.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self {
            Self::Text(text) => text.into_deserializer().deserialize_enum(name, variants, visitor),
            other => other.deserialize_any(visitor),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[test]
    fn folders_are_in_the_order_in_which_they_are_searched() {
        let profiles =
            [GPU_PROFILES, INTERCONNECT_PROFILES, DEPLOYMENT_PROFILES, WEIGHT_KERNEL_PROFILES];
        for folder in profiles.into_iter().chain([GPUS, INSTANCES, DATASETS]) {
            assert!(folder.is_sorted_by(|(a, _), (b, _)| a < b));
            for (stem, value) in folder {
                assert_eq!(find(folder, stem), Some(*value));
            }
        }
        assert_eq!(find(GPUS, "h1000"), None);
    }

    #[test]
    fn a_type_reads_the_same_from_a_value_as_from_text() {
        #[derive(Debug, PartialEq, Deserialize)]
        #[serde(rename_all = "kebab-case", deny_unknown_fields)]
        struct Thing {
            name: String,
            count: u32,
            share: f64,
            whole: f64,
            absent: Option<bool>,
            there: Option<bool>,
            of: Vec<Kind>,
        }
        #[derive(Debug, PartialEq, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        enum Kind {
            FirstOne,
            Other,
        }
        let text = "name = \"x\"\ncount = 3\nshare = 0.5\nwhole = 2\nthere = true\n\
                    of = [\"other\", \"first-one\"]\n";
        let json = serde_json::to_value(text.parse::<toml::Table>().unwrap()).unwrap();
        let value = Value::leak(&json).unwrap();
        assert_eq!(value.read::<Thing>().unwrap(), toml::from_str(text).unwrap());
        assert_eq!(serde_json::to_value(value).unwrap(), json);

        let unknown = Value::Table(&[("nmae", Value::Text("x"))]);
        assert!(unknown.read::<Thing>().unwrap_err().to_string().contains("nmae"));
        let large = Value::Integer(1 << 40);
        assert!(large.read::<u32>().is_err());
    }
}
