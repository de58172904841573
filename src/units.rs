//! Numbers with meaning: each is parsed from and printed as people write it in the configuration.
//!
//! | type | written as | holds |
//! |---|---|---|
//! | [`Ratio`] | `0.7` or `"70%"` | used / capacity; may be above 1 |
//! | [`BitRate`] | `"20Mbit/s"`, `"2.5MB/s"` | bits a second |
//! | [`ByteSize`] | `"256MiB"`, `"64kB"`, `1024` | bytes |
//! | [`Price`] | `0.02` | money for a gigabyte (10⁹ bytes) |
//! | [`duration`] | `"250ms"`, `"5m"` | [`std::time::Duration`] |

#[cfg(test)]
mod schema;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

#[cfg(test)]
pub(crate) use self::schema::{AddressText, DurationText, PathText, WORDS, in_words};

/// What was expected, and the text that was found instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, found {found:?}")]
pub struct UnitError {
    expected: &'static str,
    found: String,
}

fn unit_error(expected: &'static str, found: &str) -> UnitError {
    UnitError {
        expected,
        // A value of a megabyte must not fill the log.
        found: found.chars().take(60).collect(),
    }
}

/// Splits `"2.5MB/s"` into its number and its unit. The number is finite and not negative.
fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    number.is_finite().then(|| (number, text[end..].trim()))
}

/// Reads a unit from a string, or from a bare number where that has a meaning.
macro_rules! deserialize_unit {
    ($type:ty, $expected:expr, $from_number:expr) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl Visitor {
                    fn number<E: de::Error>(self, number: f64) -> Result<$type, E> {
                        let from_number: fn(f64) -> Option<$type> = $from_number;
                        from_number(number)
                            .ok_or_else(|| E::custom(unit_error($expected, &number.to_string())))
                    }
                }
                impl de::Visitor<'_> for Visitor {
                    type Value = $type;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }
                    fn visit_f64<E: de::Error>(self, number: f64) -> Result<$type, E> {
                        self.number(number)
                    }
                    fn visit_i64<E: de::Error>(self, number: i64) -> Result<$type, E> {
                        self.number(number as f64)
                    }
                    fn visit_u64<E: de::Error>(self, number: u64) -> Result<$type, E> {
                        self.number(number as f64)
                    }
                }
                deserializer.deserialize_any(Visitor)
            }
        }
    };
}

fn non_negative(number: f64) -> Option<f64> {
    (number.is_finite() && number >= 0.0).then_some(number)
}

// === impl Ratio ===

/// Used / capacity, or a part of a whole: finite, not negative, possibly above 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default)]
pub struct Ratio(f64);

const RATIO: &str = "a ratio such as 0.7 or \"70%\"";

impl Ratio {
    /// Nothing used.
    pub const ZERO: Self = Self(0.0);
    /// All of it used.
    pub const ONE: Self = Self(1.0);

    /// A ratio, if `value` is finite and not negative.
    #[must_use]
    pub fn new(value: f64) -> Option<Self> {
        non_negative(value).map(Self)
    }

    /// A ratio from any number: NaN and what is below 0 become 0, what is infinite the largest one.
    #[must_use]
    pub fn saturating(value: f64) -> Self {
        if value.is_nan() {
            Self::ZERO
        } else {
            Self(value.clamp(0.0, f64::MAX))
        }
    }

    /// The number: 0.7 for 70 %.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl FromStr for Ratio {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        match split(text) {
            Some((number, "")) => Some(Self(number)),
            Some((number, "%")) => Some(Self(number / 100.0)),
            _ => None,
        }
        .ok_or_else(|| unit_error(RATIO, text))
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Serialize for Ratio {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0)
    }
}

deserialize_unit!(Ratio, RATIO, Ratio::new);

// === impl BitRate ===

/// Bits a second; never 0, since it is a capacity.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct BitRate(f64);

const BIT_RATE: &str = "a bit rate such as \"20Mbit/s\" or \"2.5MB/s\"";

