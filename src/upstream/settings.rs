//! `[primary.proxy]`.

use std::{fmt, ops::RangeInclusive, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::Timeouts;
use crate::{problem::Problem, units};

/// How requests are passed on to `primary.upstream`. The layer does not read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ProxySettings {
    /// How long a connection may take: name, TCP and TLS together. Then the answer is a 504. From 10 ms to 1 h.
    /// Default: 5 s.
    #[serde(with = "units::duration")]
    #[cfg_attr(test, schemars(with = "units::DurationText"))]
    pub connect_timeout: Duration,
    /// How long the head of the answer may take, from the request's last progress on: an upload may take its time as long
    /// as it moves. Then the answer is a 504. From 10 ms to 1 h. Default: 1 m.
    #[serde(with = "units::duration")]
    #[cfg_attr(test, schemars(with = "units::DurationText"))]
    pub first_byte_timeout: Duration,
    /// How long the next part of the answer's body may take, while it is waited for; then it breaks off. After an upgrade
    /// (WebSocket): how long nothing may come from either side. From 10 ms to 1 h. Default: 1 m.
    #[serde(with = "units::duration")]
    #[cfg_attr(test, schemars(with = "units::DurationText"))]
    pub idle_timeout: Duration,
    /// How long an unused connection is kept for the next request, over HTTP/1.1 and HTTP/2. Less than the upstream keeps
    /// it: Node and Apache close theirs after 5 s, nginx after 75 s. `"0s"`: none is kept. At most 1 h. Default: 4 s.
    #[serde(with = "units::duration")]
    #[cfg_attr(test, schemars(with = "units::DurationText"))]
    pub keep: Duration,
    /// Whose name `Host` carries: `"client"`, the one that was asked for, from which applications build their links; or
    /// `"upstream"`, that of the URL. `X-Forwarded-Host` has the client's in both cases. Default: client.
    pub host: Host,
    /// Whether HTTP/2 is spoken with the upstream. `"auto"`: over https where it agrees (ALPN), over http never; `true`:
    /// over http as well, without asking (h2c with prior knowledge); `false`: never. Upgrades go over HTTP/1.1 where both
    /// are spoken. Default: auto.
    pub http2: Http2,
    /// Whether `Forwarded` (RFC 7239) is written, too. Applications that read it believe it over `X-Forwarded-For`, and
    /// most do not need it. Default: false.
    pub forwarded: bool,
}

/// Whose name `Host` carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Host {
    /// The client's.
    #[default]
    Client,
    /// The upstream's.
    Upstream,
}

/// Whether HTTP/2 is spoken with the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Http2 {
    /// Over https, where the upstream agrees.
    #[default]
    Auto,
    /// Without asking.
    Always,
    /// HTTP/1.1 alone.
    Never,
}

impl Default for ProxySettings {
    fn default() -> Self {
        let Timeouts {
            connect,
            first_byte,
            idle,
        } = Timeouts::default();
        Self {
            connect_timeout: connect,
            first_byte_timeout: first_byte,
            idle_timeout: idle,
            keep: Duration::from_secs(4),
            host: Host::default(),
            http2: Http2::default(),
            forwarded: false,
        }
    }
}

const TIMES: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3600);

// === impl ProxySettings ===

impl ProxySettings {
    /// The same with other time limits.
    #[must_use]
    pub const fn with(self, timeouts: Timeouts) -> Self {
        Self {
            connect_timeout: timeouts.connect,
            first_byte_timeout: timeouts.first_byte,
            idle_timeout: timeouts.idle,
            ..self
        }
    }

    /// Appends what is wrong, with `section` before each key.
    pub fn check(&self, section: &str, problems: &mut Vec<Problem>) {
        let mut problem = |name: &str, message: &dyn fmt::Display| {
            problems.push(Problem::new(format!("{section}.{name}"), message));
        };
        for (name, time) in [
            ("connect_timeout", self.connect_timeout),
            ("first_byte_timeout", self.first_byte_timeout),
            ("idle_timeout", self.idle_timeout),
        ] {
            if !TIMES.contains(&time) {
                problem(name, &"must be from 10ms to 1h");
            }
        }
        if self.keep > *TIMES.end() {
            problem("keep", &"must be at most 1h");
        }
    }
}

// === impl Http2 ===

impl Serialize for Http2 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Always => serializer.serialize_bool(true),
            Self::Never => serializer.serialize_bool(false),
        }
    }
}

const HTTP2: &str = "\"auto\", true or false";

impl<'de> Deserialize<'de> for Http2 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Http2;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(HTTP2)
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Http2, E> {
                Ok(if value { Http2::Always } else { Http2::Never })
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Http2, E> {
                match text {
                    "auto" => Ok(Http2::Auto),
                    // The environment knows texts alone.
                    "true" => Ok(Http2::Always),
                    "false" => Ok(Http2::Never),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn http2_is_a_word_or_a_truth_value() {
        for (value, http2) in [
            (json!("auto"), Http2::Auto),
            (json!(true), Http2::Always),
            (json!("false"), Http2::Never),
        ] {
            assert_eq!(serde_json::from_value::<Http2>(value).unwrap(), http2);
            let printed = serde_json::to_value(http2).unwrap();
            assert_eq!(serde_json::from_value::<Http2>(printed).unwrap(), http2);
        }
        let error = serde_json::from_value::<Http2>(json!("maybe")).unwrap_err();
        assert!(error.to_string().contains(HTTP2), "{error}");
    }

    #[test]
    fn the_defaults_are_in_order_and_every_time_has_bounds() {
        let mut problems = Vec::new();
        ProxySettings::default().check("primary.proxy", &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        let wrong = ProxySettings {
            connect_timeout: Duration::ZERO,
            first_byte_timeout: Duration::ZERO,
            idle_timeout: Duration::MAX,
            keep: Duration::MAX,
            ..ProxySettings::default()
        };
        wrong.check("primary.proxy", &mut problems);
        let keys: Vec<_> = problems.iter().map(|problem| &*problem.key).collect();
        assert_eq!(
            keys,
            [
                "primary.proxy.connect_timeout",
                "primary.proxy.first_byte_timeout",
                "primary.proxy.idle_timeout",
                "primary.proxy.keep"
            ]
        );
    }
}
