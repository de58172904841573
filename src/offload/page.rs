//! A page whose links are to move: recognised, gathered as far as it is there, and made.
//!
//! What is there as a whole (an application's page in memory, a short page of an upstream) becomes one body
//! of known length, by what it became before, by its plan, or by a scan that makes the plan. All else is
//! rewritten while it streams by.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header,
    response::Parts,
};
use http_body::Body as HttpBody;
use tokio::time::{Instant, Sleep};

use super::{
    body::{Account, BoxError, OffloadBody},
    compiled::{Compiled, ServerTarget},
    counters::Outcome,
    future::{Passing, length},
    pages::{Asked, ByServer, Finished, FinishedKey, Identity, PageKey, Policies, Seen},
    request::Peer,
    service::{self, is_https, let_stay},
    snapshot::Snapshot,
    spread::{Placing, Shares, Spread},
    streaming::{Begun, Editor, Goes, PageRecord, Streaming},
};
use crate::{
    rewrite::{
        Allowance, Plan, Replay, Rewriter,
        coding::{Coding, decode_all, encode_all},
        csp,
        headers::{
            Condition, Tag, embedder, move_preloads, not_modified, prepare_request, qualifies,
            rewritten,
        },
    },
    servers::{Server, hash},
};

/// So much of a page is waited for, where its length is known: more would be kept from the visitor for long.
const WAITED_FOR: usize = 64 * 1024;
/// So long is waited for what comes without a length: applications that write or compress as they go send a short page
/// in a few pieces, and only as a whole it can be known again. One that takes its time is let go as it comes.
const PATIENCE: Duration = Duration::from_millis(20);
/// A page above this streams even where it is there as a whole: twice in memory is too much then.
pub(super) const WHOLE: usize = 2 * 1024 * 1024;
/// What a page that comes encoded may be when it is decoded, to be handled as a whole.
pub(super) const DECODED: usize = 4 * 1024 * 1024;

/// Stands for a server where a page's objects go to several.
const SPREAD: u64 = 0x0b1e_c75e_ac4a_1072;

/// All that is needed to rewrite the page, should the response be one.
#[derive(Debug)]
pub(super) struct Rewriting {
    method: Method,
    asked: Asked,
    path: u64,
    compiled: Arc<Compiled>,
    /// The server's place among the configured ones.
    server: usize,
    /// Where the objects go that do not all go to that server.
    spread: Option<Arc<Spread>>,
    hold_left: Duration,
    /// What a 304 would be about.
    condition: Condition,
    decided_at: Instant,
    stay: Option<HeaderValue>,
}

/// What the response turned out to be.
#[allow(
    clippy::large_enum_variant,
    reason = "it lives for a moment on the stack, where a box would cost more"
)]
pub(super) enum Answer<B> {
    /// Nothing is left to be done before it goes out.
    Whole(Response<OffloadBody<B>>),
    /// A page.
    Page(Pin<Box<B>>, Gathering),
}

/// A page, as far as it came.
pub(super) struct Gathering {
    work: Option<Work>,
    begun: Begun,
    gathered: usize,
    whole: Option<(Bytes, Identity)>,
    patience: Option<Pin<Box<Sleep>>>,
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
    rewriting: Box<Rewriting>,
    parts: Parts,
    coding: Option<Coding>,
    policies: Policies,
    allowance: Allowance,
    /// Where its objects are spread over several servers.
    placing: Option<Placing>,
    key: PageKey,
    account: Account,
}