impl BitRate {
    /// A rate of `bits` a second, if that is finite and above 0.
    #[must_use]
    pub fn from_bits_per_second(bits: f64) -> Option<Self> {
        (bits.is_finite() && bits > 0.0).then_some(Self(bits))
    }

    /// Bits a second.
    #[must_use]
    pub const fn bits_per_second(self) -> f64 {
        self.0
    }

    /// Bytes a second.
    #[must_use]
    pub const fn bytes_per_second(self) -> f64 {
        self.0 / 8.0
    }
}

/// Unit and bits, largest first: printing takes the first that leaves a whole number.
const BIT_RATES: [(&str, f64); 9] = [
    ("Gbit/s", 1e9),
    ("Mbit/s", 1e6),
    ("kbit/s", 1e3),
    ("bit/s", 1.0),
    ("GB/s", 8e9),
    ("MB/s", 8e6),
    ("kB/s", 8e3),
    ("KB/s", 8e3),
    ("B/s", 8.0),
];

impl FromStr for BitRate {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        split(text)
            .and_then(|(number, unit)| {
                let (_, bits) = BIT_RATES.iter().find(|(name, _)| *name == unit)?;
                Self::from_bits_per_second(number * bits)
            })
            .ok_or_else(|| unit_error(BIT_RATE, text))
    }
}

impl fmt::Display for BitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print_in_units(f, self.0, &BIT_RATES[..4])
    }
}

impl Serialize for BitRate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

// A bare number would leave open whether bits or bytes are meant.
deserialize_unit!(BitRate, BIT_RATE, |_| None);

/// Prints `value` in the largest of `units` that leaves a whole number, else in the last.
fn print_in_units(f: &mut fmt::Formatter<'_>, value: f64, units: &[(&str, f64)]) -> fmt::Result {
    let whole = units
        .iter()
        .find(|(_, size)| value >= *size && value % size == 0.0);
    match whole.or(units.last()) {
        Some((name, size)) => write!(f, "{}{name}", value / size),
        None => write!(f, "{value}"),
    }
}

// === impl ByteSize ===

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct ByteSize(u64);

const BYTE_SIZE: &str = "a size such as \"256MiB\", \"64kB\" or a number of bytes";

const BYTE_SIZES: [(&str, f64); 8] = [
    ("GiB", 1_073_741_824.0),
    ("MiB", 1_048_576.0),
    ("KiB", 1_024.0),
    ("GB", 1e9),
    ("MB", 1e6),
    ("kB", 1e3),
    ("KB", 1e3),
    ("B", 1.0),
];

impl ByteSize {
    /// A size of `bytes`.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    fn from_number(number: f64) -> Option<Self> {
        // 2⁵³: above it an f64 no longer holds every whole number.
        ((0.0..=9_007_199_254_740_992.0).contains(&number) && number.fract() == 0.0)
            .then_some(Self(number as u64))
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        split(text)
            .and_then(|(number, unit)| {
                if unit.is_empty() {
                    return Self::from_number(number);
                }
                let (_, bytes) = BYTE_SIZES.iter().find(|(name, _)| *name == unit)?;
                Self::from_number((number * bytes).round())
            })
            .ok_or_else(|| unit_error(BYTE_SIZE, text))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print_in_units(f, self.0 as f64, &BYTE_SIZES)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

deserialize_unit!(ByteSize, BYTE_SIZE, ByteSize::from_number);

// === impl Price ===

/// Money for a gigabyte (10⁹ bytes), in whatever currency the operator thinks.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default)]
pub struct Price(f64);

const PRICE: &str = "a price per GB such as 0.02";

impl Price {
    /// A price, if `value` is finite and not negative.
    #[must_use]
    pub fn new(value: f64) -> Option<Self> {
        non_negative(value).map(Self)
    }

    /// Money for a gigabyte.
    #[must_use]
    pub const fn per_gigabyte(self) -> f64 {
        self.0
    }

