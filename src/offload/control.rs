//! The control loop's step: from readings to the next snapshot.
//!
//! Runs on the sampler's thread, some times a second, and once more when an operator overrides the level.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::{compiled::Compiled, settings::Mode, snapshot::Snapshot, spread::Full};
use crate::{
    level::{Level, Machine, MachineSettings, Share, ShareController, SignalLoad, Turned},
    load::Reading,
    servers::{Candidate, Choose, Select, Server, ServerState, SpreadBy},
    units::{BitRate, Ratio},
};

/// How long one draw of admission lasts: a retry after `Retry-After` has a new chance.
const EPOCH: Duration = Duration::from_secs(30);
/// How long `throttle` may last with every visitor offloaded who can be, until those are turned away too.
/// Well above the smoothing, so that what has just been moved can show first.
const MOVED_ALL: Duration = Duration::from_secs(4);

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
    candidates: Vec<Candidate>,
    choose: Arc<dyn Choose>,
    /// What the primary can send, where that is known.
    capacity: Option<BitRate>,
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
    /// What the primary is promised to send, in bytes a second.
    pub primary_assigned: f64,
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
        capacity: Option<BitRate>,
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
            candidates: Vec::new(),
            choose: Arc::from(select.prepare(&[])),
            select,
            compiled,
            began: now,
            stepped: None,
            throttling_since: None,
            overridden: None,
            capacity,
        }
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

    /// Holds a level by hand, or lets it go.
    pub fn hold(&mut self, overridden: Option<Override>, now: Instant) {
        match overridden {
            Some(Override { level, until }) => {
                tracing::info!(%level, seconds = until.saturating_duration_since(now).as_secs(), "level overridden");
            }
            None => tracing::info!("override ended"),
        }
        self.overridden = overridden;
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
        let readings = self.with_promises(input.readings, input.primary_assigned);
        let signals: Vec<SignalLoad> = readings
            .iter()
            .map(|reading| SignalLoad {
                load: reading.load,
                thresholds: reading.thresholds,
            })
            .collect();

        let servers = self.observe_servers(now, input.wall);
        self.observe_level(&signals, &readings, elapsed, now);
        let natural = self.machine.level();
        let turned = match natural {
            Level::Throttle | Level::Drop => Turned::away(&signals),
            _ => Turned::default(),
        };
        let mut snapshot = Snapshot {
            compiled: self.compiled.clone(),
            at: now,
            wall: input.wall,
            level: natural,
            overridden_until: None,
            share: self.share.share(),
            turned: Turned {
                dropped: if natural == Level::Drop {
                    turned.dropped
                } else {
                    Ratio::ZERO
                },
                ..turned
            },
            // They are laid out by who knows how many come of each.
            classes: Vec::new(),
            turn_away_offloaded: self
                .throttling_since
                .is_some_and(|since| now.saturating_duration_since(since) >= MOVED_ALL),
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
            primary_assigned: input.primary_assigned,
        };
        if let Some(overridden) = self.overridden {
            self.apply(overridden, &mut snapshot, now);
        }
        snapshot
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
        snapshot.turn_away_offloaded = overridden.level >= Level::Throttle;
        snapshot.drop_everything = overridden.level == Level::Drop;
        snapshot.turned = match overridden.level {
            Level::Normal | Level::Offload => Turned::default(),
            Level::Throttle => Turned::ALL_THROTTLED,
            Level::Drop => Turned::ALL_DROPPED,
        };
    }

    /// A link's load is the larger of what it carries and what it has been promised to carry: a full link
    /// reads 1.0 however much more is asked of it.
    fn with_promises(&self, readings: &[Reading], assigned: f64) -> Vec<Reading> {
        let mut readings = readings.to_vec();
        let Some(capacity) = self.capacity else {
            return readings;
        };
        let promised = Ratio::saturating(assigned / capacity.bytes_per_second());
        for reading in &mut readings {
            if &*reading.name == "bandwidth" && reading.off.is_none() {
                reading.load = Some(match reading.load {
                    Some(measured) if measured > promised => measured,
                    _ => promised,
                });
            }
        }
        readings
    }

    fn observe_level(
        &mut self,
        signals: &[SignalLoad],
        readings: &[Reading],
        elapsed: Duration,
        now: Instant,
    ) {
        // The worst signal steers the share: how far it is above its own first threshold.
        let excess = signals
            .iter()
            .filter_map(|signal| Some(signal.load?.get() - signal.thresholds.offload?.get()))
            .fold(f64::NEG_INFINITY, f64::max);
        // In report mode nothing that is decided happens, and while a level is held by hand the share is
        // not what the controller says: an integrator that saw no effect would only wind up.
        let stands_still = self.compiled.mode != Mode::Enforce || self.overridden.is_some();
        if self.machine.level() >= Level::Offload && !stands_still {
            self.share.observe(excess, elapsed);
        }
        // A share that stands still says nothing about whether the episode is over.
        let at_work = if stands_still {
            None
        } else {
            self.share.at_work()
        };
        if let Some(change) = self.machine.observe(signals, at_work, now) {
            let signal = change.signal.and_then(|index| readings.get(index));
            tracing::info!(
                from = %change.from,
                to = %change.to,
                signal = signal.map(|reading| &*reading.name),
                load = signal.and_then(|reading| reading.load).map(Ratio::get),
                "level changed"
            );
            if change.from == Level::Normal {
                self.share.engage();
            } else if change.to == Level::Normal {
                self.share.disengage();
            }
        }
        // All that could be moved has been moved once the share is what it can be at most.
        let moved_all = self.share.at_work().is_none() || self.share.share() == Ratio::ONE;
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
                if state.usable != *usable {
                    tracing::info!(
                        server = server.name(),
                        usable = state.usable,
                        reason = state.reason,
                        "offload server changed"
                    );
                }
                *usable = state.usable;
                state
            })
            .collect();
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
                    usable: state.usable,
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
mod tests;
