//! What the layer reads of the configuration.

use std::{fmt, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    level::Share,
    servers::{
        ClientRuleSettings, Criterion, ServerSettings, SpreadBy, discovery::DiscoverySettings,
    },
    units,
};

/// `mode`: how far the layer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Requests pass as if the layer were not there.
    Off,
    /// Decides and counts, but changes nothing.
    Report,
    /// Does what it decides.
    #[default]
    Enforce,
}

impl Mode {
    /// The name in configuration and status.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Report => "report",
            Self::Enforce => "enforce",
        }
    }
}

/// `[offload]`: when objects are linked elsewhere, and where to.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct OffloadSettings {
    /// The least time that an episode of offloading lasts, counted from when it was last needed. `"0s"` is allowed.
    /// Default: 30s.
    #[serde(with = "units::duration")]
    #[cfg_attr(test, schemars(with = "units::DurationText"))]
    pub hold: Duration,
    /// The part of the visitors whose pages are changed. `"auto"`: as many as it takes to hold the load at the first
    /// threshold. Default: auto.
    pub share: Share,
    /// What decides which server takes a visitor. Each narrows the choice, the next breaks ties; what is left is settled
    /// by a hash of the visitor, who so stays with one server. Default: client, price, load.
    pub select: Vec<Criterion>,
    /// How the objects of a page are spread over the servers. Default: page.
    pub spread: SpreadBy,
    /// Globs of paths, such as `"/downloads/**"`, that are not served but redirected to the server (307). `*` stops at a
    /// slash, `**` does not. Default: none.
    pub redirect: Vec<String>,
    /// What tells visitors apart. Default: their address (IPv6: its /64).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<IdentitySettings>,
    /// A secret shared with the offload servers. A request with it in `X-Overspill-Token` is an offload server's pull,
    /// which is never turned away and never changed. Load reports are asked for with it, and the cookie of
    /// `throttle.stay` is signed with it. Default: none, and then no pull is known as one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub token: String,
    /// The offload servers. Default: none.
    pub servers: Vec<ServerSettings>,
    /// Where more of them are found.
    pub discovery: DiscoverySettings,
    /// Which servers are for whom. Default: all for everyone.
    pub clients: Vec<ClientRuleSettings>,
}

impl Default for OffloadSettings {
    fn default() -> Self {
        Self {
            hold: Duration::from_secs(30),
            share: Share::Auto,
            select: vec![Criterion::Client, Criterion::Price, Criterion::Load],
            spread: SpreadBy::Page,
            redirect: Vec::new(),
            identity: None,
            token: String::new(),
            servers: Vec::new(),
            discovery: DiscoverySettings::default(),
            clients: Vec::new(),
        }
    }
}

impl fmt::Debug for OffloadSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the token nor the identity's key belongs in a log.
        f.debug_struct("OffloadSettings")
            .field("hold", &self.hold)
            .field("share", &self.share)
            .field("servers", &self.servers)
            .finish_non_exhaustive()
    }
}

/// `offload.identity`: a cookie or a header.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct IdentitySettings {
    /// The cookie that carries the identity. Without `key` visitors can make it up. Give this or `header`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie: Option<String>,
    /// The header that carries it: believed from `primary.trusted_proxies` only, and not where it comes twice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// With it the cookie must be `<identity>.<hex of HMAC-SHA256(key, identity)>`; any other is no identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

impl fmt::Debug for IdentitySettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentitySettings")
            .field("cookie", &self.cookie)
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

/// `[throttle]`: who is turned away, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ThrottleSettings {
    /// The 503 page: a minijinja template that may use `{{ retry_after }}`, in seconds. Default: the built-in page, of
    /// which `templates/overloaded.html` is the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<units::PathText>"))]
    pub page: Option<PathBuf>,
    /// What those get who are turned away. Default: page.
    pub action: ThrottleAction,
    /// What `Retry-After` says at least, and up to half as much again: the crowd should not come back at once. Default:
    /// 10s.
    #[serde(with = "units::duration")]
    #[cfg_attr(test, schemars(with = "units::DurationText"))]
    pub retry_after: Duration,
    /// How long who was let in stays in, by a signed cookie that is given while visitors are turned away. `"0s"`: no
    /// cookie. Default: 5m.
    #[serde(with = "units::duration")]
    #[cfg_attr(test, schemars(with = "units::DurationText"))]
    pub stay: Duration,
    /// Who is never turned away, and whose requests are not touched at all.
    pub bypass: BypassSettings,
    /// Who is turned away last, or first. Default: nobody is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<ClassSettings>,
}

impl Default for ThrottleSettings {
    fn default() -> Self {
        Self {
            page: None,
            action: ThrottleAction::Page,
            retry_after: Duration::from_secs(10),
            stay: Duration::from_secs(300),
            bypass: BypassSettings::default(),
            classes: Vec::new(),
        }
    }
}

/// `throttle.action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ThrottleAction {
    /// A 503 with a page that says that the server is overloaded.
    #[default]
    Page,
    /// Nothing: the connection is closed.
    Drop,
}

/// `throttle.bypass`: requests that the layer does not touch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct BypassSettings {
    /// Paths as they are, no globs: for health checks. At `drop` the gate closes connections before there is a path.
    /// Default: `/healthz`.
    pub paths: Vec<String>,
    /// Addresses and networks of clients. The gate lets them pass, too. Default: none.
    pub addresses: Vec<String>,
}

impl Default for BypassSettings {
    fn default() -> Self {
        Self {
            paths: vec!["/healthz".to_owned()],
            addresses: Vec::new(),
        }
    }
}

/// `[[throttle.classes]]`: requests that are turned away later than others, or sooner. A request belongs to the class
/// with the highest priority of which it has all that is given here; of two with the same, to the first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ClassSettings {
    /// Its name in status and metrics. Must be given.
    pub name: String,
    /// Nobody of a class is turned away before everybody below it is. Who belongs to no class has 0; a class below 0 is
    /// turned away first. Default: 1.
    pub priority: i32,
    /// Globs of paths. Anyone may ask for a path, so it lifts requests for it alone. Empty: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// A glob on the identity (`offload.identity`), which must be one that can't be made up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// A header, `x-plan`, or one with a glob on its value, `x-plan: gold*`; believed from `primary.trusted_proxies` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
}

impl Default for ClassSettings {
    fn default() -> Self {
        Self {
            name: String::new(),
            priority: 1,
            paths: Vec::new(),
            identity: None,
            header: None,
        }
    }
}

/// `[drop]`: how a connection is closed unanswered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct DropSettings {
    /// What becomes of connections that get no answer. Default: close.
    pub method: DropMethod,
}

/// `drop.method`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum DropMethod {
    /// The connection is closed: the client sees an empty reply.
    #[default]
    Close,
    /// The connection is reset.
    Reset,
    /// New connections are not accepted for the dropped part of the time: they wait in the kernel's queue,
    /// whoever makes them. Requests on connections that are there already are closed.
    Stall,
}