/// How a whole page became what goes out.
enum Made {
    /// These bytes, with so many links moved; to which server how many, where they are spread.
    Page(Bytes, u32, Option<ByServer>, bool),
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
        peer: Peer,
        server: usize,
        snapshot: &Snapshot,
        path: u64,
        answer: service::Answer,
    ) -> Self {
        let compiled = &snapshot.compiled;
        let https = is_https(request, peer, snapshot);
        let spread = |pool| Arc::new(Spread::new(snapshot, pool, server, https));
        Self {
            method: request.method().clone(),
            asked: Asked::of(request, https),
            path,
            compiled: compiled.clone(),
            server,
            spread: answer.pool.map(spread),
            hold_left: snapshot.hold_left,
            condition: Condition::AsItIs,
            decided_at: answer.at,
            stay: answer.stay,
        }
    }

    fn server(&self) -> &Arc<Server> {
        &self.compiled.servers[self.server]
    }

    fn target(&self) -> &ServerTarget {
        &self.compiled.targets[self.server]
    }

    fn tag(&self) -> &Tag {
        match &self.spread {
            None => &self.target().tag,
            Some(spread) => spread.tag(),
        }
    }

    /// Translates the request's conditions: what the client holds may be this page, rewritten before.
    pub(super) fn prepare(&mut self, headers: &mut HeaderMap, wants_page: bool) {
        self.condition = prepare_request(headers, Some(self.tag()), wants_page);
    }

    /// Looks at the head of the response.
    pub(super) fn answer<B>(
        mut self: Box<Self>,
        mut response: Response<B>,
        account: Account,
    ) -> Answer<B>
    where
        B: HttpBody,
    {
        let stay = self.stay.take();
        let_stay(response.headers_mut(), stay);
        if response.status() == StatusCode::NOT_MODIFIED && self.condition == Condition::Rewritten {
            let embedder = embedder(response.headers());
            let allowed = self.allowance(response.headers_mut(), false, embedder, &account);
            let allowance = allowed.as_ref().map(|(allowance, _)| allowance);
            self.move_preloads(response.headers_mut(), allowance);
            not_modified(response.headers_mut(), self.tag(), self.hold_left);
            let account = account.with(Outcome::Offloaded);
            let response = response.map(|body| OffloadBody::passing(body, account));
            return Answer::Whole(response);
        }
        self.page(response, account)
    }

    /// What may move, by the policies of the response, which are widened; `None` where nothing may. `plain`: there
    /// are none. `cors`: the page embeds nothing else.
    fn allowance(
        &self,
        headers: &mut HeaderMap,
        plain: bool,
        cors: bool,
        account: &Account,
    ) -> Option<(Allowance, Option<Placing>)> {
        let fallback = self.compiled.fallback.as_ref();
        let fallback = fallback
            .filter(|_| plain || csp::allows_own_script(headers))
            .cloned();
        let (allowance, placing) = match &self.spread {
            None => {
                let target = &self.target().target;
                if self.asked.https && !target.https() {
                    return None;
                }
                let kinds = match plain {
                    true => target.kinds(),
                    false => csp::allow(headers, target.origin(), target.kinds()),
                };
                if kinds.is_empty() {
                    return None;
                }
                (Allowance::new(target.clone(), kinds), None)
            }
            Some(spread) => {
                let policies = (!plain).then_some(headers);
                let placing = Placing::new(spread, policies, fallback.is_some(), cors)?;
                let spread = Arc::new(placing.clone());
                (Allowance::each(spread), Some(placing))
            }
        };
        let private = account.shared().private.clone();
        Some((
            allowance.with_private(private).with_fallback(fallback),
            placing,
        ))
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

    fn page<B>(self: Box<Self>, response: Response<B>, account: Account) -> Answer<B>
    where
        B: HttpBody,
    {
        let length = length(&response).unwrap_or(0);
        let (mut parts, body) = response.into_parts();
        // Of several servers, those without CORS are left out where the page takes nothing from them.
        let cors = self.spread.is_some() || self.target().target.cors();
        let Ok(coding) = qualifies(&parts, &self.method, cors) else {
            return self.unchanged(parts, body, account);
        };
        let pages = &account.shared().pages;
        if !pages.is_page(&self.asked, &self.compiled.hosts) {
            // Of a host that is none.
            return self.unchanged(parts, body, account);
        }
        let plain = is_plain(&parts.headers);
        let policies = if plain {
            Policies::NONE
        } else {
            Policies::of(&parts.headers)
        };
        let embedder = self.spread.is_some() && embedder(&parts.headers);
        let allowed = self.allowance(&mut parts.headers, plain, embedder, &account);
        let Some((allowance, placing)) = allowed else {
            return self.unchanged(parts, body, account);
        };
        if !plain {
            self.move_preloads(&mut parts.headers, Some(&allowance));
        }
        if self.method == Method::GET {
            let weights = &account.shared().weights;
            account.shared().promise(length);
            if placing.is_none() {
                self.server()
                    .assign(weights.page(self.path), self.decided_at);
            }
        }
        let account = account.with(Outcome::Offloaded);
        if self.method == Method::HEAD {
            rewritten(&mut parts.headers, self.tag(), self.hold_left);
            let body = OffloadBody::headless(body, account);
            return Answer::Whole(Response::from_parts(parts, body));
        }
        let key = self.asked.key(&self.compiled.rules, policies);
        let work = Work {
            rewriting: self,
            parts,
            coding,
            policies,
            allowance,
            placing,
            key,
            account,
        };
        Answer::Page(Box::pin(body), Gathering::new(work))
    }

    /// The response goes out as it came.
    fn unchanged<B: HttpBody>(&self, parts: Parts, body: B, account: Account) -> Answer<B> {
        let passing = Passing::whole(self.path, &self.method);
        let response = Response::from_parts(parts, body);
        Answer::Whole(passing.finish(response, account))
    }
}

