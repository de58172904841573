//! One offload server: what it was told to be, what is known of it, and what follows.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use serde::Serialize;
use tokio::time::Instant;
use url::Url;

use super::{
    assigned::{AssignedRate, WINDOW, on_the_wire},
    budget::Account,
    health::{Answer, Health, HealthTracker},
    report::{Agent, OrcaReport, ReportKind},
    settings::{HealthSettings, ServerSettings},
    verdict::Refusal,
};
use crate::units::{BitRate, Ratio};

/// The time constant of the correction of the assigned rate: slow, since it stands for others' work, and
/// quick answers to quick changes are the assigned rate's part.
const CORRECTION: Duration = Duration::from_secs(5);
/// The same where it reports less than it was promised: what was promised may only be late.
const CORRECTION_DOWN: Duration = Duration::from_secs(30);
/// The time constant of the load that was, in reports: one report that is out of the way changes little, what
/// lasts is believed after a handful.
const PREVIOUS: u32 = 2;
/// The part of its room that a server gets at first when it comes back.
const FIRST_STEP: f64 = 0.1;

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
    /// What it would have been promised, where nothing that is decided happens. Written by the request path.
    modelled: AssignedRate,
    /// All that it was ever promised, in bytes. Written by the request path.
    assigned_bytes: AtomicU64,
    /// The last promise, in bytes. Written by the request path.
    last: AtomicU64,
    /// Pages whose links were pointed to it, and those links.
    /// Scanned, spliced.
    pages: [AtomicU64; 2],
    links: AtomicU64,
    /// The last report that came with a pull. Written by the request path, emptied by the control loop.
    riding: ArcSwapOption<Riding>,
    /// Written by the probes.
    known: Mutex<Known>,
}

/// A report that came with a pull, or what was wrong with it; and when.
#[derive(Debug)]
struct Riding(Result<OrcaReport, String>, Instant);

/// What the probes know.
#[derive(Debug, Clone, Default)]
struct Known {
    health: HealthTracker,
    report: Option<Report>,
    /// Why the last report counted for nothing; [`None`] when it counted.
    report_error: Option<String>,
    correction: f64,
    /// When the last good report came, whether or not it told a load.
    heard: Option<Instant>,
    /// What its agent's keeper wants, if not work.
    withdrawn: Option<&'static str>,
    /// Why its agent says that it is not up.
    down: Option<String>,
    addresses: Vec<IpAddr>,
    // What follows is written by the control loop alone.
    /// The moving average of its load.
    previous: Option<(f64, Instant)>,
    /// It was at its threshold, and is not yet far enough below.
    over: bool,
    /// It was away, and has not come back.
    away: bool,
    /// When it came back.
    back: Option<Instant>,
    account: Account,
}

#[derive(Debug, Clone, Copy)]
struct Report {
    load: Ratio,
    at: Instant,
    /// It said that it was over a threshold of its own.
    is_over: bool,
}

