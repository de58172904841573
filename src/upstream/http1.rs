//! One HTTP/1.1 connection to the upstream.
//!
//! It has no task of its own: whoever waits for an answer, or for the next part of one, drives it. So a request and its
//! answer are read and written by the task that they are for, and nobody is woken in between; what is dropped in the
//! middle closes it. Only where an answer begins before the request has gone out as a whole it gets a task: the one must
//! not wait for the other.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{
        TrySendError,
        http1::{Builder, Connection, SendRequest},
    },
};
use pin_project_lite::pin_project;
use tokio::{
    task::{JoinHandle, coop::unconstrained},
    time::{Instant, Sleep, sleep_until},
};

use super::{
    connect::Stream,
    failure::Failure,
    upload::{Outgoing, Progress, moved_since},
};

/// What is read of an answer before anybody takes it, at most: the head has to fit.
const BUFFER: usize = 64 * 1024;

/// A connection that is used by one request at a time.
pub(super) struct Http1 {
    sender: SendRequest<Outgoing>,
    connection: Connection<Stream, Outgoing>,
    is_closed: bool,
    bell: Arc<Bell>,
    /// What rings it.
    waker: Waker,
    /// Set up once for all requests: it is moved only where it runs out.
    clock: Pin<Box<Sleep>>,
    /// Since when nobody uses it.
    pub(super) kept_since: Instant,
    /// It was used before: the upstream may be about to close it.
    pub(super) is_kept: bool,
}

/// Wakes who drives a connection, unless that one is at it. Taking a part of a body makes the connection want to read the
/// next one, and who takes it is the one who reads: without this each part would cost a round through the scheduler.
#[derive(Debug, Default)]
struct Bell {
    driver: AtomicWaker,
    is_answered: AtomicBool,
    rang: AtomicBool,
}

// === impl Bell ===

impl Bell {
    /// `driver` is at it.
    fn answer(&self, driver: &Waker) {
        self.driver.register(driver);
        self.is_answered.store(true, SeqCst);
        self.rang.store(false, SeqCst);
    }

    /// It is done; whether it was wanted again meanwhile.
    fn leave(&self) -> bool {
        self.is_answered.store(false, SeqCst);
        self.rang.swap(false, SeqCst)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // In this order: either who leaves sees that it rang, or this sees that it has left.
        self.rang.store(true, SeqCst);
        if !self.is_answered.load(SeqCst) {
            self.driver.wake();
        }
    }
}

/// Why a request has no answer.
pub(super) struct Unanswered {
    pub(super) failure: Failure,
    /// The request, where nothing of it was written.
    pub(super) unsent: Option<Box<Request<Outgoing>>>,
}

// === impl Http1 ===

impl Http1 {
    pub(super) async fn new(stream: Stream) -> Result<Box<Self>, Failure> {
        let (sender, connection) = Builder::new()
            .max_buf_size(BUFFER)
            .handshake(stream)
            .await
            .map_err(Failure::Broken)?;
        let now = Instant::now();
        let bell = Arc::new(Bell::default());
        Ok(Box::new(Self {
            sender,
            connection,
            is_closed: false,
            waker: Waker::from(bell.clone()),
            bell,
            clock: Box::pin(sleep_until(now + Duration::from_secs(3600))),
            kept_since: now,
            is_kept: false,
        }))
    }

    /// Whether another request can be sent.
    pub(super) fn is_ready(&mut self) -> bool {
        // Nobody waits for it now; and what came unasked has to be seen, whatever this task has done already.
        let look = poll_fn(|cx| Poll::Ready(self.step(cx)));
        let _ = pin!(unconstrained(look)).poll(&mut Context::from_waker(Waker::noop()));
        !self.is_closed && self.sender.is_ready()
    }

