//! The bodies of a folder's answers: from memory, or read from the disk while they are sent.

use std::{
    collections::VecDeque,
    fmt,
    fs::File,
    io::{self, ErrorKind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::task::JoinHandle;

use super::files::read_at;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// So much is read at a time, and held for a client.
const READ: u64 = 128 * 1024;
/// What is given at a time over HTTP/2, which takes all that it is given before the client has room for it.
const PIECE: usize = 64 * 1024;

/// The body of a [`Site`](super::Site)'s answer.
pub struct SiteBody(Kind);

enum Kind {
    /// All of it is there.
    Whole(Option<Bytes>),
    /// Large, or in several parts.
    Pieces(Box<Pieces>),
    /// Something else than a file.
    Other(Body),
}

struct Pieces {
    pieces: VecDeque<Piece>,
    left: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

/// A part of a body.
#[derive(Debug)]
pub(super) enum Piece {
    /// It is there.
    Bytes(Bytes),
    /// It is in a file, from here to there.
    File(Arc<File>, u64, u64),
}

impl fmt::Debug for SiteBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SiteBody")
            .field("left", &self.size_hint().exact())
            .finish_non_exhaustive()
    }
}

// === impl SiteBody ===

impl SiteBody {
    pub(super) const fn empty() -> Self {
        Self(Kind::Whole(None))
    }

    /// `in_pieces`: over HTTP/2.
    pub(super) fn whole(bytes: Bytes, in_pieces: bool) -> Self {
        if in_pieces && bytes.len() > PIECE {
            return Self::pieces([Piece::Bytes(bytes)].into());
        }
        Self(Kind::Whole((!bytes.is_empty()).then_some(bytes)))
    }

    pub(super) fn pieces(pieces: VecDeque<Piece>) -> Self {
        let left = pieces.iter().map(Piece::length).sum();
        Self(Kind::Pieces(Box::new(Pieces {
            pieces,
            left,
            reading: None,
        })))
    }

    pub(super) const fn other(body: Body) -> Self {
        Self(Kind::Other(body))
    }
}

impl HttpBody for SiteBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Kind::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Pieces(pieces) => {
                let piece = ready!(pieces.poll_next(cx));
                Poll::Ready(piece.map(|piece| piece.map(Frame::data).map_err(Into::into)))
            }
            Kind::Other(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(Into::into))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Whole(bytes) => bytes.is_none(),
            Kind::Pieces(pieces) => pieces.left == 0,
            Kind::Other(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Kind::Pieces(pieces) => SizeHint::with_exact(pieces.left),
            Kind::Other(body) => body.size_hint(),
        }
    }
}

// === impl Pieces ===

impl Pieces {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let Some(piece) = self.pieces.front_mut() else {
            return Poll::Ready(None);
        };
        let bytes = match piece {
            Piece::Bytes(bytes) => bytes.split_to(bytes.len().min(PIECE)),
            Piece::File(file, at, end) => {
                let reading = self.reading.get_or_insert_with(|| {
                    let (file, at, size) = (Arc::clone(file), *at, (*end - *at).min(READ));
                    tokio::task::spawn_blocking(move || read(&file, at, size))
                });
                let read = ready!(Pin::new(reading).poll(cx));
                self.reading = None;
                match read.unwrap_or_else(|stopped| Err(io::Error::other(stopped))) {
                    Ok(bytes) => {
                        *at += bytes.len() as u64;
                        bytes
                    }
                    Err(error) => {
                        // What follows would stand in the wrong place.
                        self.pieces.clear();
                        return Poll::Ready(Some(Err(error)));
                    }
                }
            }
        };
        if piece.length() == 0 {
            self.pieces.pop_front();
        }
        self.left -= bytes.len() as u64;
        Poll::Ready(Some(Ok(bytes)))
    }
}

/// What grows is cut where it was promised to end, and what shrinks is an error, since the length is promised
/// before the first byte.
fn read(file: &File, at: u64, size: u64) -> io::Result<Bytes> {
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
    let read = read_at(file, &mut bytes, at)?;
    if read == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    bytes.truncate(read);
    Ok(bytes.into())
}

// === impl Piece ===

impl Piece {
    const fn length(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(_, at, end) => *end - *at,
        }
    }
}
