//! What would happen with a client's request at this moment, and why: by the same decision, with nothing done.

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue, Request, header};
use serde::Serialize;
use tokio::time::Instant;

use super::{
    classes::Applying,
    client::key,
    decide::{Decided, Decision, Turning, decide, place_in_draw, place_in_share},
    reason::Reason,
    request::Kind,
    settings::Mode,
    shared::Shared,
    snapshot::Snapshot,
    spread::Spread,
};
use crate::{
    level::Level,
    servers::{Client, SpreadBy, hash},
};

/// What would happen, and why.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// The path that is asked for.
    pub path: String,
    /// The client's address.
    pub client: String,
    /// Its identity, if one was given.
    pub identity: Option<String>,
    /// "off", "report" or "enforce".
    pub mode: &'static str,
    /// The level.
    pub level: Level,
    /// "serve", "offload", "redirect", "throttle", "drop" or "bypass".
    pub outcome: &'static str,
    /// The offload server, for "offload" and "redirect".
    pub server: Option<String>,
    /// What becomes of a connection from there before anything is asked: "passes", "exempt" (whatever the level) or
    /// "closed".
    pub gate: &'static str,
    /// All that in a sentence.
    pub text: String,
    /// The part of the visitors that is offloaded.
    pub share: f64,
    /// Where the client stands, from 0 to 1: below the share it is offloaded.
    pub place: f64,
    /// Whether it is.
    pub in_share: bool,
    /// Whether it is let in.
    pub admission: Admission,
    /// The rule of `offload.clients` that fits.
    pub rule: Option<RuleMatched>,
    /// Every server, and what speaks for or against it.
    pub servers: Vec<Considered>,
}

/// Which part of those like the client is turned away, and where it stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Admission {
    /// The part of new visitors that gets no page.
    pub throttled: f64,
    /// The part of them that gets no answer either.
    pub dropped: f64,
    /// Where the client stands until the next draw, from 0 to 1.
    pub place: f64,
    /// Its class, where classes are configured.
    pub class: Option<String>,
}

/// A rule for clients.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RuleMatched {
    /// Its position in `offload.clients`, from 0.
    pub index: usize,
    /// The servers that it names.
    pub servers: Vec<String>,
}

/// An offload server as the client's choice.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Considered {
    /// Its name.
    pub name: String,
    /// Whether it gets work at all.
    pub usable: bool,
    /// Whether it could take this client.
    pub considered: bool,
    /// Whether it does.
    pub chosen: bool,
    /// Why, or why not.
    pub why: String,
}

impl Shared {
    /// What would happen at this moment with a GET (over https where the primary has TLS) for `path` (as in the request
    /// line, query included) by a client at `address`, with this `identity`. Whether it was let in before only its cookie
    /// tells: it counts as new.
    ///
    /// # Errors
    /// That `path` is none.
    pub fn explain(
        &self,
        path: &str,
        address: IpAddr,
        identity: Option<&str>,
    ) -> Result<Explanation, http::Error> {
        let mut request = Request::get(path).body(())?;
        let html = HeaderValue::from_static("text/html,*/*;q=0.8");
        request.headers_mut().insert(header::ACCEPT, html);
        let snapshot = &**self.snapshot();
        let address = address.to_canonical();
        let client = Client {
            hash: key(Some(address), identity),
            address: Some(address),
            identity,
        };
        let compiled = &snapshot.compiled;
        let kind = Kind::of(&request, compiled);
        let class = if compiled.classes.is_empty() {
            0
        } else {
            compiled.classes.of(Applying {
                client: &client,
                path: request.uri().path(),
                headers: &HeaderMap::new(),
                trusted: false,
            })
        };
        let now = Instant::now();
        let weight = self
            .weights
            .page(hash::bytes(request.uri().path().as_bytes()));
        let has_room = |server: usize| {
            let server = compiled
                .servers
                .get(server)
                .zip(snapshot.servers.get(server));
            server.is_some_and(|(server, state)| server.has_room(state, weight, now))
        };
        let turning = Turning::now(
            snapshot,
            self.link(snapshot, now),
            self.in_flight.count(),
            class,
        );
        let exempt = compiled.bypasses(request.uri().path(), address);
        let decided = if exempt {
            Decided {
                decision: Decision::Serve,
                reason: Reason::Exempt,
            }
        } else {
            decide(
                kind,
                &client,
                snapshot,
                turning,
                &*self.admit,
                || false,
                &has_room,
            )
        };
        let decided = match decided.decision {
            Decision::Throttle if compiled.throttle_drops => Decided {
                decision: Decision::Drop,
                ..decided
            },
            Decision::Redirect(server)
                if compiled.over_tls && !compiled.targets[server].target.https() =>
            {
                Decided {
                    decision: Decision::Serve,
                    reason: Reason::LessSecure,
                }
            }
            _ => decided,
        };
        let chosen = match decided.decision {
            Decision::Offload(server) => Some(server),
            // Where objects are spread, it belongs to one of the pool.
            Decision::Redirect(server) if compiled.spread == SpreadBy::Object => {
                let path = hash::bytes(request.uri().path().as_bytes());
                let pool = snapshot.choose.pool(&client, server);
                let own = |pool| {
                    Spread::new(snapshot, pool, server, compiled.over_tls).place(path, |_| true)
                };
                Some(pool.and_then(own).unwrap_or(server))
            }
            Decision::Redirect(server) => Some(server),
            _ => None,
        };
        let turned = match chosen {
            Some(_) => turning.offloaded,
            None => turning.alone,
        };
        let rule = snapshot.choose.rule(&client);
        let name = |server: usize| {
            let server = compiled.servers.get(server);
            server.map(|server| server.name().to_owned())
        };
        let share = snapshot.share.get();
        let place = place_in_share(&client);
        let admission = Admission {
            throttled: turned.throttled.get(),
            dropped: turned.dropped.get(),
            place: place_in_draw(&client, snapshot.epoch),
            class: compiled
                .classes
                .iter()
                .nth(class)
                .map(|class| class.name.clone()),
        };
        let server = chosen.and_then(name);
        let text = in_words(
            decided,
            server.as_deref(),
            share,
            place,
            &admission,
            snapshot,
        );
        Ok(Explanation {
            path: path.to_owned(),
            client: address.to_string(),
            identity: identity.map(str::to_owned),
            mode: compiled.mode.as_str(),
            level: snapshot.level,
            outcome: match decided.decision {
                _ if exempt => "bypass",
                Decision::Serve => "serve",
                Decision::Offload(_) => "offload",
                Decision::Redirect(_) => "redirect",
                Decision::Throttle => "throttle",
                Decision::Drop => "drop",
            },
            server,
            gate: self.at_gate(snapshot, address),
            text,
            share,
            place,
            in_share: place < share,
            admission,
            servers: (0..compiled.servers.len())
                .map(|server| {
                    let allowed = rule.as_ref().is_none_or(|(_, of)| of.contains(&server));
                    consider(server, chosen, allowed, has_room(server), snapshot)
                })
                .collect(),
            rule: rule.map(|(index, servers)| RuleMatched {
                index,
                servers: servers.into_iter().filter_map(name).collect(),
            }),
        })
    }
}

