//! What a connection is doing: written by its stream and its requests, read by who attends to it and by the room.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

/// What a connection is doing. No value guards other memory, so none needs an order.
#[derive(Debug)]
pub(crate) struct Doing {
    /// Times are counted from here: the same moment for all connections of a room, so that they can be compared.
    origin: Instant,
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
    /// HTTP/2 has frames of its own, and its windows hold answers back.
    pub(super) is_http2: AtomicBool,
    /// Since when nothing is answered, in milliseconds.
    since: AtomicU64,
    /// When the head that is being read began, in milliseconds and one more; 0: none is.
    head: AtomicU64,
    /// The connection is to end with a reset.
    pub(super) broken: AtomicBool,
    /// Something waits to be sent at the end of a poll.
    again: AtomicBool,
    /// Rung when it has to go, since there are too many.
    pub(super) leave: Notify,
}

/// An answer that is under way, until its body has gone.
#[derive(Debug)]
pub(crate) struct Answering {
    doing: Arc<Doing>,
    starves: bool,
}

// === impl Doing ===

impl Doing {
    /// A connection that has just begun.
    pub(crate) fn new(origin: Instant) -> Self {
        let doing = Self {
            origin,
            asked: AtomicU64::default(),
            answering: AtomicUsize::default(),
            starving: AtomicUsize::default(),
            awaited: AtomicUsize::default(),
            received: AtomicU64::default(),
            writing: AtomicBool::default(),
            written: AtomicU64::default(),
            is_http2: AtomicBool::default(),
            since: AtomicU64::default(),
            head: AtomicU64::default(),
            broken: AtomicBool::default(),
            again: AtomicBool::default(),
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

    /// The connection is to be polled once more, though nothing has happened.
    pub(crate) fn poll_again(&self) {
        self.again.store(true, Relaxed);
    }

    /// Whether it is, which is forgotten.
    pub(super) fn is_polled_again(&self) -> bool {
        self.again.load(Relaxed) && self.again.swap(false, Relaxed)
    }

    /// A request came.
    pub(crate) fn begin(self: &Arc<Self>, is_http2: bool) -> Answering {
        if is_http2 {
            self.is_http2.store(true, Relaxed);
        }
        self.asked.fetch_add(1, Relaxed);
        self.answering.fetch_add(1, Relaxed);
        self.starving.fetch_add(1, Relaxed);
        self.head.store(0, Relaxed);
        Answering {
            doing: self.clone(),
            starves: true,
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

    /// Whether an answer waits for the client: all of HTTP/2's do where it opens no window.
    pub(super) fn is_held_back(&self) -> bool {
        self.answering.load(Relaxed) > self.starving.load(Relaxed)
    }
}

// === impl Answering ===

impl Answering {
    /// Whether it goes over HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        self.doing.is_http2.load(Relaxed)
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
        // Before it shows as idle: it must not look as if it had been so for long.
        self.doing.since.store(self.doing.now(), Relaxed);
        self.doing.answering.fetch_sub(1, Relaxed);
    }
}
