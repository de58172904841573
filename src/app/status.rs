//! What an operator is told.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::{
    journal::unix_seconds,
    level::Turned,
    load::{Reading, UpstreamHealth},
    offload::{ClassCounts, Counters, Outcome, Shared},
    rewrite::BailOut,
    servers::{BudgetSettings, discovery::SourceStatus},
    units::{BitRate, Ratio},
};

/// The state as of one moment.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// This program's version.
    pub version: &'static str,
    /// The time, in seconds since 1970.
    pub time: f64,
    /// Seconds since start.
    pub uptime: f64,
    /// "off", "report" or "enforce".
    pub mode: &'static str,
    /// The level.
    pub level: &'static str,
    /// Seconds for which the level is still held by hand, if it is.
    #[serde(rename = "override")]
    pub overridden: Option<f64>,
    /// The part of the visitors that is offloaded, from 0 to 1.
    pub share: f64,
    /// The part of the new visitors that gets no page.
    pub throttled: f64,
    /// The part of them that gets no answer either.
    pub dropped: f64,
    /// The classes of visitors, lowest first; empty where none are configured.
    pub classes: Vec<ClassStatus>,
    /// Seconds that the offload episode still lasts at least.
    pub hold_left: f64,
    /// What the primary is promised to send, in bytes a second.
    pub assigned: f64,
    /// Open connections, where they come through the gate.
    pub connections: usize,
    /// Requests in flight.
    pub in_flight: u64,
    /// Bytes of responses since start.
    pub bytes_sent: u64,
    /// The signals.
    pub signals: Vec<SignalStatus>,
    /// The server behind, where there is one.
    pub upstream: Option<UpstreamStatus>,
    /// The offload servers.
    pub servers: Vec<ServerStatus>,
    /// Where servers are found beside the configuration.
    pub discovery: Vec<SourceStatus>,
    /// Requests since start, by outcome.
    pub requests: RequestCounts,
    /// Pages that were scanned in the background, before an episode needed their plans.
    pub pages_scanned_ahead: u64,
    /// Pages whose end went out as it came, by reason.
    pub bail_outs: Vec<(&'static str, u64)>,
}

/// One of `throttle.classes`, or those who belong to none (`default`).
#[derive(Debug, Clone, Serialize)]
pub struct ClassStatus {
    /// Its name.
    pub name: String,
    /// Its priority: the lowest are turned away first.
    pub priority: i32,
    /// Its part of those who came lately and were not in already, from 0 to 1; nothing where nobody came.
    pub part: Option<f64>,
    /// The part of its new visitors that gets no page.
    pub throttled: f64,
    /// The part of them that gets no answer either.
    pub dropped: f64,
    /// Its requests that were turned away since start.
    pub turned_away: TurnedAway,
}

/// Requests of a class since start, by how they were turned away.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct TurnedAway {
    /// With a 503.
    pub throttled: u64,
    /// Without an answer, by the layer: the gate knows no class.
    pub dropped: u64,
}

/// One signal.
#[derive(Debug, Clone, Serialize)]
pub struct SignalStatus {
    /// Its name.
    pub name: String,
    /// The load that decides: smoothed, and with what was promised.
    pub load: Option<f64>,
    /// The last reading.
    pub raw: Option<f64>,
    /// The load above which `offload` is entered.
    pub offload: Option<f64>,
    /// The load above which `throttle` is entered.
    pub throttle: Option<f64>,
    /// The load above which `drop` is entered.
    pub drop: Option<f64>,
    /// Why it is off, if it is.
    pub off: Option<String>,
}

/// The server that requests are passed on to.
#[derive(Debug, Clone, Serialize)]
pub struct UpstreamStatus {
    /// Where it is.
    pub url: String,
    /// Whether the last request was answered; nothing where there was none.
    pub reachable: Option<bool>,
    /// Seconds for which that is so.
    pub since: Option<f64>,
    /// Requests that wait for their answer.
    pub waiting: u64,
    /// The last time that there was no answer.
    pub last_failure: Option<UpstreamFailureStatus>,
}

