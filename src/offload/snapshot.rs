//! What the request path knows: one immutable value, published some times a second.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::{
    compiled::{Compiled, Identity},
    in_flight::InFlightLimit,
    promises::Link,
    spread::Full,
};
use crate::{
    level::{Level, Place, Turned},
    load::Reading,
    servers::{Choose, ServerState, SpreadBy, hash},
    units::Ratio,
};

/// Everything that is decided for the time until the next snapshot.
#[derive(Debug)]
pub struct Snapshot {
    /// The configuration.
    pub compiled: Arc<Compiled>,
    /// When this was made.
    pub at: Instant,
    /// The same by the calendar.
    pub wall: SystemTime,
    /// The level.
    pub level: Level,
    /// Until when the level is held by hand.
    pub overridden_until: Option<Instant>,
    /// Which part of the visitors is offloaded.
    pub share: Ratio,
    /// Which part of the new visitors is turned away, as of now.
    pub turned: Turned,
    /// The same without what the link's promises and the number of requests in flight ask for: those are looked at with
    /// every visitor.
    pub turned_beside: Turned,
    /// Where each class stands among those who come, lowest first; empty where no classes are configured.
    pub classes: Vec<Place>,
    /// Which part of those is turned away for whom a server has room, without what the link's promises ask for:
    /// their pages may be what is too much.
    pub turned_offloaded: Turned,
    /// An operator has said that nothing is answered.
    pub drop_everything: bool,
    /// The admission epoch.
    pub epoch: u64,
    /// How long the offload episode lasts at least.
    pub hold_left: Duration,
    /// The servers, in the order of the configuration.
    pub servers: Vec<ServerState>,
    /// Those of them that were found to be full since, where objects are spread.
    pub(super) full: Full,
    /// Chooses among them.
    pub choose: Arc<dyn Choose>,
    /// The signals.
    pub readings: Vec<Reading>,
    /// What the primary is promised to send, in bytes a second.
    pub primary_assigned: f64,
    /// The primary's link, where its capacity is known and its load decides.
    pub link: Option<Link>,
    /// How many requests may be in flight, where that is known and their number decides.
    pub in_flight: Option<InFlightLimit>,
}

// === impl Snapshot ===

impl Snapshot {
    /// Before the first look at the load: everything is served.
    #[must_use]
    pub fn initial(
        compiled: Arc<Compiled>,
        choose: Arc<dyn Choose>,
        now: Instant,
        wall: SystemTime,
    ) -> Self {
        let servers = compiled
            .servers
            .iter()
            .map(|server| server.state(now, wall))
            .collect();
        Self {
            compiled,
            at: now,
            wall,
            level: Level::Normal,
            overridden_until: None,
            share: Ratio::ZERO,
            turned: Turned::default(),
            turned_beside: Turned::default(),
            classes: Vec::new(),
            turned_offloaded: Turned::default(),
            drop_everything: false,
            epoch: 0,
            hold_left: Duration::ZERO,
            servers,
            full: Full::default(),
            choose,
            readings: Vec::new(),
            primary_assigned: 0.0,
            link: None,
            in_flight: None,
        }
    }

    /// Which part of the new visitors of `class` is turned away.
    #[must_use]
    pub fn turned_of(&self, class: usize) -> Turned {
        self.of_class(self.turned, class)
    }

    /// Which part of `class` it is where so much of all who come is `turned` away.
    pub(super) fn of_class(&self, turned: Turned, class: usize) -> Turned {
        let place = self.classes.get(class);
        place.map_or(turned, |place| place.of(turned))
    }

    /// Which part of the new connections nobody answers. A connection tells no class, so it is what even the highest
    /// class loses that it may turn out to be of. And the lot of an identity is drawn by itself and not by the address:
    /// where visitors bring one themselves, all are let in as long as anyone is to be.
    pub(crate) fn dropped_at_gate(&self) -> Ratio {
        let compiled = &self.compiled;
        if self.classes.is_empty() {
            return self.turned.dropped;
        }
        let highest = self.turned_of(compiled.classes.highest_without_proxy());
        let by_address = !matches!(compiled.identity, Some(Identity::Cookie { .. }));
        if by_address || highest.dropped >= Ratio::ONE {
            highest.dropped
        } else {
            Ratio::ZERO
        }
    }

    /// Whether visitors may fetch the object at `path` from `server`: any, but where objects are spread.
    pub(crate) fn may_fetch(&self, server: usize, path: &str) -> bool {
        if self.compiled.spread == SpreadBy::Page {
            return true;
        }
        let object = hash::bytes(path.split('?').next().unwrap_or_default().as_bytes());
        (0..self.choose.pools())
            .any(|pool| self.choose.place(pool, object, &|_| true) == Some(server))
    }

    /// Seconds since 1970 when this was made: exact enough for cookies, and no clock on the request path.
    pub(super) fn unix_seconds(&self) -> u64 {
        self.wall
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs())
    }
}