    /// What `bytes` cost.
    #[must_use]
    pub fn of(self, bytes: u64) -> f64 {
        self.0 * bytes as f64 / 1e9
    }
}

impl FromStr for Price {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        match split(text) {
            Some((number, "")) => Ok(Self(number)),
            _ => Err(unit_error(PRICE, text)),
        }
    }
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Serialize for Price {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0)
    }
}

deserialize_unit!(Price, PRICE, Price::new);

/// [`std::time::Duration`] as `"250ms"`, for `#[serde(with = "units::duration")]`.
pub mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de};

    /// Prints `"1m 30s"`.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*value))
    }

    /// Reads `"250ms"`, `"1m 30s"`, `"0s"`.
    ///
    /// # Errors
    /// Names what was expected where the text is no duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).map_err(de::Error::custom)
    }

    /// Reads `"250ms"`; a bare `"0"` needs no unit.
    ///
    /// # Errors
    /// Names what was expected where the text is no duration.
    pub fn parse(text: &str) -> Result<Duration, super::UnitError> {
        humantime::parse_duration(text.trim())
            .map_err(|_| super::unit_error("a duration such as \"250ms\" or \"30s\"", text))
    }

    /// A duration that may be left out, for `#[serde(default, with = "units::duration::option")]`.
    pub mod option {
        use std::time::Duration;

        use serde::{Deserialize, Deserializer, Serializer, de};

        /// Prints as [`serialize`](super::serialize) does, or nothing.
        ///
        /// # Errors
        /// Those of the serializer.
        pub fn serialize<S: Serializer>(
            value: &Option<Duration>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            match value {
                Some(value) => super::serialize(value, serializer),
                None => serializer.serialize_none(),
            }
        }

        /// Reads as [`deserialize`](super::deserialize) does, or nothing.
        ///
        /// # Errors
        /// Names what was expected where the text is no duration.
        pub fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<Duration>, D::Error> {
            Option::<String>::deserialize(deserializer)?
                .map(|text| super::parse(&text).map_err(de::Error::custom))
                .transpose()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        assert_eq!("70%".parse::<Ratio>().unwrap().get(), 0.7);
        assert_eq!("1.2".parse::<Ratio>().unwrap().get(), 1.2);
        let rate: BitRate = "20Mbit/s".parse().unwrap();
        assert_eq!(rate.bytes_per_second(), 2_500_000.0);
        assert_eq!("2.5MB/s".parse::<BitRate>().unwrap(), rate);
        assert_eq!("256MiB".parse::<ByteSize>().unwrap().bytes(), 1 << 28);
        assert_eq!("64 kB".parse::<ByteSize>().unwrap().bytes(), 64_000);
        assert_eq!("1024".parse::<ByteSize>().unwrap().bytes(), 1024);
        assert_eq!(Price::new(0.02).unwrap().of(5_000_000_000), 0.1);
    }

    #[test]
    fn prints_what_it_reads() {
        for text in ["20Mbit/s", "1Gbit/s", "1500kbit/s", "7bit/s"] {
            assert_eq!(text.parse::<BitRate>().unwrap().to_string(), text);
        }
        for text in ["256MiB", "64kB", "1KiB", "1001B"] {
            assert_eq!(text.parse::<ByteSize>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_and_says_what_was_expected() {
        for text in [
            "fast",
            "20",
            "20Mbit",
            "-1Mbit/s",
            "0bit/s",
            "20 parsec",
            "",
        ] {
            let error = text.parse::<BitRate>().unwrap_err().to_string();
            assert!(
                error.contains("20Mbit/s") && error.contains(text),
                "{error}"
            );
        }
        assert!("-0.1".parse::<Ratio>().is_err());
        assert!("NaN".parse::<Ratio>().is_err());
        assert!(
            "1.5B"
                .parse::<ByteSize>()
                .is_ok_and(|size| size.bytes() == 2)
        );
        assert!(Ratio::new(f64::NAN).is_none() && Ratio::new(-0.1).is_none());
        assert_eq!(Ratio::saturating(f64::NAN), Ratio::ZERO);
        assert!(duration::parse("10 bananas").is_err());
    }
}
