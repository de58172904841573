//! One offload server: what it was told to be, what is known of it, and what follows.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::Serialize;
use tokio::time::Instant;
use url::Url;

use super::{
    assigned::AssignedRate,
    health::{Answer, Health, HealthTracker},
    settings::{HealthSettings, ReportKind, ServerSettings},
};
use crate::units::Ratio;

/// The time constant of the correction of the assigned rate: slow, since it stands for others' work, and
/// quick answers to quick changes are the assigned rate's part.
const CORRECTION: Duration = Duration::from_secs(5);

/// An offload server.
///
/// The request path touches its atomics only. What the probes find is behind a lock that the probes write and
/// the control loop reads, some times a second.
#[derive(Debug)]
pub struct Server {
    settings: ServerSettings,
    url: Url,
    /// What it has been promised. Written by the request path.
    assigned: AssignedRate,
    /// All that it was ever promised, in bytes. Written by the request path.
    assigned_bytes: AtomicU64,
    /// Pages whose links were pointed to it, and those links.
    /// Scanned, spliced.
    pages: [AtomicU64; 2],
    links: AtomicU64,
    /// Written by the probes.
    known: Mutex<Known>,
}

/// What the probes know.
#[derive(Debug, Default)]
struct Known {
    health: HealthTracker,
    report: Option<Report>,
    /// Why the last report counted for nothing; [`None`] when it counted.
    report_error: Option<String>,
    correction: f64,
    addresses: Vec<IpAddr>,
}

#[derive(Debug, Clone, Copy)]
struct Report {
    load: Ratio,
    at: Instant,
}

/// A server as of one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServerState {
    /// Its load: what it reports, what was assigned, or both; [`None`] where nothing tells it.
    pub load: Option<f64>,
    /// What is added to the assigned rate's load: others' work, and what browsers did not fetch.
    pub correction: f64,
    /// What its own report says, while that is fresh.
    pub reported: Option<f64>,
    /// Whether it gets work.
    pub usable: bool,
    /// Why not, or what is odd about it though it does.
    pub reason: Option<String>,
    /// "unknown", "well", "busy", "ill" or "not probed".
    pub health: &'static str,
    /// What it is promised now, in bytes a second.
    pub assigned_bytes_per_second: f64,
}

// === impl Server ===

impl Server {
    /// A server of which nothing is known yet.
    #[must_use]
    pub fn new(settings: ServerSettings, url: Url, now: Instant) -> Self {
        Self {
            settings,
            url,
            assigned: AssignedRate::new(now),
            assigned_bytes: AtomicU64::new(0),
            pages: Default::default(),
            links: AtomicU64::new(0),
            known: Mutex::default(),
        }
    }

    /// What it was configured to be.
    #[must_use]
    pub const fn settings(&self) -> &ServerSettings {
        &self.settings
    }

