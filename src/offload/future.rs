//! The response: passed on, or turned into the page that it becomes.

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as HttpBody;
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::{
    body::{Account, OffloadBody, PageRecord},
    compiled::ServerTarget,
    counters::Outcome,
    service::{is_https, let_stay},
    snapshot::Snapshot,
};
use crate::{
    rewrite::{
        Kinds, Page, Rewriter, Rules, csp,
        headers::{Condition, not_modified, prepare_request, qualifies, rewritten},
    },
    servers::Server,
};

pin_project! {
    /// The future of [`Offload`](super::Offload).
    #[derive(Debug)]
    pub struct ResponseFuture<F, B> {
        #[pin]
        state: State<F, B>,
    }
}

pin_project! {
    #[project = StateProjection]
    #[derive(Debug)]
    enum State<F, B> {
        /// The layer is off.
        Untouched { #[pin] inner: F },
        /// Counted, but not changed.
        Passing { #[pin] inner: F, account: Option<Account>, passing: Passing },
        /// A page may be rewritten.
        Rewriting { #[pin] inner: F, account: Option<Account>, rewriting: Option<Box<Rewriting>> },
        /// The layer answers itself.
        Ready { response: Option<Box<Response<OffloadBody<B>>>> },
    }
}

/// What is learnt from a response that passes.
#[derive(Debug)]
pub(super) enum Passing {
    /// Nothing.
    Unseen,
    /// An offload server pulled it: only its size is learnt, since no visitor fetched it from here.
    Pull { path: u64 },
    /// The primary serves the visitor alone: sizes are learnt, a page is promised with its objects.
    Whole {
        path: u64,
        get: bool,
        /// Rare, and large: the future is moved often.
        stay: Option<Box<HeaderValue>>,
    },
}

/// All that is needed to rewrite the page, should the response be one.
#[derive(Debug)]
pub(super) struct Rewriting {
    method: Method,
    page: Option<Page>,
    path: u64,
    rules: Arc<Rules>,
    server: Arc<Server>,
    target: ServerTarget,
    hold_left: std::time::Duration,
    /// What a 304 would be about.
    condition: Condition,
    stay: Option<HeaderValue>,
}

// === impl Passing ===

impl Passing {
    pub(super) fn whole(path: u64, method: &Method) -> Self {
        Self::Whole {
            path,
            get: method == Method::GET,
            stay: None,
        }
    }

    pub(super) fn staying(mut self, cookie: Option<HeaderValue>) -> Self {
        if let Self::Whole { stay, .. } = &mut self {
            *stay = cookie.map(Box::new);
        }
        self
    }
}

/// The bytes of the body, where they are known: by the body itself, which need not be read out of a text.
fn length<B: HttpBody>(response: &Response<B>) -> Option<u64> {
    let exact = response.body().size_hint().exact();
    exact.or_else(|| content_length(response))
}

fn content_length<B>(response: &Response<B>) -> Option<u64> {
    response
        .headers()
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

fn is_html<B>(response: &Response<B>) -> bool {
    const HTML: &[u8] = b"text/html";
    response
        .headers()
        .get(header::CONTENT_TYPE)
        .map(HeaderValue::as_bytes)
        .is_some_and(|value| {
            // Nearly everybody writes it so.
            value.starts_with(HTML)
                || value
                    .get(..HTML.len())
                    .is_some_and(|kind| kind.eq_ignore_ascii_case(HTML))
        })
}

// === impl Rewriting ===

impl Rewriting {
    /// `server` is a position that the chooser gave, so it is one of the snapshot's.
    pub(super) fn new<B>(
        request: &Request<B>,
        peer: Option<SocketAddr>,
        server: usize,
        snapshot: &Snapshot,
        path: u64,
        stay: Option<HeaderValue>,
    ) -> Self {
        let compiled = &snapshot.compiled;
        let host = request
            .uri()
            .authority()
            .map(|authority| authority.as_str())
            .or_else(|| request.headers().get(header::HOST)?.to_str().ok());
        let path_and_query = request
            .uri()
            .path_and_query()
            .map_or("/", |path| path.as_str());
        let https = is_https(request, peer, snapshot);
        Self {
            method: request.method().clone(),
            page: host
                .and_then(|host| Page::new(https, host, path_and_query, compiled.hosts.clone())),
            path,
            rules: compiled.rules.clone(),
            server: compiled.servers[server].clone(),
            target: compiled.targets[server].clone(),
            hold_left: snapshot.hold_left,
            condition: Condition::AsItIs,
            stay,
        }
    }

    /// Translates the request's conditions: what the client holds may be this page, rewritten before.
    pub(super) fn prepare(&mut self, headers: &mut HeaderMap, wants_page: bool) {
        self.condition = prepare_request(headers, Some(&self.target.tag), wants_page);
    }

    /// Turns the response into what goes out.
    fn finish<B>(mut self, mut response: Response<B>, account: Account) -> Response<OffloadBody<B>>
    where
        B: HttpBody,
    {
        let stay = self.stay.take();
        let rewritten_before =
            response.status() == StatusCode::NOT_MODIFIED && self.condition == Condition::Rewritten;
        let mut response = if rewritten_before {
            let target = &self.target.target;
            let _ = csp::allow(response.headers_mut(), target.origin(), target.kinds());
            not_modified(response.headers_mut(), &self.target.tag, self.hold_left);
            let account = account.with(Outcome::Offloaded);
            response.map(|body| OffloadBody::passing(body, account))
        } else {
            self.rewrite(response, account)
        };
        let_stay(response.headers_mut(), stay);
        response
    }

    fn rewrite<B>(self, response: Response<B>, account: Account) -> Response<OffloadBody<B>>
    where
        B: HttpBody,
    {
        let length = length(&response).unwrap_or(0);
        let (mut parts, body) = response.into_parts();
        let qualified = qualifies(&parts, &self.method).is_ok();
        // What the page's policies allow is known before the first byte of it.
        let page = self.page.filter(|_| qualified).map(|page| {
            let base_allowed = !csp::restricts_base(&parts.headers);
            page.with_base_allowed(base_allowed)
        });
        let target = &self.target.target;
        let kinds = match &page {
            Some(page) if target.https() || !page.https() => {
                csp::allow(&mut parts.headers, target.origin(), target.kinds())
            }
            _ => Kinds::NONE,
        };
        let Some(page) = page.filter(|_| !kinds.is_empty()) else {
            let response = Response::from_parts(parts, body);
            let passing = Passing::whole(self.path, &self.method);
            return passing.finish(response, account);
        };
        if self.method == Method::GET {
            let (now, weights) = (Instant::now(), &account.shared().weights);
            account.shared().promise(length);
            self.server.assign(weights.page(self.path), now);
        }
        rewritten(&mut parts.headers, &self.target.tag, self.hold_left);
        let account = account.with(Outcome::Offloaded);
        let body = if self.method == Method::HEAD {
            OffloadBody::headless(body, account)
        } else {
            let rewriter = Rewriter::new(self.rules, page, target.clone(), kinds);
            let record = PageRecord {
                server: self.server,
                path: self.path,
            };
            OffloadBody::rewriting(body, rewriter, record, account)
        };
        Response::from_parts(parts, body)
    }
}

impl Passing {
    fn finish<B>(self, mut response: Response<B>, account: Account) -> Response<OffloadBody<B>>
    where
        B: HttpBody,
    {
        let (path, get, stay) = match self {
            Self::Whole { path, get, stay } => (path, get, stay),
            Self::Unseen => return response.map(|body| OffloadBody::passing(body, account)),
            Self::Pull { path } => {
                if response.status() == StatusCode::OK
                    && !is_html(&response)
                    && let Some(length) = length(&response)
                {
                    account.shared().weights.learn_object(path, length);
                }
                return response.map(|body| OffloadBody::passing(body, account));
            }
        };
        if get && response.status() == StatusCode::OK {
            let shared = account.shared();
            let length = length(&response);
            if is_html(&response) {
                let objects = shared.weights.page_served(path);
                shared.promise(length.unwrap_or(0) + objects);
            } else if let Some(length) = length {
                shared.weights.learn_object(path, length);
                shared.weights.object_served(length);
            }
        }
        let_stay(response.headers_mut(), stay.map(|cookie| *cookie));
        response.map(|body| OffloadBody::passing(body, account))
    }
}

// === impl ResponseFuture ===

impl<F, B> ResponseFuture<F, B> {
    pub(super) const fn untouched(inner: F) -> Self {
        Self {
            state: State::Untouched { inner },
        }
    }

    pub(super) const fn passing(inner: F, account: Account, passing: Passing) -> Self {
        Self {
            state: State::Passing {
                inner,
                account: Some(account),
                passing,
            },
        }
    }

    pub(super) fn rewriting(inner: F, account: Account, rewriting: Rewriting) -> Self {
        Self {
            state: State::Rewriting {
                inner,
                account: Some(account),
                rewriting: Some(Box::new(rewriting)),
            },
        }
    }

    pub(super) fn ready(response: Response<OffloadBody<B>>) -> Self {
        Self {
            state: State::Ready {
                response: Some(Box::new(response)),
            },
        }
    }
}

impl<F, B, E> Future for ResponseFuture<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: HttpBody,
{
    type Output = Result<Response<OffloadBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        const POLLED_ON: &str = "a future is not polled after it is ready";
        Poll::Ready(Ok(match self.project().state.project() {
            StateProjection::Untouched { inner } => {
                ready!(inner.poll(cx))?.map(OffloadBody::untouched)
            }
            StateProjection::Passing {
                inner,
                account,
                passing,
            } => {
                let response = ready!(inner.poll(cx))?;
                let passing = std::mem::replace(passing, Passing::Unseen);
                passing.finish(response, account.take().expect(POLLED_ON))
            }
            StateProjection::Rewriting {
                inner,
                account,
                rewriting,
            } => {
                let response = ready!(inner.poll(cx))?;
                let rewriting = rewriting.take().expect(POLLED_ON);
                rewriting.finish(response, account.take().expect(POLLED_ON))
            }
            StateProjection::Ready { response } => *response.take().expect(POLLED_ON),
        }))
    }
}
