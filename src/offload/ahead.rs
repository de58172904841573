//! Pages that pass at `normal` are scanned once in the background, so that their plans and weights are there before
//! the crowd is.
//!
//! The bytes of a page are held as they pass, shared and not copied. A thread of its own scans them, for a
//! twentieth of the time at the most and only while the level is `normal`. What waits for it is bounded: when the
//! queue is full a page is let go, and looked at when it passes again. Every ten minutes pages are looked at anew.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    thread,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Response, header};
use http_body::Body as HttpBody;
use tokio::time::Instant;

use super::{
    compiled::Compiled,
    future::length,
    page::{DECODED, WHOLE},
    pages::{Asked, Policies},
    shared::Shared,
};
use crate::{
    level::Level,
    rewrite::{
        Plan,
        coding::{Coding, decode_all},
        headers::{Unqualified, qualifies},
    },
    servers::hash,
};

/// Paths that are remembered as seen; of those in one slot the latest.
const SLOTS: usize = 1 << 14;
/// So many pages wait at the most …
const QUEUE: usize = 64;
/// … and so many bytes of them.
const QUEUE_BYTES: usize = 16 * 1024 * 1024;
/// After this time every page is looked at anew: it may have changed.
const ROUND: Duration = Duration::from_secs(600);
/// For each unit of work so many of rest.
const REST: u32 = 19;
/// The longest rest.
const LONGEST_REST: Duration = Duration::from_secs(2);
/// A page is weighed again after this time: by then the first visitor has fetched its objects, so that their sizes
/// are known.
const WEIGHED_AGAIN: Duration = Duration::from_secs(10);

/// What was seen, and the way to the thread that scans.
#[derive(Debug)]
pub(super) struct Ahead {
    seen: Box<[AtomicU64]>,
    round: AtomicU64,
    queue: OnceLock<SyncSender<Box<Sighting>>>,
    waiting: AtomicUsize,
    waiting_bytes: AtomicUsize,
    scanned: AtomicU64,
}

/// A page as it passes.
#[derive(Debug)]
pub(super) struct Sighting {
    asked: Asked,
    compiled: Arc<Compiled>,
    path: u64,
    policies: Policies,
    coding: Option<Coding>,
    etag: Option<HeaderValue>,
    pieces: Vec<Bytes>,
    bytes: usize,
    /// So many bytes it is long, where that is known.
    length: Option<u64>,
}

/// A page that is to be weighed again.
struct Weighing {
    due: Instant,
    path: u64,
    plan: Arc<Plan>,
}

impl Default for Ahead {
    fn default() -> Self {
        Self {
            seen: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            round: AtomicU64::new(1),
            queue: OnceLock::new(),
            waiting: AtomicUsize::new(0),
            waiting_bytes: AtomicUsize::new(0),
            scanned: AtomicU64::new(0),
        }
    }
}

// === impl Ahead ===

impl Ahead {
    fn slot(&self, path: u64) -> (&AtomicU64, u64) {
        let round = self.round.load(Ordering::Relaxed);
        (&self.seen[path as usize % SLOTS], path ^ hash::mix(round))
    }

    /// Whether what is at `path` was not seen in this round, and there is room for it.
    pub(super) fn wants(&self, path: u64) -> bool {
        let (slot, mark) = self.slot(path);
        slot.load(Ordering::Relaxed) != mark
            && self.waiting.load(Ordering::Relaxed) < QUEUE
            && self.queue.get().is_some()
    }

    fn mark(&self, path: u64) {
        let (slot, mark) = self.slot(path);
        slot.store(mark, Ordering::Relaxed);
    }

    /// How many pages were scanned so.
    pub(super) fn scanned(&self) -> u64 {
        self.scanned.load(Ordering::Relaxed)
    }

