//! Keeps the edges' caches warm: in calm each edge is told of an object once it is asked for again and again, and when
//! an episode begins of the hottest of all. A cold cache would pull the same objects a moment later, when the crowd
//! has the primary's link to itself.

use std::{
    collections::{HashMap, HashSet},
    sync::Weak,
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::{
    level::Level,
    offload::{HotObject, Mode, Shared, Snapshot},
    servers::{Warmer, hash},
};

/// So many objects are named to an edge at once.
const HOTTEST: usize = 64;
/// So often it is looked, in calm, whether there is something new to tell.
const EVERY: Duration = Duration::from_secs(5);
/// An object that was asked for only once may never be asked for again.
const AGAIN: u64 = 2;
/// In calm the edges' pulls take no more of the primary's link than this part …
const CALM: f64 = 0.1;
/// … and where its capacity is not known, no more bytes than these between two looks.
const CALM_BYTES: f64 = 1e6;
/// After this time every edge is told anew: it may have let go of something, and other objects may be the hottest.
const ROUND: Duration = Duration::from_secs(600);

/// Warms the edges up, in calm and whenever an episode begins.
pub(super) async fn warm_up(shared: Weak<Shared>, token: String) {
    // What it waits on must not keep alive what it ends with.
    let Some(episodes) = shared.upgrade().map(|shared| shared.episodes()) else {
        return;
    };
    let mut warmer = Warmer::new(&token);
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
        let hottest = shared.hottest(HOTTEST, if begins { 1 } else { AGAIN });
        if begins || told.is_old(Instant::now()) {
            shared.forget_heat();
            told = Told::new(Instant::now());
        }
        // Telling takes its time: the state must not live for it.
        drop(shared);
        let budget = if begins {
            f64::INFINITY
        } else {
            spare(&snapshot)
        };
        let paths = told.news(&snapshot, &hottest, budget);
        for server in warmer.warm(snapshot.compiled.servers(), &paths).await {
            told.forget(&snapshot, server);
        }
    }
}

/// The bytes that the edges may pull in calm until the next look.
fn spare(snapshot: &Snapshot) -> f64 {
    snapshot.link.map_or(CALM_BYTES, |link| {
        link.capacity * CALM * EVERY.as_secs_f64()
    })
}

/// What the servers were told, by their addresses: hashes of paths.
struct Told {
    since: Instant,
    paths: HashMap<String, HashSet<u64>>,
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

    /// For each server those of `objects` that it was not told yet, and is from now on: the hottest first, and no more
    /// than `budget` allows in bytes, but one. A server that is not there is told nothing, and everything when it is back:
    /// its cache may be empty then.
    fn news<'a>(
        &mut self,
        snapshot: &Snapshot,
        objects: &'a [HotObject],
        mut budget: f64,
    ) -> Vec<Vec<&'a str>> {
        let servers = snapshot.compiled.servers();
        let mut edges = Vec::new();
        for (position, (server, state)) in servers.iter().zip(&snapshot.servers).enumerate() {
            let url = server.url().as_str();
            if !state.is_there {
                self.paths.remove(url);
            } else if Warmer::is_for(server) {
                edges.push((position, url));
            }
        }
        let mut news = vec![Vec::new(); servers.len()];
        for object in objects {
            let hash = hash::bytes(object.path.as_bytes());
            for (position, url) in &edges {
                if budget <= 0.0 {
                    return news;
                }
                let told = self.paths.entry((*url).to_owned()).or_default();
                if snapshot.may_fetch(*position, &object.path) && told.insert(hash) {
                    budget -= object.bytes as f64;
                    news[*position].push(&*object.path);
                }
            }
        }
        news
    }

    /// The server at this position has not heard it.
    fn forget(&mut self, snapshot: &Snapshot, position: usize) {
        if let Some(server) = snapshot.compiled.servers().get(position) {
            self.paths.remove(server.url().as_str());
        }
    }
}
