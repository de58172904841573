//! Another protocol over the same connections (RFC 9110 section 7.8): WebSocket, and whatever else both sides agree on.
//!
//! What is asked for is passed on, but for HTTP itself and TLS: over those, requests would come that nobody has looked
//! at. When the upstream agrees, bytes are carried both ways, each no faster than the other side takes them, until one
//! side ends the connection or nothing has come from either for the time that answers have. What the other side still
//! has to say after an end is carried as well, but not waited for: few expect one half of a connection to go on. When the
//! server stops the client of a WebSocket is told to go; any other protocol goes on for as long as the drain lasts.

use std::{
    any::Any,
    fmt,
    future::pending,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, TE, UPGRADE},
};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, copy_bidirectional},
    sync::Notify,
    time::sleep,
};

use super::{
    headers::{has_token, tokens},
    http1::Http1,
    websocket::{Parted, Parting},
};
use crate::guard::{Stage, Stop};

/// An extension of a request: what the client's connection holds on to, its place among others. It is held for as long as
/// bytes are carried over the connection after an upgrade.
#[derive(Clone)]
pub struct Held {
    #[expect(dead_code, reason = "held for its end")]
    what: Arc<dyn Any + Send + Sync>,
    stop: Option<Stop>,
}

impl Held {
    /// Holds on to `what`.
    pub fn new(what: impl Any + Send + Sync) -> Self {
        let (what, stop) = (Arc::new(what), None);
        Self { what, stop }
    }

    /// The same, until the server stops: a WebSocket's client is told to go then.
    pub(crate) fn until(self, stop: Stop) -> Self {
        Self {
            stop: Some(stop),
            ..self
        }
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").finish_non_exhaustive()
    }
}

/// What a client wants to change to.
pub(super) struct Asking {
    protocols: HeaderValue,
    client: OnUpgrade,
    held: Option<Held>,
}

// === impl Asking ===

impl Asking {
    /// What `request` asks for, where that can be passed on.
    pub(super) fn of(request: &mut Request<Body>) -> Option<Self> {
        // Nearly no request has it.
        let client = request.extensions_mut().remove::<OnUpgrade>()?;
        let held = request.extensions_mut().remove();
        let headers = request.headers();
        // Over HTTP/2 it was a CONNECT that asks for a WebSocket.
        let is_meant = matches!(request.version(), Version::HTTP_11 | Version::HTTP_2)
            && has_token(headers, &CONNECTION, b"upgrade")
            && http_body::Body::is_end_stream(request.body());
        let protocols: Vec<&[u8]> = tokens(headers, &UPGRADE)
            .filter(|protocol| may_pass(protocol))
            .collect();
        if !is_meant || protocols.is_empty() {
            return None;
        }
        Some(Self {
            protocols: HeaderValue::from_bytes(&protocols.join(&b", "[..])).ok()?,
            client,
            held,
        })
    }

    /// Asks the upstream for the same.
    pub(super) fn write(&self, headers: &mut HeaderMap) {
        let connection = match headers.contains_key(TE) {
            true => "upgrade, TE",
            false => "upgrade",
        };
        headers.insert(CONNECTION, HeaderValue::from_static(connection));
        headers.insert(UPGRADE, self.protocols.clone());
    }

    /// Whether the upstream has agreed to what was asked for.
    fn is_agreed(&self, headers: &HeaderMap) -> bool {
        let asked = self.protocols.as_bytes();
        let mut agreed = tokens(headers, &UPGRADE).peekable();
        agreed.peek().is_some()
            && agreed.all(|protocol| {
                let mut asked = asked.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
                asked.any(|asked| asked.eq_ignore_ascii_case(protocol))
            })
    }

