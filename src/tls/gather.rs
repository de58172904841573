//! HTTP/2 over TLS: what is written in one go is sent in one go.
//!
//! The answers of many requests are ready at once, and each of their frames is written and flushed by itself. Over TLS that
//! would be a system call for each, of one record. So a flush waits until the connection has done all that it can do at
//! this moment. Who polls it ([`attend`](crate::guard::attend())) polls it once more where something waits, and that time
//! nothing does: reading sends what is there, and so does a flush, and a poll of HTTP/2 comes to one of them.

use std::{
    io::{self, IoSlice, Write},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use crate::guard::{Breaks, Counted, Doing};

/// Gathers what is written, up to what rustls keeps (64 KiB).
pub(super) struct Gathered<S> {
    stream: TlsStream<Counted<S>>,
    doing: Arc<Doing>,
    /// Something was flushed that has not gone yet.
    waits: bool,
    /// It could not go: the client has to read.
    is_blocked: bool,
}

// === impl Gathered ===

impl<S: AsyncRead + AsyncWrite + Unpin> Gathered<S> {
    pub(super) const fn new(stream: TlsStream<Counted<S>>, doing: Arc<Doing>) -> Self {
        Self {
            stream,
            doing,
            waits: false,
            is_blocked: false,
        }
    }

    fn send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = Pin::new(&mut self.stream).poll_flush(cx);
        self.is_blocked = sent.is_pending();
        if sent.is_ready() {
            self.waits = false;
        }
        sent
    }

    /// Writes by `write`, which gives 0 where there is no room.
    fn gather(
        &mut self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(&mut rustls::Writer<'_>) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let (_, session) = self.stream.get_mut();
            let written = write(&mut session.writer())?;
            if written > 0 {
                return Poll::Ready(Ok(written));
            }
            ready!(self.send(cx))?;
        }
    }
}

impl<S: Breaks> Breaks for Gathered<S> {
    fn break_off(&self) {
        self.stream.break_off();
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.waits
            && let Poll::Ready(sent) = self.send(cx)
        {
            sent?;
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.gather(cx, |writer| writer.write(bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if slices.iter().all(|slice| slice.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        self.gather(cx, |writer| writer.write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (_, session) = self.stream.get_ref();
        if self.is_blocked || !session.wants_write() || !self.doing.puts_off() {
            return self.send(cx);
        }
        self.waits = true;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