/// A server as of one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServerState {
    /// Its load: what it reports, what was assigned, or both; [`None`] where nothing tells it.
    pub load: Option<f64>,
    /// The moving average of its load.
    pub previous: Option<f64>,
    /// The part of its room that it gets: 1, or less while it comes back.
    pub ramp: f64,
    /// What was spent of its budget, where it has one.
    pub spent: Option<f64>,
    /// What is added to the assigned rate's load: others' work, and what browsers did not fetch.
    pub correction: f64,
    /// What its own report says, while that is fresh.
    pub reported: Option<f64>,
    /// Whether it gets work at this moment.
    pub usable: bool,
    /// Whether it may get work until the next look, as far as [`has_room`](Server::has_room) allows: the same, unless it
    /// is only the last promise that has taken the rest of its room.
    #[serde(skip)]
    pub takes: bool,
    /// Whether it gets work, or will as soon as it is less busy.
    #[serde(skip)]
    pub is_there: bool,
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
            modelled: AssignedRate::new(now),
            assigned_bytes: AtomicU64::new(0),
            last: AtomicU64::new(0),
            pages: Default::default(),
            links: AtomicU64::new(0),
            riding: ArcSwapOption::empty(),
            known: Mutex::default(),
        }
    }

    /// The same server under new settings: what is known of it stays, load, promises and slow start included.
    #[must_use]
    pub fn renewed(&self, settings: ServerSettings, url: Url) -> Self {
        let copy = |counter: &AtomicU64| AtomicU64::new(counter.load(Ordering::Relaxed));
        let mut known = self.known().clone();
        if settings.report != self.settings.report {
            // What another source said says nothing about this one.
            (known.report, known.report_error, known.heard) = (None, None, None);
            (known.withdrawn, known.down, known.correction) = (None, None, 0.0);
        }
        if settings.health != self.settings.health {
            known.health = HealthTracker::default();
        }
        Self {
            settings,
            url,
            assigned: self.assigned.clone(),
            modelled: self.modelled.clone(),
            assigned_bytes: copy(&self.assigned_bytes),
            last: copy(&self.last),
            pages: [copy(&self.pages[0]), copy(&self.pages[1])],
            links: copy(&self.links),
            riding: ArcSwapOption::new(self.riding.load_full()),
            known: Mutex::new(known),
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

    /// Promises it `bytes` of objects: on its link they are a little more.
    pub fn assign(&self, bytes: u64, now: Instant) {
        self.assigned.add(on_the_wire(bytes), now);
        self.assigned_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.last.store(bytes, Ordering::Relaxed);
    }

    /// The same where nothing that is decided happens: it costs nothing, and no report will show it.
    pub fn model(&self, bytes: u64, now: Instant) {
        self.modelled.add(on_the_wire(bytes), now);
        self.last.store(bytes, Ordering::Relaxed);
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

    /// All that it is promised, and would be, in bytes a second on the wire.
    fn promised(&self, now: Instant) -> f64 {
        self.assigned.rate(now) + self.modelled.rate(now)
    }

    /// Whether one more visitor, who fetches so many `bytes`, may be sent to it: exact between two snapshots, where
    /// the capacity is known. `state` is the snapshot's.
    ///
    /// A promise lifts the load at once by all of its weight. Half of it has to fit below the threshold, so that the
    /// threshold is what the load is on the average.
    #[must_use]
    pub fn has_room(&self, state: &ServerState, bytes: u64, now: Instant) -> bool {
        let Some(capacity) = self.settings.capacity else {
            return true;
        };
        let threshold = self.settings.threshold.get() * state.ramp;
        let promised = self.promised(now) / capacity.bytes_per_second();
        promised + state.correction + half_a_step(bytes, capacity, threshold) < threshold
    }

    /// By how much the last promise, which fitted, may have lifted the load above the threshold: by as much as it was
    /// below, so that is no reason to send nobody there until the next look.
    fn tolerance(&self) -> f64 {
        let last = self.last.load(Ordering::Relaxed);
        let threshold = self.settings.threshold.get();
        let capacity = self.settings.capacity;
        capacity.map_or(0.0, |capacity| half_a_step(last, capacity, threshold))
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

    /// Whether it counts as alive though its last answer was bad.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.known().health.is_in_doubt()
    }

    /// Takes in a report that arrived at `now`, or why there is none.
    pub fn observe_report(&self, report: Result<Ratio, String>, now: Instant) {
        let is_over = false;
        self.observe_orca(report.map(|load| OrcaReport { load, is_over }), now);
    }

    /// The same with all that an ORCA report tells.
    pub fn observe_orca(&self, report: Result<OrcaReport, String>, now: Instant) {
        let assigned = self.assigned_load(now);
        let mut known = self.known();
        match report {
            Ok(OrcaReport { load, is_over }) => {
                if let Some(assigned) = assigned {
                    let elapsed = known.report.map_or(self.settings.report.every, |last| {
                        now.saturating_duration_since(last.at)
                    });
                    let beside = load.get() - assigned;
                    let window = if known.correction <= 0.0 && beside < known.correction {
                        CORRECTION_DOWN
                    } else {
                        CORRECTION
                    };
                    let weight = 1.0 - (-elapsed.as_secs_f64() / window.as_secs_f64()).exp();
                    let next = known.correction + (beside - known.correction) * weight;
                    // Below nothing it goes slowly from the beginning.
                    known.correction = if known.correction > 0.0 {
                        next.max(0.0)
                    } else {
                        next
                    };
                }
                known.report = Some(Report {
                    load,
                    at: now,
                    is_over,
                });
                known.heard = Some(now);
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

    /// Takes in what its agent said at `now`. What it did not say stays as it was.
    pub fn observe_agent(&self, agent: Agent, now: Instant) {
        {
            let mut known = self.known();
            if let Some(keeper) = agent.keeper {
                known.withdrawn = keeper.err();
            }
            if let Some(up) = agent.up {
                known.down = up.err();
            }
            known.heard = Some(now);
            known.report_error = None;
            if let (None, Some(report)) = (agent.load, &mut known.report) {
                report.at = now;
            }
        }
        if let Some(load) = agent.load {
            self.observe_report(Ok(load), now);
        }
    }

    /// Leaves a report that came with a pull for the control loop. Takes no lock.
    pub fn observe_riding(&self, report: Result<OrcaReport, String>, now: Instant) {
        self.riding.store(Some(Arc::new(Riding(report, now))));
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

    /// What is known at `now`, by the calendar `wall`.
    #[must_use]
    pub fn state(&self, now: Instant, wall: SystemTime) -> ServerState {
        if let Some(riding) = self.riding.swap(None) {
            self.observe_orca(riding.0.clone(), riding.1);
        }
        let known = &mut *self.known();
        let is_fresh = |at: Instant| now.saturating_duration_since(at) <= self.report_life();
        let report = known.report.filter(|report| is_fresh(report.at));
        let is_heard = known.heard.is_some_and(is_fresh);
        if report.is_none() {
            // What was learnt from reports expires with them.
            known.correction = 0.0;
        }
        let promised = self.promised(now);
        let capacity = self.settings.capacity;
        let assigned = capacity.map(|capacity| promised / capacity.bytes_per_second());
        let load = match (assigned, report) {
            (Some(assigned), _) => Some((assigned + known.correction).max(0.0)),
            (None, report) => report.map(|report| report.load.get()),
        };
        let spent = self.settings.budget.map(|budget| {
            let (bytes, price) = (self.assigned_bytes(), self.settings.price);
            known.account.spent(bytes, price, budget.per, wall)
        });
        // Once at its threshold, it comes back below `resume`.
        known.over = load.is_some_and(|load| {
            load >= self.settings.threshold.get() + self.tolerance()
                || known.over && load >= self.settings.resume().get()
        });
        let says_over = report.is_some_and(|report| report.is_over);
        // Whatever our threshold is: it knows best.
        let verdict = match self.verdict(known, load, spent, is_heard) {
            Ok(()) if says_over => Err(Refusal::Over),
            verdict => verdict,
        };
        let takes = verdict.is_ok();
        let threshold = self.settings.threshold;
        let verdict = verdict.and_then(|()| match load {
            Some(load) if load >= threshold.get() => Err(Refusal::Full(load, threshold)),
            _ => Ok(()),
        });
        let ramp = known.ramp(verdict.as_ref().err(), self.settings.slow_start, now);
        let odd = if ramp < 1.0 {
            Some(format!(
                "it came back: gets {:.0} % of its room",
                ramp * 100.0
            ))
        } else {
            let error = known.report_error.as_ref().filter(|_| !is_heard);
            error.map(|error| format!("report stale: {error}"))
        };
        ServerState {
            load,
            previous: known.average(load, self.settings.report.every * PREVIOUS, now),
            ramp,
            spent,
            correction: known.correction,
            reported: report.map(|report| report.load.get()),
            usable: verdict.is_ok(),
            takes,
            is_there: verdict.as_ref().err().is_none_or(Refusal::is_there),
            reason: verdict.err().map(|refusal| refusal.to_string()).or(odd),
            health: match (&self.settings.health, known.health.health()) {
                (HealthSettings::Off, _) => "not probed",
                (_, Health::Unknown) => "unknown",
                (_, Health::Well) => "well",
                (_, Health::Busy) => "busy",
                (_, Health::Ill(_)) => "ill",
            },
            assigned_bytes_per_second: promised,
        }
    }

    /// Whether it gets work; else why not.
    fn verdict(
        &self,
        known: &Known,
        load: Option<f64>,
        spent: Option<f64>,
        is_heard: bool,
    ) -> Result<(), Refusal> {
        if let HealthSettings::Probe(_) = self.settings.health {
            match known.health.health() {
                Health::Unknown => return Err(Refusal::NotProbed),
                Health::Ill(why) => return Err(Refusal::Ill(why.clone())),
                Health::Busy => return Err(Refusal::Busy),
                Health::Well => {}
            }
        }
        // What an agent said holds until it says otherwise, also when it has fallen silent since.
        if let Some(why) = &known.down {
            return Err(Refusal::Down(why.clone()));
        }
        if let Some(word) = known.withdrawn {
            return Err(Refusal::Withdrawn(word));
        }
        // With a capacity the assigned rate is enough; without, only the report says when to stop.
        if self.settings.report.kind != ReportKind::None
            && self.settings.capacity.is_none()
            && !is_heard
        {
            return Err(match (&known.report_error, known.heard) {
                (None, None) => Refusal::NotProbed,
                (Some(error), None) => Refusal::Unheard(error.clone()),
                (error, Some(_)) => Refusal::Stale(error.clone()),
            });
        }
        if let (Some(spent), Some(budget)) = (spent, self.settings.budget)
            && spent >= budget.amount
        {
            return Err(Refusal::Spent(spent, budget));
        }
        let (threshold, resume) = (self.settings.threshold, self.settings.resume());
        match load {
            Some(load) if known.over && load >= threshold.get() => {
                Err(Refusal::Full(load, threshold))
            }
            Some(load) if known.over => Err(Refusal::NotYetBelow(load, resume)),
            _ => Ok(()),
        }
    }
}

// === impl Known ===

impl Known {
    /// The part of its room that a server gets: it grows from [`FIRST_STEP`] to all of it after the server was
    /// away, so that it is not flooded with its caches cold.
    fn ramp(&mut self, refusal: Option<&Refusal>, slow_start: Duration, now: Instant) -> f64 {
        match refusal {
            Some(refusal) if refusal.is_away() => {
                // Before it was first heard of it was not away, but not there yet.
                self.away = true;
                self.back = None;
            }
            _ if self.away => {
                self.away = false;
                self.back = Some(now);
            }
            _ => {}
        }
        let Some(back) = self.back else { return 1.0 };
        let grown = now.saturating_duration_since(back).as_secs_f64() / slow_start.as_secs_f64();
        if grown < 1.0 {
            grown.max(FIRST_STEP)
        } else {
            // Nothing is grown of nothing, too: no slow start.
            self.back = None;
            1.0
        }
    }

    /// Takes `load` into the moving average.
    fn average(&mut self, load: Option<f64>, window: Duration, now: Instant) -> Option<f64> {
        self.previous = load.map(|load| match self.previous {
            None => (load, now),
            Some((previous, then)) => {
                let elapsed = now.saturating_duration_since(then).as_secs_f64();
                let weight = 1.0 - (-elapsed / window.as_secs_f64()).exp();
                (previous + (load - previous) * weight, now)
            }
        });
        self.previous.map(|(previous, _)| previous)
    }
}

/// Half of what a promise of `bytes` lifts a load by at once. Whatever a page weighs, one who is idle takes it.
fn half_a_step(bytes: u64, capacity: BitRate, threshold: f64) -> f64 {
    let step = on_the_wire(bytes) as f64 / (capacity.bytes_per_second() * WINDOW.as_secs_f64());
    step.min(threshold) / 2.0
}

/// The servers, shared by the request path, the probes and the control loop.
pub type Servers = Arc<[Arc<Server>]>;

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
