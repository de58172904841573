//! The configuration, checked once and made ready for the request path.

use std::{net::IpAddr, sync::Arc, time::Duration};

use globset::GlobSet;
use http::HeaderName;
use ipnet::IpNet;
use tokio::time::Instant;
use url::Url;

use super::{
    classes::Classes,
    overloaded::Overloaded,
    settings::{
        DropMethod, DropSettings, IdentitySettings, Mode, OffloadSettings, ThrottleAction,
        ThrottleSettings,
    },
    stay::Stay,
};
use crate::{
    level::Share,
    problem::Problem,
    rewrite::{self, OwnHosts, Rules, Target, headers::Tag},
    servers::{
        self, Server, ServerSettings, Servers, SpreadBy,
        discovery::{Found, Source},
        networks,
    },
};

/// The parts of the configuration that the layer is made from.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// `mode`.
    pub mode: Mode,
    /// `explain_header`.
    pub explain_header: bool,
    /// `server_timing`.
    pub server_timing: bool,
    /// Whether `primary.tls` is given: what is asked for without a proxy comes over https.
    pub over_tls: bool,
    /// `primary.hosts`: the site's own names.
    pub hosts: &'a [String],
    /// `primary.trusted_proxies`: addresses and networks whose word is believed.
    pub trusted_proxies: &'a [String],
    /// `[offload]`.
    pub offload: &'a OffloadSettings,
    /// `[rewrite]`.
    pub rewrite: &'a rewrite::Settings,
    /// `[throttle]`.
    pub throttle: &'a ThrottleSettings,
    /// `[drop]`.
    pub drop: DropSettings,
}

/// What the request path reads.
#[derive(Debug, Clone)]
pub struct Compiled {
    pub(super) mode: Mode,
    /// Answers say why they are what they are.
    pub(super) explains: bool,
    /// Answers say how long they took.
    pub(super) server_timing: bool,
    pub(super) over_tls: bool,
    pub(super) share: Share,
    pub(super) hold: Duration,
    pub(super) hosts: Arc<OwnHosts>,
    pub(super) trusted_proxies: Vec<IpNet>,
    pub(super) identity: Option<Identity>,
    pub(super) token: String,
    pub(super) redirect: GlobSet,
    pub(super) rules: Arc<Rules>,
    /// The `src` of the fallback script, where pages get one.
    pub(super) fallback: Option<Arc<str>>,
    pub(super) spread: SpreadBy,
    pub(super) servers: Servers,
    /// In the order of `servers`.
    pub(super) targets: Vec<ServerTarget>,
    /// Who named them, in the same order.
    pub(super) sources: Vec<Source>,
    /// Names them all, and the rules.
    pub(super) targets_version: u64,
    pub(super) policy: servers::Policy,
    /// A handful: comparing them costs less than hashing the path.
    pub(super) bypass_paths: Vec<String>,
    pub(super) bypass_addresses: Vec<IpNet>,
    pub(super) overloaded: Overloaded,
    pub(super) throttle_drops: bool,
    pub(super) stay: Stay,
    /// The same for as long as this process runs.
    pub(super) classes: Arc<Classes>,
    pub(super) drop_method: DropMethod,
}

/// Where a server's links point, and what its pages' validators carry.
#[derive(Debug, Clone)]
pub(super) struct ServerTarget {
    pub(super) target: Arc<Target>,
    pub(super) tag: Tag,
    /// Names the server and all of it that makes a difference to a page, in this process.
    pub(super) version: u64,
}

/// Where the identity is.
#[derive(Debug, Clone)]
pub(super) enum Identity {
    Cookie { name: String, key: Option<String> },
    Header(HeaderName),
}

// === impl Compiled ===

impl Compiled {
    /// Checks and compiles.
    ///
    /// # Errors
    /// Every problem, each with its key.
    pub fn new(parts: Parts<'_>, now: Instant) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let Parts {
            hosts,
            trusted_proxies,
            offload,
            throttle,
            ..
        } = parts;

