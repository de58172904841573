//! Whose object is asked for: which site, at which primary, and under which names this edge answers at all.
//!
//! An edge is no open proxy. What a client writes into `Host` chooses among the configured primaries, and a
//! name that is none of this edge's gets a 421. A name need not be configured where the primary already asks
//! for the load under it: who shows the token is believed. Without a token nothing is learnt.

use std::{net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;
use http::{HeaderValue, Uri, uri::PathAndQuery};

use super::settings::EdgeSettings;
use crate::{
    servers::absolute_url,
    upstream::{Timeouts, Upstream, UpstreamError},
};

/// More names are not learnt: a primary has one.
const MOST_LEARNT: usize = 64;

/// One site.
pub(super) struct Site {
    host: Option<String>,
    pub(super) prefix: Option<String>,
    pub(super) primary: Upstream,
    pub(super) token: Option<HeaderValue>,
    learnt: ArcSwap<Vec<Arc<str>>>,
}

/// All of them, and the names.
pub(super) struct Sites {
    /// The last one is that of `edge.primary`.
    list: Vec<Site>,
    hosts: Vec<String>,
}

/// What a request is for.
pub(super) struct Asked<'a> {
    pub(super) site: usize,
    /// The path and query as the primary knows them.
    pub(super) target: &'a str,
    /// Whether this edge goes by the name that it was asked under.
    pub(super) is_ours: bool,
}

// === impl Sites ===

impl Sites {
    pub(super) fn new(settings: &EdgeSettings) -> Result<Self, UpstreamError> {
        let site = |host: Option<&String>, prefix: Option<&String>, primary: &str, token: &str| {
            // The configuration was checked: it is a URL.
            let url = absolute_url(primary)
                .ok()
                .unwrap_or_else(|| url::Url::parse("http://127.0.0.1:8080").expect("it is a URL"));
            let timeouts = Timeouts {
                connect: settings.patience.min(Timeouts::default().connect),
                first_byte: settings.patience,
                idle: settings.patience,
            };
            let mut token = HeaderValue::try_from(token)
                .ok()
                .filter(|token| !token.is_empty());
            if let Some(token) = &mut token {
                token.set_sensitive(true);
            }
            Ok(Site {
                host: host.map(|host| host.to_ascii_lowercase()),
                prefix: prefix.map(|prefix| prefix.trim_end_matches('/').to_owned()),
                primary: Upstream::new(&url, timeouts)?,
                token,
                learnt: ArcSwap::default(),
            })
        };
        let mut list = settings
            .sites
            .iter()
            .map(|entry| {
                let token = entry.token.as_ref().unwrap_or(&settings.token);
                site(
                    entry.host.as_ref(),
                    entry.prefix.as_ref(),
                    &entry.primary,
                    token,
                )
            })
            .collect::<Result<Vec<_>, _>>()?;
        list.push(site(None, None, &settings.primary, &settings.token)?);
        let hosts = settings.hosts.iter().map(|host| host.to_ascii_lowercase());
        Ok(Self {
            list,
            hosts: hosts.collect(),
        })
    }

    pub(super) fn get(&self, site: usize) -> &Site {
        // The last is always there.
        self.list
            .get(site)
            .unwrap_or(&self.list[self.list.len() - 1])
    }

