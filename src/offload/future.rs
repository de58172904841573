//! The response: passed on, or turned into the page that it becomes.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body::Body as HttpBody;
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::{
    ahead::Sighting,
    body::{Account, BoxError, OffloadBody},
    page::{Answer, Gathering, Rewriting},
    reason::Told,
    service::let_stay,
    timing::Timing,
};
use crate::{rewrite::Private, servers::Server};

pin_project! {
    /// The future of [`Offload`](super::Offload).
    #[derive(Debug)]
    pub struct ResponseFuture<F, B> {
        #[pin]
        state: State<F, B>,
        // Whoever asked is told that its token is not ours.
        telling: bool,
        // What is told of the decision.
        told: Option<Box<Told>>,
        timing: Option<Box<Timing>>,
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
        /// It is one: its bytes are asked for, as far as they are there.
        Gathering { body: Option<Pin<Box<B>>>, gathering: Box<Gathering> },
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
        /// Of what was not seen before, at `normal`.
        sighting: Option<Box<Sighting>>,
        /// What was decided, where it does not happen.
        model: Option<Box<Model>>,
    },
}

/// What would have become of a visitor.
#[derive(Debug)]
pub(super) enum Model {
    /// The page would come from the primary, its objects from this server.
    Offloaded(Arc<Server>, Instant),
    /// Neither.
    TurnedAway,
}

// === impl Passing ===

impl Passing {
    pub(super) fn whole(path: u64, method: &Method) -> Self {
        Self::Whole {
            path,
            get: method == Method::GET,
            stay: None,
            sighting: None,
            model: None,
        }
    }

    pub(super) fn modelled(mut self, modelled: Option<Model>) -> Self {
        if let Self::Whole { model, .. } = &mut self {
            *model = modelled.map(Box::new);
        }
        self
    }

    pub(super) fn watched(mut self, sighted: Option<Sighting>) -> Self {
        if let Self::Whole { sighting, .. } = &mut self {
            *sighting = sighted.map(Box::new);
        }
        self
    }

    pub(super) fn staying(mut self, cookie: Option<HeaderValue>) -> Self {
        if let Self::Whole { stay, .. } = &mut self {
            *stay = cookie.map(Box::new);
        }
        self
    }
}

/// The bytes of the body, where they are known: by the body itself, which need not be read out of a text.
pub(super) fn length<B: HttpBody>(response: &Response<B>) -> Option<u64> {
    let exact = response.body().size_hint().exact();
    exact.or_else(|| content_length(response))
}