    /// Reads and writes what can be. Ready: it has ended.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.bell.answer(cx.waker());
        let waker = self.waker.clone();
        let stepped = self.step(&mut Context::from_waker(&waker));
        if self.bell.leave() && stepped.is_pending() {
            cx.waker().wake_by_ref();
        }
        stepped
    }

    /// From now on until it is driven nobody needs to be told that it wants to be.
    pub(super) fn is_about_to_be_driven(&self) {
        self.bell.is_answered.store(true, SeqCst);
    }

    /// It is not driven just now, but will be: whoever has taken a part of a body comes for the next.
    pub(super) fn is_left(&self) {
        self.bell.leave();
    }

    fn step(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_closed {
            return Poll::Ready(());
        }
        let ended = ready!(self.connection.poll_without_shutdown(cx));
        if let Err(error) = ended {
            tracing::debug!(%error, "connection to the upstream ended");
        }
        self.is_closed = true;
        Poll::Ready(())
    }

    /// Ready once it is `end`.
    pub(super) fn poll_until(&mut self, end: Instant, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            // It may go off too early, which costs less than to move it for every request.
            if self.clock.deadline() > end {
                self.clock.as_mut().reset(end);
            }
            ready!(self.clock.as_mut().poll(cx));
            if Instant::now() >= end {
                return Poll::Ready(());
            }
            self.clock.as_mut().reset(end);
        }
    }

    /// Sends `request`, and gives the answer as soon as its head is there. `limit`: how long nothing may move before.
    pub(super) fn ask<'a>(
        &'a mut self,
        request: Request<Outgoing>,
        progress: Option<&'a Progress>,
        begun: Instant,
        limit: Duration,
    ) -> impl Future<Output = Result<Response<Incoming>, Unanswered>> + use<'a> {
        // Not when it is first polled: the future would have room for the request, too.
        let answer = self.sender.try_send_request(request);
        Asked {
            connection: self,
            answer: unconstrained(answer),
            progress,
            moved: begun,
            limit,
        }
    }

    /// The stream below, after the upstream has agreed to another protocol, and what came of that already.
    pub(super) async fn into_stream(mut self: Box<Self>) -> Option<(Stream, Bytes)> {
        // It ends with the head of the answer: nothing more of it is HTTP.
        poll_fn(|cx| self.drive(cx)).await;
        let parts = self.connection.into_parts();
        Some((parts.io, parts.read_buf))
    }

    /// Goes on by itself, for an answer that begins before its request has gone out.
    pub(super) fn drive_aside(mut self: Box<Self>) -> Aside {
        Aside(tokio::spawn(async move {
            poll_fn(|cx| self.drive(cx)).await;
        }))
    }
}

pin_project! {
    /// A request whose answer is waited for.
    struct Asked<'a, F> {
        connection: &'a mut Http1,
        #[pin]
        answer: F,
        progress: Option<&'a Progress>,
        moved: Instant,
        limit: Duration,
    }
}

impl<F> Future for Asked<'_, F>
where
    F: Future<Output = Result<Response<Incoming>, TrySendError<Request<Outgoing>>>>,
{
    type Output = Result<Response<Incoming>, Unanswered>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let ended = this.connection.drive(cx);
        // It is made by what is driven here, and never while this is not looking.
        let mut unwoken = Context::from_waker(Waker::noop());
        match this.answer.poll(&mut unwoken) {
            Poll::Ready(Ok(answer)) => return Poll::Ready(Ok(answer)),
            Poll::Ready(Err(mut error)) => {
                let unsent = error.take_message().map(Box::new);
                let failure = Failure::Broken(error.into_error());
                return Poll::Ready(Err(Unanswered { failure, unsent }));
            }
            Poll::Pending => {}
        }
        if ended.is_ready() {
            return Poll::Ready(Err(Failure::Ended.into()));
        }
        loop {
            let end = *this.moved + *this.limit;
            ready!(this.connection.poll_until(end, cx));
            match moved_since(*this.progress, *this.moved) {
                Ok(since) => *this.moved = since,
                Err(failure) => return Poll::Ready(Err(failure.into())),
            }
        }
    }
}

impl From<Failure> for Unanswered {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            unsent: None,
        }
    }
}

/// A connection that has a task; it ends with this.
#[derive(Debug)]
pub(super) struct Aside(JoinHandle<()>);

impl Drop for Aside {
    fn drop(&mut self) {
        self.0.abort();
    }
}
