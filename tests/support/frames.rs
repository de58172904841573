//! The server's side of HTTP/2, frame by frame (RFC 9113).

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::support::wait::soon;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// Heads of answers, packed (RFC 7541): `:status: 200`, by its number in the table; `:status: 100`; `content-length: 10`.
pub(crate) const OK: &[u8] = &[0x88];
pub(crate) const CONTINUE: &[u8] = b"\x08\x03100";
pub(crate) const OF_TEN: &[u8] = b"\x88\x0f\x0d\x0210";

/// Reasons (RFC 9113 section 7).
pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const CANCEL: u32 = 8;
pub(crate) const INTERNAL_ERROR: u32 = 2;
pub(crate) const REFUSED_STREAM: u32 = 7;

/// A frame that came.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

// === impl Frame ===

impl Frame {
    pub(crate) fn is_last(&self) -> bool {
        self.flags & END_STREAM != 0 && (self.kind == DATA || self.kind == HEADERS)
    }
}

/// A connection that a client has opened.
#[derive(Debug)]
pub(crate) struct Peer<S> {
    stream: S,
}

// === impl Peer ===

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    /// Hears the client's greeting, and says that it may ask so much at once.
    pub(crate) async fn greet(stream: S, most: Option<u32>) -> Self {
        let mut peer = Self { stream };
        let mut preface = [0; 24];
        soon("a greeting", peer.stream.read_exact(&mut preface))
            .await
            .unwrap();
        assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        peer.allow(most).await;
        peer
    }

    /// Says how much may be asked at once.
    pub(crate) async fn allow(&mut self, most: Option<u32>) {
        let settings = most.map(|most| [&[0, 3][..], &most.to_be_bytes()].concat());
        self.send(SETTINGS, 0, 0, &settings.unwrap_or_default())
            .await;
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        self.stream.write_all(&head).await.unwrap();
        self.stream.write_all(payload).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// The next frame of a request; [`None`]: the connection has ended.
    pub(crate) async fn frame(&mut self) -> Option<Frame> {
        loop {
            let mut head = [0; 9];
            soon("a frame", self.stream.read_exact(&mut head))
                .await
                .ok()?;
            let [a, b, c, kind, flags, stream @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            soon("its payload", self.stream.read_exact(&mut payload))
                .await
                .ok()?;
            let stream = u32::from_be_bytes(stream) & (u32::MAX >> 1);
            match kind {
                SETTINGS if flags & ACK == 0 => self.send(SETTINGS, ACK, 0, &[]).await,
                PING if flags & ACK == 0 => self.send(PING, ACK, 0, &payload).await,
                DATA | HEADERS | RESET => {
                    return Some(Frame {
                        kind,
                        flags,
                        stream,
                        payload,
                    });
                }
                _ => {}
            }
        }
    }

    /// The stream of the next request, as soon as its headers have come.
    pub(crate) async fn asked(&mut self) -> u32 {
        loop {
            let frame = self.frame().await.expect("not closed before");
            if frame.kind == HEADERS {
                return frame.stream;
            }
        }
    }

    /// The stream of the next request, and all of its body.
    pub(crate) async fn asked_whole(&mut self) -> (u32, Vec<u8>) {
        let mut body = Vec::new();
        loop {
            let frame = self.frame().await.expect("not closed before");
            if frame.kind == DATA {
                body.extend(&frame.payload);
            }
            if frame.is_last() {
                return (frame.stream, body);
            }
        }
    }

    /// Whether the client has nothing more to say.
    pub(crate) async fn is_closed(&mut self) -> bool {
        self.frame().await.is_none()
    }

    /// Answers `fine`.
    pub(crate) async fn answer(&mut self, stream: u32) {
        self.head(stream, OK).await;
        self.part(stream, b"fine", true).await;
    }

    /// The head of an answer, packed.
    pub(crate) async fn head(&mut self, stream: u32, head: &[u8]) {
        self.send(HEADERS, END_HEADERS, stream, head).await;
    }

    /// A part of an answer's body.
    pub(crate) async fn part(&mut self, stream: u32, part: &[u8], is_last: bool) {
        let flags = if is_last { END_STREAM } else { 0 };
        self.send(DATA, flags, stream, part).await;
    }

    pub(crate) async fn reset(&mut self, stream: u32, reason: u32) {
        self.send(RESET, 0, stream, &reason.to_be_bytes()).await;
    }

    /// Takes no more requests; those after `last` were not looked at.
    pub(crate) async fn go_away(&mut self, last: u32) {
        let payload = [last.to_be_bytes(), 0_u32.to_be_bytes()].concat();
        self.send(GO_AWAY, 0, 0, &payload).await;
    }
}
