//! What an HTTP/2 server says first.
//!
//! The first frame of each side is its SETTINGS (RFC 9113 section 3.4). How many requests at once it allows has to be known
//! before they are shared out among connections, and whoever sends is told of it by nobody: so it is read in passing.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use tokio::sync::oneshot;

/// A stream whose first frame is looked at.
pub(super) struct Greeted<S> {
    inner: S,
    greeting: Option<Greeting>,
}

struct Greeting {
    read: Vec<u8>,
    tell: oneshot::Sender<usize>,
}

/// A frame's head: length, type, flags, stream.
const HEAD: usize = 9;
const SETTINGS: u8 = 4;
const ACK: u8 = 1;
const MAX_CONCURRENT_STREAMS: u16 = 3;
/// No frame may be longer before it is allowed to.
const LONGEST: usize = 16 << 10;

// === impl Greeted ===

impl<S> Greeted<S> {
    /// `stream`, and how many requests at once the other end allows, as soon as it has said so. It ends without where what
    /// comes is no HTTP/2.
    pub(super) fn new(inner: S) -> (Self, oneshot::Receiver<usize>) {
        let (tell, told) = oneshot::channel();
        let read = Vec::with_capacity(64);
        let greeting = Some(Greeting { read, tell });
        (Self { inner, greeting }, told)
    }

    fn look_at(&mut self, bytes: &[u8]) {
        let Some(mut greeting) = self.greeting.take() else {
            return;
        };
        greeting.read.extend_from_slice(bytes);
        match streams(&greeting.read) {
            Said::Streams(most) => drop(greeting.tell.send(most)),
            Said::Nothing => self.greeting = Some(greeting),
            Said::Nonsense => {}
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// So many requests at once.
    Streams(usize),
    /// Not all has come.
    Nothing,
    Nonsense,
}

fn streams(read: &[u8]) -> Said {
    let Some((&[a, b, c, kind, flags, stream @ ..], rest)) = read.split_first_chunk::<HEAD>()
    else {
        return Said::Nothing;
    };
    let length = u32::from_be_bytes([0, a, b, c]) as usize;
    let is_settings = kind == SETTINGS && flags & ACK == 0 && stream == [0; 4];
    if !is_settings || length > LONGEST || !length.is_multiple_of(6) {
        return Said::Nonsense;
    }
    let Some(settings) = rest.get(..length) else {
        return Said::Nothing;
    };
    let most = settings.chunks_exact(6).rev().find_map(|setting| {
        let (name, value) = setting.split_first_chunk()?;
        let value = u32::from_be_bytes(value.try_into().ok()?);
        (u16::from_be_bytes(*name) == MAX_CONCURRENT_STREAMS).then_some(value as usize)
    });
    Said::Streams(most.unwrap_or(usize::MAX))
}

impl<S: Read + Unpin> Read for Greeted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.greeting.is_none() {
            return Pin::new(&mut self.inner).poll_read(cx, buffer);
        }
        let mut part = [0; 512];
        let room = buffer.remaining().min(part.len());
        let mut part = ReadBuf::new(&mut part[..room]);
        ready!(Pin::new(&mut self.inner).poll_read(cx, part.unfilled()))?;
        self.look_at(part.filled());
        buffer.put_slice(part.filled());
        Poll::Ready(Ok(()))
    }
}

impl<S: Write + Unpin> Write for Greeted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_frame_says_how_many_requests_there_may_be() {
        // Streams: 1, window: 65536, streams: 7. The last one counts.
        let settings = b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x01\0\x04\0\x01\0\0\0\x03\0\0\0\x07";
        assert_eq!(streams(settings), Said::Streams(7));
        for cut in 0..settings.len() {
            assert_eq!(streams(&settings[..cut]), Said::Nothing, "{cut}");
        }
        assert_eq!(
            streams(b"\0\0\0\x04\0\0\0\0\0more"),
            Said::Streams(usize::MAX)
        );
        for nonsense in [
            b"HTTP/1.1 400 Bad Request\r\n".as_slice(),
            b"\0\0\0\x04\x01\0\0\0\0",
            b"\0\0\0\x04\0\0\0\0\x01",
            b"\0\0\x05\x04\0\0\0\0\0",
            b"\0\0\x04\x08\0\0\0\0\0\0\0\0\x01",
        ] {
            assert_eq!(streams(nonsense), Said::Nonsense, "{nonsense:?}");
        }
    }
}
