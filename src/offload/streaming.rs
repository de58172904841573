//! A page that is rewritten while it streams by, decoded before and encoded after where it comes encoded.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame};

use tokio::time::Instant;

use super::{
    body::BoxError,
    pages::{Seen, Taken},
    shared::Shared,
    spread::Placing,
};
use crate::{
    rewrite::{
        Replay, Rewriter, Summary,
        coding::{Coding, CodingError, Decoder, Encoder},
    },
    servers::Server,
};

/// So much of a page is rewritten at a time.
const PIECE: usize = 64 * 1024;
/// So much is decoded at a time: what a few bytes can become is not limited.
const DECODED: usize = 16 * 1024;

/// A page under way.
pub(super) struct Streaming {
    editor: Editor,
    record: PageRecord,
    coding: Option<Recoding>,
    out: BytesMut,
    /// What came and was not looked at yet: a page may come as one piece, and goes out in many.
    pending: Bytes,
    /// What was asked of the inner body before this began.
    first: VecDeque<Bytes>,
    /// Trailers wait until what the rewriter held back is out.
    trailers: Option<HeaderMap>,
    error: Option<BoxError>,
    /// The inner body has ended, whole or not.
    inner_ended: bool,
    ended: bool,
}

/// Whose page it is.
pub(super) struct PageRecord {
    pub(super) goes: Goes,
    pub(super) path: u64,
}

/// Whom a page is counted for.
pub(super) enum Goes {
    /// All of it is one server's.
    One(Arc<Server>),
    /// Its objects are spread. Those of a page that is scanned are known at its end, and promised then.
    Each(Placing, Instant),
}

/// What makes the page.
pub(super) enum Editor {
    /// A scan, whose plan is for the next time.
    Scan(Rewriter, Option<Taken>),
    /// A plan, and where it is kept.
    Replay(Box<Replay>, Seen),
    /// Nothing: it goes out as it came.
    Nothing,
}

/// On the way in and on the way out.
struct Recoding {
    decoder: Decoder,
    decoded: BytesMut,
    encoder: Encoder,
}

/// What gathering found out before the page was known to stream.
#[derive(Default)]
pub(super) struct Begun {
    pub(super) frames: VecDeque<Bytes>,
    pub(super) trailers: Option<HeaderMap>,
    pub(super) error: Option<BoxError>,
    pub(super) ended: bool,
}

// === impl Editor ===

impl Editor {
    fn push(&mut self, bytes: &[u8], out: &mut BytesMut) {
        match self {
            Self::Scan(rewriter, _) => rewriter.push(bytes, out),
            Self::Replay(replay, _) => replay.push(bytes, out),
            Self::Nothing => out.extend_from_slice(bytes),
        }
    }

    fn finish(&mut self, out: &mut BytesMut) -> Summary {
        match self {
            Self::Scan(rewriter, taken) => {
                let summary = rewriter.finish(out);
                if let Some(taken) = taken.take() {
                    let _ = taken.done(rewriter.take_plan().map(Arc::new));
                }
                summary
            }
            Self::Replay(replay, seen) => {
                let summary = replay.finish(out);
                if summary.bail_out.is_some() {
                    // The next visitor's scan gives one of the page as it is now.
                    seen.forget();
                }
                summary
            }
            Self::Nothing => Summary::default(),
        }
    }
}

// === impl Streaming ===