impl Shared {
    fn at_gate(&self, snapshot: &Snapshot, address: IpAddr) -> &'static str {
        if self.gate_exempts(snapshot, address) {
            "exempt"
        } else if self.closes(snapshot, address) {
            "closed"
        } else {
            "passes"
        }
    }
}

fn consider(
    server: usize,
    chosen: Option<usize>,
    allowed: bool,
    has_room: bool,
    snapshot: &Snapshot,
) -> Considered {
    let (one, state) = (
        &snapshot.compiled.servers[server],
        &snapshot.servers[server],
    );
    let considered = allowed && state.takes && has_room;
    let reason = || {
        state
            .reason
            .clone()
            .unwrap_or_else(|| "not usable".to_owned())
    };
    let why = if chosen == Some(server) {
        "chosen".to_owned()
    } else if !allowed {
        "the client's rule does not name it".to_owned()
    } else if !state.takes {
        reason()
    } else if !has_room {
        "no room for this page at this moment".to_owned()
    } else if let Some(chosen) = chosen {
        let (price, other) = (
            one.settings().price,
            snapshot.compiled.servers[chosen].settings().price,
        );
        if price.per_gigabyte() > other.per_gigabyte() {
            format!("has room, but costs {price} where the chosen one costs {other}")
        } else {
            "has room, but the client's place belongs to the chosen one".to_owned()
        }
    } else {
        "has room, but is not asked".to_owned()
    };
    Considered {
        name: one.name().to_owned(),
        usable: state.usable,
        considered,
        chosen: chosen == Some(server),
        why,
    }
}

fn in_words(
    decided: Decided,
    server: Option<&str>,
    share: f64,
    place: f64,
    admission: &Admission,
    snapshot: &Snapshot,
) -> String {
    let server = server.unwrap_or_default();
    let what = match decided.decision {
        Decision::Serve => "the primary serves it alone".to_owned(),
        Decision::Offload(_) => {
            format!("the page comes from the primary, its objects from {server}")
        }
        Decision::Redirect(_) => format!("it is sent to {server} by a 307"),
        Decision::Throttle => "it gets a 503".to_owned(),
        Decision::Drop => "it gets no answer".to_owned(),
    };
    let figures = match decided.reason {
        Reason::OutsideShare | Reason::InShare | Reason::NoRoom => {
            format!(" (place {place:.3}, share {share:.3})")
        }
        Reason::TurnedAway => {
            let part = match decided.decision {
                Decision::Drop if !snapshot.compiled.throttle_drops => admission.dropped,
                _ => admission.throttled,
            };
            format!(" (place {:.3}, part {part:.3})", admission.place)
        }
        _ => String::new(),
    };
    let mode = match snapshot.compiled.mode {
        Mode::Enforce => "",
        Mode::Report => ". In fact the primary serves it: the mode is report",
        Mode::Off => ". In fact the primary serves it: the mode is off",
    };
    format!("{what}, since {}{figures}{mode}", decided.reason)
}