/// Why there was no answer.
#[derive(Debug, Clone, Serialize)]
pub struct UpstreamFailureStatus {
    /// When, in seconds since 1970.
    pub time: f64,
    /// Why.
    pub reason: String,
}

/// One offload server.
#[derive(Debug, Clone, Serialize)]
pub struct ServerStatus {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// Who named it: "configuration", "file" or "srv".
    pub source: &'static str,
    /// Its load.
    pub load: Option<f64>,
    /// What its load was: a moving average.
    pub previous: Option<f64>,
    /// What it reports, while that is fresh.
    pub reported: Option<f64>,
    /// From this load on it gets no more work.
    pub threshold: f64,
    /// Below this load it gets work again.
    pub resume: f64,
    /// "unknown", "well", "busy", "ill" or "not probed".
    pub health: &'static str,
    /// Whether it gets work.
    pub usable: bool,
    /// Why not, or what is odd about it though it does.
    pub reason: Option<String>,
    /// The price of a gigabyte.
    pub price: f64,
    /// What it can send, in bits a second, where that is known.
    pub capacity: Option<f64>,
    /// What may be spent on it, where that is limited.
    pub budget: Option<BudgetSettings>,
    /// The part of its room that it gets: less than 1 while it comes back.
    pub ramp: f64,
    /// What it is promised now, in bytes a second.
    pub assigned: f64,
    /// All bytes that it was ever promised.
    pub assigned_bytes: u64,
    /// What those cost.
    pub cost: f64,
    /// What of its budget was spent in this hour, day or month, where it has one.
    pub spent: Option<f64>,
    /// Pages whose links were pointed to it.
    pub pages: u64,
    /// Those of them that were scanned.
    pub pages_scanned: u64,
    /// Those of them that were made by a plan, without a scan.
    pub pages_spliced: u64,
    /// Those links.
    pub links: u64,
}

/// Requests since start, by outcome.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct RequestCounts {
    /// The primary served them alone.
    pub served: u64,
    /// Pages with their objects linked to an offload server.
    pub offloaded: u64,
    /// Sent to an offload server.
    pub redirected: u64,
    /// Turned away with a 503.
    pub throttled: u64,
    /// Closed without an answer.
    pub dropped: u64,
    /// Exempt.
    pub bypassed: u64,
}

// === impl Status ===

impl Status {
    pub(super) fn of(shared: &Shared, uptime: Duration) -> Self {
        let snapshot = shared.snapshot();
        let compiled = &snapshot.compiled;
        let servers = compiled.servers().iter().zip(&snapshot.servers);
        Self {
            version: env!("CARGO_PKG_VERSION"),
            time: unix_seconds(SystemTime::now()),
            uptime: uptime.as_secs_f64(),
            mode: snapshot.compiled.mode().as_str(),
            level: snapshot.level.as_str(),
            overridden: snapshot.overridden_until.map(|until| {
                until
                    .saturating_duration_since(tokio::time::Instant::now())
                    .as_secs_f64()
            }),
            share: snapshot.share.get(),
            throttled: snapshot.turned.throttled.get(),
            dropped: snapshot.turned.dropped.get(),
            classes: shared
                .classes()
                .into_iter()
                .enumerate()
                .map(|(class, counts)| ClassStatus::of(counts, snapshot.turned_of(class)))
                .collect(),
            hold_left: snapshot.hold_left.as_secs_f64(),
            assigned: snapshot.primary_assigned,
            connections: shared.connections.count(),
            in_flight: shared.in_flight.count(),
            bytes_sent: shared.bytes_sent.total(),
            signals: snapshot.readings.iter().map(SignalStatus::of).collect(),
            upstream: shared.upstream.health().map(UpstreamStatus::of),
            discovery: shared.discovery(),
            servers: servers
                .zip(compiled.sources())
                .map(|((server, state), source)| {
                    let settings = server.settings();
                    let [scanned, spliced] = server.pages();
                    ServerStatus {
                        name: settings.name.clone(),
                        url: settings.url.clone(),
                        source: source.as_str(),
                        load: state.load,
                        previous: state.previous,
                        reported: state.reported,
                        threshold: settings.threshold.get(),
                        resume: settings.resume().get(),
                        health: state.health,
                        usable: state.usable,
                        reason: state.reason.clone(),
                        price: settings.price.per_gigabyte(),
                        capacity: settings.capacity.map(BitRate::bits_per_second),
                        budget: settings.budget,
                        ramp: state.ramp,
                        assigned: state.assigned_bytes_per_second,
                        assigned_bytes: server.assigned_bytes(),
                        cost: settings.price.of(server.assigned_bytes()),
                        spent: state.spent,
                        pages: scanned + spliced,
                        pages_scanned: scanned,
                        pages_spliced: spliced,
                        links: server.links(),
                    }
                })
                .collect(),
            requests: RequestCounts::of(&shared.counters),
            pages_scanned_ahead: shared.scanned_ahead(),
            bail_outs: BailOut::ALL
                .into_iter()
                .map(|reason| (reason.label(), shared.counters.bail_outs(reason)))
                .collect(),
        }
    }
}

