//! Enums whose values have one written name: the same in files, flags, JSON and messages.

/// Text that is not one of the names that were expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownName {
    pub what: &'static str,
    pub given: String,
    pub known: Vec<&'static str>,
    pub suggestion: Option<&'static str>,
}

impl UnknownName {
    pub fn new(what: &'static str, given: &str, known: Vec<&'static str>) -> Self {
        let suggestion = nearest(given, known.iter().copied());
        // The whole of a pasted file would drown the message.
        let given = given.chars().take(80).collect();
        Self { what, given, known, suggestion }
    }
}

impl std::fmt::Display for UnknownName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "unknown {} {:?}", self.what, self.given)?;
        if let Some(suggestion) = self.suggestion {
            write!(f, "; did you mean {suggestion:?}?")?;
        }
        write!(f, " (one of {})", self.known.join(", "))
    }
}

impl std::error::Error for UnknownName {}

/// The name nearest to `given`, if one is near enough to be a slip of the keyboard.
pub fn nearest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Similarity costs length x length: nobody mistypes a name at such length.
    if given.len() > 64 {
        return None;
    }
    let given = given.to_lowercase();
    known
        .map(|name| (strsim::jaro_winkler(&given, &name.to_lowercase()), name))
        .filter(|(similarity, _)| *similarity >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// Declares an enum with one name per value, readable and writable everywhere by that name. A value
/// may be read by other names besides, which stand behind it.
macro_rules! named_enum {
    ($(#[$meta:meta])* pub enum $Type:ident as $what:literal {
        $($(#[$variant_meta:meta])* $Variant:ident = $name:literal $(| $alias:literal)*),+ $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $Type { $($(#[$variant_meta])* $Variant),+ }

        impl $Type {
            pub const ALL: &'static [Self] = &[$(Self::$Variant),+];

            pub const fn name(self) -> &'static str {
                match self { $(Self::$Variant => $name),+ }
            }

            pub fn names() -> impl Iterator<Item = &'static str> {
                Self::ALL.iter().map(|value| value.name())
            }
        }

        impl std::fmt::Display for $Type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }

        impl std::str::FromStr for $Type {
            type Err = $crate::named::UnknownName;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($name $(| $alias)* => Ok(Self::$Variant),)+
                    _ => Err($crate::named::UnknownName::new(
                        $what,
                        text,
                        Self::names().collect(),
                    )),
                }
            }
        }

        impl serde::Serialize for $Type {
            fn serialize<S: serde::Serializer>(&self, ser: S) -> Result<S::Ok, S::Error> {
                ser.serialize_str(self.name())
            }
        }

        impl<'de> serde::Deserialize<'de> for $Type {
            fn deserialize<D: serde::Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(de)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl schemars::JsonSchema for $Type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($Type).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "enum": [$($name $(, $alias)*),+] })
            }
        }
    };
}

pub(crate) use named_enum;

#[cfg(test)]
mod tests {
    named_enum! {
        pub enum Fruit as "fruit" { Apple = "apple", BloodOrange = "blood-orange" }
    }

    #[test]
    fn a_name_is_read_back_as_the_value_that_wrote_it() {
        for fruit in Fruit::ALL {
            assert_eq!(fruit.to_string().parse(), Ok(*fruit));
        }
        assert_eq!(serde_json::to_string(&Fruit::BloodOrange).unwrap(), "\"blood-orange\"");
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones_and_the_nearest() {
        let error = "blood_orange".parse::<Fruit>().unwrap_err().to_string();
        assert_eq!(
            error,
            "unknown fruit \"blood_orange\"; did you mean \"blood-orange\"? (one of apple, blood-orange)"
        );
        assert!(!"zzz".parse::<Fruit>().unwrap_err().to_string().contains("did you mean"));
    }
}
