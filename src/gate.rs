//! The gate: a listener that can close connections unanswered.
//!
//! At `drop`, a part of the new connections is closed right after accept, before TLS and HTTP have cost
//! anything. Only the address is known there. So the layer's own decision is asked about a visitor of that
//! address who comes for a page, and who would be dropped there is not let in here; trusted proxies, exempt
//! addresses and offload servers always pass, and where there are classes (`throttle.classes`) so does whom the
//! highest of them would let in. The connections that it lets in carry a switch, by which the layer ends those whose
//! requests it drops later.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use axum::serve::{Listener, ListenerExt, TapIo};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep_until},
};

use crate::{
    guard::Acceptor,
    offload::{Connection, DropMethod, Mode, Outcome, Shared, Snapshot},
};

/// What [`gate`] returns: a listener for `axum::serve`, with connect info.
pub type GateListener = TapIo<Gate, fn(&mut GateStream)>;

/// With `drop.method = "stall"` nothing is accepted for the dropped part of every such period.
const STALL_PERIOD: Duration = Duration::from_millis(200);

/// Puts a gate before `listener`. Each connection sends without delay (`TCP_NODELAY`), since answers are
/// written whole.
pub fn gate(listener: TcpListener, shared: Arc<Shared>) -> GateListener {
    // Of listeners that are not its own, axum hands on the addresses of this one's clients alone.
    Gate::new(listener, shared).tap_io(|_| {})
}

/// Who is told of connections that are closed here.
pub(crate) trait Witness: std::fmt::Debug + Send + Sync {
    /// One from `peer` is.
    fn closed(&self, peer: SocketAddr);
}

/// A listener that closes connections at level `drop`. Where accepting fails (too many open files) it goes on
/// a moment later.
#[derive(Debug)]
pub struct Gate {
    listener: TcpListener,
    shared: Arc<Shared>,
    acceptor: Acceptor,
    witness: Option<Arc<dyn Witness>>,
    /// Where the first stall period began.
    begun: Instant,
}

// === impl Gate ===

impl Gate {
    /// Before `listener`.
    #[must_use]
    pub fn new(listener: TcpListener, shared: Arc<Shared>) -> Self {
        Self {
            listener,
            shared,
            acceptor: Acceptor::default(),
            witness: None,
            begun: Instant::now(),
        }
    }

    /// Who ends connections where there are no more files.
    #[cfg(feature = "server")]
    pub(crate) fn relieved_by(&mut self, relief: Arc<dyn crate::guard::Relief>) {
        self.acceptor.relieved_by(relief);
    }

    /// Tells `witness` of every connection that it closes.
    #[cfg(feature = "server")]
    pub(crate) fn seen_by(&mut self, witness: Arc<dyn Witness>) {
        self.witness = Some(witness);
    }

    /// Whether nothing is refused to connections from `peer`: a trusted proxy's, an exempt one's, an offload server's.
    #[cfg(feature = "server")]
    pub(crate) fn exempts(&self, peer: SocketAddr) -> bool {
        self.shared
            .gate_exempts(&self.shared.snapshot(), peer.ip().to_canonical())
    }

    /// The same, for whoever has no gate at hand.
    #[cfg(feature = "server")]
    pub(crate) fn exempting(&self) -> impl Fn(SocketAddr) -> bool + Send + use<> {
        let shared = self.shared.clone();
        move |peer| shared.gate_exempts(&shared.snapshot(), peer.ip().to_canonical())
    }

    /// Whether a connection from `peer` is let in.
    fn lets_in(&self, peer: SocketAddr, snapshot: &Snapshot) -> bool {
        let address = peer.ip().to_canonical();
        !self.shared.closes(snapshot, address) || self.shared.gate_exempts(snapshot, address)
    }

    /// Whether nothing is accepted now, and when that changes; [`None`]: all are accepted.
    fn stalls(&self, now: Instant) -> Option<(bool, Instant)> {
        let snapshot = self.shared.snapshot();
        let dropped = snapshot.dropped_at_gate().get();
        let stalls = snapshot.compiled.drop_method() == DropMethod::Stall
            && snapshot.compiled.mode() == Mode::Enforce
            && dropped > 0.0;
        stalls.then(|| {
            let (stalls, left) = stalled(dropped, now - self.begun);
            (stalls, now + left)
        })
    }

