//! `[offload.discovery]`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::records::Record;
use crate::{problem::Problem, servers::ServerSettings, units};

/// `[offload.discovery]`: where more servers are found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct DiscoverySettings {
    /// A file with more servers, in tables `[[servers]]` like those of `[[offload.servers]]`. It is read anew
    /// when it changes: write it aside and rename it into place. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<units::PathText>"))]
    pub file: Option<PathBuf>,
    /// The name whose SRV records (RFC 2782) tell more servers. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub srv: Option<String>,
    /// The name server that is asked. Default: those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<units::AddressText>"))]
    pub name_server: Option<SocketAddr>,
    /// How often it is asked, from 1 s to 1 h. Default: 10s.
    #[serde(with = "units::duration")]
    #[cfg_attr(test, schemars(with = "units::DurationText"))]
    pub every: Duration,
    /// How long a server is kept that the answers leave out, at most a day. `"0s"`: it goes with the first. Default: 1m.
    #[serde(with = "units::duration")]
    #[cfg_attr(test, schemars(with = "units::DurationText"))]
    pub keep: Duration,
    /// What a server is that an answer names: `{host}` and `{port}` stand for what it says, in `name`, `url` and
    /// `report.url`. Default: `name = "{host}:{port}"`, `url = "http://{host}:{port}"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<Box<ServerSettings>>,
}

impl Default for DiscoverySettings {
    fn default() -> Self {
        Self {
            file: None,
            srv: None,
            name_server: None,
            every: Duration::from_secs(10),
            keep: Duration::from_secs(60),
            template: None,
        }
    }
}

// === impl DiscoverySettings ===

impl DiscoverySettings {
    /// Whether servers may come that are not configured.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.file.is_some() || self.srv.is_some()
    }

    /// Appends what is wrong with it.
    pub fn check(&self, problems: &mut Vec<Problem>) {
        let key = |name: &str| format!("offload.discovery.{name}");
        if let Some(srv) = &self.srv {
            if cfg!(not(feature = "srv")) {
                problems.push(Problem::new(key("srv"), "needs the crate's feature `srv`"));
            }
            let is_label = |label: &str| {
                (1..=63).contains(&label.len())
                    && label
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            };
            let name = srv.strip_suffix('.').unwrap_or(srv);
            if name.len() > 253 || !name.split('.').all(is_label) {
                problems.push(Problem::new(
                    key("srv"),
                    format_args!(
                        "must be a name such as \"_overspill._tcp.example.com\", found {srv:?}"
                    ),
                ));
            }
        } else if self.template.is_some() {
            problems.push(Problem::new(
                key("template"),
                "needs `offload.discovery.srv`",
            ));
        }
        for (name, value, range) in [
            ("every", self.every, 1..=3600),
            ("keep", self.keep, 0..=24 * 3600),
        ] {
            let [from, to] = [*range.start(), *range.end()].map(Duration::from_secs);
            if !(from..=to).contains(&value) {
                problems.push(Problem::new(
                    key(name),
                    format_args!(
                        "must be from {} to {}",
                        humantime::format_duration(from),
                        humantime::format_duration(to)
                    ),
                ));
            }
        }
        let example = Record {
            host: "eu.offload.example".to_owned(),
            port: 8081,
            priority: 0,
            weight: 0,
        };
        self.server(&example).check(&key("template"), problems);
    }

    /// The server that a record names.
    #[must_use]
    pub fn server(&self, record: &Record) -> ServerSettings {
        let filled = |text: &str, default: &str| {
            let text = if text.is_empty() { default } else { text };
            text.replace("{host}", &record.host)
                .replace("{port}", &record.port.to_string())
        };
        let mut server = self.template.as_deref().cloned().unwrap_or_default();
        server.name = filled(&server.name, "{host}:{port}");
        server.url = filled(&server.url, "http://{host}:{port}");
        server.report.url = filled(&server.report.url, "");
        server
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Settings;

    fn problems(text: &str) -> String {
        let settings = Settings::from_toml(text);
        settings.map_or_else(|error| error.to_string(), |_| String::new())
    }

    #[test]
    fn a_template_becomes_a_server() {
        let mut template = ServerSettings {
            name: "edge {host}".to_owned(),
            url: "https://{host}:{port}/x".to_owned(),
            cors: true,
            ..ServerSettings::default()
        };
        template.report.url = "https://{host}:{port}/.overspill/load".to_owned();
        let discovery = DiscoverySettings {
            template: Some(Box::new(template)),
            ..DiscoverySettings::default()
        };
        let record = Record {
            host: "a.example".to_owned(),
            port: 443,
            priority: 0,
            weight: 0,
        };
        let server = discovery.server(&record);
        assert_eq!(server.name, "edge a.example");
        assert_eq!(server.url, "https://a.example:443/x");
        assert_eq!(server.report.url, "https://a.example:443/.overspill/load");
        assert!(server.cors);
        let plain = DiscoverySettings::default().server(&record);
        assert_eq!(plain.name, "a.example:443");
        assert_eq!(plain.url, "http://a.example:443");
    }

    #[test]
    fn every_problem_is_told_with_its_key() {
        let found = problems(
            r#"
            [offload.discovery]
            srv = "what a name"
            every = "1ms"
            keep = "2days"
            name_server = "here"
            template = { url = "{host}", threshold = 0 }
            "#,
        );
        for key in [
            "`offload.discovery.srv` must be a name",
            "`offload.discovery.every` must be from 1s to 1h",
            "`offload.discovery.keep` must be from 0s to 1day",
            "`offload.discovery.name_server` expected an address",
            "`offload.discovery.template.url` must be a URL",
            "`offload.discovery.template.threshold` must be above 0",
        ] {
            assert!(found.contains(key), "{key} is not in\n{found}");
        }
        let found = problems("offload.discovery.template = { cors = true }");
        assert!(
            found.contains("`offload.discovery.template` needs"),
            "{found}"
        );
    }
}
