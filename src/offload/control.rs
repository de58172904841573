//! The control loop's step: from readings to the next snapshot.
//!
//! Runs on the sampler's thread, some times a second, and once more when an operator overrides the level.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::{
    compiled::Compiled,
    fetched::{Fetched, Learner, Passed},
    in_flight::InFlightLimit,
    noted::Noted,
    promises::Link,
    settings::Mode,
    snapshot::Snapshot,
    spread::Full,
    work::Work,
};
use crate::{
    journal::Event,
    level::{
        Level, Machine, MachineSettings, Share, ShareController, SignalLoad, Transition, Turned,
        threshold,
    },
    load::Reading,
    servers::{Candidate, Choose, Select, Server, ServerState, SpreadBy},
    units::{BitRate, Ratio},
};

/// How long one draw of admission lasts: a retry after `Retry-After` has a new chance.
const EPOCH: Duration = Duration::from_secs(30);
/// How long `throttle` may last with every visitor offloaded who can be, until those are turned away too.
/// Well above the smoothing, so that what has just been moved can show first.
const MOVED_ALL: Duration = Duration::from_secs(4);

/// Whether a reading is that of the link whose promises are known.
fn is_link(reading: &Reading) -> bool {
    &*reading.name == "bandwidth" && reading.off.is_none()
}

/// Whether a reading is that of the requests in flight.
fn is_in_flight(reading: &Reading) -> bool {
    &*reading.name == "in_flight" && reading.off.is_none()
}

/// How many times its first threshold the worst signal's load is.
fn worst(readings: &[Reading]) -> f64 {
    readings
        .iter()
        .filter_map(|reading| Some(reading.load?.get() / reading.thresholds.offload?.get()))
        .fold(0.0, f64::max)
}

/// A change of level, with the figures that made it. Where it falls, those are of the signal that was the last to hold
/// the level.
fn changed(change: Transition, readings: &[Reading], release: Ratio, held: Option<Level>) -> Event {
    let higher = change.from.max(change.to);
    let of = |reading: &Reading| threshold(&reading.thresholds, higher).map(Ratio::get);
    let part = |reading: &Reading| {
        let load = reading.load.map_or(0.0, Ratio::get);
        of(reading).map_or(0.0, |threshold| load / threshold.max(f64::MIN_POSITIVE))
    };
    let signal = match change.signal {
        Some(index) if change.to > change.from => readings.get(index),
        _ => {
            let mut holding = readings
                .iter()
                .filter(|reading| of(reading).is_some())
                .collect::<Vec<_>>();
            holding.sort_by(|a, b| part(a).total_cmp(&part(b)));
            holding.pop()
        }
    };
    Event::Level {
        from: change.from,
        to: change.to,
        signal: signal.map(|reading| reading.name.to_string()),
        load: signal.and_then(|reading| reading.load).map(Ratio::get),
        threshold: signal.and_then(of),
        release: release.get(),
        held,
    }
}

/// Where objects are spread, a server begins to hand some on when one part in so many of its room is left.
const KEEPS: f64 = 4.0;

/// Decides, step by step.
#[derive(Debug)]
pub struct Control {
    compiled: Arc<Compiled>,
    select: Arc<dyn Select>,
    /// It is the configuration's, and goes with its servers.
    own_policy: bool,
    machine: Machine,
    share: ShareController,
    began: Instant,
    stepped: Option<Instant>,
    /// Since when the level has been `throttle` or above with everyone offloaded whom the share may offload.
    throttling_since: Option<Instant>,
    overridden: Option<Override>,
    usable: Vec<bool>,
    noted: Noted,
    candidates: Vec<Candidate>,
    choose: Arc<dyn Choose>,
    capacity: Capacity,
    link: Option<Link>,
    in_flight: Option<InFlightLimit>,
    /// The average of the requests in flight, where their number is the load.
    in_flight_average: Option<Ratio>,
    work: Work,
    learner: Learner,
    /// What it learnt in the last step.
    fetched: Option<Fetched>,
    /// Every new visitor was to be turned away when the last step had been taken.
    all_turned: bool,
}

/// What the primary can do, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Capacity {
    /// What it can send.
    pub link: Option<BitRate>,
    /// How many requests may be in flight.
    pub in_flight: Option<u32>,
}

