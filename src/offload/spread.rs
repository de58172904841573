//! `offload.spread = "object"`: each object of a page goes to the server that it hashes to, so that many caches
//! hold as many times more than one.
//!
//! The chooser has a table for each pool of servers that are as good as each other. A page's objects go by the
//! table of the pool that its visitor was given a server of: to their own server, or, while that has no room,
//! to the next by their hash. Which servers have no room is looked at once, when the page is asked for, so that
//! an object that stands in the page twice, its preload and its policy all meet the same answer. They are
//! noted, for all, when a page has just been promised to them, until the next snapshot says it anyway.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use http::HeaderMap;
use tokio::time::Instant;

use super::{compiled::Compiled, shared::Shared, snapshot::Snapshot};
use crate::{
    rewrite::{Kinds, Placed, Plan, Spread as RewriteSpread, Target, csp, headers::Tag},
    servers::{Choose, hash},
};

/// A page that names its servers (a policy, the fallback script) is spread over so many at most.
const NAMED: usize = 16;

/// Servers, by their positions, that were found to be full since the last snapshot.
#[derive(Debug, Default)]
pub(super) struct Full {
    any: AtomicBool,
    words: Box<[AtomicU64]>,
}

/// The same, as it was at one moment.
#[derive(Debug, Default)]
struct WereFull(Box<[u64]>);

/// Where the objects of one visitor's page go.
#[derive(Debug)]
pub(super) struct Spread {
    compiled: Arc<Compiled>,
    choose: Arc<dyn Choose>,
    pool: usize,
    /// The server that was chosen for the visitor. It had room.
    chosen: usize,
    full: WereFull,
    /// The page was asked for over https.
    https: bool,
    /// What the validators of a page carry that is spread so.
    tag: Tag,
}

/// The same for one response, by what that one says.
#[derive(Debug, Clone)]
pub(super) struct Placing {
    spread: Arc<Spread>,
    /// Only what says that it may be used from elsewhere may be embedded.
    cors: bool,
    /// Of the servers that the page names, what may come from them; [`None`]: it names none.
    named: Option<Arc<[(usize, Kinds)]>>,
}

/// What a page promises, and to whom.
#[derive(Debug, Default)]
pub(super) struct Shares {
    /// Names which object goes where.
    pub(super) placement: u64,
    /// Bytes by server.
    bytes: Vec<(usize, u64)>,
}

// === impl Full ===

impl Full {
    pub(super) fn new(servers: usize) -> Self {
        Self {
            any: AtomicBool::new(false),
            words: (0..servers.div_ceil(64))
                .map(|_| AtomicU64::new(0))
                .collect(),
        }
    }

    fn note(&self, server: usize) {
        if let Some(word) = self.words.get(server / 64) {
            word.fetch_or(1 << (server % 64), Relaxed);
            self.any.store(true, Relaxed);
        }
    }

    fn now(&self) -> WereFull {
        if !self.any.load(Relaxed) {
            return WereFull::default();
        }
        WereFull(self.words.iter().map(|word| word.load(Relaxed)).collect())
    }
}

// === impl WereFull ===

impl WereFull {
    fn contains(&self, server: usize) -> bool {
        let word = self.0.get(server / 64);
        word.is_some_and(|word| word >> (server % 64) & 1 == 1)
    }
}

// === impl Spread ===

impl Spread {
    /// `chosen` was chosen for the visitor, of `pool`.
    pub(super) fn new(snapshot: &Snapshot, pool: usize, chosen: usize, https: bool) -> Self {
        let compiled = snapshot.compiled.clone();
        let full = snapshot.full.now();
        let mut version = hash::Running::default();
        version.add(compiled.targets_version);
        version.add(snapshot.choose.version(pool));
        version.add(pool as u64);
        version.add(https.into());
        // Where few of the pool may have an object, it may be left to the visitor's server.
        version.add(chosen as u64);
        full.0.iter().for_each(|word| version.add(*word));
        Self {
            tag: Tag::of_several(version.end()),
            compiled,
            choose: snapshot.choose.clone(),
            pool,
            chosen,
            full,
            https,
        }
    }

    pub(super) const fn tag(&self) -> &Tag {
        &self.tag
    }

    /// The server of an object, of those that `may` have it.
    pub(super) fn place(&self, object: u64, may: impl Fn(usize) -> bool) -> Option<usize> {
        let may = |server: usize| {
            let target = self.compiled.targets.get(server);
            target.is_some_and(|target| target.target.https() || !self.https) && may(server)
        };
        let has_room = |server: usize| !self.full.contains(server) && may(server);
        let placed = self.choose.place(self.pool, object, &has_room);
        // A chooser may be anybody's.
        placed
            .filter(|server| may(*server))
            .or_else(|| may(self.chosen).then_some(self.chosen))
    }

    fn members(&self) -> &[usize] {
        self.choose.members(self.pool)
    }
}

// === impl Placing ===

