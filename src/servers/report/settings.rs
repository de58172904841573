//! `report`: where a server's load is told, and in which form.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    servers::settings::{EVERY, absolute_url},
    units,
};

/// Where a server's load is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ReportSettings {
    /// In which form. Default: none.
    pub kind: ReportKind,
    /// Where it is fetched; of an agent, its `host:port`. Must be given, but for `none`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// How often, from 50 ms to 1 h. Default: 1s.
    #[serde(with = "units::duration")]
    #[cfg_attr(test, schemars(with = "units::DurationText"))]
    pub every: Duration,
    /// Of a Prometheus endpoint: the metric. Must be given there.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub metric: String,
    /// Of a Prometheus endpoint: the labels that a sample must have; those that have them are added up. Default: all
    /// samples.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Of a Prometheus endpoint: the metric is a counter, and what it grows by a second is what counts.
    /// Default: false.
    #[serde(skip_serializing_if = "is_false")]
    pub rate: bool,
    /// Of a Prometheus endpoint: the metric, or its rate a second, that is a load of 1.0. Must be given there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<f64>,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl Default for ReportSettings {
    fn default() -> Self {
        Self {
            kind: ReportKind::None,
            url: String::new(),
            every: Duration::from_secs(1),
            metric: String::new(),
            labels: BTreeMap::new(),
            rate: false,
            capacity: None,
        }
    }
}

/// The form of a load report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ReportKind {
    /// No report: the assigned estimate alone.
    #[default]
    None,
    /// Open Request Cost Aggregation, as JSON or text. `offload.token` is shown.
    Orca,
    /// A HAProxy agent (`agent-check`): `75%` is a load of 0.25; `drain`, `maint` and `down` take the server out, until
    /// `ready` and `up`.
    Agent,
    /// A metric of a Prometheus text endpoint.
    Prometheus,
}

// === impl ReportSettings ===

impl ReportSettings {
    /// Tells what is wrong with it by `problem`, with the key below the server's.
    pub(in crate::servers) fn check(&self, problem: &mut dyn FnMut(&str, String)) {
        match self.kind {
            ReportKind::None => {
                if !self.url.is_empty() {
                    problem(
                        "report.url",
                        "needs `report.kind`: \"orca\", \"agent\" or \"prometheus\"".into(),
                    );
                }
            }
            ReportKind::Agent => {
                if !is_host_and_port(&self.url) {
                    problem(
                        "report.url",
                        format!(
                            "must be the agent's host and port, such as \"eu.offload.example:9999\", found {:?}",
                            self.url
                        ),
                    );
                }
            }
            ReportKind::Orca | ReportKind::Prometheus => {
                if let Err(message) = absolute_url(&self.url) {
                    problem("report.url", message);
                }
            }
        }
        if self.kind != ReportKind::None && !EVERY.contains(&self.every) {
            problem("report.every", "must be from 50ms to 1h".into());
        }
        if self.kind == ReportKind::Prometheus {
            self.check_metric(problem);
            return;
        }
        for (key, is_given) in [
            ("report.metric", !self.metric.is_empty()),
            ("report.labels", !self.labels.is_empty()),
            ("report.rate", self.rate),
            ("report.capacity", self.capacity.is_some()),
        ] {
            if is_given {
                problem(key, "needs `report.kind` = \"prometheus\"".into());
            }
        }
    }

    fn check_metric(&self, problem: &mut dyn FnMut(&str, String)) {
        let is_name = |text: &str| {
            !text.is_empty()
                && !text.as_bytes()[0].is_ascii_digit()
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':'))
        };
        if !is_name(&self.metric) {
            problem(
                "report.metric",
                format!(
                    "must be the name of a metric, such as \"node_load1\", found {:?}",
                    self.metric
                ),
            );
        }
        if !self
            .capacity
            .is_some_and(|capacity| capacity.is_finite() && capacity > 0.0)
        {
            let found = self
                .capacity
                .map_or_else(|| "nothing".to_owned(), |found| found.to_string());
            problem(
                "report.capacity",
                format!("must be the value that is a load of 1.0, above 0, found {found}"),
            );
        }
    }
}

fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
    is_port && url::Host::parse(host).is_ok()
}