/// Remembers an object that is not for everyone. Pages are no objects, whatever they carry.
fn learn_private<B>(response: &Response<B>, path: u64, account: &Account) {
    let status = response.status();
    let refused = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
    if (refused || !is_html(response)) && Private::shows(status, response.headers()) {
        account.shared().private.remember(path);
    }
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

impl Passing {
    pub(super) fn finish<B>(
        self,
        mut response: Response<B>,
        account: Account,
    ) -> Response<OffloadBody<B>>
    where
        B: HttpBody,
    {
        let (path, get, stay, sighting, model) = match self {
            Self::Whole {
                path,
                get,
                stay,
                sighting,
                model,
            } => (path, get, stay, sighting, model),
            Self::Unseen => return response.map(|body| OffloadBody::passing(body, account)),
            Self::Pull { path } => {
                learn_private(&response, path, &account);
                if response.status() == StatusCode::OK
                    && let Some(length) = length(&response)
                {
                    account.shared().promise(length);
                    if !is_html(&response) {
                        account.shared().weights.learn_object(path, length);
                    }
                }
                return response.map(|body| OffloadBody::passing(body, account));
            }
        };
        learn_private(&response, path, &account);
        if get && response.status() == StatusCode::OK {
            let shared = account.shared();
            let length = length(&response);
            if is_html(&response) {
                let objects = shared.weights.page_served(path);
                let page = length.unwrap_or(0);
                match model.map(|model| *model) {
                    None => shared.promise(page + objects),
                    Some(Model::Offloaded(server, at)) => {
                        server.model(objects, at);
                        shared.promise(page);
                        shared.sends_unchanged(objects);
                    }
                    Some(Model::TurnedAway) => shared.sends_unchanged(page + objects),
                }
            } else if let Some(length) = length {
                shared.weights.learn_object(path, length);
                shared.weights.object_served(length);
            }
        }
        let_stay(response.headers_mut(), stay.map(|cookie| *cookie));
        let Some(sighting) = sighting else {
            return response.map(|body| OffloadBody::passing(body, account));
        };
        let (response, sighting) = sighting.is_page(response, &account.shared().ahead);
        response.map(|body| OffloadBody::watched(body, sighting, account))
    }
}

// === impl ResponseFuture ===

impl<F, B> ResponseFuture<F, B> {
    /// An offload server with the wrong token would not know otherwise.
    pub(super) fn telling(&mut self) {
        self.telling = true;
    }

    /// The answer says how long it took.
    pub(super) fn timed(&mut self, timing: Timing) {
        self.timing = Some(Box::new(timing));
    }

    /// The answer says why it is what it is, or whoever keeps records is told.
    pub(super) fn explaining(&mut self, told: Option<Box<Told>>) {
        self.told = told;
    }

    pub(super) const fn untouched(inner: F) -> Self {
        Self {
            state: State::Untouched { inner },
            telling: false,
            told: None,
            timing: None,
        }
    }

    pub(super) const fn passing(inner: F, account: Account, passing: Passing) -> Self {
        Self {
            state: State::Passing {
                inner,
                account: Some(account),
                passing,
            },
            telling: false,
            told: None,
            timing: None,
        }
    }

    pub(super) fn rewriting(inner: F, account: Account, rewriting: Rewriting) -> Self {
        Self {
            state: State::Rewriting {
                inner,
                account: Some(account),
                rewriting: Some(Box::new(rewriting)),
            },
            telling: false,
            told: None,
            timing: None,
        }
    }

    pub(super) fn ready(response: Response<OffloadBody<B>>) -> Self {
        Self {
            state: State::Ready {
                response: Some(Box::new(response)),
            },
            telling: false,
            told: None,
            timing: None,
        }
    }
}

/// The inner service has answered.
fn served(timing: &mut Option<Box<Timing>>) {
    if let Some(timing) = timing {
        timing.served();
    }
}

impl<F, B, E> Future for ResponseFuture<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: HttpBody,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<OffloadBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        const POLLED_ON: &str = "a future is not polled after it is ready";
        let this = self.project();
        let mut state = this.state;
        let mut response = match state.as_mut().project() {
            StateProjection::Untouched { inner } => {
                ready!(inner.poll(cx))?.map(OffloadBody::untouched)
            }
            StateProjection::Passing {
                inner,
                account,
                passing,
            } => {
                let response = ready!(inner.poll(cx))?;
                served(this.timing);
                let passing = std::mem::replace(passing, Passing::Unseen);
                passing.finish(response, account.take().expect(POLLED_ON))
            }
            StateProjection::Rewriting {
                inner,
                account,
                rewriting,
            } => {
                let response = ready!(inner.poll(cx))?;
                served(this.timing);
                let rewriting = rewriting.take().expect(POLLED_ON);
                match rewriting.answer(response, account.take().expect(POLLED_ON)) {
                    Answer::Whole(response) => response,
                    Answer::Page(body, mut gathering) => {
                        let mut body = Some(body);
                        match gathering.poll(&mut body, cx) {
                            Poll::Ready(response) => response,
                            Poll::Pending => {
                                let gathering = Box::new(gathering);
                                state.set(State::Gathering { body, gathering });
                                return Poll::Pending;
                            }
                        }
                    }
                }
            }
            StateProjection::Gathering { body, gathering } => {
                ready!(gathering.poll(body, cx))
            }
            StateProjection::Ready { response } => *response.take().expect(POLLED_ON),
        };
        if *this.telling {
            response.headers_mut().insert(
                super::TOKEN_HEADER,
                HeaderValue::from_static("not ours: offload.token and edge.token must be the same"),
            );
        }
        if let Some(outcome) = response.body().outcome() {
            if let Some(timing) = this.timing.take() {
                timing.tell(outcome, response.headers_mut());
            }
            if let Some(told) = this.told.take() {
                if let Some(value) = told.header(outcome) {
                    response.headers_mut().insert(super::REASON_HEADER, value);
                }
                if let Some(record) = told.record(outcome) {
                    response.extensions_mut().insert(record);
                }
            }
        }
        Poll::Ready(Ok(response))
    }
}
