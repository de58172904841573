//! The stream of a connection, which notes what comes and goes.

use std::{
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use super::Doing;

/// A stream that can end with a reset, so that the kernel forgets what its client does not take.
pub(crate) trait Breaks {
    /// From now on it does.
    fn break_off(&self);
}

impl Breaks for TcpStream {
    fn break_off(&self) {
        // One that is gone already needs none.
        let _ = self.set_zero_linger();
    }
}

/// A stream that notes what comes and goes.
pub(crate) struct NotedIo<S: Breaks> {
    io: TokioIo<S>,
    doing: Arc<Doing>,
    /// What goes is noted below, by a [`Counted`].
    is_counted: bool,
}

/// The stream below TLS, which notes what goes: what TLS takes it may keep for a while.
pub(crate) struct Counted<S> {
    stream: S,
    doing: Arc<Doing>,
}

// === impl NotedIo ===

impl<S: Breaks> NotedIo<S> {
    /// Right above the socket.
    pub(crate) fn new(stream: S, doing: Arc<Doing>) -> Self {
        Self {
            io: TokioIo::new(stream),
            doing,
            is_counted: false,
        }
    }

    /// Above TLS, which stands above a [`Counted`].
    pub(crate) fn counted(stream: S, doing: Arc<Doing>) -> Self {
        Self {
            io: TokioIo::new(stream),
            doing,
            is_counted: true,
        }
    }

    fn note(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if self.is_counted {
            return polled;
        }
        note(&self.doing, polled)
    }
}

fn note(doing: &Doing, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
    doing.waits_to_write(polled.is_pending());
    if let Poll::Ready(Ok(written)) = polled {
        doing.written.fetch_add(written as u64, Relaxed);
    }
    polled
}

impl<S: Breaks> Drop for NotedIo<S> {
    fn drop(&mut self) {
        if self.doing.broken.load(Relaxed) {
            self.io.inner().break_off();
        }
    }
}

impl<S: Breaks + AsyncRead + Unpin> Read for NotedIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_read(cx, buffer);
        if polled.is_ready() {
            self.doing.read();
        }
        polled
    }
}

impl<S: Breaks + AsyncWrite + Unpin> Write for NotedIo<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.note(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.note(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

// === impl Counted ===

impl<S> Counted<S> {
    pub(crate) const fn new(stream: S, doing: Arc<Doing>) -> Self {
        Self { stream, doing }
    }
}

impl<S: Breaks> Breaks for TlsStream<Counted<S>> {
    fn break_off(&self) {
        self.get_ref().0.stream.break_off();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        note(&self.doing, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        note(&self.doing, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
