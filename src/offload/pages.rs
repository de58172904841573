//! Pages that were seen before: their plans, and what they became.
//!
//! A page that is there as a whole is known by what it is: by its bytes' place in memory where others hold
//! them as well (an application that keeps its page answers with the same bytes again), else by a hash of
//! them. A page that streams by is known by its strong ETag, and every edit is checked on the way
//! ([`Replay`](crate::rewrite::Replay)). So neither an ETag that lies nor a page that changes can give a wrong
//! page.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Uri, header};
use moka::sync::Cache;
use tokio::sync::Notify;

use crate::rewrite::{
    OwnHosts, Page, Plan, Private, Rules, coding::Coding, csp, page_hash, text_hash,
};

/// The most memory that plans take, in bytes.
const PLANS: u64 = 32 * 1024 * 1024;
/// The most memory that finished pages take, in bytes.
const FINISHED: u64 = 64 * 1024 * 1024;
/// What an entry takes besides.
const ENTRY: usize = 256;

/// Plans and finished pages.
#[derive(Debug)]
pub(super) struct Pages {
    plans: Cache<u128, Arc<Sight>>,
    finished: Cache<u128, Arc<Finished>>,
    /// The finished pages asked for last: a look at one place of memory, where the cache takes a dozen.
    latest: Box<[ArcSwapOption<Finished>]>,
    /// Hashes of hosts that a page can stand on: taking a URL apart costs more than all else about a page that
    /// is known.
    hosts: [AtomicU64; HOSTS],
}

/// So many finished pages are at hand; of those in one place the latest.
const LATEST: usize = 64;
/// Only pages up to this size are: they may stay there when the cache has let go of them.
const LATEST_BYTES: usize = 256 * 1024;
/// So many hosts are remembered at the most: of those in one place the latest.
const HOSTS: usize = 64;

/// What is asked for: enough to say where the page stands, at no cost until it is needed.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    uri: Uri,
    host: Option<HeaderValue>,
    pub(super) https: bool,
}

/// What the response's policies mean for the scan.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policies {
    pub(super) base_allowed: bool,
    pub(super) styles_hashed: bool,
}

/// One page in one place, under one set of rules.
#[derive(Debug, Clone, Copy)]
pub(super) struct PageKey(u64);

/// A sight, and where it is kept.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    sight: Arc<Sight>,
    plans: Cache<u128, Arc<Sight>>,
    key: u128,
}

/// One sight of a page: the first who takes it scans, the others have the plan or wait for it.
#[derive(Debug, Default)]
struct Sight {
    taken: AtomicBool,
    /// Nothing in it: the page is to be scanned each time.
    plan: OnceLock<Option<Arc<Plan>>>,
    ready: Notify,
}

/// Who took a sight, until its plan is there.
pub(super) struct Taken {
    sight: Arc<Sight>,
    plans: Cache<u128, Arc<Sight>>,
    key: u128,
    /// Whether nobody waits for it (any more).
    done: bool,
}

/// How many links go to which server, by its position.
pub(super) type ByServer = Arc<[(usize, u32)]>;

/// A page as it goes out to the visitors of one server.
#[derive(Debug)]
pub(super) struct Finished {
    key: FinishedKey,
    /// The page as it came, where it is known by its place in memory: held, nothing else can stand there.
    original: Option<Bytes>,
    body: Bytes,
    links: u32,
    plan: Arc<Plan>,
    /// Where its objects are spread over several servers: which goes where, and the links to each.
    spread: Option<(u64, ByServer)>,
    /// Which of its objects were not for everyone when it was made.
    private: u64,
    /// When that was last looked at.
    generation: AtomicU64,
}

/// What a whole body is known by.
#[derive(Debug, Clone, Copy)]
pub(super) enum Identity {
    /// Others hold the same bytes: their place.
    Place(usize, usize),
    /// A hash of them.
    Hash(u128),
}