    /// The next connection that is not left in the kernel's queue.
    async fn take(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            let stalls = self.stalls(Instant::now());
            let accepting = self.acceptor.accept(&self.listener);
            match stalls {
                None => return accepting.await,
                Some((true, until)) => sleep_until(until).await,
                Some((false, until)) => tokio::select! {
                    accepted = accepting => return accepted,
                    () = sleep_until(until) => {}
                },
            }
        }
    }
}

impl Listener for Gate {
    type Io = GateStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (GateStream, SocketAddr) {
        loop {
            let (mut io, peer) = self.take().await;
            let snapshot = self.shared.snapshot();
            let method = snapshot.compiled.drop_method();
            if method == DropMethod::Stall || self.lets_in(peer, &snapshot) {
                // One that is gone already will say so when it is read.
                let _ = io.set_nodelay(true);
                let connection = self.shared.connections.open(peer);
                return (
                    GateStream {
                        io,
                        connection,
                        method,
                    },
                    peer,
                );
            }
            self.shared.counters.count(Outcome::Dropped);
            if let Some(witness) = &self.witness {
                witness.closed(peer);
            }
            close(&mut io, method);
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Whether nothing is accepted at a moment, and for how long that goes on. What waits in the kernel's queue costs nothing
/// here.
fn stalled(dropped: f64, at: Duration) -> (bool, Duration) {
    let into = Duration::from_secs_f64(at.as_secs_f64() % STALL_PERIOD.as_secs_f64());
    let closed = STALL_PERIOD.mul_f64(dropped.min(1.0));
    // What is rounded away must not be waited for in a circle.
    let left = |end: Duration| end.saturating_sub(into).max(Duration::from_millis(1));
    if into < closed {
        (true, left(closed))
    } else {
        (false, left(STALL_PERIOD))
    }
}

/// Begins the end of `io`, in the way that `method` says; dropping it does the rest.
fn close(io: &mut TcpStream, method: DropMethod) {
    match method {
        // Without it the connection still ends, with a FIN.
        DropMethod::Reset => {
            let _ = io.set_zero_linger();
        }
        // A socket that is closed while a request waits in it unread answers with a reset. The FIN goes
        // first, so that the client sees an empty reply whenever its request arrives. (It is sent at once:
        // nothing is waited for, so nobody is to be woken.)
        DropMethod::Close | DropMethod::Stall => {
            let _ = Pin::new(io).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
    }
}

/// A connection that the gate let in.
#[derive(Debug)]
pub struct GateStream {
    io: TcpStream,
    connection: Connection,
    method: DropMethod,
}

// === impl GateStream ===

impl GateStream {
    /// An error when the switch was turned off: then nothing more is read or written.
    fn check(&mut self, cx: &Context<'_>) -> io::Result<()> {
        let switch = &self.connection.switch;
        switch.register(cx.waker());
        let off = switch.is_off();
        self.check_now(off)
    }

    fn check_now(&mut self, off: bool) -> io::Result<()> {
        if off {
            close(&mut self.io, self.method);
            return Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                crate::offload::Dropped,
            ));
        }
        Ok(())
    }
}

#[cfg(feature = "server")]
impl GateStream {
    /// Ends it without a byte, as at `drop`.
    pub(crate) fn refuse(mut self) {
        close(&mut self.io, self.method);
    }
}

#[cfg(feature = "server")]
impl crate::guard::Breaks for GateStream {
    fn break_off(&self) {
        self.io.break_off();
    }
}

impl Drop for GateStream {
    fn drop(&mut self) {
        // The server may give the connection up before it reads or writes again.
        if self.connection.switch.is_off() {
            close(&mut self.io, self.method);
        }
    }
}

impl AsyncRead for GateStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check(cx)?;
        Pin::new(&mut this.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for GateStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let off = this.connection.switch.is_off();
        this.check_now(off)?;
        Pin::new(&mut this.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let off = this.connection.switch.is_off();
        this.check_now(off)?;
        Pin::new(&mut this.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.method == DropMethod::Reset && this.connection.switch.is_off() {
            // No FIN before the reset, which goes out when the connection is dropped.
            close(&mut this.io, this.method);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_accepted_for_the_dropped_part_of_the_time() {
        for dropped in [0.25, 0.5, 0.9, 1.0] {
            let (mut at, mut closed) = (Duration::ZERO, Duration::ZERO);
            while at < Duration::from_secs(60) {
                let (stalls, left) = stalled(dropped, at);
                at += left;
                closed += if stalls { left } else { Duration::ZERO };
            }
            let part = closed.as_secs_f64() / at.as_secs_f64();
            assert!((part - dropped).abs() < 0.02, "{part} for {dropped}");
        }
    }
}