        let own_hosts = OwnHosts::new(hosts).unwrap_or_else(|wrong| {
            problems.extend(wrong.into_iter().map(|index| {
                Problem::new(
                    format!("primary.hosts[{index}]"),
                    format_args!(
                        "must be a host such as \"www.example.com\", found {:?}",
                        hosts[index]
                    ),
                )
            }));
            OwnHosts::default()
        });
        let rules = Rules::new(parts.rewrite);
        let rules = or_problems(rules, &mut problems, |error| {
            Problem::new(error.key, error.message)
        });
        let (servers, targets) = servers(offload, rules.as_ref(), now, &mut problems);
        let names: Vec<&str> = offload
            .servers
            .iter()
            .map(|server| server.name.as_str())
            .collect();
        offload.discovery.check(&mut problems);
        let policy = or_problems(policy(offload, &names), &mut problems, |problem| problem);
        let overloaded = Overloaded::new(throttle.page.as_deref(), throttle.retry_after);
        let overloaded = or_problems(
            overloaded.map_err(|problem| vec![problem]),
            &mut problems,
            |p| p,
        );
        if http::HeaderValue::try_from(offload.token.as_str()).is_err() {
            problems.push(Problem::new(
                "offload.token",
                "must be of characters that a header can carry",
            ));
        }
        for (key, value, most) in [
            ("offload.hold", offload.hold, Duration::from_secs(24 * 3600)),
            (
                "throttle.retry_after",
                throttle.retry_after,
                Duration::from_secs(24 * 3600),
            ),
            (
                "throttle.stay",
                throttle.stay,
                Duration::from_secs(365 * 24 * 3600),
            ),
        ] {
            if value > most {
                problems.push(Problem::new(
                    key,
                    format_args!("must be at most {}", humantime::format_duration(most)),
                ));
            }
        }
        let compiled = Self {
            mode: parts.mode,
            explains: parts.explain_header,
            server_timing: parts.server_timing,
            over_tls: parts.over_tls,
            share: offload.share,
            hold: offload.hold,
            hosts: Arc::new(own_hosts),
            trusted_proxies: networks(trusted_proxies, "primary.trusted_proxies", &mut problems),
            identity: offload
                .identity
                .as_ref()
                .and_then(|identity| Identity::new(identity, &mut problems)),
            token: offload.token.clone(),
            redirect: or_problems(
                rewrite::globs("offload.redirect", &offload.redirect),
                &mut problems,
                |error| Problem::new(error.key, error.message),
            )
            .unwrap_or_default(),
            bypass_paths: throttle.bypass.paths.clone(),
            bypass_addresses: networks(
                &throttle.bypass.addresses,
                "throttle.bypass.addresses",
                &mut problems,
            ),
            throttle_drops: throttle.action == ThrottleAction::Drop,
            stay: Stay::new(throttle.stay, &offload.token),
            classes: Classes::new(&throttle.classes, trusted_proxies, offload, &mut problems)
                .into(),
            drop_method: parts.drop.method,
            spread: offload.spread,
            sources: vec![Source::Configuration; servers.len()],
            servers: servers.into(),
            targets_version: targets_version(&targets),
            targets,
            fallback: parts.rewrite.fallback.then(super::fallback::src),
            rules: Arc::new(match rules {
                Some(rules) => rules,
                None => return Err(problems),
            }),
            policy: match policy {
                Some(policy) => policy,
                None => return Err(problems),
            },
            overloaded: match overloaded {
                Some(overloaded) => overloaded,
                None => return Err(problems),
            },
        };
        if problems.is_empty() {
            Ok(compiled)
        } else {
            Err(problems)
        }
    }

    /// The same with these servers; [`None`] where they are the same. Those that stay, by their names and URLs, keep
    /// what is known of them. What is wrong with the others was told by who found them: they are left out.
    pub(super) fn with_servers(
        &self,
        offload: &OffloadSettings,
        found: &[Found],
        now: Instant,
    ) -> Option<Self> {
        self.with_servers_of(&self.servers, offload, found, now)
    }

    /// The same configuration, read anew, after `old`: of servers that stay is known what was, those that were found stay,
    /// and who was let in stays in.
    pub(super) fn after(self, old: &Self, offload: &OffloadSettings, now: Instant) -> Self {
        let configured = offload.servers.iter().map(|settings| Found {
            settings: settings.clone(),
            source: Source::Configuration,
        });
        let is_configured = |name: &str| offload.servers.iter().any(|server| server.name == name);
        let others = std::iter::zip(old.servers.iter(), &old.sources)
            .filter(|(server, source)| {
                !matches!(source, Source::Configuration) && !is_configured(server.name())
            })
            .map(|(server, source)| Found {
                settings: server.settings().clone(),
                source: *source,
            });
        let found: Vec<Found> = configured.chain(others).collect();
        let new = self.with_servers_of(&old.servers, offload, &found, now);
        let mut new = new.unwrap_or(self);
        if new.token == old.token {
            new.stay = new.stay.after(&old.stay);
        }
        // The request path counts by their positions.
        new.classes = old.classes.clone();
        new
    }

    fn with_servers_of(
        &self,
        known_servers: &Servers,
        offload: &OffloadSettings,
        found: &[Found],
        now: Instant,
    ) -> Option<Self> {
        let (mut servers, mut targets, mut sources) = (Vec::new(), Vec::new(), Vec::new());
        for Found { settings, source } in found {
            let Some((url, target)) = target(settings, &self.rules) else {
                continue;
            };
            let known = known_servers
                .iter()
                .find(|known| known.name() == settings.name && *known.url() == url);
            servers.push(match known {
                Some(known) if known.settings() == settings => known.clone(),
                Some(known) => Arc::new(known.renewed(settings.clone(), url)),
                None => Arc::new(Server::new(settings.clone(), url, now)),
            });
            targets.push(target);
            sources.push(*source);
        }
        let is_same = servers.len() == self.servers.len()
            && sources == self.sources
            && servers
                .iter()
                .zip(self.servers.iter())
                .all(|(new, known)| Arc::ptr_eq(new, known));
        if is_same {
            return None;
        }
        let names: Vec<&str> = servers.iter().map(|server| server.name()).collect();
        // The rules were in order with other names, so they are with these.
        let policy = policy(offload, &names).ok()?;
        Some(Self {
            policy,
            servers: servers.into(),
            targets_version: targets_version(&targets),
            targets,
            sources,
            ..self.clone()
        })
    }

    /// Who named the servers, in their order.
    pub(crate) fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// The offload servers.
    #[must_use]
    pub fn servers(&self) -> &Servers {
        &self.servers
    }

    /// The selection that the configuration describes.
    pub(crate) fn select(&self) -> Arc<dyn servers::Select> {
        Arc::new(self.policy.clone())
    }

    /// The mode.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether `address` is one of those that nothing is ever refused: trusted proxies and the configured
    /// exceptions. (The offload servers' addresses are looked up at run time.)
    pub(crate) fn exempts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        [&self.trusted_proxies, &self.bypass_addresses]
            .into_iter()
            .flatten()
            .any(|network| network.contains(&address))
    }

    /// Whether a request for `path` by a client at `address` is not looked at.
    pub(super) fn bypasses(&self, path: &str, address: IpAddr) -> bool {
        let mut networks = self.bypass_addresses.iter();
        self.bypasses_path(path) || networks.any(|network| network.contains(&address))
    }

    /// Whether a request for `path` is not looked at.
    pub(super) fn bypasses_path(&self, path: &str) -> bool {
        self.bypass_paths.iter().any(|bypass| bypass == path)
    }

    /// Whether `path` is one that is routed to an offload server.
    pub(super) fn is_redirected(&self, path: &str) -> bool {
        self.redirect
            .is_match(path.strip_prefix('/').unwrap_or(path))
    }

    /// How a connection is closed unanswered.
    pub(crate) const fn drop_method(&self) -> DropMethod {
        self.drop_method
    }
}

