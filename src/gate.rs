//! The gate: a listener that can close connections unanswered.
//!
//! At `drop`, a part of the new connections is closed right after accept, before TLS and HTTP have cost
//! anything. Only the address is known there, so the visitor's hash is that of the address, trusted
//! proxies, exempt addresses and offload servers always pass, and where there are classes
//! (`throttle.classes`) so does whom the highest of them would let in. The connections that it lets in carry a switch,
//! by which the layer ends those whose requests it drops later.

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
};

use crate::{
    offload::{Connection, DropMethod, Mode, Outcome, Shared, Snapshot, client_key},
    servers::hash,
};

/// What [`gate`] returns: a listener for `axum::serve`, with connect info.
pub type GateListener = TapIo<Gate, fn(&mut GateStream)>;

/// With `drop.method = "stall"` accepting pauses for the dropped part of every such period.
const STALL_PERIOD: Duration = Duration::from_millis(200);

/// Puts a gate before `listener`. Each connection sends without delay (`TCP_NODELAY`), since answers are
/// written whole.
pub fn gate(listener: TcpListener, shared: Arc<Shared>) -> GateListener {
    let no_delay: fn(&mut GateStream) = |stream| {
        // One that is gone already will say so when it is read.
        let _ = stream.io.set_nodelay(true);
    };
    Gate { listener, shared }.tap_io(no_delay)
}

/// A listener that closes connections at level `drop`.
#[derive(Debug)]
pub struct Gate {
    listener: TcpListener,
    shared: Arc<Shared>,
}

// === impl Gate ===

impl Gate {
    /// Whether a connection from `peer` is let in.
    fn lets_in(&self, peer: SocketAddr, snapshot: &Snapshot) -> bool {
        let dropped = snapshot.dropped_at_gate().get();
        if dropped == 0.0 || snapshot.compiled.mode() != Mode::Enforce {
            return true;
        }
        let address = peer.ip().to_canonical();
        let place = hash::fraction(client_key(Some(address), None), snapshot.epoch);
        place >= dropped || self.shared.gate_exempts(snapshot, address)
    }

    /// Waits as long as nothing is to be accepted. What waits in the kernel's queue costs nothing here.
    async fn stall(&self) {
        loop {
            let pause = {
                let snapshot = self.shared.snapshot();
                let stalls = snapshot.compiled.drop_method() == DropMethod::Stall
                    && snapshot.compiled.mode() == Mode::Enforce;
                let dropped = snapshot.dropped_at_gate().get();
                if !stalls || dropped == 0.0 {
                    return;
                }
                (STALL_PERIOD.mul_f64(dropped), dropped >= 1.0)
            };
            tokio::time::sleep(pause.0).await;
            if !pause.1 {
                return;
            }
        }
    }
}

impl Listener for Gate {
    type Io = GateStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (GateStream, SocketAddr) {
        loop {
            self.stall().await;
            // axum's own listener: it waits and goes on where accept fails (EMFILE).
            let (mut io, peer) = Listener::accept(&mut self.listener).await;
            let snapshot = self.shared.snapshot();
            let method = snapshot.compiled.drop_method();
            if method == DropMethod::Stall || self.lets_in(peer, &snapshot) {
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
            close(&mut io, method);
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
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
