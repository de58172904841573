//! Serves one connection, until it ends or has to.
//!
//! One timer looks now and then at what the connection is doing. hyper has limits of its own: one for heads, which sets
//! up a timer for every request, and none for who says nothing at all, does not read or sends a body byte by byte.

use std::{future::poll_fn, pin::Pin, sync::atomic::Ordering::Relaxed, time::Duration};

use hyper_util::server::graceful::GracefulConnection;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Doing, LimitSettings, Stage, Stop};

/// How often it is looked whether all is let go of that a connection was cut off from, and how many times.
const LOOSE_ENDS: (Duration, u32) = (Duration::from_millis(5), 200);
/// How long a connection that is told to end may take to say goodbye.
const GRACE: Duration = Duration::from_secs(1);
/// How long a connection is kept without a request when the server stops. Who asks in this time is answered; a client
/// that was about to ask on a connection that is closed just then would have to ask again (RFC 9112 section 9.5).
const LAST_CALL: Duration = Duration::from_secs(1);
/// Over HTTP/2, more than what PINGs and their like are: a client whose windows are shut still answers those.
const LEAST_HTTP2: u64 = 128;
/// So many answers may be held back over HTTP/2 for as long as the client goes on to ask: a film that was paused, say. Each of
/// them holds memory, so where there are more some of them have to go on.
const FEW: usize = 4;
/// Over HTTP/2 the last part of an answer may wait for the client's window when its body is over. How long nothing has gone
/// out where none does, or nobody takes it.
const TAIL: Duration = Duration::from_secs(5);

/// Why a connection was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// The head of its request did not come.
    Head,
    /// It was kept for long enough.
    Idle,
    /// It did not take what was there for it, or send what it had begun to.
    Slow,
    /// There are too many.
    Crowded,
    /// It takes back what it asks for.
    Flood,
    /// The server has stopped, and the time for what was under way is over.
    Stopped,
}

/// How a connection went.
#[derive(Debug)]
pub(crate) enum Served<E> {
    /// By itself.
    Ended(Result<(), E>),
    /// It was shown out.
    ShownOut(Why),
}

/// Waits for what comes before a connection's first request, a TLS handshake: it belongs to the head, and may take no
/// longer. When the server stops it may go on until the time for what is under way is over.
pub(crate) async fn attend_before<F: Future>(
    before: F,
    doing: &Doing,
    limits: &LimitSettings,
    // Of its own: who attends to the connection afterwards is told of what has been said meanwhile.
    mut stop: Stop,
) -> Result<F::Output, Why> {
    let end = doing.quiet_since() + limits.head_time;
    tokio::select! {
        biased;
        done = before => Ok(done),
        () = sleep_until(end) => Err(Why::Head),
        () = doing.leave.notified() => Err(Why::Crowded),
        () = async { while stop.next().await != Stage::Over {} } => Err(Why::Stopped),
    }
}