/// Whether a page has neither policies nor links in its headers. It has few headers: looking them through costs less
/// than looking each of these up by its hash.
fn is_plain(headers: &HeaderMap) -> bool {
    const NOTABLE: [HeaderName; 3] = [
        header::CONTENT_SECURITY_POLICY,
        header::CONTENT_SECURITY_POLICY_REPORT_ONLY,
        header::LINK,
    ];
    !headers.keys().any(|name| NOTABLE.contains(name))
}

// === impl Gathering ===

impl Gathering {
    fn new(work: Work) -> Self {
        Self {
            work: Some(work),
            begun: Begun::default(),
            gathered: 0,
            whole: None,
            patience: None,
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
        if let Some((whole, identity)) = self.whole.take() {
            loop {
                if let Some(waiting) = &mut self.waiting {
                    if waiting.as_mut().poll(cx).is_pending() {
                        self.whole = Some((whole, identity));
                        return Poll::Pending;
                    }
                    self.waiting = None;
                }
                let work = self.work.as_ref().expect(POLLED_ON);
                match work.make(&whole, identity) {
                    Made::Page(page, links, by_server, spliced) => {
                        let work = self.work.take().expect(POLLED_ON);
                        return Poll::Ready(work.whole(page, links, by_server, spliced));
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
                        let ended = body.is_end_stream();
                        if ended && self.begun.frames.is_empty() && self.gathered <= WHOLE {
                            // In one piece, as applications give it.
                            return self.is_known(bytes);
                        }
                        self.begun.frames.push_back(bytes);
                        if ended {
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
                    return match body.size_hint().exact() {
                        Some(left) if self.gathered as u64 + left <= WAITED_FOR as u64 => {
                            Poll::Pending
                        }
                        Some(_) => Poll::Ready(()),
                        None => self.poll_patience(cx),
                    };
                }
            }
        }
    }

    /// Ready: what comes without a length has been waited for long enough.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if tokio::runtime::Handle::try_current().is_err() {
            // Nobody would wake it.
            return Poll::Ready(());
        }
        let patience = &mut self.patience;
        let patience = patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(PATIENCE)));
        patience.as_mut().poll(cx)
    }

    fn is_whole(&mut self) -> Poll<()> {
        if self.gathered > WHOLE {
            self.begun.ended = true;
            return Poll::Ready(());
        }
        let frames = std::mem::take(&mut self.begun.frames);
        let whole = match frames.len() {
            1 => frames.into_iter().next().unwrap_or_default(),
            _ => {
                let mut whole = BytesMut::with_capacity(self.gathered);
                frames
                    .iter()
                    .for_each(|frame| whole.extend_from_slice(frame));
                whole.freeze()
            }
        };
        self.is_known(whole)
    }

    fn is_known(&mut self, whole: Bytes) -> Poll<()> {
        // Before there is another handle of ours.
        let identity = Identity::of(&whole);
        self.whole = Some((whole, identity));
        Poll::Ready(())
    }
}

// === impl Work ===