impl Default for Pages {
    fn default() -> Self {
        let plans = Cache::builder()
            .max_capacity(PLANS)
            .weigher(|_, sight: &Arc<Sight>| weight(sight.bytes()))
            .build();
        let finished = Cache::builder()
            .max_capacity(FINISHED)
            .weigher(|_, finished: &Arc<Finished>| weight(finished.bytes()))
            .build();
        Self {
            plans,
            finished,
            latest: (0..LATEST).map(|_| ArcSwapOption::empty()).collect(),
            hosts: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

fn weight(bytes: usize) -> u32 {
    u32::try_from(bytes + ENTRY).unwrap_or(u32::MAX)
}

// === impl Policies ===

impl Policies {
    /// No policy at all.
    pub(super) const NONE: Self = Self {
        base_allowed: true,
        styles_hashed: false,
    };

    pub(super) fn of(headers: &HeaderMap) -> Self {
        Self {
            base_allowed: !csp::restricts_base(headers),
            styles_hashed: csp::hashes_inline_styles(headers),
        }
    }
}

// === impl Asked ===

impl Asked {
    pub(super) fn of<B>(request: &Request<B>, https: bool) -> Self {
        Self {
            uri: request.uri().clone(),
            host: request.headers().get(header::HOST).cloned(),
            https,
        }
    }

    fn host(&self) -> &[u8] {
        match (self.uri.authority(), &self.host) {
            (Some(authority), _) => authority.as_str().as_bytes(),
            (None, Some(host)) => host.as_bytes(),
            (None, None) => b"",
        }
    }

    /// Where the page stands; `None` where that makes no URL.
    pub(super) fn page(&self, hosts: &Arc<OwnHosts>, policies: Policies) -> Option<Page> {
        let host = std::str::from_utf8(self.host()).ok()?;
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let page = Page::new(self.https, host, path, hosts.clone())?;
        Some(
            page.with_base_allowed(policies.base_allowed)
                .with_styles_hashed(policies.styles_hashed),
        )
    }

    pub(super) fn key(&self, rules: &Rules, policies: Policies) -> PageKey {
        let flags = u64::from(self.https)
            | u64::from(policies.base_allowed) << 1
            | u64::from(policies.styles_hashed) << 2;
        let mut block = [0; 24];
        // A query never leads anywhere else.
        block[..8].copy_from_slice(&text_hash(self.uri.path().as_bytes()).to_ne_bytes());
        block[8..16].copy_from_slice(&text_hash(self.host()).to_ne_bytes());
        block[16..].copy_from_slice(&(flags << 32 | u64::from(rules.version())).to_ne_bytes());
        PageKey(text_hash(&block))
    }
}

/// Numbers and texts become one number.
struct Hasher(u128);

impl Hasher {
    const fn new() -> Self {
        Self(0)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let hash = page_hash(bytes);
        self.number(hash as u64);
        self.number((hash >> 64) as u64);
    }

    fn number(&mut self, number: u64) {
        let mut block = [0; 24];
        block[..16].copy_from_slice(&self.0.to_ne_bytes());
        block[16..].copy_from_slice(&number.to_ne_bytes());
        self.0 = page_hash(&block);
    }
}

// === impl Identity ===

impl Identity {
    pub(super) fn of(body: &Bytes) -> Self {
        // Whose only reference is ours is gone after this answer, and something else may stand there.
        if body.is_unique() {
            Self::Hash(page_hash(body))
        } else {
            Self::Place(body.as_ptr() as usize, body.len())
        }
    }

    const fn numbers(self) -> [u64; 3] {
        match self {
            Self::Place(place, length) => [place as u64, length as u64, 1],
            Self::Hash(hash) => [hash as u64, (hash >> 64) as u64, 2],
        }
    }
}

/// Which finished page is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FinishedKey(u128);

impl FinishedKey {
    /// `server` tells everything about the server and what may move there that makes a difference.
    pub(super) fn new(
        page: PageKey,
        server: u64,
        coding: Option<Coding>,
        identity: Identity,
    ) -> Self {
        let [a, b, c] = identity.numbers();
        let coding = coding.map_or(0, |coding| coding as u64 + 1);
        let mut block = [0; 40];
        for (number, place) in [page.0, server, a, b, coding << 2 | c]
            .into_iter()
            .zip(block.chunks_exact_mut(8))
        {
            place.copy_from_slice(&number.to_ne_bytes());
        }
        Self(page_hash(&block))
    }
}

// === impl Pages ===

impl Pages {
    /// Whether what is asked for stands anywhere.
    pub(super) fn is_page(&self, asked: &Asked, hosts: &Arc<OwnHosts>) -> bool {
        let host = text_hash(asked.host());
        let known = &self.hosts[host as usize % HOSTS];
        if known.load(Ordering::Relaxed) == host {
            return true;
        }
        let stands = asked.page(hosts, Policies::NONE).is_some();
        if stands {
            known.store(host, Ordering::Relaxed);
        }
        stands
    }

    /// What a page became before, for the same server.
    pub(super) fn finished(&self, key: FinishedKey, private: &Private) -> Option<(Bytes, u32)> {
        let made = |finished: &Finished| {
            let holds = finished.key == key && finished.still_holds(private);
            holds.then(|| (finished.body.clone(), finished.links))
        };
        let latest = &self.latest[key.0 as usize % LATEST];
        if let Some(made) = latest.load().as_deref().and_then(made) {
            return Some(made);
        }
        let finished = self.finished.get(&key.0)?;
        let made = made(&finished)?;
        if finished.bytes() <= LATEST_BYTES {
            latest.store(Some(finished));
        }
        Some(made)
    }

    /// The same for a page whose objects are spread: it still holds if `placement` is what it was.
    pub(super) fn finished_spread(
        &self,
        key: FinishedKey,
        private: &Private,
        placement: impl FnOnce(&Plan) -> u64,
    ) -> Option<(Bytes, u32, ByServer)> {
        let finished = self.finished.get(&key.0)?;
        let (known, links) = finished.spread.as_ref()?;
        if finished.key != key
            || !finished.still_holds(private)
            || placement(&finished.plan) != *known
        {
            return None;
        }
        Some((finished.body.clone(), finished.links, links.clone()))
    }

    /// Keeps what a page became.
    pub(super) fn keep(&self, finished: Finished) {
        // One that alone would push out much of what is kept is not worth it.
        if (finished.bytes() as u64) < FINISHED / 8 {
            self.finished.insert(finished.key.0, Arc::new(finished));
        }
    }

    /// The sight of a page that is there as a whole.
    pub(super) fn whole(&self, page: PageKey, body: &[u8]) -> Seen {
        let mut key = Hasher(page_hash(body));
        key.number(page.0);
        self.seen(key.0)
    }

    fn seen(&self, key: u128) -> Seen {
        Seen {
            sight: self.plans.get_with(key, Arc::default),
            plans: self.plans.clone(),
            key,
        }
    }

    /// The sight of a page that streams by; `None` without a strong ETag.
    pub(super) fn streaming(&self, page: PageKey, etag: Option<&HeaderValue>) -> Option<Seen> {
        let etag = etag?.as_bytes();
        let strong = etag.len() > 2 && etag.starts_with(b"\"") && etag.ends_with(b"\"");
        strong.then(|| {
            let mut key = Hasher::new();
            key.bytes(etag);
            key.number(page.0);
            self.seen(key.0)
        })
    }
}

// === impl Finished ===

impl Finished {
    /// `original` as it was known by `identity`, and what it became by `plan`.
    pub(super) fn new(
        key: FinishedKey,
        original: &Bytes,
        identity: Identity,
        (body, links): (Bytes, u32),
        plan: Arc<Plan>,
        private: &Private,
    ) -> Self {
        Self {
            key,
            original: matches!(identity, Identity::Place(..)).then(|| original.clone()),
            body,
            links,
            generation: AtomicU64::new(private.generation()),
            private: plan.private(private),
            plan,
            spread: None,
        }
    }

    /// Its objects are spread: `placement` names which goes where.
    pub(super) fn spread(mut self, placement: u64, links: ByServer) -> Self {
        self.spread = Some((placement, links));
        self
    }

    /// Whether it links to no object elsewhere that has meanwhile shown not to be for everyone.
    fn still_holds(&self, private: &Private) -> bool {
        let generation = private.generation();
        if self.generation.load(Ordering::Relaxed) == generation {
            return true;
        }
        let holds = self.plan.private(private) == self.private;
        if holds {
            self.generation.store(generation, Ordering::Relaxed);
        }
        holds
    }

    fn bytes(&self) -> usize {
        self.body.len() + self.original.as_ref().map_or(0, Bytes::len) + self.plan.bytes()
    }
}

// === impl Sight ===

impl Sight {
    fn bytes(&self) -> usize {
        // It is weighed when it comes in, before its plan is there: as one of the size that plans have.
        const PLAN: usize = 8 * 1024;
        match self.plan.get() {
            Some(plan) => plan.as_ref().map_or(0, |plan| plan.bytes()),
            None => PLAN,
        }
    }
}

// === impl Seen ===

impl Seen {
    /// The plan, where it is there already; nothing in it where there will be none.
    pub(super) fn plan(&self) -> Option<Option<Arc<Plan>>> {
        self.sight.plan.get().cloned()
    }

    /// Who is first scans.
    pub(super) fn take(&self) -> Option<Taken> {
        (!self.sight.taken.swap(true, Ordering::AcqRel)).then(|| Taken {
            sight: self.sight.clone(),
            plans: self.plans.clone(),
            key: self.key,
            done: false,
        })
    }

    /// Whoever asks scans, whether others do as well or not.
    pub(super) fn join(&self) -> Taken {
        self.take().unwrap_or_else(|| Taken {
            sight: self.sight.clone(),
            plans: self.plans.clone(),
            key: self.key,
            done: true,
        })
    }

    /// The page has another plan now.
    pub(super) fn forget(&self) {
        self.plans.invalidate(&self.key);
    }

    /// Waits until the plan is there, or whoever scans has given up.
    pub(super) async fn ready(self) {
        let sight = self.sight;
        loop {
            let mut ready = std::pin::pin!(sight.ready.notified());
            // From here on no notice is missed.
            ready.as_mut().enable();
            if sight.plan.get().is_some() || !sight.taken.load(Ordering::Acquire) {
                return;
            }
            ready.await;
        }
    }
}

// === impl Taken ===

impl Taken {
    /// The scan is done.
    pub(super) fn done(mut self, plan: Option<Arc<Plan>>) -> Option<Arc<Plan>> {
        self.done = true;
        let plan = self.sight.plan.get_or_init(|| plan).clone();
        self.sight.ready.notify_waiters();
        // Now it can be weighed.
        self.plans.insert(self.key, self.sight.clone());
        plan
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if !self.done {
            // The visitor left: the next one scans.
            self.sight.taken.store(false, Ordering::Release);
            self.sight.ready.notify_waiters();
        }
    }
}
