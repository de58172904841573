//! What each unit is in the configuration's reference: the words with which its own parser says what it expects.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;

use super::{BitRate, ByteSize, Price, Ratio, duration};

/// The key of a schema under which a type stands in words.
pub(crate) const WORDS: &str = "x-words";

/// What `T` expects, as it tells it to whoever gives it something that no configuration can hold.
pub(crate) fn in_words<T: DeserializeOwned>() -> String {
    let error = serde_json::from_value::<T>(serde_json::Value::Null).err();
    let message = error.map(|error| error.to_string()).unwrap_or_default();
    let (_, expected) = message.split_once("expected ").unwrap_or_default();
    expected.to_owned()
}

macro_rules! schema {
    ($($type:ty = $words:expr,)*) => {$(
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                // Always an extension, so that an `Option` around it has something to add its `null` to.
                schemars::json_schema!({ WORDS: $words, "type": "string" })
            }
        }
    )*};
}

/// Stands for a [`std::time::Duration`] written as [`duration`] does.
#[derive(Debug)]
pub(crate) struct DurationText;

/// Stands for a [`std::net::SocketAddr`].
#[derive(Debug)]
pub(crate) struct AddressText;

/// Stands for a [`std::path::PathBuf`].
#[derive(Debug)]
pub(crate) struct PathText;

schema! {
    Ratio = in_words::<Self>(),
    BitRate = in_words::<Self>(),
    ByteSize = in_words::<Self>(),
    Price = in_words::<Self>(),
    DurationText = duration::parse("").err().map_or("", |error| error.expected),
    AddressText = "an address with its port such as \"127.0.0.1:8080\"",
    PathText = "a path, relative to the working directory",
}