impl Placing {
    /// What may move by the policies of the response, which are widened; [`None`] where nothing may. `names`: the
    /// page names its servers. `cors`: it takes what may be used from elsewhere only.
    pub(super) fn new(
        spread: &Arc<Spread>,
        headers: Option<&mut HeaderMap>,
        names: bool,
        cors: bool,
    ) -> Option<Self> {
        let mut placing = Self {
            spread: spread.clone(),
            cors,
            named: None,
        };
        let members = spread.members().iter().copied();
        let mut may = members.filter(|server| placing.kinds(*server).is_some());
        if headers.is_none() && !names {
            may.next()?;
            return Some(placing);
        }
        let servers: Vec<usize> = may.take(NAMED).collect();
        let mut origins: Vec<(&str, Kinds)> = servers
            .iter()
            .map(|server| &spread.compiled.targets[*server].target)
            .map(|target| (target.origin(), target.kinds()))
            .collect();
        if let Some(headers) = headers {
            csp::allow_each(headers, &mut origins);
        }
        let named: Arc<[(usize, Kinds)]> = servers
            .into_iter()
            .zip(origins)
            .map(|(server, (_, kinds))| (server, kinds))
            .filter(|(_, kinds)| !kinds.is_empty())
            .collect();
        if named.is_empty() {
            return None;
        }
        placing.named = Some(named);
        Some(placing)
    }

    /// What may come from a server; [`None`]: nothing.
    fn kinds(&self, server: usize) -> Option<Kinds> {
        let target = &self.spread.compiled.targets.get(server)?.target;
        if self.cors && !target.cors() || self.spread.https && !target.https() {
            return None;
        }
        match &self.named {
            None => Some(target.kinds()),
            Some(named) => {
                let found = named.iter().find(|(known, _)| *known == server);
                found.map(|(_, kinds)| *kinds)
            }
        }
    }

    /// The server of an object.
    fn server(&self, object: u64) -> Option<usize> {
        let members = self.spread.members().len();
        match &self.named {
            // The table would seldom come upon one of them.
            Some(named) if members > NAMED => {
                let first = hash::mix(object) as usize % named.len();
                let (before, from) = named.split_at(first);
                let has_room = |server: &usize| !self.spread.full.contains(*server);
                let mut servers = from.iter().chain(before).map(|(server, _)| *server);
                servers.find(has_room).or(Some(named[first].0))
            }
            _ => self
                .spread
                .place(object, |server| self.kinds(server).is_some()),
        }
    }

    /// Who gets which part of the bytes that visitors fetch for a page with these objects.
    pub(super) fn shares(&self, path: u64, objects: &[u64], shared: &Shared) -> Shares {
        let sizes = objects
            .iter()
            .map(|object| shared.weights.object(*object).map(|bytes| bytes.max(1)));
        let (mut known, mut sum) = (0u64, 0u64);
        for bytes in sizes.clone().flatten() {
            known += 1;
            sum += bytes;
        }
        // One of unknown size counts as the mean of the others.
        let mean = sum.checked_div(known).unwrap_or(1);
        let all = sum + mean * (objects.len() as u64 - known);
        let weight = shared.weights.page(path);
        let part = weight as f64 / all.max(1) as f64;
        let mut placement = hash::Running::default();
        let mut bytes: Vec<(usize, u64)> = Vec::new();
        for (object, size) in objects.iter().zip(sizes) {
            let Some(server) = self.server(*object) else {
                placement.add(u64::MAX);
                continue;
            };
            placement.add(server as u64);
            let size = (size.unwrap_or(mean) as f64 * part) as u64;
            match bytes.iter_mut().find(|(known, _)| *known == server) {
                Some((_, sum)) => *sum += size,
                None => bytes.push((server, size)),
            }
        }
        Shares {
            placement: placement.end(),
            bytes,
        }
    }

    /// The same for a page that has a plan.
    pub(super) fn shares_of(&self, path: u64, plan: &Plan, shared: &Shared) -> Shares {
        self.shares(path, plan.objects(), shared)
    }

    /// Promises each server its share, and notes who is full by it.
    pub(super) fn promise(&self, shares: &Shares, at: Instant, shared: &Shared) {
        let compiled = &self.spread.compiled;
        let snapshot = shared.snapshot();
        // Positions are those of one list of servers.
        let is_same = Arc::ptr_eq(&snapshot.compiled, compiled);
        for (server, bytes) in &shares.bytes {
            compiled.servers[*server].assign(*bytes, at);
            if is_same
                && let Some(state) = snapshot.servers.get(*server)
                && !compiled.servers[*server].has_room(state, 0, at)
            {
                snapshot.full.note(*server);
            }
        }
    }

    /// Counts a page whose links were pointed to several servers.
    pub(super) fn page_done(&self, links: &[(usize, u32)], spliced: bool) {
        for (server, links) in links {
            if let Some(server) = self.spread.compiled.servers.get(*server) {
                server.page_done(*links, spliced);
            }
        }
    }
}

impl RewriteSpread for Placing {
    fn place(&self, object: u64) -> Option<Placed<'_>> {
        let server = self.server(object)?;
        Some(Placed {
            server,
            target: &self.spread.compiled.targets.get(server)?.target,
            kinds: self.kinds(server)?,
        })
    }

    fn servers(&self) -> Vec<(&Target, Kinds)> {
        let all = |server: &usize| {
            let kinds = self.kinds(*server)?;
            Some((&*self.spread.compiled.targets.get(*server)?.target, kinds))
        };
        match &self.named {
            Some(named) => named.iter().filter_map(|(server, _)| all(server)).collect(),
            None => self.spread.members().iter().filter_map(all).collect(),
        }
    }

    fn version(&self) -> u64 {
        let mut version = hash::Running::default();
        version.add(self.spread.compiled.targets_version);
        version.add(self.spread.pool as u64);
        version.add(u64::from(self.cors) << 1 | u64::from(self.spread.https));
        for (server, kinds) in self.named.iter().flat_map(|named| named.iter()) {
            version.add(*server as u64);
            version.add(u64::from(kinds.number()));
        }
        version.end()
    }
}