    /// The page has passed as a whole: it waits to be scanned, if there is room.
    fn take(&self, sighting: Box<Sighting>) {
        let Some(queue) = self.queue.get() else {
            return;
        };
        let (path, bytes) = (sighting.path, sighting.bytes);
        let waiting = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        if waiting + bytes <= QUEUE_BYTES && queue.try_send(sighting).is_ok() {
            self.mark(path);
        } else {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

/// Starts the thread that scans. It ends with `shared`.
///
/// # Errors
/// That of the operating system, where it gives no thread.
pub(super) fn start(shared: &Arc<Shared>) -> std::io::Result<()> {
    let (sender, receiver) = mpsc::sync_channel(QUEUE);
    let weak = Arc::downgrade(shared);
    thread::Builder::new()
        .name("overspill-ahead".to_owned())
        .spawn(move || run(&weak, &receiver))?;
    let _ = shared.ahead.queue.set(sender);
    Ok(())
}

fn run(shared: &Weak<Shared>, queue: &Receiver<Box<Sighting>>) {
    let began = Instant::now();
    let mut weighings: Vec<Weighing> = Vec::new();
    loop {
        let next = weighings.first().map(|weighing| weighing.due);
        let until = next.map_or(ROUND, |due| due.saturating_duration_since(Instant::now()));
        let sighting = match queue.recv_timeout(until.min(ROUND)) {
            Ok(sighting) => Some(sighting),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let now = Instant::now();
        let round = now.saturating_duration_since(began).as_secs() / ROUND.as_secs() + 1;
        shared.ahead.round.store(round, Ordering::Relaxed);
        while weighings
            .first()
            .is_some_and(|weighing| weighing.due <= now)
        {
            let Weighing { path, plan, .. } = weighings.remove(0);
            shared
                .weights
                .learn_page(path, plan.objects().iter().copied());
        }
        let Some(sighting) = sighting else {
            continue;
        };
        let ahead = &shared.ahead;
        ahead.waiting.fetch_sub(1, Ordering::Relaxed);
        ahead
            .waiting_bytes
            .fetch_sub(sighting.bytes, Ordering::Relaxed);
        // In an episode there is no time to spare: whoever needs the plan first makes it.
        if shared.snapshot().level != Level::Normal {
            continue;
        }
        let path = sighting.path;
        // Whatever a page does to the scanner, it does it to nobody else.
        let plan = catch_unwind(AssertUnwindSafe(|| sighting.scan(&shared)));
        let took = now.elapsed();
        if let Ok(Some(plan)) = plan {
            shared.learn(path, &plan);
            shared.ahead.scanned.fetch_add(1, Ordering::Relaxed);
            let due = now + WEIGHED_AGAIN;
            weighings.push(Weighing { due, path, plan });
        }
        drop(shared);
        thread::sleep((took * REST).min(LONGEST_REST));
    }
}

// === impl Sighting ===

impl Sighting {
    /// What is at `path` passes and was not seen yet.
    pub(super) fn new(asked: Asked, compiled: &Arc<Compiled>, path: u64) -> Self {
        Self {
            asked,
            compiled: compiled.clone(),
            path,
            policies: Policies::NONE,
            coding: None,
            etag: None,
            pieces: Vec::new(),
            bytes: 0,
            length: None,
        }
    }

    /// Looks at the head of the response to a GET: whether it is that of a page.
    pub(super) fn is_page<B>(
        mut self: Box<Self>,
        response: Response<B>,
        ahead: &Ahead,
    ) -> (Response<B>, Option<Box<Self>>)
    where
        B: HttpBody,
    {
        self.length = length(&response);
        let (parts, body) = response.into_parts();
        let page = match qualifies(&parts, &http::Method::GET, true) {
            Ok(coding) => {
                self.coding = coding;
                self.policies = Policies::of(&parts.headers);
                self.etag = parts.headers.get(header::ETAG).cloned();
                Some(self)
            }
            Err(reason) => {
                // A 304 or an error says nothing about what the next answer will be.
                if reason != Unqualified::Status {
                    ahead.mark(self.path);
                }
                None
            }
        };
        (Response::from_parts(parts, body), page)
    }

    /// A piece of the page passes; `None` where it gets too long.
    pub(super) fn pass(mut self: Box<Self>, piece: &Bytes) -> Option<Box<Self>> {
        self.bytes += piece.len();
        self.pieces.push(piece.clone());
        (self.bytes <= WHOLE).then_some(self)
    }

    /// Whether all of it has passed. A server asks for nothing more than the length that it told.
    pub(super) fn is_whole(&self) -> bool {
        self.length == Some(self.bytes as u64)
    }

    /// The page has passed.
    pub(super) fn finish(self: Box<Self>, ahead: &Ahead) {
        ahead.take(self);
    }

    /// The page's plan, which is kept as well; `None` where it is there already or there will be none.
    fn scan(self: Box<Self>, shared: &Shared) -> Option<Arc<Plan>> {
        let whole = match &self.pieces[..] {
            [one] => one.clone(),
            pieces => {
                let mut whole = BytesMut::with_capacity(self.bytes);
                pieces
                    .iter()
                    .for_each(|piece| whole.extend_from_slice(piece));
                whole.freeze()
            }
        };
        let page = match self.coding {
            None => whole,
            Some(coding) => decode_all(coding, &whole, DECODED).ok()?,
        };
        let rules = &self.compiled.rules;
        let at = self.asked.page(&self.compiled.hosts, self.policies)?;
        let key = self.asked.key(rules, self.policies);
        // Whether it comes as a whole or streams by the next time is not known: it is found either way.
        let seen = [
            Some(shared.pages.whole(key, &page)),
            shared.pages.streaming(key, self.etag.as_ref()),
        ];
        let [whole, streams] = seen.map(|seen| seen.and_then(|seen| seen.take()));
        if whole.is_none() && streams.is_none() {
            return None;
        }
        let of_stream = streams.and_then(|taken| {
            let plan = Plan::scan_stream(rules.clone(), at.clone(), &page);
            taken.done(plan.map(Arc::new))
        });
        // What streams by has to wait for some edits, and for too long for others: a whole page has not.
        let plan = of_stream.or_else(|| Plan::scan(rules.clone(), at, &page).map(Arc::new));
        match whole {
            Some(taken) => taken.done(plan),
            None => plan,
        }
    }
}

/// Whether nothing more comes of a body.
pub(super) fn is_over<B: HttpBody>(body: &B) -> bool {
    body.is_end_stream() || body.size_hint().exact() == Some(0)
}