/// A level held by hand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Override {
    /// The level.
    pub level: Level,
    /// Until when.
    pub until: Instant,
}

/// What a step takes in.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// The signals.
    pub readings: &'a [Reading],
    /// What the primary was promised to send since the last step, in bytes on the wire.
    pub promised: u64,
    /// What it sent besides, since nothing that is decided happens.
    pub unchanged: u64,
    /// All that it has served to visitors.
    pub passed: Passed,
    /// How many requests are in flight.
    pub in_flight: u64,
    /// How many new visitors were let in since the last step at `throttle` or above, to be served by the primary alone.
    pub let_in: u64,
    /// The time.
    pub now: Instant,
    /// The time by the calendar.
    pub wall: SystemTime,
}

// === impl Control ===

impl Control {
    /// Begins at `normal`. `select`: a selection other than the configuration's.
    #[must_use]
    pub fn new(
        compiled: Arc<Compiled>,
        release: Ratio,
        capacity: Capacity,
        select: Option<Arc<dyn Select>>,
        now: Instant,
    ) -> Self {
        let own_policy = select.is_none();
        let select = select.unwrap_or_else(|| compiled.select());
        Self {
            own_policy,
            machine: Machine::new(MachineSettings {
                hold: compiled.hold,
                release,
            }),
            share: ShareController::new(compiled.share),
            usable: vec![false; compiled.servers.len()],
            noted: Noted::default(),
            candidates: Vec::new(),
            choose: Arc::from(select.prepare(&[])),
            select,
            compiled,
            began: now,
            stepped: None,
            throttling_since: None,
            overridden: None,
            capacity,
            link: None,
            in_flight: None,
            in_flight_average: None,
            work: Work::default(),
            learner: Learner::new(),
            fetched: None,
            all_turned: false,
        }
    }

    /// What the last step has learnt of what visitors fetch.
    pub(super) fn fetched(&mut self) -> Option<Fetched> {
        self.fetched.take()
    }

    /// The chooser as of now.
    #[must_use]
    pub fn choose(&self) -> Arc<dyn Choose> {
        self.choose.clone()
    }

    /// The configuration as of now.
    pub(super) const fn compiled(&self) -> &Arc<Compiled> {
        &self.compiled
    }

    /// Goes on with other servers. What does not hang on them goes on as it was.
    pub(super) fn replace(&mut self, compiled: Arc<Compiled>) {
        let was_usable = |server: &Server| {
            let mut known = self.compiled.servers.iter().zip(&self.usable);
            known.any(|(known, usable)| {
                *usable && known.name() == server.name() && known.url() == server.url()
            })
        };
        self.usable = compiled
            .servers
            .iter()
            .map(|server| was_usable(server))
            .collect();
        if self.own_policy {
            self.select = compiled.select();
        }
        // Positions are others now: there is no choosing by the old ones.
        self.candidates.clear();
        self.choose = Arc::from(self.select.prepare(&[]));
        self.compiled = compiled;
    }

    /// Goes on with another configuration. Level and promises go on as they were.
    pub(super) fn reload(&mut self, compiled: Arc<Compiled>, release: Ratio, capacity: Capacity) {
        self.share.set(compiled.share);
        self.machine.set(MachineSettings {
            hold: compiled.hold,
            release,
        });
        self.capacity = capacity;
        self.replace(compiled);
    }

    /// Holds a level by hand, or lets it go.
    pub fn hold(&mut self, overridden: Option<Override>, now: Instant) {
        if overridden.is_some() || self.overridden.is_some() {
            let seconds = |until: Instant| until.saturating_duration_since(now).as_secs_f64();
            self.noted.event(Event::Override {
                level: overridden.map(|overridden| overridden.level),
                seconds: overridden.map(|overridden| seconds(overridden.until)),
                instead_of: self.machine.level(),
            });
        }
        self.overridden = overridden;
    }

    /// What was decided since this was asked last, as far as it is worth a line.
    pub fn events(&mut self) -> Vec<Event> {
        self.noted.take()
    }

