//! `Expect: 100-continue` (RFC 9110 section 10.1.1): a client that waits before it sends a body waits for the upstream,
//! not for us.
//!
//! The client gets its 100 when its body is first asked for. So it is not asked for before the upstream has sent its own
//! 100; or has said nothing for a second, since not every server knows the header. One that answers at once, such as
//! with 413 or 401, gets none of the body.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU8, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use tokio::time::{Sleep, sleep};

/// How long an upstream may think about it; curl gives it as long.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether a body is wanted. Written by who reads the upstream's answer, read by the body.
#[derive(Debug)]
pub(super) struct Go {
    state: AtomicU8,
    waker: AtomicWaker,
    /// The body's alone; a body that waits is seldom enough for a lock that nobody else takes.
    clock: Mutex<Option<Pin<Box<Sleep>>>>,
}

const ASKED: u8 = 0;
const WANTED: u8 = 1;
const UNWANTED: u8 = 2;

// === impl Go ===

impl Go {
    pub(super) fn new() -> Self {
        Self {
            state: AtomicU8::new(ASKED),
            waker: AtomicWaker::new(),
            clock: Mutex::new(None),
        }
    }

    /// The upstream wants it.
    pub(super) fn wanted(&self) {
        // Once it is not wanted it stays so.
        let _ = self.state.compare_exchange(ASKED, WANTED, SeqCst, SeqCst);
        self.waker.wake();
    }

    /// The upstream has answered; whether it did so without having wanted the body.
    pub(super) fn answered(&self) -> bool {
        self.state
            .compare_exchange(ASKED, UNWANTED, SeqCst, SeqCst)
            .is_ok()
    }

    /// Ready once the body may be asked for.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        match self.state.load(SeqCst) {
            WANTED => return Poll::Ready(()),
            ASKED => {}
            _ => return Poll::Pending,
        }
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        let clock = clock.get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
        std::task::ready!(clock.as_mut().poll(cx));
        self.wanted();
        match self.state.load(SeqCst) {
            WANTED => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }
}