impl Work {
    fn make(&self, body: &Bytes, identity: Identity) -> Made {
        let shared = self.account.shared();
        let pages = &shared.pages;
        let version = match &self.placing {
            None => self.rewriting.target().version,
            Some(_) => SPREAD,
        };
        let server = hash::mix(version ^ self.allowance.version());
        let key = FinishedKey::new(self.key, server, self.coding, identity);
        match &self.placing {
            None => {
                if let Some((page, links)) = pages.finished(key, &shared.private) {
                    return Made::Page(page, links, None, true);
                }
            }
            Some(placing) => {
                let mut shares = Shares::default();
                let placement = |plan: &Plan| {
                    shares = placing.shares_of(self.rewriting.path, plan, shared);
                    shares.placement
                };
                let finished = pages.finished_spread(key, &shared.private, placement);
                if let Some((page, links, by_server)) = finished {
                    placing.promise(&shares, self.rewriting.decided_at, shared);
                    return Made::Page(page, links, Some(by_server), true);
                }
            }
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
            (None, Some(Some(taken))) => (taken.done(self.scan(&page).map(Arc::new)), false),
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
        let spread = self.placing.as_ref().map(|placing| {
            let shares = placing.shares_of(self.rewriting.path, &plan, shared);
            placing.promise(&shares, self.rewriting.decided_at, shared);
            let by_server: Arc<[_]> = plan.links_by_server(&self.allowance).into();
            (shares.placement, by_server)
        });
        // What was seen once may never come again; but nothing is encoded twice.
        if spliced || self.coding.is_some() {
            let made = (page.clone(), links);
            let finished = Finished::new(key, body, identity, made, plan, &shared.private);
            pages.keep(match &spread {
                None => finished,
                Some((placement, by_server)) => finished.spread(*placement, by_server.clone()),
            });
        }
        Made::Page(page, links, spread.map(|(_, links)| links), spliced)
    }

    fn scan(&self, page: &[u8]) -> Option<Plan> {
        let compiled = &self.rewriting.compiled;
        let at = self.rewriting.asked.page(&compiled.hosts, self.policies)?;
        let plan = Plan::scan(compiled.rules.clone(), at, page)?;
        self.account.shared().learn(self.rewriting.path, &plan);
        Some(plan)
    }

    /// The whole page goes out.
    fn whole<B>(
        mut self,
        page: Bytes,
        links: u32,
        by_server: Option<ByServer>,
        spliced: bool,
    ) -> Response<OffloadBody<B>> {
        match (&self.placing, by_server) {
            (Some(placing), Some(links)) => placing.page_done(&links, spliced),
            _ => self.rewriting.server().page_done(links, spliced),
        }
        self.headers();
        Response::from_parts(self.parts, OffloadBody::full(page, self.account))
    }

    fn headers(&mut self) {
        let tag = self.rewriting.tag();
        rewritten(&mut self.parts.headers, tag, self.rewriting.hold_left);
    }

    /// The page goes out as it comes.
    fn stream<B>(mut self, body: Pin<Box<B>>, begun: Begun) -> Response<OffloadBody<B>> {
        let editor = self.editor();
        self.headers();
        let record = PageRecord {
            goes: match self.placing.take() {
                None => Goes::One(self.rewriting.server().clone()),
                Some(placing) => Goes::Each(placing, self.rewriting.decided_at),
            },
            path: self.rewriting.path,
        };
        let page = Streaming::new(editor, record, self.coding, begun);
        let body = OffloadBody::rewriting(body, page, self.account);
        Response::from_parts(self.parts, body)
    }

    fn editor(&self) -> Editor {
        let pages = &self.account.shared().pages;
        let seen = pages.streaming(self.key, self.parts.headers.get(header::ETAG));
        let plan = seen.as_ref().and_then(Seen::plan).flatten();
        if let (Some(plan), Some(seen)) = (plan, &seen) {
            if let Some(placing) = &self.placing {
                let shared = self.account.shared();
                let shares = placing.shares_of(self.rewriting.path, &plan, shared);
                placing.promise(&shares, self.rewriting.decided_at, shared);
            }
            let replay = Replay::new(plan, self.allowance.clone());
            return Editor::Replay(Box::new(replay), seen.clone());
        }
        let compiled = &self.rewriting.compiled;
        let Some(page) = self.rewriting.asked.page(&compiled.hosts, self.policies) else {
            return Editor::Nothing;
        };
        let rewriter = Rewriter::allowing(compiled.rules.clone(), page, self.allowance.clone());
        // Whoever is through first has the plan: one slow visitor keeps nobody waiting for it.
        match seen.filter(|seen| seen.plan().is_none()) {
            Some(seen) => Editor::Scan(rewriter.recording(), Some(seen.join())),
            None => Editor::Scan(rewriter, None),
        }
    }
}
