//! A page whose links are to move: recognised, gathered as far as it is there, and made.
//!
//! What is there as a whole (an application's page in memory, a short page of an upstream) becomes one body
//! of known length, by what it became before, by its plan, or by a scan that makes the plan. All else is
//! rewritten while it streams by.

use std::{
    collections::VecDeque,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, response::Parts,
};
use http_body::Body as HttpBody;
use tokio::time::Instant;

use super::{
    body::{Account, BoxError, OffloadBody},
    compiled::{Compiled, ServerTarget},
    counters::Outcome,
    future::{Passing, length},
    pages::{Asked, Finished, FinishedKey, Identity, PageKey, Policies, Seen},
    service::{is_https, let_stay},
    snapshot::Snapshot,
    streaming::{Begun, Editor, PageRecord, Streaming},
};
use crate::{
    rewrite::{
        Allowance, Plan, Replay, Rewriter,
        coding::{Coding, decode_all, encode_all},
        csp,
        headers::{Condition, move_preloads, not_modified, prepare_request, qualifies, rewritten},
    },
    servers::{Server, hash},
};

/// So much of a page is waited for, where its length is known: more would be kept from the visitor for long.
const WAITED_FOR: usize = 64 * 1024;
/// A page above this streams even where it is there as a whole: twice in memory is too much then.
const WHOLE: usize = 2 * 1024 * 1024;
/// What a page that comes encoded may be when it is decoded, to be handled as a whole.
const DECODED: usize = 4 * 1024 * 1024;

/// All that is needed to rewrite the page, should the response be one.
#[derive(Debug)]
pub(super) struct Rewriting {
    method: Method,
    asked: Asked,
    path: u64,
    compiled: Arc<Compiled>,
    server: Arc<Server>,
    target: ServerTarget,
    hold_left: std::time::Duration,
    /// What a 304 would be about.
    condition: Condition,
    stay: Option<HeaderValue>,
}

/// What the response turned out to be.
pub(super) enum Answer<B> {
    /// Nothing is left to be done before it goes out.
    Whole(Box<Response<OffloadBody<B>>>),
    /// A page.
    Page(Pin<Box<B>>, Box<Gathering>),
}

/// A page, as far as it came.
pub(super) struct Gathering {
    work: Option<Work>,
    begun: Begun,
    gathered: usize,
    whole: Option<Bytes>,
    /// Until another request's scan of the same page is done.
    waiting: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl std::fmt::Debug for Gathering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gathering")
            .field("gathered", &self.gathered)
            .finish_non_exhaustive()
    }
}

/// The page's rewriting.
struct Work {
    rewriting: Rewriting,
    parts: Parts,
    coding: Option<Coding>,
    policies: Policies,
    allowance: Allowance,
    key: PageKey,
    account: Account,
}