/// Serves `connection`, whose stream and requests write to `doing`. It is boxed: a future has room for what it is given, and
/// again for where it puts it, for as long as the connection lasts.
pub(crate) async fn attend<C: GracefulConnection>(
    mut connection: Pin<Box<C>>,
    doing: &Doing,
    limits: &LimitSettings,
    mut stop: Stop,
) -> Served<C::Error> {
    let mut watch = Watch::new(limits);
    let mut next = Instant::now();
    let mut tail = Tail::new(doing);
    let mut stopping: Option<Parting> = None;
    let mut leaving = None;
    loop {
        tokio::select! {
            biased;
            ended = poll_fn(|cx| {
                doing.may_put_off();
                let polled = connection.as_mut().poll(cx);
                if doing.has_put_off() && polled.is_pending() {
                    return connection.as_mut().poll(cx);
                }
                polled
            }) => return Served::Ended(ended),
            () = sleep_until(next) => {
                let now = Instant::now();
                let is_done = tail.is_over(doing, now);
                if let Some(parting) = &mut stopping {
                    if now >= parting.last_call && doing.is_quiet() {
                        connection.as_mut().graceful_shutdown();
                    }
                    if parting.is_over(doing, limits, is_done, now) {
                        return Served::ShownOut(Why::Stopped);
                    }
                }
                match (watch.look(doing, now), leaving) {
                    // What it had begun when it was told to leave is finished.
                    (_, Some(why)) if is_done => return Served::ShownOut(why),
                    (Look::ShowOut(Why::Slow), _) => {
                        doing.broken.store(true, Relaxed);
                        return Served::ShownOut(Why::Slow);
                    }
                    (Look::ShowOut(why), _) => {
                        leaving = Some(why);
                        tail.end = Some(now + limits.slow_time);
                        next = now + GRACE;
                        connection.as_mut().graceful_shutdown();
                    }
                    (Look::Again(then), None) => {
                        next = if stopping.is_some() {
                            then.min(now + LAST_CALL)
                        } else {
                            then
                        };
                    }
                    (Look::Again(then), Some(_)) => next = then.min(now + GRACE),
                }
            }
            () = doing.leave.notified() => {
                if doing.takes_back() {
                    doing.broken.store(true, Relaxed);
                    return Served::ShownOut(Why::Flood);
                }
                if !doing.crowded.load(Relaxed) {
                    // It has asked for enough, and what it asked for is answered.
                    connection.as_mut().graceful_shutdown();
                    let parting = stopping.get_or_insert_with(|| Parting::from(Instant::now()));
                    next = next.min(parting.last_call);
                    continue;
                }
                leaving = Some(Why::Crowded);
                tail.end = Some(Instant::now() + limits.slow_time);
                // It is polled once more before that is over.
                next = Instant::now();
                connection.as_mut().graceful_shutdown();
            }
            stage = stop.next() => {
                if stage == Stage::Over {
                    drop(connection);
                    let (moment, times) = LOOSE_ENDS;
                    for _ in 0..times {
                        // Over HTTP/2 each request has a task of its own.
                        if !doing.is_answering() {
                            break;
                        }
                        sleep(moment).await;
                    }
                    return Served::ShownOut(Why::Stopped);
                }
                if stopping.is_some() {
                    continue;
                }
                let parting = Parting::from(Instant::now());
                next = next.min(parting.last_call);
                stopping = Some(parting);
                doing.closing.store(true, Relaxed);
                if doing.is_http2.load(Relaxed) {
                    // GOAWAY says which requests count.
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// What may be left of an answer when nothing is under way any more.
struct Tail {
    written: u64,
    moved: Instant,
    /// It is not waited for any longer, whatever goes out.
    end: Option<Instant>,
}

// === impl Tail ===

impl Tail {
    fn new(doing: &Doing) -> Self {
        Self {
            written: doing.written.load(Relaxed),
            moved: Instant::now(),
            end: None,
        }
    }

    /// Whether the connection can end without a loss.
    fn is_over(&mut self, doing: &Doing, now: Instant) -> bool {
        if !doing.is_http2.load(Relaxed) {
            return doing.is_idle();
        }
        let written = doing.written.load(Relaxed);
        // PINGs, and what is said at the end, are no answers.
        if written - std::mem::replace(&mut self.written, written) > LEAST_HTTP2 {
            self.moved = now;
        }
        let is_late = self.end.is_some_and(|end| now >= end);
        doing.is_idle() && (is_late || now >= self.moved.max(doing.quiet_since()) + TAIL)
    }
}

/// A connection that is told to end, in good time.
struct Parting {
    /// Until then it may ask on.
    last_call: Instant,
    /// The requests so far, when its time was over.
    asked: Option<u64>,
}

// === impl Parting ===

impl Parting {
    fn from(now: Instant) -> Self {
        let (last_call, asked) = (now + LAST_CALL, None);
        Self { last_call, asked }
    }

    /// Whether it is to end now. Over HTTP/2 a client is first told that there is to be an end, and has to acknowledge a
    /// PING before it is told which request was the last (RFC 9113 section 6.8). One that does not, and asks on, would be
    /// served by what a reload has replaced for as long as it likes.
    fn is_over(
        &mut self,
        doing: &Doing,
        limits: &LimitSettings,
        is_done: bool,
        now: Instant,
    ) -> bool {
        if !doing.is_http2.load(Relaxed) || now < self.last_call + GRACE {
            return false;
        }
        let asked = doing.asked.load(Relaxed);
        let asks_on = *self.asked.get_or_insert(asked) < asked;
        is_done || asks_on && now >= self.last_call + limits.drain
    }
}

/// What is to be done about a connection.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// Nothing, until then.
    Again(Instant),
    ShowOut(Why),
}

/// Looks at one connection again and again.
struct Watch<'a> {
    limits: &'a LimitSettings,
    /// While something is under way: what was when it was looked at.
    window: Option<Window>,
}

struct Window {
    start: Instant,
    asked: u64,
    written: u64,
    taken: u64,
    received: u64,
    writes: bool,
    held_back: usize,
    awaits: bool,
}

// === impl Window ===

impl Window {
    fn new(doing: &Doing, start: Instant) -> Self {
        Self {
            start,
            asked: doing.asked.load(Relaxed),
            written: doing.written.load(Relaxed),
            taken: doing.taken.load(Relaxed),
            received: doing.received.load(Relaxed),
            writes: doing.is_writing(),
            held_back: if doing.is_http2.load(Relaxed) {
                doing.held_back()
            } else {
                0
            },
            awaits: doing.awaited.load(Relaxed) > 0,
        }
    }

    /// Whether what waited for the client then still does now, and hardly anything has come or gone.
    fn is_slow(&self, now: &Self, least: u64) -> bool {
        let (written, received) = (now.written - self.written, now.received - self.received);
        (self.writes && now.writes && written < least)
            || (self.awaits && now.awaits && received < least)
            || (self.held_back > 0
                && now.held_back > 0
                && self.asked == now.asked
                && written < least.min(LEAST_HTTP2))
            || (self.held_back > FEW && now.held_back > FEW && now.taken - self.taken < least)
    }
}

// === impl Watch ===

impl<'a> Watch<'a> {
    const fn new(limits: &'a LimitSettings) -> Self {
        Self {
            limits,
            window: None,
        }
    }

    fn look(&mut self, doing: &Doing, now: Instant) -> Look {
        let limits = self.limits;
        // What it does may change at any time, to something that ends sooner.
        let soon = now + limits.head_time.min(limits.idle).min(limits.slow_time);
        if doing.is_idle() {
            self.window = None;
            let (why, end) = match doing.head_since() {
                _ if doing.asked.load(Relaxed) == 0 => {
                    (Why::Head, doing.quiet_since() + limits.head_time)
                }
                Some(head) => (Why::Head, head + limits.head_time),
                None => (Why::Idle, doing.quiet_since() + limits.idle),
            };
            if now >= end {
                return Look::ShowOut(why);
            }
            return Look::Again(soon.min(end));
        }
        match &self.window {
            Some(window) if now < window.start + limits.slow_time => {
                Look::Again(soon.min(window.start + limits.slow_time))
            }
            before => {
                let present = Window::new(doing, now);
                let least = limits.slow_bytes.bytes();
                if before
                    .as_ref()
                    .is_some_and(|before| before.is_slow(&present, least))
                {
                    return Look::ShowOut(Why::Slow);
                }
                self.window = Some(present);
                Look::Again(soon)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, task::Poll};

    use bytes::Bytes;
    use http_body::Frame;

    use super::*;

    const LIMITS: LimitSettings = LimitSettings {
        connections: 1,
        connections_per_address: 1,
        head_time: Duration::from_secs(10),
        head_size: crate::units::ByteSize::new(32 << 10),
        idle: Duration::from_secs(40),
        slow_time: Duration::from_secs(20),
        slow_bytes: crate::units::ByteSize::new(1000),
        streams: 1,
        ..LimitSettings::DEFAULT
    };

    /// After how many seconds from now it is shown out; `each` is called before every look.
    async fn seconds(doing: &Doing, each: impl Fn()) -> (Option<Why>, u64) {
        let begun = Instant::now();
        let mut watch = Watch::new(&LIMITS);
        while begun.elapsed() < Duration::from_secs(1000) {
            each();
            match watch.look(doing, Instant::now()) {
                Look::Again(then) => sleep_until(then).await,
                Look::ShowOut(why) => return (Some(why), begun.elapsed().as_secs()),
            }
        }
        (None, 0)
    }

    fn doing() -> Arc<Doing> {
        Arc::new(Doing::new(Instant::now(), (&LimitSettings::DEFAULT).into()))
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_head_has_its_time_from_the_beginning_and_later_ones_from_their_first_byte() {
        let doing = doing();
        assert_eq!(seconds(&doing, || {}).await, (Some(Why::Head), 10));
        // A byte a second helps nobody.
        let doing = self::doing();
        let byte = || doing.read();
        assert_eq!(seconds(&doing, byte).await, (Some(Why::Head), 10));

        let doing = self::doing();
        drop(doing.begin(false));
        assert_eq!(seconds(&doing, || {}).await, (Some(Why::Idle), 40));
        drop(doing.begin(false));
        tokio::time::sleep(Duration::from_secs(39)).await;
        doing.read();
        assert_eq!(seconds(&doing, || {}).await, (Some(Why::Head), 10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_handshake_ends_when_the_server_has_stopped_and_not_before() {
        let doing = doing();
        let stopping = super::super::Stopping::new();
        let stop = stopping.stop();
        let begun = Instant::now();
        let draining = tokio::spawn(async move { stopping.drain(Duration::from_secs(4)).await });
        let never = std::future::pending::<()>();
        let ended = attend_before(never, &doing, &LIMITS, stop).await;
        assert_eq!(ended, Err(Why::Stopped));
        assert_eq!(begun.elapsed(), Duration::from_secs(4));
        draining.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_the_server_waits_as_long_as_it_takes() {
        let doing = doing();
        let _answering = doing.begin(false);
        assert_eq!(seconds(&doing, || {}).await, (None, 0));
        let doing = self::doing();
        let _answering = doing.begin(true);
        assert_eq!(seconds(&doing, || {}).await, (None, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_take_what_is_there_is_shown_out() {
        let doing = doing();
        let _answering = doing.begin(false);
        doing.waits_to_write(true);
        let takes = |bytes| move |doing: &Doing| _ = doing.written.fetch_add(bytes, Relaxed);
        let slow = (Some(Why::Slow), 20);
        // It is looked at twice in the time.
        assert_eq!(seconds(&doing, || takes(499)(&doing)).await, slow);
        assert_eq!(seconds(&doing, || takes(500)(&doing)).await, (None, 0));

        let doing = self::doing();
        let mut answering = doing.begin(true);
        answering.starves(false);
        // PINGs are no progress.
        assert_eq!(seconds(&doing, || takes(63)(&doing)).await, slow);
        assert_eq!(seconds(&doing, || takes(64)(&doing)).await, (None, 0));
        // Nor is it stuck who asks for more,
        let asks = || drop(doing.begin(true));
        assert_eq!(seconds(&doing, asks).await, (None, 0));
        // but for who leaves much where it is.
        let mut more: Vec<_> = (0..FEW).map(|_| doing.begin(true)).collect();
        more.iter_mut()
            .for_each(|answering| answering.starves(false));
        assert_eq!(seconds(&doing, asks).await, slow);
        for (length, expected) in [(499, slow), (500, (None, 0))] {
            let one = std::cell::RefCell::new(doing.begin(true));
            let goes_on = || {
                let part = Frame::data(Bytes::from(vec![7; length]));
                let part = Poll::Ready(Some(Ok::<_, std::convert::Infallible>(part)));
                one.borrow_mut().polled(&part);
                asks();
            };
            goes_on();
            assert_eq!(seconds(&doing, goes_on).await, expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn over_http2_the_last_part_of_an_answer_may_come_after_its_body() {
        let doing = doing();
        drop(doing.begin(true));
        let mut tail = Tail::new(&doing);
        let step = Duration::from_secs(1);
        for _ in 0..10 {
            tokio::time::advance(step).await;
            doing.written.fetch_add(LEAST_HTTP2 + 1, Relaxed);
            assert!(!tail.is_over(&doing, Instant::now()));
        }
        for _ in 0..4 {
            tokio::time::advance(step).await;
            assert!(!tail.is_over(&doing, Instant::now()));
        }
        tokio::time::advance(step).await;
        assert!(tail.is_over(&doing, Instant::now()));
        let answering = doing.begin(true);
        assert!(!tail.is_over(&doing, Instant::now()));
        drop(answering);
        assert!(!tail.is_over(&doing, Instant::now()));

        // Answers to PINGs keep nobody;
        for seconds in 1..=5 {
            tokio::time::advance(step).await;
            doing.written.fetch_add(LEAST_HTTP2, Relaxed);
            assert_eq!(tail.is_over(&doing, Instant::now()), seconds == 5);
        }
        // and more of them no longer than it was to be waited for.
        tail.end = Some(Instant::now() + step * 10);
        for seconds in 1..=10 {
            tokio::time::advance(step).await;
            doing.written.fetch_add(LEAST_HTTP2 + 1, Relaxed);
            assert_eq!(tail.is_over(&doing, Instant::now()), seconds == 10);
        }

        let doing = self::doing();
        drop(doing.begin(false));
        assert!(Tail::new(&doing).is_over(&doing, Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_waited_for_has_to_come() {
        let doing = doing();
        let _answering = doing.begin(false);
        doing.awaited.store(1, Relaxed);
        let sends = |bytes| move |doing: &Doing| _ = doing.received.fetch_add(bytes, Relaxed);
        let slow = (Some(Why::Slow), 20);
        assert_eq!(seconds(&doing, || sends(499)(&doing)).await, slow);
        assert_eq!(seconds(&doing, || sends(500)(&doing)).await, (None, 0));
    }
}
