//! The body of a response: passed on and counted, rewritten as it streams, or never begun.

use std::{
    error::Error,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::{
    ahead::{Sighting, is_over},
    counters::Outcome,
    shared::Shared,
    streaming::Streaming,
};

/// Any error of a body.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// The request was dropped on purpose: the connection is to end without a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("dropped: the server is overloaded")]
pub struct Dropped;

/// Counts a request when it is over, however it ends.
pub(super) struct Account {
    shared: Arc<Shared>,
    outcome: Outcome,
    begun: Instant,
    /// Nothing is counted for a request that was given up before its answer began.
    answered: bool,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("outcome", &self.outcome)
            .finish_non_exhaustive()
    }
}

// === impl Account ===

impl Account {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        shared.enter();
        Self {
            shared: shared.clone(),
            outcome: Outcome::Served,
            begun: Instant::now(),
            answered: false,
        }
    }

    pub(super) fn with(mut self, outcome: Outcome) -> Self {
        self.outcome = outcome;
        self
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    fn answered(mut self) -> Self {
        self.answered = true;
        self
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.shared.in_flight.end();
        if self.answered {
            let counters = &self.shared.counters;
            counters.answered(self.outcome, self.begun.elapsed());
        }
    }
}

pin_project! {
    /// The body of a response that went through the layer. Errors are those of the inner body, or
    /// [`Dropped`].
    pub struct OffloadBody<B> {
        #[pin]
        kind: Kind<B>,
        account: Option<Account>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<B> {
        /// As it came.
        Passing { #[pin] inner: B },
        /// As it came, while its bytes are taken note of.
        Watched { #[pin] inner: B, sighting: Option<Box<Sighting>> },
        /// For a HEAD: what is left of the inner body is not its length any more.
        Headless { #[pin] inner: B },
        /// Rewritten.
        Rewriting { inner: Pin<Box<B>>, page: Box<Streaming> },
        /// Our own.
        Full { bytes: Option<Bytes> },
        /// An error instead of the first byte.
        Nothing,
    }
}

// === impl OffloadBody ===

impl<B> OffloadBody<B> {
    /// What becomes of the request; [`None`] where the layer is off.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        self.account.as_ref().map(|account| account.outcome)
    }

    const fn new(kind: Kind<B>, account: Option<Account>) -> Self {
        Self { kind, account }
    }

    pub(super) fn untouched(inner: B) -> Self {
        Self::new(Kind::Passing { inner }, None)
    }

    pub(super) fn passing(inner: B, account: Account) -> Self {
        Self::new(Kind::Passing { inner }, Some(account.answered()))
    }

    /// `sighting`: it is a page that was not seen yet.
    pub(super) fn watched(inner: B, sighting: Option<Box<Sighting>>, account: Account) -> Self {
        let kind = match sighting {
            Some(sighting) => Kind::Watched {
                inner,
                sighting: Some(sighting),
            },
            None => Kind::Passing { inner },
        };
        Self::new(kind, Some(account.answered()))
    }

    pub(super) fn headless(inner: B, account: Account) -> Self {
        Self::new(Kind::Headless { inner }, Some(account.answered()))
    }

    pub(super) fn rewriting(inner: Pin<Box<B>>, page: Streaming, account: Account) -> Self {
        let page = Box::new(page);
        Self::new(Kind::Rewriting { inner, page }, Some(account.answered()))
    }

    pub(super) fn full(bytes: Bytes, account: Account) -> Self {
        let bytes = (!bytes.is_empty()).then_some(bytes);
        Self::new(Kind::Full { bytes }, Some(account.answered()))
    }

    pub(super) fn empty(account: Account) -> Self {
        Self::full(Bytes::new(), account)
    }

    pub(super) fn nothing(account: Account) -> Self {
        Self::new(Kind::Nothing, Some(account.answered()))
    }
}

impl<B> fmt::Debug for OffloadBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Passing { .. } => "passing",
            Kind::Watched { .. } => "watched",
            Kind::Headless { .. } => "headless",
            Kind::Rewriting { .. } => "rewriting",
            Kind::Full { .. } => "full",
            Kind::Nothing => "nothing",
        };
        f.debug_tuple("OffloadBody").field(&kind).finish()
    }
}

/// Without a copy where the data is `Bytes` already.
fn passed_on<D: Buf, E: Into<BoxError>>(
    frame: Result<Frame<D>, E>,
) -> Result<Frame<Bytes>, BoxError> {
    frame
        .map(|frame| frame.map_data(|mut data| data.copy_to_bytes(data.remaining())))
        .map_err(Into::into)
}

/// Takes note of what passes; of a page that breaks off nothing is learnt.
fn watch(frame: &Option<Result<Frame<Bytes>, BoxError>>, sighting: &mut Option<Box<Sighting>>) {
    match frame {
        Some(Ok(frame)) => {
            if let (Some(data), Some(page)) = (frame.data_ref(), sighting.take()) {
                *sighting = page.pass(data);
            }
        }
        Some(Err(_)) => *sighting = None,
        None => {}
    }
}

impl<B> HttpBody for OffloadBody<B>
where
    B: HttpBody,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, BoxError>>> {
        let this = self.project();
        let frame = match this.kind.project() {
            KindProjection::Passing { inner } | KindProjection::Headless { inner } => {
                ready!(inner.poll_frame(cx)).map(passed_on)
            }
            KindProjection::Watched {
                mut inner,
                sighting,
            } => {
                let frame = ready!(inner.as_mut().poll_frame(cx)).map(passed_on);
                watch(&frame, sighting);
                let whole = frame.is_none()
                    || is_over(&*inner)
                    || sighting.as_ref().is_some_and(|page| page.is_whole());
                if let Some(account) = this.account.as_ref()
                    && let Some(sighting) = sighting.take_if(|_| whole)
                {
                    sighting.finish(&account.shared.ahead);
                }
                frame
            }
            KindProjection::Rewriting { inner, page } => {
                let shared = this.account.as_ref().map(|account| &*account.shared);
                ready!(page.poll_frame(inner.as_mut(), cx, shared))
            }
            KindProjection::Full { bytes } => bytes.take().map(|bytes| Ok(Frame::data(bytes))),
            KindProjection::Nothing => Some(Err(Dropped.into())),
        };
        if let (Some(Ok(frame)), Some(account)) = (&frame, this.account.as_ref())
            && let Some(data) = frame.data_ref()
        {
            account.shared.bytes_sent.add(data.len() as u64);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Passing { inner } | Kind::Watched { inner, .. } | Kind::Headless { inner } => {
                inner.is_end_stream()
            }
            Kind::Rewriting { page, .. } => page.is_over(),
            Kind::Full { bytes } => bytes.is_none(),
            Kind::Nothing => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Passing { inner } | Kind::Watched { inner, .. } => inner.size_hint(),
            Kind::Headless { .. } | Kind::Rewriting { .. } => SizeHint::default(),
            Kind::Full { bytes } => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            // Not a known length: the server must ask for the body, and meet the error.
            Kind::Nothing => SizeHint::default(),
        }
    }
}
