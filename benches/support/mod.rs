//! What the layer is measured around: a service that answers at once, and requests as a browser sends them.

#![allow(dead_code, reason = "every benchmark uses its own part of this")]

use std::{
    convert::Infallible,
    future::{Ready, ready},
    net::SocketAddr,
    pin::{Pin, pin},
    sync::LazyLock,
    task::{Context, Poll, Waker},
};

use axum::{body::Body, extract::ConnectInfo};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body::Body as HttpBody;
use http_body_util::Full;
use overspill::{Overspill, Settings, level::Level};
use tokio::runtime::{Builder, Runtime};
use tower_service::Service;

/// The size of the page: what a rewritten page of the web weighs, in bytes.
const PAGE: usize = 13_000;
/// The size of the embedded object, in bytes.
const IMAGE: usize = 40_000;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Asked {
    /// A page, for the first time.
    Page,
    /// A page that the browser has, and asks whether it is still the same.
    KnownPage,
    /// An embedded object.
    Image,
}

impl Asked {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Page, Self::KnownPage, Self::Image];

    /// The request as a server hands it on: eleven headers, and the address of who asks.
    pub(crate) fn request(self) -> Request<Body> {
        let (path, accept, dest) = match self {
            Self::Page | Self::KnownPage => (
                "/articles/2026/what-a-crowd.html",
                "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
                "document",
            ),
            Self::Image => (
                "/images/2026/a-crowd-from-above.png",
                "image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5",
                "image",
            ),
        };
        let mut request = Request::get(path)
            .header(header::HOST, "www.example.com")
            .header(
                header::USER_AGENT,
                "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
            )
            .header(header::ACCEPT, accept)
            .header(header::ACCEPT_LANGUAGE, "en-US,en;q=0.5")
            .header(header::ACCEPT_ENCODING, "gzip, deflate, br, zstd")
            .header(header::REFERER, "https://www.example.com/")
            .header(header::COOKIE, "session=8f14e45fceea167a; theme=dark")
            .header("sec-fetch-dest", dest)
            .header("sec-fetch-mode", "no-cors")
            .header("sec-fetch-site", "same-origin")
            .header(header::CONNECTION, "keep-alive");
        if matches!(self, Self::KnownPage) {
            request = request.header(header::IF_NONE_MATCH, "\"5f3c-62b1a9\"");
        }
        request
            .extension(ConnectInfo(SocketAddr::from(([203, 0, 113, 9], 52_000))))
            .body(Body::empty())
            .expect("a request of valid parts")
    }
}

/// Answers at once, from memory.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    page: Bytes,
    image: Bytes,
}

impl Default for Site {
    fn default() -> Self {
        Self {
            page: Bytes::from(vec![b'p'; PAGE]),
            image: Bytes::from(vec![b'i'; IMAGE]),
        }
    }
}

impl Site {
    /// A page with a dozen links to objects.
    pub(crate) fn with_links() -> Self {
        let mut page = String::from("<!doctype html><title>A crowd</title>");
        for number in 0..12 {
            page.push_str(&format!("<img src=\"/images/{number}.png\" alt=\"\">"));
        }
        page.extend(std::iter::repeat_n('p', PAGE - page.len()));
        Self {
            page: page.into(),
            ..Self::default()
        }
    }
}

impl Service<Request<Body>> for Site {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (kind, bytes) = if request.uri().path().ends_with(".png") {
            ("image/png", &self.image)
        } else {
            ("text/html; charset=utf-8", &self.page)
        };
        let mut response = Response::new(Full::new(bytes.clone()));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        ready(Ok(response))
    }
}

/// A running Overspill at level `normal`, without the signal `cpu`: the measurement itself keeps a core busy.
pub(crate) fn overspill(mut settings: Settings) -> Overspill {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
        Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime")
    });
    settings.load.cpu.enabled = false;
    let _entered = RUNTIME.enter();
    let overspill = Overspill::start(settings).expect("settings that are in order");
    assert_eq!(overspill.shared().snapshot().level, Level::Normal);
    overspill
}

/// One request from beginning to end: the answer's body is asked for until it is over, and dropped. Gives
/// the bytes of the body.
#[inline(never)] // Profilers find it by its name.
pub(crate) fn exchange<S, B>(service: &mut S, request: Request<Body>) -> usize
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible>,
    B: HttpBody<Data = Bytes>,
{
    let mut cx = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(())) = service.poll_ready(&mut cx) else {
        unreachable!("it is always ready");
    };
    let Poll::Ready(Ok(response)) = pin!(service.call(request)).poll(&mut cx) else {
        unreachable!("it answers at once");
    };
    let mut body = pin!(response.into_body());
    let mut bytes = 0;
    while let Poll::Ready(Some(Ok(frame))) = Pin::as_mut(&mut body).poll_frame(&mut cx) {
        bytes += frame.data_ref().map_or(0, Bytes::len);
    }
    bytes
}
