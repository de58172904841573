//! Standing in front of an existing HTTP server.
//!
//! [`Upstream`] is a tower service that passes requests on and answers back, streaming both ways: a
//! part of a body is read when the other side has taken the one before it, and not earlier.
//!
//! **What changes on the way there.** The path gets the prefix of the upstream's URL. `Host` stays the
//! client's, since applications build links from it, unless the settings want the upstream's. Headers that are for one
//! hop only go (RFC 9110 section 7.6.1). What says who the client was (`X-Forwarded-*`, `Forwarded`, `X-Real-IP`) is
//! believed of a request with [`TrustedForwarding`] alone: there the peer is appended, elsewhere all of it is replaced.
//! Each side has its own version of HTTP: [`ProxySettings::http2`].
//!
//! **What changes on the way back.** Headers for one hop go. A body that the upstream cuts is cut for the
//! client too: never a whole answer that is not whole. One that could be read in two ways is none.
//!
//! **Another protocol.** An `Upgrade` over HTTP/1.1 (WebSocket) is passed on, and bytes are carried when the upstream
//! agrees (`upgrade`). When the server stops the client of a WebSocket is told to go (`websocket`). A WebSocket that a client
//! asks for over HTTP/2 is asked for over HTTP/1.1 (`over_http2`). Over HTTP/2 to the upstream there is none.
//!
//! **Who waits for a body.** With `Expect: 100-continue` the client is told to go on when the upstream says so (`expect`).
//!
//! **What goes wrong**, and what the client is told, in a small page that names no internals:
//!
//! | what | answer |
//! |---|---|
//! | refused, unreachable, no HTTP, closed before it answered, an answer with two ends | 502 |
//! | no connection within [`Timeouts::connect`] | 504 |
//! | no answer within [`Timeouts::first_byte`] after the request's last progress | 504 |
//! | the client sends nothing of its body for as long | 408 |
//! | nothing of the answer's body for [`Timeouts::idle`] | the answer breaks off |
//!
//! **What is sent twice** (`retry`). What the upstream certainly has not looked at goes out on another connection, whatever it is:
//! it was never handed over, since the kept connection turned out to be closed, or the upstream says so (over HTTP/2: GOAWAY,
//! REFUSED_STREAM), unless more of its body has gone than is kept (`lent`). Where a kept connection ends without an answer nobody
//! knows what the upstream did: GET, HEAD, OPTIONS, TRACE, PUT and DELETE without a body are sent once more, all others get a 502.
//!
//! **Connections** (`pool`, `growth`, `http1`, `http2`). One of HTTP/1.1 is driven by the request that uses it, and kept for the next
//! one where it is in order when the answer has come: nothing more may have come. HTTP/2's are shared: whoever needs one while
//! it is being opened waits for it, and one more is opened where all have as many requests as the upstream allows. A request
//! over HTTP/2 has a stream (`stream`); its body (`upload`) and the answer's (`download`) are watched over both.
//!
//! A client that goes away takes its request along: the connection to the upstream is closed.
//!
//! ```no_run
//! use overspill::upstream::{Timeouts, Upstream};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let upstream = Upstream::new(&"http://127.0.0.1:3000".parse()?, Timeouts::default())?;
//! let app = axum::Router::new().fallback_service(upstream);
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//! axum::serve(listener, app.into_make_service_with_connect_info::<std::net::SocketAddr>()).await?;
//! # Ok(()) }
//! ```

mod connect;
mod download;
mod expect;
mod failure;
mod forwarded;
mod growth;
mod headers;
mod http1;
mod http2;
mod lent;
mod over_http2;
mod pool;
mod retry;
mod service;
mod settings;
mod stream;
mod target;
mod upgrade;
mod upload;
mod websocket;

use std::time::Duration;

pub(crate) use self::{
    failure::Failure, forwarded::Origin, over_http2::Waiting, service::UntilClose, target::Target,
};
pub use self::{
    forwarded::{OverTls, TrustedForwarding},
    service::{Upstream, UpstreamFuture},
    settings::{Host, Http2, ProxySettings},
    target::UpstreamError,
    upgrade::Held,
};

/// How long the upstream is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection: name, TCP and TLS together. Default 5 s.
    pub connect: Duration,
    /// For the head of the answer, from the request's last progress on: an upload may take its time as
    /// long as it moves. Default 60 s.
    pub first_byte: Duration,
    /// For the next part of the answer's body, while it is waited for: a slow client does not count.
    /// Default 60 s.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(60),
            idle: Duration::from_secs(60),
        }
    }
}