fn or_problems<T, E>(
    result: Result<T, Vec<E>>,
    problems: &mut Vec<Problem>,
    into: impl Fn(E) -> Problem,
) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(errors) => {
            problems.extend(errors.into_iter().map(into));
            None
        }
    }
}

fn servers(
    offload: &OffloadSettings,
    rules: Option<&Rules>,
    now: Instant,
    problems: &mut Vec<Problem>,
) -> (Vec<Arc<Server>>, Vec<ServerTarget>) {
    let (mut servers, mut targets) = (Vec::new(), Vec::new());
    for (index, settings) in offload.servers.iter().enumerate() {
        let key = format!("offload.servers[{index}]");
        settings.check(&key, problems);
        let first = offload.servers[..index]
            .iter()
            .position(|other| other.name == settings.name);
        if let Some(first) = first.filter(|_| !settings.name.is_empty()) {
            problems.push(Problem::new(
                format!("{key}.name"),
                format_args!("must be unlike every other server's, found {:?} at `offload.servers[{first}]` too", settings.name),
            ));
        }
        // Without rules the configuration is refused anyway; what is wrong with the URL was told by `check`.
        let Some((url, target)) = rules.and_then(|rules| target(settings, rules)) else {
            continue;
        };
        targets.push(target);
        servers.push(Arc::new(Server::new(settings.clone(), url, now)));
    }
    (servers, targets)
}

