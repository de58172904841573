//! What a connection is doing: written by its stream and its requests, read by who attends to it and by the room.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header::CONNECTION};
use http_body::Frame;
use tokio::{sync::Notify, time::Instant};

use super::LimitSettings;

/// What a connection is doing. No value guards other memory, so none needs an order.
#[derive(Debug)]
pub(crate) struct Doing {
    /// Times are counted from here: the same moment for all connections of a room, so that they can be compared.
    origin: Instant,
    most: Most,
    /// Requests so far.
    pub(super) asked: AtomicU64,
    /// Answers that are under way.
    answering: AtomicUsize,
    /// Of those, the ones that wait for the server, and not for the client.
    starving: AtomicUsize,
    /// Bodies of requests that are waited for.
    pub(super) awaited: AtomicUsize,
    /// Bytes of such bodies so far.
    pub(super) received: AtomicU64,
    /// Something waits until the client reads.
    writing: AtomicBool,
    /// Bytes so far.
    pub(super) written: AtomicU64,
    /// Of answers that are sent in parts: bytes of those after which more was asked for.
    pub(super) taken: AtomicU64,
    /// HTTP/2 has frames of its own, and its windows hold answers back.
    pub(super) is_http2: AtomicBool,
    /// Since when nothing is answered, in milliseconds.
    since: AtomicU64,
    /// When the head that is being read began, in milliseconds and one more; 0: none is.
    head: AtomicU64,
    /// The connection is to end with a reset.
    pub(super) broken: AtomicBool,
    /// Over HTTP/2: requests that were taken back before they were answered.
    taken_back: AtomicU64,
    /// What is flushed may wait until the end of a poll.
    may_put_off: AtomicBool,
    /// Something does.
    has_put_off: AtomicBool,
    /// No further request is wanted: its next answer is the last one.
    pub(super) closing: AtomicBool,
    /// It has to go, since there are too many.
    pub(super) crowded: AtomicBool,
    /// Rung when it has to go, or has asked for enough.
    pub(super) leave: Notify,
}

/// How much a connection may ask for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Most {
    requests: u64,
    resets: u64,
    pub(super) body: u64,
    pub(super) headers: usize,
}

impl From<&LimitSettings> for Most {
    fn from(limits: &LimitSettings) -> Self {
        Self {
            requests: limits.requests.into(),
            resets: limits.resets.into(),
            body: limits.body_size.bytes(),
            headers: limits.headers as usize,
        }
    }
}

/// An answer that is under way, until its body has gone.
#[derive(Debug)]
pub(crate) struct Answering {
    doing: Arc<Doing>,
    starves: bool,
    is_whole: bool,
    /// The length of the part that was handed over last.
    part: u64,
}

// === impl Doing ===

impl Doing {
    /// A connection that has just begun.
    pub(super) fn new(origin: Instant, most: Most) -> Self {
        let doing = Self {
            origin,
            most,
            asked: AtomicU64::default(),
            answering: AtomicUsize::default(),
            starving: AtomicUsize::default(),
            awaited: AtomicUsize::default(),
            received: AtomicU64::default(),
            writing: AtomicBool::default(),
            written: AtomicU64::default(),
            taken: AtomicU64::default(),
            is_http2: AtomicBool::default(),
            since: AtomicU64::default(),
            head: AtomicU64::default(),
            broken: AtomicBool::default(),
            taken_back: AtomicU64::default(),
            may_put_off: AtomicBool::default(),
            has_put_off: AtomicBool::default(),
            closing: AtomicBool::default(),
            crowded: AtomicBool::default(),
            leave: Notify::default(),
        };
        doing.since.store(doing.now(), Relaxed);
        doing
    }

    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn at(&self, millis: u64) -> Instant {
        self.origin + Duration::from_millis(millis)
    }

    /// Something came. Only between requests it is the beginning of a head, and over HTTP/2 it may be anything.
    pub(super) fn read(&self) {
        if !self.is_answering() && self.head.load(Relaxed) == 0 && !self.is_http2.load(Relaxed) {
            self.head.store(self.now().saturating_add(1), Relaxed);
        }
    }

    /// Whether what is to be written waits for the client.
    pub(super) fn waits_to_write(&self, waits: bool) {
        if waits != self.writing.load(Relaxed) {
            if !waits {
                self.since.store(self.now(), Relaxed);
            }
            self.writing.store(waits, Relaxed);
        }
    }

    /// A poll begins, which is followed by another one if anything is put off.
    pub(super) fn may_put_off(&self) {
        self.may_put_off.store(true, Relaxed);
    }

    /// The poll is over. Whether anything was put off: now it is to be sent.
    pub(super) fn has_put_off(&self) -> bool {
        self.may_put_off.store(false, Relaxed);
        self.has_put_off.load(Relaxed) && self.has_put_off.swap(false, Relaxed)
    }

    /// Something is put off, if it may be.
    pub(crate) fn puts_off(&self) -> bool {
        let may = self.may_put_off.load(Relaxed);
        if may {
            self.has_put_off.store(true, Relaxed);
        }
        may
    }

