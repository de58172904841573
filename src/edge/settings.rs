//! `[edge]`: what `overspill edge` is.

use std::{fmt, net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    guard::LimitSettings,
    problem::Problem,
    servers::absolute_url,
    tls::TlsSettings,
    units::{self, BitRate, ByteSize},
};

/// The offload server's own part of the configuration.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct EdgeSettings {
    /// Where it listens. Default: `127.0.0.1:8081`.
    #[cfg_attr(test, schemars(with = "units::AddressText"))]
    pub listen: SocketAddr,
    /// Where it tells its load to a HAProxy (`agent-check`): to anyone who connects, without a token. Default: nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<units::AddressText>"))]
    pub agent: Option<SocketAddr>,
    /// The server that owns the site that it serves, where no entry of `sites` fits. Default: `http://127.0.0.1:8080`.
    pub primary: String,
    /// The names that it is asked under. Addresses, `localhost` and the primary's own name always count, and
    /// so does the name under which a primary asks for its load, where it shows a token: without one every other
    /// name has to be here. Default: none.
    pub hosts: Vec<String>,
    /// What it is called among the primary's `offload.servers`. Default: known by its URL.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What it can send: the capacity of its signal `bandwidth`. Default: `load.bandwidth.capacity`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<BitRate>,
    /// What its objects may take, in all. Default: 256 MiB.
    pub memory: ByteSize,
    /// An object that is larger is passed on and not kept. Default: 16 MiB.
    pub largest: ByteSize,
    /// The primary's `offload.token`: its pulls carry it, and who asks for its load, a purge or a warm-up must show it.
    /// Without one the load is told to anyone, nobody may purge, and no name is learnt (see `hosts`). Default: none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub token: String,
    /// How long an object is fresh of which the primary does not say it. Default: 10 s.
    #[serde(with = "units::duration")]
    #[cfg_attr(test, schemars(with = "units::DurationText"))]
    pub fresh: Duration,
    /// How long after that an object is still given out while it is fetched anew, where the primary says
    /// nothing of it (`stale-while-revalidate`), but no longer than it was fresh: a primary that is overloaded answers
    /// late. Default: 10 s.
    #[serde(with = "units::duration")]
    #[cfg_attr(test, schemars(with = "units::DurationText"))]
    pub stale_while_revalidate: Duration,
    /// How long after that an object is still given out where the primary fails, where the primary says
    /// nothing of it (`stale-if-error`). Default: 1 h.
    #[serde(with = "units::duration")]
    #[cfg_attr(test, schemars(with = "units::DurationText"))]
    pub stale_if_error: Duration,
    /// How long the primary may be silent: for a connection (5 s at most), for the head of an answer, for the next part of
    /// its body. At most 1 h. Default: 10 s.
    #[serde(with = "units::duration")]
    #[cfg_attr(test, schemars(with = "units::DurationText"))]
    pub patience: Duration,
    /// What clients of the edge may hold on to. Connections from 127.0.0.1 and ::1 are not counted by address.
    pub limits: LimitSettings,
    /// The certificates with which the edge speaks TLS. Default: none, and no TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSettings>,
    /// More sites on this edge: the first entry counts that fits. Each has `host` or `prefix`, or both.
    pub sites: Vec<EdgeSite>,
}

/// `[[edge.sites]]`: one of several sites, told by the host, by the beginning of the path, or by both.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct EdgeSite {
    /// The name that this edge is asked under, with or without a port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// What the path begins with; the primary is asked without it. What the edge answers itself
    /// (`/.overspill/load`, …) is below it, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The server that owns the site. Must be given.
    pub primary: String,
    /// Its `offload.token`. Default: `edge.token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