/// Where a server is, and what pages make of it.
fn target(settings: &ServerSettings, rules: &Rules) -> Option<(Url, ServerTarget)> {
    let url = servers::server_url(&settings.url).ok()?;
    let target = Target::new(&settings.name, &url, settings.cors).ok()?;
    let tag = Tag::new(&target, rules);
    let target = ServerTarget {
        version: servers::hash::bytes(format!("{tag} {}", target.prefix()).as_bytes()),
        tag,
        target: Arc::new(target),
    };
    Some((url, target))
}

fn policy(offload: &OffloadSettings, names: &[&str]) -> Result<servers::Policy, Vec<Problem>> {
    let (select, clients) = (&offload.select, &offload.clients);
    if offload.discovery.is_on() {
        servers::Policy::while_more_may_come(select, clients, names)
    } else {
        servers::Policy::new(select, clients, names)
    }
}

fn targets_version(targets: &[ServerTarget]) -> u64 {
    let mut version = servers::hash::Running::default();
    targets
        .iter()
        .for_each(|target| version.add(target.version));
    version.end()
}

// === impl Identity ===

impl Identity {
    fn new(settings: &IdentitySettings, problems: &mut Vec<Problem>) -> Option<Self> {
        match (&settings.cookie, &settings.header) {
            (Some(name), None) => {
                if settings.key.as_ref().is_some_and(String::is_empty) {
                    problems.push(Problem::new(
                        "offload.identity.key",
                        "must not be empty: anybody could sign with it",
                    ));
                }
                Some(Self::Cookie {
                    name: name.clone(),
                    key: settings.key.clone(),
                })
            }
            (None, Some(name)) => {
                if settings.key.is_some() {
                    problems.push(Problem::new(
                        "offload.identity.key",
                        "needs `cookie`: a header is believed from trusted proxies only",
                    ));
                }
                name.parse()
                    .map_err(|_| {
                        problems.push(Problem::new(
                            "offload.identity.header",
                            format_args!("must be the name of a header, found {name:?}"),
                        ));
                    })
                    .ok()
                    .map(Self::Header)
            }
            _ => {
                problems.push(Problem::new(
                    "offload.identity",
                    "must have either `cookie` or `header`",
                ));
                None
            }
        }
    }
}
