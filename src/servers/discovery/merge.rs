//! All sources become one list.

use serde::Serialize;
use url::Url;

use super::records::Record;
use crate::servers::{ServerSettings, server_url};

/// So many servers there are at most.
pub const MOST_SERVERS: usize = 1000;

/// A server, and who named it.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// What it is.
    pub settings: ServerSettings,
    /// Who named it.
    pub source: Source,
}

/// Who named a server.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The configuration.
    #[default]
    Configuration,
    /// The file.
    File,
    /// A record.
    Srv {
        /// Its priority.
        priority: u16,
        /// Its weight, of the greatest among those of its priority.
        weight: f64,
    },
}

// === impl Source ===

impl Source {
    /// As the status names it.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::File => "file",
            Self::Srv { .. } => "srv",
        }
    }

    /// Servers of a lower rank are taken first.
    #[must_use]
    pub const fn rank(&self) -> u16 {
        match self {
            Self::Configuration | Self::File => 0,
            Self::Srv { priority, .. } => *priority,
        }
    }

    /// The part of its room that counts.
    #[must_use]
    pub const fn weight(&self) -> f64 {
        match self {
            Self::Configuration | Self::File => 1.0,
            Self::Srv { weight, .. } => *weight,
        }
    }
}

/// The servers of all sources: of one name or one place the first counts. The second tells what was left out, and
/// why.
#[must_use]
pub fn merge(
    configured: &[ServerSettings],
    file: &[ServerSettings],
    records: &[(Record, ServerSettings)],
) -> (Vec<Found>, Vec<String>) {
    let configured = configured
        .iter()
        .map(|settings| (settings, Source::Configuration));
    let file = file.iter().map(|settings| (settings, Source::File));
    let srv = records.iter().map(|(record, settings)| {
        let beside = records
            .iter()
            .filter(|(other, _)| other.priority == record.priority);
        let most = beside
            .map(|(other, _)| other.weight)
            .max()
            .unwrap_or(0)
            .max(1);
        let weight = match most {
            // Nobody has one: all are equal.
            1 if record.weight == 0 && beside_all_are_zero(records, record.priority) => 1.0,
            _ => f64::from(record.weight.max(1)) / f64::from(most),
        };
        let source = Source::Srv {
            priority: record.priority,
            weight,
        };
        (settings, source)
    });
    let (mut found, mut left_out) = (Vec::<Found>::new(), Vec::new());
    let mut places: Vec<Url> = Vec::new();
    for (settings, source) in configured.chain(file).chain(srv) {
        let what = || format!("{} ({}, {})", settings.name, settings.url, source.as_str());
        let url = match server_url(&settings.url) {
            Ok(url) => url,
            Err(error) => {
                left_out.push(format!("{}: its URL {error}", what()));
                continue;
            }
        };
        let same_name = |other: &Found| other.settings.name == settings.name;
        if let Some(other) = found.iter().find(|other| same_name(other)) {
            left_out.push(format!(
                "{}: there is one of this name in the {}",
                what(),
                other.source.as_str()
            ));
        } else if source != Source::Configuration && places.contains(&url) {
            left_out.push(format!("{}: there is one at this URL", what()));
        } else if found.len() == MOST_SERVERS && source != Source::Configuration {
            left_out.push(format!("{}: there are {MOST_SERVERS}", what()));
        } else {
            places.push(url);
            found.push(Found {
                settings: settings.clone(),
                source,
            });
        }
    }
    (found, left_out)
}

fn beside_all_are_zero(records: &[(Record, ServerSettings)], priority: u16) -> bool {
    let mut beside = records
        .iter()
        .filter(|(other, _)| other.priority == priority);
    beside.all(|(other, _)| other.weight == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: &str, host: &str) -> ServerSettings {
        ServerSettings {
            name: name.to_owned(),
            url: format!("http://{host}"),
            ..ServerSettings::default()
        }
    }

    fn record(host: &str, priority: u16, weight: u16) -> (Record, ServerSettings) {
        let record = Record {
            priority,
            weight,
            host: host.to_owned(),
            port: 80,
        };
        (record, server(host, host))
    }

    #[test]
    fn of_one_name_or_place_the_first_counts() {
        let (found, left_out) = merge(
            &[server("a", "a.example"), server("twin", "a.example")],
            &[server("a", "b.example"), server("c", "c.example")],
            &[record("c.example", 0, 0), record("d.example", 0, 0)],
        );
        let names: Vec<_> = found
            .iter()
            .map(|found| (found.settings.name.as_str(), found.source.as_str()))
            .collect();
        assert_eq!(
            names,
            [
                ("a", "configuration"),
                ("twin", "configuration"),
                ("c", "file"),
                ("d.example", "srv")
            ]
        );
        assert_eq!(left_out.len(), 2, "{left_out:?}");
        assert!(left_out[0].contains("of this name"), "{left_out:?}");
        assert!(left_out[1].contains("at this URL"), "{left_out:?}");
    }

    #[test]
    fn weights_are_parts_of_the_greatest_of_a_priority() {
        let records = [
            record("a", 1, 10),
            record("b", 1, 5),
            record("c", 1, 0),
            record("d", 2, 0),
            record("e", 2, 0),
            record("f", 3, 1),
            record("g", 3, 0),
        ];
        let (found, _) = merge(&[], &[], &records);
        let weights: Vec<_> = found.iter().map(|found| found.source.weight()).collect();
        assert_eq!(weights, [1.0, 0.5, 0.1, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(found[3].source.rank(), 2);
    }

    #[test]
    fn there_are_a_thousand_at_most() {
        let file: Vec<_> = (0..2000)
            .map(|number| server(&format!("s{number}"), &format!("s{number}.example")))
            .collect();
        let (found, left_out) = merge(&[server("a", "a.example")], &file, &[]);
        assert_eq!((found.len(), left_out.len()), (MOST_SERVERS, 1001));
    }
}