    /// The site, and what is asked of it.
    pub(super) fn find<'a>(&self, host: Option<&str>, uri: &'a Uri) -> Asked<'a> {
        let target = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let last = self.list.len() - 1;
        let found = self.list[..last]
            .iter()
            .enumerate()
            .find_map(|(index, site)| {
                let by_host = match (&site.host, host) {
                    (Some(expected), Some(host)) => names(host, expected),
                    (Some(_), None) => false,
                    (None, _) => true,
                };
                let Some(prefix) = site.prefix.as_ref().filter(|_| by_host) else {
                    return by_host.then_some((index, target));
                };
                let rest = target.strip_prefix(prefix.as_str())?;
                // What is left must be a path again, and not another host's.
                (rest.starts_with('/') && !rest.starts_with("//")).then_some((index, rest))
            });
        let (site, target) = found.unwrap_or((last, target));
        Asked {
            site,
            target,
            is_ours: self.goes_by(host),
        }
    }

    /// Whether this edge answers under that name.
    fn goes_by(&self, host: Option<&str>) -> bool {
        // HTTP/1.0 may leave it out.
        let Some(host) = host else { return true };
        let name = without_port(host);
        let is_address = name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        is_address
            || name.eq_ignore_ascii_case("localhost")
            || self.hosts.iter().any(|expected| names(host, expected))
            || self.list.iter().any(|site| {
                names(host, site.primary.target().authority.host())
                    || site
                        .host
                        .as_ref()
                        .is_some_and(|expected| names(host, expected))
                    || site
                        .learnt
                        .load()
                        .iter()
                        .any(|learnt| names(host, without_port(learnt)))
            })
    }

    /// Whether some site has a token.
    pub(super) fn have_token(&self) -> bool {
        self.list.iter().any(|site| site.token.is_some())
    }
}

// === impl Site ===

impl Site {
    /// Its primary has asked under this name, with the token.
    pub(super) fn learn(&self, host: Option<&str>) {
        let Some(host) = host else { return };
        if self.learnt.load().iter().any(|learnt| **learnt == *host) {
            return;
        }
        self.learnt.rcu(|learnt| {
            let mut names = Vec::clone(learnt);
            if names.len() < MOST_LEARNT && !names.iter().any(|name| **name == *host) {
                names.push(host.to_ascii_lowercase().into());
            }
            names
        });
    }

    /// The name under which its primary asked last for the first time.
    pub(super) fn learnt(&self) -> Option<Arc<str>> {
        self.learnt.load().last().cloned()
    }
}

/// Whether `host` is `expected`, which may leave the port open.
fn names(host: &str, expected: &str) -> bool {
    host.eq_ignore_ascii_case(expected) || without_port(host).eq_ignore_ascii_case(expected)
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::settings::EdgeSite;

    fn sites() -> Sites {
        let site = |host: Option<&str>, prefix: Option<&str>, primary: &str| EdgeSite {
            host: host.map(str::to_owned),
            prefix: prefix.map(str::to_owned),
            primary: primary.to_owned(),
            token: None,
        };
        Sites::new(&EdgeSettings {
            primary: "http://www.example.com".to_owned(),
            hosts: vec!["eu.example".to_owned()],
            sites: vec![
                site(Some("a.example"), None, "http://127.0.0.1:1"),
                site(None, Some("/b/"), "http://127.0.0.1:2"),
            ],
            ..EdgeSettings::default()
        })
        .unwrap()
    }

    fn found(sites: &Sites, host: &str, uri: &str) -> Option<(usize, String)> {
        let uri = uri.parse().unwrap();
        let asked = sites.find(Some(host), &uri);
        asked.is_ours.then(|| (asked.site, asked.target.to_owned()))
    }

    #[test]
    fn the_host_or_the_path_tells_the_site() {
        let sites = sites();
        let at = |host, uri| found(&sites, host, uri);
        assert_eq!(at("A.example:81", "/x?y"), Some((0, "/x?y".to_owned())));
        assert_eq!(at("eu.example", "/b/x?y"), Some((1, "/x?y".to_owned())));
        assert_eq!(at("eu.example", "/bx"), Some((2, "/bx".to_owned())));
        assert_eq!(at("eu.example", "/b//c"), Some((2, "/b//c".to_owned())));
        assert_eq!(at("www.example.com", "/"), Some((2, "/".to_owned())));
        assert_eq!(at("127.0.0.1:8081", "/"), Some((2, "/".to_owned())));
        assert_eq!(at("[::1]:8081", "/"), Some((2, "/".to_owned())));
    }

    #[test]
    fn a_name_that_is_not_its_own_is_refused_until_a_primary_uses_it() {
        let sites = sites();
        assert_eq!(found(&sites, "us.example:81", "/"), None);
        sites.get(2).learn(Some("us.example:81"));
        assert_eq!(
            found(&sites, "US.example:81", "/"),
            Some((2, "/".to_owned()))
        );
        assert_eq!(found(&sites, "them.example", "/"), None);
    }
}