/// How a whole page became what goes out.
enum Made {
    /// These bytes, with so many links moved.
    Page(Bytes, u32, bool),
    /// It is to be rewritten while it streams.
    Streams,
    /// Another request scans it just now.
    Waits(Seen),
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
        Self {
            method: request.method().clone(),
            asked: Asked {
                uri: request.uri().clone(),
                host: request.headers().get(header::HOST).cloned(),
                https: is_https(request, peer, snapshot),
            },
            path,
            compiled: compiled.clone(),
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

    /// Looks at the head of the response.
    pub(super) fn answer<B>(mut self, mut response: Response<B>, account: Account) -> Answer<B>
    where
        B: HttpBody,
    {
        let stay = self.stay.take();
        let_stay(response.headers_mut(), stay);
        if response.status() == StatusCode::NOT_MODIFIED && self.condition == Condition::Rewritten {
            let allowance = self.allowance(response.headers_mut(), &account);
            self.move_preloads(response.headers_mut(), allowance.as_ref());
            not_modified(response.headers_mut(), &self.target.tag, self.hold_left);
            let account = account.with(Outcome::Offloaded);
            let response = response.map(|body| OffloadBody::passing(body, account));
            return Answer::Whole(Box::new(response));
        }
        self.page(response, account)
    }

    /// What may move, by the policies of the response, which are widened; `None` where nothing may.
    fn allowance(&self, headers: &mut HeaderMap, account: &Account) -> Option<Allowance> {
        let target = &self.target.target;
        if self.asked.https && !target.https() {
            return None;
        }
        let fallback = self.compiled.fallback.as_ref();
        let fallback = fallback
            .filter(|_| csp::allows_own_script(headers))
            .cloned();
        let kinds = csp::allow(headers, target.origin(), target.kinds());
        (!kinds.is_empty()).then(|| {
            Allowance::new(target.clone(), kinds)
                .with_private(account.shared().private.clone())
                .with_fallback(fallback)
        })
    }

    fn move_preloads(&self, headers: &mut HeaderMap, allowance: Option<&Allowance>) {
        if !headers.contains_key(header::LINK) {
            return;
        }
        let policies = Policies::of(headers);
        let page = self.asked.page(&self.compiled.hosts, policies);
        if let (Some(page), Some(allowance)) = (page, allowance) {
            move_preloads(headers, &self.compiled.rules, page, allowance);
        }
    }

    fn page<B>(self, response: Response<B>, account: Account) -> Answer<B>
    where
        B: HttpBody,
    {
        let length = length(&response).unwrap_or(0);
        let (mut parts, body) = response.into_parts();
        let Ok(coding) = qualifies(&parts, &self.method, self.target.target.cors()) else {
            return self.unchanged(parts, body, account);
        };
        let policies = Policies::of(&parts.headers);
        if self.asked.page(&self.compiled.hosts, policies).is_none() {
            // Of a host that is none.
            return self.unchanged(parts, body, account);
        }
        let Some(allowance) = self.allowance(&mut parts.headers, &account) else {
            return self.unchanged(parts, body, account);
        };
        self.move_preloads(&mut parts.headers, Some(&allowance));
        if self.method == Method::GET {
            let (now, weights) = (Instant::now(), &account.shared().weights);
            account.shared().promise(length);
            self.server.assign(weights.page(self.path), now);
        }
        let account = account.with(Outcome::Offloaded);
        if self.method == Method::HEAD {
            rewritten(&mut parts.headers, &self.target.tag, self.hold_left);
            let body = OffloadBody::headless(body, account);
            return Answer::Whole(Box::new(Response::from_parts(parts, body)));
        }
        let key = self.asked.key(&self.compiled.rules, policies);
        let work = Work {
            rewriting: self,
            parts,
            coding,
            policies,
            allowance,
            key,
            account,
        };
        Answer::Page(Box::pin(body), Box::new(Gathering::new(work)))
    }

    /// The response goes out as it came.
    fn unchanged<B: HttpBody>(self, parts: Parts, body: B, account: Account) -> Answer<B> {
        let passing = Passing::whole(self.path, &self.method);
        let response = Response::from_parts(parts, body);
        Answer::Whole(Box::new(passing.finish(response, account)))
    }
}

// === impl Gathering ===

impl Gathering {
    fn new(work: Work) -> Self {
        Self {
            work: Some(work),
            begun: Begun::default(),
            gathered: 0,
            whole: None,
            waiting: None,
        }
    }

    /// Asks for the page until it is clear how it goes out.
    pub(super) fn poll<B>(
        &mut self,
        body: &mut Option<Pin<Box<B>>>,
        cx: &mut Context<'_>,
    ) -> Poll<Response<OffloadBody<B>>>
    where
        B: HttpBody,
        B::Error: Into<BoxError>,
    {
        const POLLED_ON: &str = "a future is not polled after it is ready";
        if self.whole.is_none() {
            let inner = body.as_mut().expect(POLLED_ON);
            if self.gather(inner, cx).is_pending() {
                return Poll::Pending;
            }
        }
        if let Some(whole) = self.whole.clone() {
            loop {
                if let Some(waiting) = &mut self.waiting {
                    std::task::ready!(waiting.as_mut().poll(cx));
                    self.waiting = None;
                }
                let work = self.work.as_ref().expect(POLLED_ON);
                match work.make(&whole) {
                    Made::Page(page, links, spliced) => {
                        let work = self.work.take().expect(POLLED_ON);
                        return Poll::Ready(work.whole(page, links, spliced));
                    }
                    Made::Streams => {
                        self.begun.frames = VecDeque::from([whole]);
                        break;
                    }
                    Made::Waits(seen) => self.waiting = Some(Box::pin(seen.ready())),
                }
            }
        }
        let work = self.work.take().expect(POLLED_ON);
        let begun = std::mem::take(&mut self.begun);
        Poll::Ready(work.stream(body.take().expect(POLLED_ON), begun))
    }

    /// Takes what is there. Ready: the page is whole, or is to stream.
    fn gather<B>(&mut self, body: &mut Pin<Box<B>>, cx: &mut Context<'_>) -> Poll<()>
    where
        B: HttpBody,
        B::Error: Into<BoxError>,
    {
        loop {
            match body.as_mut().poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(mut data) => {
                        self.gathered += data.remaining();
                        let bytes = data.copy_to_bytes(data.remaining());
                        self.begun.frames.push_back(bytes);
                        if body.is_end_stream() {
                            return self.is_whole();
                        }
                        if self.gathered > WAITED_FOR {
                            return Poll::Ready(());
                        }
                    }
                    Err(frame) => {
                        // A whole body has no place for them.
                        self.begun.trailers = frame.into_trailers().ok();
                        self.begun.ended = true;
                        return Poll::Ready(());
                    }
                },
                Poll::Ready(Some(Err(error))) => {
                    self.begun.error = Some(error.into());
                    self.begun.ended = true;
                    return Poll::Ready(());
                }
                Poll::Ready(None) => return self.is_whole(),
                Poll::Pending => {
                    // A short page is worth waiting for: it goes out with its length, and by its plan.
                    let left = body.size_hint().exact();
                    let short =
                        left.is_some_and(|left| self.gathered as u64 + left <= WAITED_FOR as u64);
                    return if short {
                        Poll::Pending
                    } else {
                        Poll::Ready(())
                    };
                }
            }
        }
    }