    /// Carries bytes from now on, and gives the answer for the client. `headers`: those of the upstream's 101. [`None`]:
    /// it is not what was asked for.
    pub(super) fn begin(
        self,
        upstream: Box<Http1>,
        mut headers: HeaderMap,
        idle: Duration,
    ) -> Option<Response<Body>> {
        if !self.is_agreed(&headers) {
            return None;
        }
        let agreed: Vec<HeaderValue> = headers.get_all(UPGRADE).iter().cloned().collect();
        let is_websocket = agreed
            .iter()
            .any(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"));
        super::headers::strip_one_hop(&mut headers);
        // It has none (RFC 9110 section 8.6), but some servers say 0: over HTTP/2 that would be the length of all.
        headers.remove(CONTENT_LENGTH);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        for protocol in agreed {
            headers.append(UPGRADE, protocol);
        }
        let mut answer = Response::new(Body::empty());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *answer.headers_mut() = headers;
        let Self {
            client, mut held, ..
        } = self;
        let stop = held.as_mut().and_then(|held| held.stop.take());
        tokio::spawn(async move {
            let _held = held;
            let seen = Seen::default();
            let parting = is_websocket.then(Parting::default);
            tokio::select! {
                // First: what it wants shows in what is carried.
                biased;
                () = stopped(stop, parting.as_ref()) => tracing::debug!("an upgraded connection ends, since the server stops"),
                carried = carry(client, upstream, &seen, parting.as_ref()) => match carried {
                    Ok(()) => {}
                    Err(error) => tracing::debug!(%error, "an upgraded connection broke"),
                },
                () = nothing_more(&seen, idle) => tracing::debug!("an upgraded connection was silent for too long"),
            }
        });
        Some(answer)
    }
}

/// What was seen of the bytes that are carried.
#[derive(Debug, Default)]
struct Seen {
    /// Some came, since somebody looked.
    moved: AtomicBool,
    /// One side has ended.
    ended: Notify,
}

/// After an end, so long may nothing come from the other side.
const LAST_WORDS: Duration = Duration::from_secs(4);

fn may_pass(protocol: &[u8]) -> bool {
    let name = protocol
        .split(|&byte| byte == b'/')
        .next()
        .unwrap_or_default();
    let refused: [&[u8]; 4] = [b"h2c", b"h2", b"http", b"tls"];
    !name.is_empty() && !refused.iter().any(|other| name.eq_ignore_ascii_case(other))
}

async fn carry(
    client: OnUpgrade,
    upstream: Box<Http1>,
    seen: &Seen,
    parting: Option<&Parting>,
) -> io::Result<()> {
    let Some((upstream, early)) = upstream.into_stream().await else {
        return Ok(());
    };
    let client = client.await.map_err(io::Error::other)?;
    let inner = TokioIo::new(client);
    let mut client = Watched { inner, seen };
    let inner = TokioIo::new(upstream);
    let mut upstream = Parted::new(Watched { inner, seen }, parting, &early);
    // What came with the 101.
    client.write_all(&early).await?;
    copy_bidirectional(&mut client, &mut upstream).await?;
    Ok(())
}

/// Ready when the server has stopped, and the connection has had its time to end in order.
async fn stopped(stop: Option<Stop>, parting: Option<&Parting>) {
    let Some(mut stop) = stop else {
        return pending().await;
    };
    loop {
        match stop.next().await {
            // It stays with whom it is with.
            Stage::Retiring => {}
            Stage::Draining => break,
            Stage::Over => return,
        }
    }
    let over = async move { while stop.next().await != Stage::Over {} };
    let Some(parting) = parting else {
        // Nobody knows how to say it.
        return over.await;
    };
    parting.begin();
    tokio::select! {
        () = over => {}
        () = async { parting.said.notified().await; sleep(LAST_WORDS).await } => {}
    }
}

/// Ready when nothing has moved for at least `idle`, and less than a quarter more.
async fn silence(moved: &AtomicBool, idle: Duration) {
    let mut quiet = 0;
    // One more, since the first begins somewhere in the middle.
    while quiet <= 4 {
        sleep(idle / 4).await;
        quiet = if moved.swap(false, Relaxed) {
            0
        } else {
            quiet + 1
        };
    }
}

/// Ready when both sides have been silent for `idle`, or one has ended and the other has nothing more to say.
async fn nothing_more(seen: &Seen, idle: Duration) {
    tokio::select! {
        () = silence(&seen.moved, idle) => return,
        () = seen.ended.notified() => {}
    }
    silence(&seen.moved, LAST_WORDS).await;
}

/// A stream that tells what comes.
struct Watched<'a, S> {
    inner: S,
    seen: &'a Seen,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = pin!(&mut self.inner).poll_read(cx, buffer);
        if polled.is_ready() {
            if buffer.filled().len() == before {
                self.seen.ended.notify_one();
            } else {
                self.seen.moved.store(true, Relaxed);
            }
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = pin!(&mut self.inner).poll_write(cx, bytes);
        if polled.is_ready() {
            self.seen.moved.store(true, Relaxed);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn http_and_tls_are_no_protocols_to_change_to() {
        for protocol in ["h2c", "H2C", "HTTP/2.0", "TLS/1.0", "h2", ""] {
            assert!(!may_pass(protocol.as_bytes()), "{protocol}");
        }
        for protocol in ["websocket", "WebSocket", "IRC/6.9", "RTA/x11"] {
            assert!(may_pass(protocol.as_bytes()), "{protocol}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_when_neither_side_says_anything() {
        const IDLE: Duration = Duration::from_secs(60);
        let moved = AtomicBool::new(false);
        let talk = async {
            for _ in 0..10 {
                sleep(IDLE - Duration::from_secs(1)).await;
                moved.store(true, Relaxed);
            }
            Instant::now()
        };
        let heard = async {
            silence(&moved, IDLE).await;
            Instant::now()
        };
        let (last, silent) = tokio::join!(talk, heard);
        let quiet = silent - last;
        assert!(quiet >= IDLE && quiet <= IDLE + IDLE / 2, "{quiet:?}");
    }
}
