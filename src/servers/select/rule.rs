//! `[[offload.clients]]`: which servers are for whom.

use std::net::IpAddr;

use globset::{Glob, GlobMatcher};
use ipnet::IpNet;

use super::{Client, ClientRuleSettings};
use crate::problem::Problem;

/// A rule, compiled.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    addresses: Vec<IpNet>,
    identity: Option<GlobMatcher>,
    servers: Vec<usize>,
}

// === impl Rule ===

impl Rule {
    pub(super) fn new(
        settings: &ClientRuleSettings,
        key: &str,
        names: &[&str],
        more_may_come: bool,
        problems: &mut Vec<Problem>,
    ) -> Self {
        if settings.addresses.is_empty() && settings.identity.is_none() {
            problems.push(Problem::new(key, "must have `addresses` or `identity`"));
        }
        if settings.servers.is_empty() {
            problems.push(Problem::new(
                format!("{key}.servers"),
                "must name at least one server",
            ));
        }
        Self {
            addresses: networks(&settings.addresses, &format!("{key}.addresses"), problems),
            identity: settings
                .identity
                .as_ref()
                .and_then(|glob| match Glob::new(glob) {
                    Ok(glob) => Some(glob.compile_matcher()),
                    Err(error) => {
                        problems.push(Problem::new(
                            format!("{key}.identity"),
                            format_args!("must be a glob such as \"gold-*\": {error}"),
                        ));
                        None
                    }
                }),
            servers: settings
                .servers
                .iter()
                .enumerate()
                .filter_map(|(index, wanted)| {
                    let found = names.iter().position(|name| name == wanted);
                    if found.is_none() && !more_may_come {
                        problems.push(Problem::new(
                            format!("{key}.servers[{index}]"),
                            format_args!(
                                "must name one of `offload.servers` ({}), found {wanted:?}",
                                names.join(", ")
                            ),
                        ));
                    }
                    found
                })
                .collect(),
        }
    }

    /// The positions of its servers.
    pub(super) fn servers(&self) -> &[usize] {
        &self.servers
    }

    pub(super) fn matches(&self, client: &Client<'_>) -> bool {
        let address = self.addresses.is_empty()
            || client.address.is_some_and(|address| {
                self.addresses
                    .iter()
                    .any(|network| network.contains(&address))
            });
        let identity = self.identity.as_ref().is_none_or(|glob| {
            client
                .identity
                .is_some_and(|identity| glob.is_match(identity))
        });
        address && identity
    }
}

/// Reads networks such as `203.0.113.0/24`; a bare address is the network of itself alone.
pub fn networks(texts: &[String], key: &str, problems: &mut Vec<Problem>) -> Vec<IpNet> {
    texts
        .iter()
        .enumerate()
        .filter_map(|(index, text)| {
            let network = text
                .parse()
                .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            network
                .map_err(|_| {
                    problems.push(Problem::new(
                        format!("{key}[{index}]"),
                        format_args!("must be a network such as \"203.0.113.0/24\" or an address, found {text:?}"),
                    ));
                })
                .ok()
        })
        .collect()
}