    /// One step.
    pub fn step(&mut self, input: Input<'_>) -> Snapshot {
        let now = input.now;
        let elapsed = self
            .stepped
            .replace(now)
            .map_or(Duration::ZERO, |then| now.saturating_duration_since(then));
        if self
            .overridden
            .is_some_and(|overridden| overridden.until <= now)
        {
            self.hold(None, now);
        }
        self.work.add(input.promised, input.unchanged, elapsed);
        let readings = self.load(&input, elapsed);
        let unchanged = worst(input.readings).max(self.worst_link());
        let signals: Vec<SignalLoad> = readings.iter().map(|it| self.signal(it)).collect();

        self.all_turned &= input.let_in == 0;
        let servers = self.observe_servers(now, input.wall);
        self.observe_level(&signals, &readings, unchanged, elapsed, now);
        let natural = self.machine.level();
        let calm = natural == Level::Normal && self.overridden.is_none();
        self.fetched = self.learner.observe(input.passed, calm, now);

        let is_link = |reading: &Reading| self.link.is_some() && is_link(reading);
        let beside: Vec<SignalLoad> = std::iter::zip(&signals, &readings)
            .filter(|(_, reading)| !is_link(reading))
            .map(|(signal, _)| *signal)
            .collect();
        let allowed = |turned: Turned| match natural {
            Level::Normal | Level::Offload => Turned::default(),
            Level::Throttle => Turned {
                dropped: Ratio::ZERO,
                ..turned
            },
            Level::Drop => turned,
        };
        let beside = Turned::away(&beside);
        let turned = self.link.map_or(beside, |link| beside.most(link.turned()));
        let turned = self
            .in_flight
            .map_or(turned, |limit| turned.most(limit.turned(input.in_flight)));
        // Held by hand, nobody is turned away by the load.
        self.all_turned = self.overridden.is_none() && allowed(turned).throttled == Ratio::ONE;
        let mut snapshot = Snapshot {
            compiled: self.compiled.clone(),
            at: now,
            wall: input.wall,
            level: natural,
            overridden_until: None,
            share: self.share.share(),
            turned: allowed(turned),
            turned_beside: allowed(beside),
            // They are laid out by who knows how many come of each.
            classes: Vec::new(),
            turned_offloaded: self.turned_offloaded(beside, allowed(beside), now),
            drop_everything: false,
            epoch: now.saturating_duration_since(self.began).as_secs() / EPOCH.as_secs(),
            hold_left: self.machine.hold_left(now),
            servers,
            full: match self.compiled.spread {
                SpreadBy::Page => Full::default(),
                SpreadBy::Object => Full::new(self.compiled.servers.len()),
            },
            choose: self.choose.clone(),
            readings,
            primary_assigned: self.work.promised(),
            link: self.link,
            in_flight: self.in_flight,
        };
        if let Some(overridden) = self.overridden {
            self.apply(overridden, &mut snapshot, now);
        }
        snapshot
    }

    /// Who is turned away though a server has room. `beside`: what the signals beside the link ask for, and
    /// what of it the level allows. What has been moved shows only after the smoothing; until then they are turned away
    /// where the others would be dropped.
    fn turned_offloaded(&self, beside: Turned, allowed: Turned, now: Instant) -> Turned {
        let all_moved = self
            .throttling_since
            .is_some_and(|since| now.saturating_duration_since(since) >= MOVED_ALL);
        if all_moved {
            allowed
        } else if self.machine.level() < Level::Throttle {
            Turned::default()
        } else {
            Turned {
                throttled: beside.dropped,
                dropped: Ratio::ZERO,
            }
        }
    }

    /// What a level held by hand means: all of it, whatever the load.
    fn apply(&self, overridden: Override, snapshot: &mut Snapshot, now: Instant) {
        snapshot.level = overridden.level;
        snapshot.overridden_until = Some(overridden.until);
        // It can be let go at any moment: what pages promise of it may not outlast that for long.
        let left = overridden.until.saturating_duration_since(now);
        snapshot.hold_left = left.min(self.compiled.hold);
        snapshot.share = match (overridden.level, self.compiled.share) {
            (Level::Normal, _) => Ratio::ZERO,
            (_, Share::Fixed(share)) => share,
            (_, Share::Auto) => Ratio::ONE,
        };
        snapshot.drop_everything = overridden.level == Level::Drop;
        snapshot.turned = match overridden.level {
            Level::Normal | Level::Offload => Turned::default(),
            Level::Throttle => Turned::ALL_THROTTLED,
            Level::Drop => Turned::ALL_DROPPED,
        };
        snapshot.turned_beside = snapshot.turned;
        snapshot.turned_offloaded = snapshot.turned;
        snapshot.link = None;
        snapshot.in_flight = None;
    }

