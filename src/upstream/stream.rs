//! A request over HTTP/2: its stream.
//!
//! Its body has a task of its own, since an answer may begin, and end, before all of it has gone out (RFC 9113 section 8.1).
//! What the other end does not want is not sent: when it resets the stream, when nobody waits for the answer any more, or when
//! nothing moves though the answer is there.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{
    HeaderValue, Method, Request, Response, StatusCode, header::CONTENT_LENGTH,
    request::Parts as RequestParts,
};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::{sync::oneshot, time::Instant};

use super::{
    expect::Go,
    failure::Failure,
    http1::Unanswered,
    upload::{Outgoing, Progress, unless_stuck},
};

/// At most so much is sent at a time: what fits into a frame that every server takes.
const PART: usize = 16 << 10;

/// A body that is being sent. Without this it is not wanted any more.
pub(super) struct Rest(oneshot::Sender<()>);

// === impl Rest ===

impl Rest {
    /// The answer has come as a whole. The body is still sent, as long as the other end takes it.
    pub(super) fn go_on(self) {
        // It may be over.
        let _ = self.0.send(());
    }
}

/// Begins a request. `held` is held until its body is over, which may take until `idle` after nothing moves any more.
pub(super) fn begin(
    mut sender: SendRequest<Bytes>,
    request: Request<Outgoing>,
    held: impl Send + 'static,
    idle: Duration,
) -> Result<(ResponseFuture, Option<Rest>), Unanswered> {
    // It says so where nothing can be sent any more; what is to be sent is not lost by that.
    let mut unwoken = Context::from_waker(Waker::noop());
    if let Poll::Ready(Err(error)) = sender.poll_ready(&mut unwoken) {
        return Err(Unanswered {
            failure: Failure::Leaves(error),
            unsent: Some(Box::new(request)),
        });
    }
    let (mut parts, body) = request.into_parts();
    let is_over = body.is_end_stream();
    write_length(&mut parts, &body);
    let begun = sender.send_request(Request::from_parts(parts, ()), is_over);
    let (answer, stream) = begun.map_err(Failure::of_http2)?;
    if is_over {
        return Ok((answer, None));
    }
    let (answered, told) = oneshot::channel();
    tokio::spawn(send(body, stream, told, held, idle));
    Ok((answer, Some(Rest(answered))))
}

/// Some servers want to know before.
fn write_length(parts: &mut RequestParts, body: &Outgoing) {
    let means_something = matches!(parts.method, Method::POST | Method::PUT | Method::PATCH);
    if let Some(length) = body.size_hint().exact()
        && (length > 0 || means_something)
    {
        let length = || HeaderValue::from(length);
        parts.headers.entry(CONTENT_LENGTH).or_insert_with(length);
    }
}

/// The head of the answer.
pub(super) async fn answered(
    mut answer: ResponseFuture,
    go: Option<&Go>,
) -> Result<Response<Answer>, Failure> {
    let answer = poll_fn(|cx| {
        while let Some(go) = go
            && let Poll::Ready(Some(Ok(said))) = answer.poll_informational(cx)
        {
            if said.status() == StatusCode::CONTINUE {
                go.wanted();
            }
        }
        Pin::new(&mut answer).poll(cx)
    });
    let answer = answer.await.map_err(Failure::of_http2)?;
    let length = answer.headers().get(CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    Ok(answer.map(|stream| Answer {
        left: length.filter(|_| !stream.is_end_stream()),
        stream,
        is_data_over: false,
    }))
}

/// Sees a body to its end.
async fn send(
    mut body: Outgoing,
    mut stream: SendStream<Bytes>,
    answered: oneshot::Receiver<()>,
    held: impl Send,
    idle: Duration,
) {
    let progress = body.progress();
    let sent = async {
        let mut sent = pin!(pass_on(&mut body, &mut stream, progress.as_deref()));
        tokio::select! {
            biased;
            sent = &mut sent => sent,
            answered = answered => match answered {
                Ok(()) => unless_stuck(sent, progress.as_deref(), Instant::now(), idle)
                    .await
                    .unwrap_or(Err(Unsent)),
                Err(_) => Err(Unsent),
            },
        }
    };
    if sent.await.is_err() {
        // It says nothing where the stream is over.
        stream.send_reset(Reason::CANCEL);
    }
    drop((body, stream));
    drop(held);
}

/// A body does not go out as a whole.
struct Unsent;

impl From<h2::Error> for Unsent {
    fn from(_: h2::Error) -> Self {
        // The answer tells why.
        Self
    }
}

async fn pass_on(
    body: &mut Outgoing,
    stream: &mut SendStream<Bytes>,
    progress: Option<&Progress>,
) -> Result<(), Unsent> {
    loop {
        let frame = poll_fn(|cx| {
            if stream.poll_reset(cx).is_ready() {
                return Poll::Ready(Err(Unsent));
            }
            Pin::new(&mut *body).poll_frame(cx).map(Ok)
        });
        let frame = match frame.await? {
            None => return Ok(stream.send_data(Bytes::new(), true)?),
            Some(frame) => frame.map_err(|_| Unsent)?,
        };
        match frame.into_data() {
            Ok(data) => {
                let is_last = body.is_end_stream();
                pass_on_part(data, is_last, stream, progress).await?;
                if is_last {
                    return Ok(());
                }
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    return Ok(stream.send_trailers(trailers)?);
                }
            }
        }
    }
}

/// Nothing is handed over that the other end does not take: it would wait for ever, unseen.
async fn pass_on_part(
    mut data: Bytes,
    is_last: bool,
    stream: &mut SendStream<Bytes>,
    progress: Option<&Progress>,
) -> Result<(), Unsent> {
    if data.is_empty() && is_last {
        // Many clients end a body so.
        return Ok(stream.send_data(data, true)?);
    }
    while !data.is_empty() {
        // Not before there is something: what is reserved others do not have.
        stream.reserve_capacity(data.len().min(PART));
        while stream.capacity() == 0 {
            let room = poll_fn(|cx| stream.poll_capacity(cx));
            room.await.ok_or(Unsent)??;
        }
        let part = data.split_to(data.len().min(stream.capacity()));
        stream.send_data(part, is_last && data.is_empty())?;
        if let Some(progress) = progress {
            progress.moved();
        }
    }
    Ok(())
}

/// An answer's body.
pub(super) struct Answer {
    stream: RecvStream,
    /// So much is to come, if it has been said.
    left: Option<u64>,
    is_data_over: bool,
}

impl Answer {
    /// What ends it. A server that does not want the rest of a request's body resets the stream when it has answered
    /// (RFC 9113 section 8.1); without an end before it is whole only where all of its length has come.
    fn ends(&self, error: h2::Error) -> Option<Result<Frame<Bytes>, h2::Error>> {
        let is_whole =
            error.reason() == Some(Reason::NO_ERROR) && error.is_reset() && self.left == Some(0);
        (!is_whole).then_some(Err(error))
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.is_data_over {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Its room is the next part's: who takes it sends it on before it asks for more.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    let left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    self.left = left;
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(self.ends(error)),
                None => self.is_data_over = true,
            }
        }
        Poll::Ready(match ready!(self.stream.poll_trailers(cx)) {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => self.ends(error),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.left {
            Some(left) => SizeHint::with_exact(left),
            None if self.is_end_stream() => SizeHint::with_exact(0),
            None => SizeHint::default(),
        }
    }
}