    fn is_whole(&mut self) -> Poll<()> {
        if self.gathered > WHOLE {
            self.begun.ended = true;
            return Poll::Ready(());
        }
        let frames = std::mem::take(&mut self.begun.frames);
        self.whole = Some(match frames.len() {
            1 => frames.into_iter().next().unwrap_or_default(),
            _ => {
                let mut whole = BytesMut::with_capacity(self.gathered);
                frames
                    .iter()
                    .for_each(|frame| whole.extend_from_slice(frame));
                whole.freeze()
            }
        });
        Poll::Ready(())
    }
}

// === impl Work ===

impl Work {
    fn make(&self, body: &Bytes) -> Made {
        let shared = self.account.shared();
        let pages = &shared.pages;
        let identity = Identity::of(body);
        let server = hash::mix(self.rewriting.target.version ^ self.allowance.version());
        let key = FinishedKey::new(self.key, server, self.coding, identity);
        if let Some(finished) = pages.finished(key, &shared.private) {
            return Made::Page(finished.body.clone(), finished.links, true);
        }
        let page = match self.coding {
            None => body.clone(),
            Some(coding) => match decode_all(coding, body, DECODED) {
                Ok(page) => page,
                // Damaged, or larger than that: as it streams, no more is decoded than goes out.
                Err(_) => return Made::Streams,
            },
        };
        let seen = pages.whole(self.key, &page);
        let (plan, spliced) = match (seen.plan(), seen.plan().is_none().then(|| seen.take())) {
            (Some(plan), _) => (plan, true),
            (None, Some(Some(taken))) => (taken.done(self.scan(&page)), false),
            (None, _) => return Made::Waits(seen),
        };
        let Some(plan) = plan else {
            return Made::Streams;
        };
        let (page, links) = match plan.splice(&page, &self.allowance) {
            Some((page, links)) => (page, links),
            None => (page, 0),
        };
        let page = match self.coding {
            None => page,
            Some(_) if links == 0 => body.clone(),
            Some(coding) => match encode_all(coding, &page) {
                Ok(page) => page,
                Err(_) => return Made::Streams,
            },
        };
        // What was seen once may never come again; but nothing is encoded twice.
        if spliced || self.coding.is_some() {
            let made = (page.clone(), links);
            pages.keep(
                key,
                Finished::new(body, identity, made, plan, &shared.private),
            );
        }
        Made::Page(page, links, spliced)
    }

    fn scan(&self, page: &[u8]) -> Option<Plan> {
        let compiled = &self.rewriting.compiled;
        let at = self.rewriting.asked.page(&compiled.hosts, self.policies)?;
        let plan = Plan::scan(compiled.rules.clone(), at, page)?;
        self.account.shared().learn(self.rewriting.path, &plan);
        Some(plan)
    }

    /// The whole page goes out.
    fn whole<B>(mut self, page: Bytes, links: u32, spliced: bool) -> Response<OffloadBody<B>> {
        self.rewriting.server.page_done(links, spliced);
        self.headers();
        Response::from_parts(self.parts, OffloadBody::full(page, self.account))
    }

    fn headers(&mut self) {
        let Rewriting {
            target, hold_left, ..
        } = &self.rewriting;
        rewritten(&mut self.parts.headers, &target.tag, *hold_left);
    }

    /// The page goes out as it comes.
    fn stream<B>(mut self, body: Pin<Box<B>>, begun: Begun) -> Response<OffloadBody<B>> {
        let editor = self.editor();
        self.headers();
        let record = PageRecord {
            server: self.rewriting.server.clone(),
            path: self.rewriting.path,
        };
        let page = Streaming::new(editor, record, self.coding, begun);
        let body = OffloadBody::rewriting(body, page, self.account);
        Response::from_parts(self.parts, body)
    }

    fn editor(&self) -> Editor {
        let pages = &self.account.shared().pages;
        let seen = pages.streaming(self.key, &self.parts.headers);
        if let Some(plan) = seen.as_ref().and_then(Seen::plan).flatten() {
            return Editor::Replay(Replay::new(plan, self.allowance.clone()));
        }
        let compiled = &self.rewriting.compiled;
        let Some(page) = self.rewriting.asked.page(&compiled.hosts, self.policies) else {
            return Editor::Nothing;
        };
        let rewriter = Rewriter::allowing(compiled.rules.clone(), page, self.allowance.clone());
        match seen.and_then(|seen| seen.take()) {
            Some(taken) => Editor::Scan(rewriter.recording(), Some(taken)),
            None => Editor::Scan(rewriter, None),
        }
    }
}
