//! `[primary]`: what is served, where, and to whom.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::guard::LimitSettings;
#[cfg(test)]
use crate::units;

/// `[primary]`: the server that owns the site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct PrimarySettings {
    /// Where `overspill serve` listens. The layer does not read it. Default: `127.0.0.1:8080`.
    #[cfg_attr(test, schemars(with = "units::AddressText"))]
    pub listen: SocketAddr,
    /// The folder that `overspill serve` serves. Give this or `upstream`, not both. Default: `static/site` where no
    /// upstream is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<units::PathText>"))]
    pub site: Option<PathBuf>,
    /// The HTTP server that `overspill serve` stands in front of, instead of a folder: `http` or `https`, possibly with a
    /// path that goes before every request's; or a UNIX socket, `"unix:/run/app.sock"`, and behind a colon such a path:
    /// `"unix:/run/app.sock:/prefix"`. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// The site's own names: links to them are its own. The request's Host always counts. Default: none.
    pub hosts: Vec<String>,
    /// Addresses and networks (`"10.0.0.0/8"`) of proxies in front of this server. What they say of a visitor in
    /// `X-Forwarded-For`, `X-Forwarded-Proto`, `Forwarded` and the header of `offload.identity` is believed; what anybody
    /// else says is not. Default: none.
    pub trusted_proxies: Vec<String>,
    /// How requests are passed on to `upstream`.
    #[cfg(feature = "server")]
    pub proxy: crate::upstream::ProxySettings,
    /// Of no use without the program; one file may serve both.
    #[cfg(not(feature = "server"))]
    #[doc(hidden)]
    #[serde(skip_serializing)]
    #[cfg_attr(test, schemars(skip))]
    pub proxy: serde::de::IgnoredAny,
    /// What clients of `overspill serve` may hold on to. The layer does not read it.
    pub limits: LimitSettings,
}

impl Default for PrimarySettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            site: None,
            upstream: None,
            hosts: Vec::new(),
            trusted_proxies: Vec::new(),
            proxy: Default::default(),
            limits: LimitSettings::default(),
        }
    }
}