    /// The readings, with what is known better. A link's load is the larger of what it carries and what it has been
    /// promised to carry: a full link reads 1.0 however much more is asked of it. Where nothing that is decided
    /// happens, every load is what would be left of it.
    fn load(&mut self, input: &Input<'_>, elapsed: Duration) -> Vec<Reading> {
        let part = match self.compiled.mode {
            Mode::Report => self.work.part_left(),
            Mode::Enforce | Mode::Off => 1.0,
        };
        let mut readings = input.readings.to_vec();
        for reading in &mut readings {
            reading.load = reading
                .load
                .map(|load| Ratio::saturating(load.get() * part));
        }
        self.count_in_flight(&mut readings, input.in_flight, part);
        let reading = readings.iter_mut().find(|reading| is_link(reading));
        let (Some(reading), Some(capacity)) = (reading, self.capacity.link) else {
            self.link = None;
            return readings;
        };
        let capacity = capacity.bytes_per_second();
        let known = self
            .link
            .filter(|link| link.capacity == capacity && link.thresholds == reading.thresholds)
            .unwrap_or_else(|| Link::new(capacity, reading.thresholds, input.now));
        let mut link = known.after(input.promised, input.now);
        let measured = reading.load.map(Ratio::get);
        link.learn(measured, elapsed);
        let load = measured.unwrap_or(0.0).max(link.load());
        reading.load = Some(Ratio::saturating(load));
        self.link = Some(link);
        readings
    }

    /// Where so many are in flight at this moment that nobody is let in, that is the load; below, it is the average.
    fn count_in_flight(&mut self, readings: &mut [Reading], in_flight: u64, part: f64) {
        let reading = readings.iter_mut().find(|reading| is_in_flight(reading));
        (self.in_flight, self.in_flight_average) = (None, None);
        let (Some(reading), Some(capacity)) = (reading, self.capacity.in_flight) else {
            return;
        };
        let limit = InFlightLimit {
            capacity: f64::from(capacity.max(1)) / part.max(f64::MIN_POSITIVE),
            thresholds: reading.thresholds,
        };
        let load = Ratio::saturating(in_flight as f64 / limit.capacity);
        if limit.alarm().is_some_and(|alarm| in_flight >= alarm) && reading.load < Some(load) {
            // The number is looked at with every visitor: until the next look the average goes on.
            self.in_flight_average = reading.load.replace(load);
        }
        self.in_flight = Some(limit);
    }

    /// How many times its first threshold the link's load would be, were nothing decided.
    fn worst_link(&self) -> f64 {
        let ratio = self.link.and_then(|link| {
            Some(self.work.all() / link.capacity / link.thresholds.offload?.get())
        });
        ratio.unwrap_or(0.0)
    }

    /// How many times its first threshold the worst signal's load is going to be, were nothing done: what was seen last
    /// and promised just now, and not averages that have yet to follow a crowd that comes all at once.
    fn to_come(&self, readings: &[Reading]) -> f64 {
        let newest = readings.iter().map(|reading| {
            let link = self.link.filter(|_| is_link(reading));
            let raw = reading.raw.map_or(0.0, Ratio::get);
            let load = reading.load?.get().max(raw);
            let load = link.map_or(load, |link| load.max(link.load_to_come()));
            Some(load / reading.thresholds.offload?.get())
        });
        newest.flatten().fold(0.0, f64::max)
    }

    /// How many times its first threshold the link's load is, were what waits to be sent soon.
    fn link_to_drain(&self) -> f64 {
        let ratio = self
            .link
            .and_then(|link| Some(link.load_with_backlog() / link.thresholds.offload?.get()));
        ratio.unwrap_or(0.0)
    }

