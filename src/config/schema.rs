//! What settings with a serialisation of their own are in the configuration's reference.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::{
    level::Share,
    servers::{HealthProbe, HealthSettings},
    units::{WORDS, in_words},
};

impl JsonSchema for Share {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Share".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({ WORDS: in_words::<Self>(), "type": "string" })
    }
}

/// The probe's keys. That `false` is allowed, too, is for its comment to say.
impl JsonSchema for HealthSettings {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "HealthSettings".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        HealthProbe::json_schema(generator)
    }
}

#[cfg(feature = "server")]
impl JsonSchema for crate::upstream::Http2 {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Http2".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({ WORDS: in_words::<Self>(), "type": "string" })
    }
}