impl Default for EdgeSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8081)),
            agent: None,
            primary: "http://127.0.0.1:8080".to_owned(),
            hosts: Vec::new(),
            name: String::new(),
            capacity: None,
            memory: ByteSize::new(256 << 20),
            largest: ByteSize::new(16 << 20),
            token: String::new(),
            fresh: Duration::from_secs(10),
            stale_while_revalidate: Duration::from_secs(10),
            stale_if_error: Duration::from_secs(3600),
            patience: Duration::from_secs(10),
            limits: LimitSettings::default(),
            tls: None,
            sites: Vec::new(),
        }
    }
}

impl fmt::Debug for EdgeSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The tokens belong in no log.
        f.debug_struct("EdgeSettings")
            .field("listen", &self.listen)
            .field("primary", &self.primary)
            .finish_non_exhaustive()
    }
}

// === impl EdgeSettings ===

impl EdgeSettings {
    /// Puts `hidden` where tokens are.
    pub(crate) fn hide_secrets(&mut self, hidden: &str) {
        let more = self.sites.iter_mut().filter_map(|site| site.token.as_mut());
        for token in more.chain([&mut self.token]) {
            if !token.is_empty() {
                hidden.clone_into(token);
            }
        }
    }

    /// Appends what is wrong.
    pub fn check(&self, problems: &mut Vec<Problem>) {
        self.limits.check("edge.limits", problems);
        if let Some(tls) = &self.tls {
            tls.check("edge.tls", problems);
        }
        let mut problem = |key: String, message: &dyn fmt::Display| {
            problems.push(Problem::new(key, message));
        };
        check_primary(&self.primary, "edge.primary", &mut problem);
        check_token(&self.token, "edge.token", &mut problem);
        if http::HeaderValue::try_from(self.name.as_str()).is_err() {
            problem(
                "edge.name".into(),
                &"must be of characters that a header can carry",
            );
        }
        if self.largest > self.memory {
            problem(
                "edge.largest".into(),
                &format_args!(
                    "must not be above `edge.memory` ({}), found {}",
                    self.memory, self.largest
                ),
            );
        }
        if self.patience.is_zero() || self.patience > Duration::from_secs(3600) {
            problem(
                "edge.patience".into(),
                &"must be more than 0s and at most 1h",
            );
        }
        for (name, value) in [
            ("fresh", self.fresh),
            ("stale_while_revalidate", self.stale_while_revalidate),
            ("stale_if_error", self.stale_if_error),
        ] {
            if value > Duration::from_secs(365 * 24 * 3600) {
                problem(format!("edge.{name}"), &"must be at most 365days");
            }
        }
        for (index, site) in self.sites.iter().enumerate() {
            let key = format!("edge.sites[{index}]");
            if site.host.is_none() && site.prefix.is_none() {
                problem(key.clone(), &"must have `host` or `prefix`, or both");
            }
            if let Some(prefix) = &site.prefix
                && (!prefix.starts_with('/')
                    || prefix.len() < 2
                    || prefix.starts_with("/.overspill"))
            {
                problem(
                    format!("{key}.prefix"),
                    &format_args!(
                        "must be a path that begins with \"/\", such as \"/shop\", found {prefix:?}"
                    ),
                );
            }
            check_primary(&site.primary, &format!("{key}.primary"), &mut problem);
            if let Some(token) = &site.token {
                check_token(token, &format!("{key}.token"), &mut problem);
            }
        }
    }
}

type Tell<'a> = dyn FnMut(String, &dyn fmt::Display) + 'a;

fn check_primary(url: &str, key: &str, problem: &mut Tell<'_>) {
    let checked = absolute_url(url).and_then(|url| {
        crate::upstream::Target::new(&url)
            .map(drop)
            .map_err(|error| error.to_string())
    });
    if let Err(message) = checked {
        problem(key.to_owned(), &message);
    }
}

fn check_token(token: &str, key: &str, problem: &mut Tell<'_>) {
    if http::HeaderValue::try_from(token).is_err() {
        problem(
            key.to_owned(),
            &"must be of characters that a header can carry",
        );
    }
}
