//! Keeps the edges' caches warm: in calm each edge is told of an object once it is asked for again and again, and when
//! an episode begins of the hottest of all. A cold cache would pull the same objects a moment later, when the crowd
//! has the primary's link to itself.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::{
    level::Level,
    offload::{Mode, Shared, Snapshot},
    servers::warm,
};

/// So many objects are named to the edges at once.
const HOTTEST: usize = 64;
/// So often it is looked, in calm, whether there is something new to tell.
const EVERY: Duration = Duration::from_secs(5);
/// An object that was asked for only once may never be asked for again.
const AGAIN: u64 = 2;
/// After this time every edge is told anew: it may have let go of something, and other objects may be the hottest.
const ROUND: Duration = Duration::from_secs(600);

/// Warms the edges up, in calm and whenever an episode begins.
pub(super) async fn warm_up(shared: Weak<Shared>, token: String) {
    // What it waits on must not keep alive what it ends with.
    let Some(episodes) = shared.upgrade().map(|shared| shared.episodes()) else {
        return;
    };
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = Told::new(Instant::now());
    loop {
        let begins = tokio::select! {
            () = episodes.notified() => true,
            _ = ticks.tick() => false,
        };
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let snapshot = shared.snapshot().clone();
        let is_calm = snapshot.level == Level::Normal && snapshot.compiled.mode() == Mode::Enforce;
        if !begins && !is_calm {
            continue;
        }
        if told.is_old(Instant::now()) || begins {
            shared.forget_heat();
            told = Told::new(Instant::now());
        }
        let hottest = shared.hottest(HOTTEST, if begins { 1 } else { AGAIN });
        // Telling takes its time: the state must not live for it.
        drop(shared);
        let paths = told.news(&snapshot, &hottest);
        warm(snapshot.compiled.servers(), &token, &paths).await;
    }
}

/// What the servers were told, by their addresses.
struct Told {
    since: Instant,
    paths: HashMap<String, HashSet<String>>,
}

// === impl Told ===

impl Told {
    fn new(since: Instant) -> Self {
        Self {
            since,
            paths: HashMap::new(),
        }
    }

    fn is_old(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= ROUND
    }

    /// For each server those of `paths` that it was not told yet, and is from now on. One that is not there is told nothing,
    /// and everything when it is back: its cache may be empty then.
    fn news<'a>(&mut self, snapshot: &Arc<Snapshot>, paths: &'a [String]) -> Vec<Vec<&'a str>> {
        let servers = snapshot.compiled.servers().iter().zip(&snapshot.servers);
        servers
            .enumerate()
            .map(|(position, (server, state))| {
                let url = server.url().as_str();
                if !state.is_there {
                    self.paths.remove(url);
                    return Vec::new();
                }
                let told = self.paths.entry(url.to_owned()).or_default();
                let paths = paths.iter().filter(|path| {
                    snapshot.may_fetch(position, path) && told.insert((*path).clone())
                });
                paths.map(String::as_str).collect()
            })
            .collect()
    }
}