    /// A request came.
    pub(crate) fn begin(self: &Arc<Self>, is_http2: bool) -> Answering {
        if is_http2 {
            self.is_http2.store(true, Relaxed);
        }
        let asked = self.asked.fetch_add(1, Relaxed) + 1;
        if asked >= self.most.requests {
            self.closing.store(true, Relaxed);
            // HTTP/1.1 has it in the answer.
            if is_http2 {
                self.leave.notify_one();
            }
        }
        self.head.store(0, Relaxed);
        self.answers(false)
    }

    /// A request that came may go on after its answer, as an upgrade. It is no other request.
    pub(crate) fn may_go_on(self: &Arc<Self>) -> Answering {
        self.answers(true)
    }

    fn answers(self: &Arc<Self>, is_whole: bool) -> Answering {
        self.answering.fetch_add(1, Relaxed);
        self.starving.fetch_add(1, Relaxed);
        Answering {
            doing: self.clone(),
            starves: true,
            is_whole,
            part: 0,
        }
    }

    /// What it may ask for.
    pub(super) const fn most(&self) -> &Most {
        &self.most
    }

    /// Whether its client takes back what it asks for, again and again: that costs the server alone.
    pub(super) fn takes_back(&self) -> bool {
        let taken_back = self.taken_back.load(Relaxed);
        taken_back > self.most.resets && taken_back * 2 > self.asked.load(Relaxed)
    }

    fn note_taken_back(&self) {
        self.taken_back.fetch_add(1, Relaxed);
        if self.takes_back() {
            self.leave.notify_one();
        }
    }

    /// Whether a request is being answered.
    pub(crate) fn is_answering(&self) -> bool {
        self.answering.load(Relaxed) > 0
    }

    /// Whether nothing is asked and nothing waits to be read.
    pub(super) fn is_idle(&self) -> bool {
        !self.is_answering() && !self.writing.load(Relaxed)
    }

    /// Whether it is idle, and may be told to end: no second request has begun to come. (hyper goes on reading a first
    /// one that has.)
    pub(super) fn is_quiet(&self) -> bool {
        self.is_idle() && (self.head.load(Relaxed) == 0 || self.asked.load(Relaxed) == 0)
    }

    /// Since when, in milliseconds: the less, the longer.
    pub(super) const fn idle_since(&self) -> &AtomicU64 {
        &self.since
    }

    /// When the head that is being read began.
    pub(super) fn head_since(&self) -> Option<Instant> {
        let head = self.head.load(Relaxed);
        head.checked_sub(1).map(|head| self.at(head))
    }

    /// Since when nothing has been answered.
    pub(super) fn quiet_since(&self) -> Instant {
        self.at(self.since.load(Relaxed))
    }

    /// Whether what was to be written waits for the client.
    pub(super) fn is_writing(&self) -> bool {
        self.writing.load(Relaxed)
    }

    /// How many answers wait for the client: all of HTTP/2's do where it opens no window.
    pub(super) fn held_back(&self) -> usize {
        let starving = self.starving.load(Relaxed);
        self.answering.load(Relaxed).saturating_sub(starving)
    }
}

// === impl Answering ===

impl Answering {
    /// Whether it goes over HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        self.doing.is_http2.load(Relaxed)
    }

    /// Says in an answer that no further request is read, where that is so (RFC 9112 section 9.6).
    pub(crate) fn say_goodbye(&self, headers: &mut HeaderMap) {
        if self.doing.closing.load(Relaxed) && !self.is_http2() && !headers.contains_key(CONNECTION)
        {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }

    /// All of it has been handed over.
    pub(crate) fn is_whole(&mut self) {
        self.is_whole = true;
    }

    /// Its body was asked for its next part, and gave `polled`.
    pub(crate) fn polled<E>(&mut self, polled: &Poll<Option<Result<Frame<Bytes>, E>>>) {
        let part = match polled {
            Poll::Ready(Some(Ok(frame))) => frame.data_ref().map_or(0, |data| data.len() as u64),
            _ => 0,
        };
        let before = std::mem::replace(&mut self.part, part);
        if before > 0 {
            self.doing.taken.fetch_add(before, Relaxed);
        }
        self.starves(polled.is_pending());
        if let Poll::Ready(None) = polled {
            self.is_whole();
        }
    }

    /// Whether it waits for the server: if not, it waits for the client.
    pub(crate) fn starves(&mut self, starves: bool) {
        if starves != self.starves {
            self.starves = starves;
            if starves {
                self.doing.starving.fetch_add(1, Relaxed);
            } else {
                self.doing.starving.fetch_sub(1, Relaxed);
            }
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.starves(false);
        if !self.is_whole && self.is_http2() {
            self.doing.note_taken_back();
        }
        // Before it shows as idle: it must not look as if it had been so for long.
        self.doing.since.store(self.doing.now(), Relaxed);
        self.doing.answering.fetch_sub(1, Relaxed);
    }
}
