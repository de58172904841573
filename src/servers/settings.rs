//! `[[offload.servers]]`: who can help.

use std::{ops::RangeInclusive, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::Url;

use super::{budget::BudgetSettings, report::ReportSettings};
use crate::{
    problem::Problem,
    units::{self, BitRate, Price, Ratio},
};

/// How far below its threshold a server takes work again, where `resume` is not given.
const RESUME_MARGIN: f64 = 0.05;

/// How often a server may be asked.
pub(super) const EVERY: RangeInclusive<Duration> =
    Duration::from_millis(50)..=Duration::from_secs(3600);

/// One offload server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ServerSettings {
    /// Its name in rules, status, logs and metrics. Must be given, and be unlike every other's.
    pub name: String,
    /// Where its objects are: `http` or `https`, possibly with a path prefix. Must be given.
    pub url: String,
    /// The load from which on it gets no more work. Default: 0.8.
    pub threshold: Ratio,
    /// The load below which it gets work again. Default: the threshold less 0.05.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume: Option<Ratio>,
    /// What a gigabyte (10⁹ bytes) from it costs, in any currency. Default: 0.
    pub price: Price,
    /// What it can send. With it, its load is what visitors were promised from it, corrected by its reports; without it,
    /// its reports alone tell, and without those it has room for ever. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<BitRate>,
    /// Whether it answers with `Access-Control-Allow-Origin: *`. Without, stylesheets and all that needs CORS (fonts,
    /// `integrity`, `crossorigin`) stay with the primary. Default: false.
    pub cors: bool,
    /// What may be spent on it, by its price and what visitors were promised from it: over that it gets no work until the
    /// next period. It is counted in memory. Default: no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetSettings>,
    /// How long its room grows, from a tenth to all of it, when it comes back from being ill, taken out or unheard of.
    /// `"0s"`: it gets all at once. At most 1 h. Default: 10s.
    #[serde(with = "units::duration")]
    #[cfg_attr(test, schemars(with = "units::DurationText"))]
    pub slow_start: Duration,
    /// Where its load is told.
    pub report: ReportSettings,
    /// How it is found out whether it is alive. `health = false`: it is believed to be.
    pub health: HealthSettings,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            name: String::new(),
            url: String::new(),
            threshold: Ratio::saturating(0.80),
            resume: None,
            price: Price::default(),
            capacity: None,
            cors: false,
            budget: None,
            slow_start: Duration::from_secs(10),
            report: ReportSettings::default(),
            health: HealthSettings::default(),
        }
    }
}

impl ServerSettings {
    /// The load below which it gets work again.
    #[must_use]
    pub fn resume(&self) -> Ratio {
        self.resume
            .unwrap_or_else(|| Ratio::saturating(self.threshold.get() - RESUME_MARGIN))
    }

    /// Appends what is wrong with it; `key` is where it stands, e.g. `offload.servers[0]`.
    pub fn check(&self, key: &str, problems: &mut Vec<Problem>) {
        let mut problem = |name: &str, message: String| {
            problems.push(Problem::new(format!("{key}.{name}"), message));
        };
        if self.name.is_empty() {
            problem("name", "must be given: the server's name".into());
        }
        if let Err(message) = server_url(&self.url) {
            problem("url", message);
        }
        if self.threshold == Ratio::ZERO {
            problem("threshold", "must be above 0, found 0".into());
        }
        if let Some(resume) = self.resume.filter(|resume| *resume > self.threshold) {
            problem(
                "resume",
                format!(
                    "must not be above `threshold` ({}), found {resume}",
                    self.threshold
                ),
            );
        }
        if let Some(budget) = self.budget {
            if !(budget.amount.is_finite() && budget.amount > 0.0) {
                problem(
                    "budget.amount",
                    format!("must be above 0, found {}", budget.amount),
                );
            }
            if self.price == Price::default() {
                problem(
                    "budget",
                    "needs `price`: what costs nothing spends nothing".into(),
                );
            }
        }
        if self.slow_start > Duration::from_secs(3600) {
            problem("slow_start", "must be at most 1h".into());
        }
        self.report.check(&mut problem);
        if let HealthSettings::Probe(health) = &self.health {
            if !health.path.starts_with('/') || health.path.parse::<http::Uri>().is_err() {
                problem(
                    "health.path",
                    format!(
                        "must be a path that begins with \"/\", found {:?}",
                        health.path
                    ),
                );
            }
            if !EVERY.contains(&health.every) {
                problem("health.every", "must be from 50ms to 1h".into());
            }
            for (name, count) in [
                ("failures", health.failures),
                ("successes", health.successes),
            ] {
                if count == 0 {
                    problem(
                        &format!("health.{name}"),
                        "must be at least 1, found 0".into(),
                    );
                }
            }
        }
    }
}

/// An absolute http or https URL.
///
/// # Errors
/// Says what was expected.
pub fn absolute_url(text: &str) -> Result<Url, String> {
    let expected = |why: &str| {
        let found: String = text.chars().take(80).collect();
        format!("must be a URL such as \"https://eu.offload.example\"{why}, found {found:?}")
    };
    let url = Url::parse(text).map_err(|error| match error {
        url::ParseError::RelativeUrlWithoutBase => expected(" with its scheme"),
        error => expected(&format!(" ({error})")),
    })?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(expected(" with scheme http or https"));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(expected(" with a host"));
    }
    Ok(url)
}

/// The URL of a server: neither user, query nor fragment, since links are made from it by appending a path.
///
/// # Errors
/// Says what was expected.
pub fn server_url(text: &str) -> Result<Url, String> {
    let url = absolute_url(text)?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err(format!(
            "must have no query and no fragment, found {text:?}"
        ));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must carry no user and no password".to_owned());
    }
    Ok(url)
}

/// How it is found out whether a server is alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthSettings {
    /// It is believed to be.
    Off,
    /// It is asked.
    Probe(HealthProbe),
}

impl Default for HealthSettings {
    fn default() -> Self {
        Self::Probe(HealthProbe::default())
    }
}

/// The question, and how many answers count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct HealthProbe {
    /// What is asked for, below the server's URL. Any answer below 500 but 421 is good. Default: `/`.
    pub path: String,
    /// How often, from 50 ms to 1 h. After a bad answer of a server that was well it is asked again after an eighth of it.
    /// Default: 2s.
    #[serde(with = "units::duration")]
    #[cfg_attr(test, schemars(with = "units::DurationText"))]
    pub every: Duration,
    /// After how many bad answers in a row it is ill, and gets no work. Default: 3.
    pub failures: u32,
    /// After how many good answers in a row it is well again. Default: 2.
    pub successes: u32,
}

impl Default for HealthProbe {
    fn default() -> Self {
        Self {
            path: "/".to_owned(),
            every: Duration::from_secs(2),
            failures: 3,
            successes: 2,
        }
    }
}

impl Serialize for HealthSettings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_bool(false),
            Self::Probe(probe) => probe.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for HealthSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = HealthSettings;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("false, or a table with `path`, `every`, `failures` and `successes`")
            }
            fn visit_bool<E: serde::de::Error>(self, on: bool) -> Result<HealthSettings, E> {
                Ok(if on {
                    HealthSettings::default()
                } else {
                    HealthSettings::Off
                })
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                map: A,
            ) -> Result<HealthSettings, A::Error> {
                HealthProbe::deserialize(serde::de::value::MapAccessDeserializer::new(map))
                    .map(HealthSettings::Probe)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