// === impl UpstreamStatus ===

impl UpstreamStatus {
    fn of(health: UpstreamHealth) -> Self {
        Self {
            url: health.name,
            reachable: health.reachable,
            since: health.since.map(|since| since.as_secs_f64()),
            waiting: health.waiting,
            last_failure: health.last_failure.map(|failure| UpstreamFailureStatus {
                time: unix_seconds(failure.time),
                reason: failure.text.clone(),
            }),
        }
    }
}

// === impl ClassStatus ===

impl ClassStatus {
    fn of(counts: ClassCounts, turned: Turned) -> Self {
        Self {
            name: counts.name,
            priority: counts.priority,
            part: counts.part,
            throttled: turned.throttled.get(),
            dropped: turned.dropped.get(),
            turned_away: TurnedAway {
                throttled: counts.throttled,
                dropped: counts.dropped,
            },
        }
    }
}

// === impl SignalStatus ===

impl SignalStatus {
    fn of(reading: &Reading) -> Self {
        Self {
            name: reading.name.to_string(),
            load: reading.load.map(Ratio::get),
            raw: reading.raw.map(Ratio::get),
            offload: reading.thresholds.offload.map(Ratio::get),
            throttle: reading.thresholds.throttle.map(Ratio::get),
            drop: reading.thresholds.drop.map(Ratio::get),
            off: reading.off.as_ref().map(ToString::to_string),
        }
    }
}

// === impl RequestCounts ===

impl RequestCounts {
    /// Each outcome's label, and how many there were, in the order of [`Outcome::ALL`].
    #[must_use]
    pub fn by_outcome(&self) -> [(&'static str, u64); Outcome::ALL.len()] {
        Outcome::ALL.map(|outcome| {
            let count = match outcome {
                Outcome::Served => self.served,
                Outcome::Offloaded => self.offloaded,
                Outcome::Redirected => self.redirected,
                Outcome::Throttled => self.throttled,
                Outcome::Dropped => self.dropped,
                Outcome::Bypassed => self.bypassed,
            };
            (outcome.label(), count)
        })
    }

    fn of(counters: &Counters) -> Self {
        Self {
            served: counters.outcome(Outcome::Served),
            offloaded: counters.outcome(Outcome::Offloaded),
            redirected: counters.outcome(Outcome::Redirected),
            throttled: counters.outcome(Outcome::Throttled),
            dropped: counters.outcome(Outcome::Dropped),
            bypassed: counters.outcome(Outcome::Bypassed),
        }
    }
}