    /// Where it is.
    #[must_use]
    pub const fn url(&self) -> &Url {
        &self.url
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// Promises it `bytes`.
    pub fn assign(&self, bytes: u64, now: Instant) {
        self.assigned.add(bytes, now);
        self.assigned_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A page whose links were pointed to it went out; `spliced` by a plan, or else scanned.
    pub fn page_done(&self, links: u32, spliced: bool) {
        if links > 0 {
            self.pages[usize::from(spliced)].fetch_add(1, Ordering::Relaxed);
        }
        self.links.fetch_add(links.into(), Ordering::Relaxed);
    }

    /// All bytes it was ever promised.
    #[must_use]
    pub fn assigned_bytes(&self) -> u64 {
        self.assigned_bytes.load(Ordering::Relaxed)
    }

    /// Pages whose links were pointed to it: scanned, and spliced by a plan.
    #[must_use]
    pub fn pages(&self) -> [u64; 2] {
        [0, 1].map(|how| self.pages[how].load(Ordering::Relaxed))
    }

    /// Links that were pointed to it.
    #[must_use]
    pub fn links(&self) -> u64 {
        self.links.load(Ordering::Relaxed)
    }

    /// What was promised as a load, where the capacity is known.
    #[must_use]
    pub fn assigned_load(&self, now: Instant) -> Option<f64> {
        let capacity = self.settings.capacity?;
        Some(self.assigned.rate(now) / capacity.bytes_per_second())
    }

    /// Whether one more visitor may be sent to it: exact between two snapshots, where the capacity is known.
    /// `correction` is the snapshot's.
    #[must_use]
    pub fn has_room(&self, correction: f64, now: Instant) -> bool {
        self.assigned_load(now)
            .is_none_or(|assigned| assigned + correction < self.settings.threshold.get())
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        // Every write leaves the value whole, so a panic of another thread has broken nothing.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a health probe's answer.
    pub fn observe_health(&self, answer: Answer) {
        let HealthSettings::Probe(settings) = &self.settings.health else {
            return;
        };
        let mut known = self.known();
        if known.health.observe(answer, settings) {
            tracing::info!(server = self.name(), health = ?known.health.health(), "health changed");
        }
    }

    /// Takes in a report that arrived at `now`, or why there is none.
    pub fn observe_report(&self, report: Result<Ratio, String>, now: Instant) {
        let assigned = self.assigned_load(now);
        let mut known = self.known();
        match report {
            Ok(load) => {
                if let Some(assigned) = assigned {
                    let elapsed = known.report.map_or(self.settings.report.every, |last| {
                        now.saturating_duration_since(last.at)
                    });
                    let weight = 1.0 - (-elapsed.as_secs_f64() / CORRECTION.as_secs_f64()).exp();
                    known.correction += (load.get() - assigned - known.correction) * weight;
                }
                known.report = Some(Report { load, at: now });
                known.report_error = None;
            }
            Err(reason) => {
                if known.report_error.as_ref() != Some(&reason) {
                    tracing::warn!(server = self.name(), %reason, "no load report");
                }
                known.report_error = Some(reason);
            }
        }
    }

    /// The addresses that its name has now: the gate lets them pass.
    pub fn observe_addresses(&self, addresses: Vec<IpAddr>) {
        self.known().addresses = addresses;
    }

    /// The addresses that its name has.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.known().addresses.clone()
    }

    /// How old a report may be: three polls and what a slow answer takes.
    fn report_life(&self) -> Duration {
        self.settings.report.every * 3 + Duration::from_secs(1)
    }

    /// What is known at `now`. `was_usable` is the state before: once over its threshold, it comes back below
    /// `resume`.
    #[must_use]
    pub fn state(&self, was_usable: bool, now: Instant) -> ServerState {
        let mut known = self.known();
        let report = known
            .report
            .filter(|report| now.saturating_duration_since(report.at) <= self.report_life());
        if report.is_none() {
            // What was learnt from reports expires with them.
            known.correction = 0.0;
        }
        let assigned = self.assigned_load(now);
        let load = match (assigned, report) {
            (Some(assigned), _) => Some((assigned + known.correction).max(0.0)),
            (None, report) => report.map(|report| report.load.get()),
        };
        let verdict = self.verdict(&known, load, report.is_some(), was_usable);
        let odd = known
            .report_error
            .as_ref()
            .filter(|_| report.is_none())
            .map(|error| format!("report stale: {error}"));
        ServerState {
            load,
            correction: known.correction,
            reported: report.map(|report| report.load.get()),
            usable: verdict.is_ok(),
            reason: verdict.err().or(odd),
            health: match (&self.settings.health, known.health.health()) {
                (HealthSettings::Off, _) => "not probed",
                (_, Health::Unknown) => "unknown",
                (_, Health::Well) => "well",
                (_, Health::Busy) => "busy",
                (_, Health::Ill(_)) => "ill",
            },
            assigned_bytes_per_second: self.assigned.rate(now),
        }
    }

    /// Whether it gets work; else why not.
    fn verdict(
        &self,
        known: &Known,
        load: Option<f64>,
        reported: bool,
        was_usable: bool,
    ) -> Result<(), String> {
        if let HealthSettings::Probe(_) = self.settings.health {
            match known.health.health() {
                Health::Unknown => return Err("not yet probed".to_owned()),
                Health::Ill(why) => return Err(format!("not healthy: {why}")),
                Health::Busy => return Err("busy: it answers 503".to_owned()),
                Health::Well => {}
            }
        }
        // With a capacity the assigned rate is enough; without, only the report says when to stop.
        if self.settings.report.kind == ReportKind::Orca
            && self.settings.capacity.is_none()
            && !reported
        {
            return Err(match (&known.report_error, known.report) {
                (Some(error), _) => format!("report stale: {error}"),
                (None, Some(_)) => "report stale".to_owned(),
                (None, None) => "not yet probed".to_owned(),
            });
        }
        let (threshold, resume) = (self.settings.threshold, self.settings.resume());
        match load {
            Some(load) if load >= threshold.get() => Err(format!(
                "load {load:.2} is not below its threshold {threshold}"
            )),
            Some(load) if !was_usable && load >= resume.get() => Err(format!(
                "load {load:.2} is not yet below {resume}, where it takes work again"
            )),
            _ => Ok(()),
        }
    }
}

/// The servers, shared by the request path, the probes and the control loop.
pub type Servers = Arc<[Arc<Server>]>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::servers::settings::{HealthProbe, ReportSettings};

    fn server(change: impl FnOnce(&mut ServerSettings)) -> (Server, Instant) {
        let mut settings = ServerSettings {
            name: "eu".to_owned(),
            url: "http://eu.example".to_owned(),
            health: HealthSettings::Off,
            ..ServerSettings::default()
        };
        change(&mut settings);
        let now = Instant::now();
        let url = Url::parse(&settings.url).unwrap();
        (Server::new(settings, url, now), now)
    }

    fn orca() -> ReportSettings {
        ReportSettings {
            kind: ReportKind::Orca,
            url: "http://eu.example/load".to_owned(),
            every: Duration::from_secs(1),
        }
    }

    fn load(value: f64) -> Result<Ratio, String> {
        Ok(Ratio::new(value).unwrap())
    }

    #[test]
    fn is_not_usable_until_probed() {
        let (server, now) = server(|s| s.health = HealthSettings::Probe(HealthProbe::default()));
        let state = server.state(false, now);
        assert_eq!(state.reason.as_deref(), Some("not yet probed"));
        server.observe_health(Answer::Good);
        assert!(server.state(false, now).usable);
        server.observe_health(Answer::Busy);
        assert!(server.state(true, now).reason.unwrap().starts_with("busy"));
    }

    #[test]
    fn takes_no_work_from_its_threshold_on_and_takes_it_again_below_resume() {
        let (server, now) = server(|s| s.report = orca());
        assert_eq!(
            server.state(false, now).reason.as_deref(),
            Some("not yet probed")
        );
        let mut usable = false;
        let mut after = |value: f64| {
            server.observe_report(load(value), now);
            usable = server.state(usable, now).usable;
            usable
        };
        assert!(after(0.70));
        assert!(after(0.79));
        assert!(!after(0.80));
        assert!(!after(0.76), "above resume");
        assert!(after(0.74));
    }

    #[test]
    fn a_report_that_is_silent_goes_stale() {
        let (server, now) = server(|s| s.report = orca());
        server.observe_report(load(0.1), now);
        assert!(server.state(false, now).usable);
        server.observe_report(Err("connection refused".to_owned()), now);
        assert!(
            server.state(true, now + Duration::from_secs(3)).usable,
            "still fresh"
        );
        let state = server.state(true, now + Duration::from_secs(5));
        assert_eq!(
            state.reason.as_deref(),
            Some("report stale: connection refused")
        );
        assert!(!state.usable);
    }

    #[test]
    fn what_is_assigned_counts_at_once() {
        let (server, now) = server(|s| s.capacity = "8Mbit/s".parse().ok());
        assert!(server.has_room(0.0, now));
        // 1 MB/s capacity, 2 s window: 1.7 MB read as 0.85.
        server.assign(1_700_000, now);
        assert!(!server.has_room(0.0, now));
        let state = server.state(true, now);
        assert!(!state.usable && (state.load.unwrap() - 0.85).abs() < 0.001);
        assert!(server.has_room(0.0, now + Duration::from_secs(1)));
        assert!(
            !server.has_room(0.5, now + Duration::from_secs(1)),
            "others' work"
        );
    }

    #[test]
    fn reports_correct_the_assigned_rate_slowly_and_expire() {
        let (server, now) = server(|s| {
            s.capacity = "8Mbit/s".parse().ok();
            s.report = orca();
        });
        assert!(
            server.state(false, now).usable,
            "the assigned rate is enough"
        );
        for second in 1..=60 {
            server.observe_report(load(0.5), now + Duration::from_secs(second));
        }
        let state = server.state(true, now + Duration::from_secs(60));
        assert!(
            (state.load.unwrap() - 0.5).abs() < 0.01,
            "others' work is seen: {state:?}"
        );
        let stale = server.state(true, now + Duration::from_secs(90));
        assert_eq!(stale.load, Some(0.0));
        assert!(stale.usable);
    }
}