    fn signal(&self, reading: &Reading) -> SignalLoad {
        let link = self.link.filter(|_| is_link(reading));
        SignalLoad {
            load: reading.load,
            lasting: match link {
                Some(link) => Some(Ratio::saturating(link.load())),
                None if is_in_flight(reading) => self.in_flight_average.or(reading.load),
                None => reading.load,
            },
            thresholds: reading.thresholds,
        }
    }

    fn observe_level(
        &mut self,
        signals: &[SignalLoad],
        readings: &[Reading],
        unchanged: f64,
        elapsed: Duration,
        now: Instant,
    ) {
        // The worst signal steers the share: how far it is above its own first threshold.
        let ratio = worst(readings).max(self.link_to_drain());
        // In report mode nothing that is decided happens, and while a level is held by hand the share is not what the
        // controller says: an integrator that saw no effect would only wind up.
        let stands_still = self.overridden.is_some();
        if self.machine.level() >= Level::Offload && !stands_still {
            match self.compiled.mode {
                Mode::Report => self.share.settle(unchanged),
                Mode::Enforce | Mode::Off => self.share.observe(ratio, elapsed),
            }
        }
        // A share that stands still says nothing about whether the episode is over.
        let at_work = if stands_still {
            None
        } else {
            self.share.at_work()
        };
        if let Some(change) = self.machine.observe(signals, at_work, self.all_turned, now) {
            let held = self.overridden.map(|overridden| overridden.level);
            let event = changed(change, readings, self.machine.release(), held);
            self.noted.event(event);
            if change.from == Level::Normal {
                self.share.engage(ratio, self.to_come(readings));
            } else if change.to == Level::Normal {
                self.share.disengage();
            }
        }
        if !stands_still {
            self.noted.share(self.share.share(), ratio, now);
        }
        // All that could be moved has been moved once the share is what it can be at most, or the primary serves no new
        // visitor alone.
        let moved_all =
            self.share.at_work().is_none() || self.share.share() == Ratio::ONE || self.all_turned;
        if self.machine.level() >= Level::Throttle && moved_all {
            self.throttling_since.get_or_insert(now);
        } else {
            self.throttling_since = None;
        }
    }

    fn observe_servers(&mut self, now: Instant, wall: SystemTime) -> Vec<ServerState> {
        let servers = self.compiled.servers.clone();
        let states: Vec<ServerState> = servers
            .iter()
            .zip(&mut self.usable)
            .map(|(server, usable)| {
                let state = server.state(now, wall);
                *usable = state.takes;
                state
            })
            .collect();
        self.noted.servers(&servers, &states, now);
        // Room counts in bytes a second where every server's capacity is known, else as a ratio.
        let all_known = servers
            .iter()
            .all(|server| server.settings().capacity.is_some());
        let candidates: Vec<Candidate> = servers
            .iter()
            .zip(&states)
            .zip(&self.compiled.sources)
            .map(|((server, state), source)| {
                let settings = server.settings();
                let threshold = settings.threshold.get();
                // What was counts as much as what is: a spike must not chase everyone away, nor a lull draw
                // everyone in.
                let load = match (state.load, state.previous) {
                    (Some(load), Some(previous)) => f64::midpoint(load, previous),
                    (load, _) => load.unwrap_or(0.0),
                };
                let free = (threshold - load) / threshold;
                // An object that moves is fetched once more by another cache. So where objects are spread a
                // server keeps all of its own until it is nearly full.
                let free = match self.compiled.spread {
                    SpreadBy::Page => free,
                    SpreadBy::Object => free * KEEPS,
                };
                let free = free.clamp(0.0, 1.0) * state.ramp;
                let capacity = settings
                    .capacity
                    .filter(|_| all_known)
                    .map_or(1.0, BitRate::bytes_per_second);
                let most = threshold * capacity * source.weight();
                Candidate {
                    name: settings.name.clone(),
                    usable: state.takes,
                    rank: source.rank(),
                    price: settings.price,
                    // In steps, so that the table is not made anew for a breath of wind.
                    room: (free * 32.0).ceil() / 32.0 * most,
                    most,
                }
            })
            .collect();
        if candidates != self.candidates {
            self.choose = Arc::from(self.select.prepare(&candidates));
            self.candidates = candidates;
        }
        states
    }
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod control_tests;

#[cfg(test)]
#[path = "simulation_tests.rs"]
mod simulation_tests;