impl Streaming {
    pub(super) fn new(
        editor: Editor,
        record: PageRecord,
        coding: Option<Coding>,
        begun: Begun,
    ) -> Self {
        Self {
            editor,
            record,
            coding: coding.map(|coding| Recoding {
                decoder: Decoder::new(coding),
                decoded: BytesMut::new(),
                encoder: Encoder::new(coding),
            }),
            out: BytesMut::new(),
            pending: Bytes::new(),
            first: begun.frames,
            trailers: begun.trailers,
            error: begun.error,
            inner_ended: begun.ended,
            ended: false,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.ended && self.out.is_empty() && self.trailers.is_none() && self.error.is_none()
    }

    pub(super) fn poll_frame<B>(
        &mut self,
        mut inner: Pin<&mut B>,
        cx: &mut Context<'_>,
        shared: Option<&Shared>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>>
    where
        B: HttpBody,
        B::Error: Into<BoxError>,
    {
        loop {
            if !self.out.is_empty() {
                let bytes = self.out.split().freeze();
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            if self.ended {
                if let Some(error) = self.error.take() {
                    return Poll::Ready(Some(Err(error)));
                }
                let trailers = self.trailers.take();
                return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
            }
            if !self.pending.is_empty() || self.coding.as_ref().is_some_and(Recoding::is_full) {
                self.step();
                continue;
            }
            if let Some(frame) = self.first.pop_front() {
                self.pending = frame;
                continue;
            }
            if self.inner_ended {
                self.end(shared);
                continue;
            }
            match inner.as_mut().poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(mut data) => self.pending = data.copy_to_bytes(data.remaining()),
                    Err(frame) => {
                        self.trailers = frame.into_trailers().ok();
                        self.inner_ended = true;
                    }
                },
                Poll::Ready(Some(Err(error))) => {
                    self.error = Some(error.into());
                    self.inner_ended = true;
                }
                Poll::Ready(None) => self.inner_ended = true,
                Poll::Pending => {
                    // Nothing else comes for now: a browser is to see what came.
                    if let Some(coding) = &mut self.coding
                        && coding.encoder.flush(&mut self.out).is_ok()
                        && !self.out.is_empty()
                    {
                        continue;
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Takes a piece of what came.
    fn step(&mut self) {
        let Some(coding) = &mut self.coding else {
            let piece = self.pending.split_to(self.pending.len().min(PIECE));
            return self.editor.push(&piece, &mut self.out);
        };
        if let Err(error) = coding.step(&mut self.pending, &mut self.editor, &mut self.out) {
            self.fail(error);
        }
    }

    /// What can't be decoded can't be rewritten; and what went out already was encoded anew.
    fn fail(&mut self, error: CodingError) {
        self.pending = Bytes::new();
        self.first.clear();
        self.error = Some(error.into());
        self.ended = true;
    }

    /// The page is complete, or cut: what was held back goes out, what was seen is learnt.
    fn end(&mut self, shared: Option<&Shared>) {
        if self.error.is_some() {
            // Of what was cut there is nothing to learn, and no end to write.
            self.ended = true;
            return;
        }
        let summary = match &mut self.coding {
            None => Ok(self.editor.finish(&mut self.out)),
            Some(coding) => coding.end(&mut self.editor, &mut self.out),
        };
        let summary = match summary {
            Ok(summary) => summary,
            Err(error) => return self.fail(error),
        };
        self.ended = true;
        let spliced = matches!(self.editor, Editor::Replay(..));
        match &self.record.goes {
            Goes::One(server) => server.page_done(summary.links, spliced),
            Goes::Each(placing, _) => placing.page_done(&summary.servers, spliced),
        }
        let Some(shared) = shared else {
            return;
        };
        if let Some(reason) = summary.bail_out {
            shared.counters.bail_out(reason);
        }
        if spliced {
            return;
        }
        let mut paths = summary.objects;
        // What stands on a page twice is fetched once.
        paths.sort_unstable();
        paths.dedup();
        let path = self.record.path;
        shared.weights.learn_page(path, paths.iter().copied());
        if let Goes::Each(placing, decided_at) = &self.record.goes {
            let shares = placing.shares(path, &paths, shared);
            placing.promise(&shares, *decided_at, shared);
        }
    }
}

// === impl Recoding ===

impl Recoding {
    fn is_full(&self) -> bool {
        self.decoder.is_full()
    }

    fn step(
        &mut self,
        input: &mut Bytes,
        editor: &mut Editor,
        out: &mut BytesMut,
    ) -> Result<(), CodingError> {
        self.decoder.decode(input, DECODED, &mut self.decoded)?;
        self.pass(editor, out)
    }

    fn pass(&mut self, editor: &mut Editor, out: &mut BytesMut) -> Result<(), CodingError> {
        let mut edited = BytesMut::new();
        editor.push(&self.decoded, &mut edited);
        self.decoded.clear();
        self.encoder.encode(&edited, out)
    }

    fn end(&mut self, editor: &mut Editor, out: &mut BytesMut) -> Result<Summary, CodingError> {
        self.decoder.finish()?;
        let mut edited = BytesMut::new();
        let summary = editor.finish(&mut edited);
        self.encoder.encode(&edited, out)?;
        self.encoder.finish(out)?;
        Ok(summary)
    }
}
