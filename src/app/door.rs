//! The door: what each request of a connection goes through on its way to the layer, from the outside in.
//!
//! Who attends to the connection is told of it, the access log begins a line, a WebSocket over HTTP/2 becomes what it is over
//! HTTP/1.1, and what is malformed is refused before anything is decided about it. Elsewhere each of these is a service around
//! another one. Here they are steps of one: a request is some hundred bytes, which every service would move once more.

use std::{
    cell::RefCell,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::body::Body;
use http::{Request, Response};
use http_body::Body as HttpBody;
use http_body_util::Either;
use hyper::{body::Incoming, upgrade::OnUpgrade};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{Inner, InnerBody, InnerFuture};
use crate::{
    access::{AccessLog, LoggedBody, Open},
    front::{Rules, check},
    guard::{Answers, NotedBody, Noting, Place, Stop, Upload},
    offload::{Dropped, Offload, OffloadBody, ResponseFuture},
    upstream::{Held, Origin, Waiting},
};

/// The way in, for the requests of one connection.
pub(super) struct Door {
    /// A request is handed over in one go, so nobody else ever has it.
    service: RefCell<Offload<Inner>>,
    rules: Rules,
    takes_websockets: bool,
    from: Origin,
    log: Option<AccessLog>,
    /// The connection's place, and word of the stop: an upgrade holds on to them for as long as it lasts.
    held: Arc<(Arc<Place>, Stop)>,
}

/// What goes out: what the layer answers, or what is said at the door.
type DoorBody = LoggedBody<NotedBody<Either<OffloadBody<InnerBody>, Body>>>;

// === impl Door ===

impl Door {
    /// To `service`, for who is at the other end of the connection.
    pub(super) fn new(
        service: &Offload<Inner>,
        from: Origin,
        held: (Arc<Place>, Stop),
        log: Option<AccessLog>,
    ) -> Self {
        let inner = service.inner();
        Self {
            service: RefCell::new(service.of_peer(inner.of_peer(from), from.peer())),
            rules: inner.rules(),
            takes_websockets: inner.answers() == Answers::OrWebSocket,
            from,
            log,
            held: Arc::new(held),
        }
    }

    /// After an upgrade the connection goes on without its server.
    fn may_go_on<B>(&self, request: &mut Request<B>) {
        let extensions = request.extensions_mut();
        if extensions.get::<OnUpgrade>().is_some() {
            let (place, stop) = &*self.held;
            let held = Held::new((place.doing.may_go_on(), self.held.clone()));
            extensions.insert(held.until(stop.clone()));
        }
    }
}

impl hyper::service::Service<Request<Incoming>> for Door {
    type Response = Response<DoorBody>;
    type Error = Dropped;
    type Future = DoorFuture;

    fn call(&self, mut request: Request<Incoming>) -> DoorFuture {
        self.may_go_on(&mut request);
        // What the limits refuse gets its line as well.
        let log = self.log.as_ref();
        let open = log.and_then(|log| log.begin(&mut request, self.from.address));
        let doing = &self.held.0.doing;
        let (noting, refusal) = Noting::begin(doing, &request);
        let mut waiting = None;
        let answer = match refusal {
            Some(answer) => Answer::said(answer),
            None => {
                let mut request = request.map(|body| Upload::new(body, &noting, doing));
                if self.takes_websockets {
                    waiting = Waiting::of(&mut request).map(Box::new);
                }
                match check(&request, self.rules) {
                    Ok(()) => Answer::Awaited {
                        future: self.service.borrow_mut().call(request),
                    },
                    Err(rejection) => Answer::said(rejection.answer(&request)),
                }
            }
        };
        DoorFuture {
            open,
            answer,
            waiting,
            noting,
        }
    }
}

pin_project! {
    /// The answer to a request that came through a [`Door`].
    pub(super) struct DoorFuture {
        // Goes to the log before it is known of what is inside that it is over.
        open: Option<Box<Open>>,
        #[pin]
        answer: Answer,
        waiting: Option<Box<Waiting>>,
        noting: Noting,
    }
}

pin_project! {
    #[project = AnswerProjection]
    enum Answer {
        /// By what is behind the door.
        Awaited { #[pin] future: ResponseFuture<InnerFuture, InnerBody> },
        /// By the door itself.
        Said { answer: Option<Box<Response<Body>>> },
    }
}

// === impl Answer ===

impl Answer {
    fn said(answer: Response<Body>) -> Self {
        let answer = Some(Box::new(answer));
        Self::Said { answer }
    }
}

impl Future for DoorFuture {
    type Output = Result<Response<DoorBody>, Dropped>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut out = GoingOut {
            open: this.open,
            noting: this.noting,
        };
        let answer = match this.answer.project() {
            AnswerProjection::Said { answer } => {
                let answer = answer.take();
                *answer.expect("a future is not polled after it is ready")
            }
            AnswerProjection::Awaited { future } => {
                let Ok(mut answer) = ready!(future.poll(cx));
                let waiting = this.waiting.take();
                let instead = waiting.and_then(|waiting| waiting.answered(&mut answer));
                match out.noting.refusal().or(instead) {
                    Some(refusal) => refusal,
                    None => return Poll::Ready(out.answer(answer)),
                }
            }
        };
        Poll::Ready(Ok(out.wrap(answer, Either::Right)))
    }
}

/// Those who are told that an answer goes out.
struct GoingOut<'a> {
    open: &'a mut Option<Box<Open>>,
    noting: &'a mut Noting,
}

// === impl GoingOut ===

impl GoingOut<'_> {
    /// What is behind the door has answered.
    fn answer(
        &mut self,
        answer: Response<OffloadBody<InnerBody>>,
    ) -> Result<Response<DoorBody>, Dropped> {
        // Over HTTP/2 the head would go out before the body is asked for.
        let dropped = answer.extensions().get::<Dropped>().copied();
        let mut answer = self.wrap(answer, Either::Left);
        match dropped {
            Some(dropped) => {
                // It is not the client that takes it back.
                answer.body_mut().get_mut().is_given_up();
                Err(dropped)
            }
            None => Ok(answer),
        }
    }

    fn wrap<B: HttpBody>(
        &mut self,
        mut answer: Response<B>,
        body: impl FnOnce(B) -> Either<OffloadBody<InnerBody>, Body>,
    ) -> Response<DoorBody> {
        let answering = self.noting.answered(answer.headers_mut());
        let mut open = self.open.take();
        if let Some(open) = &mut open {
            open.answered(&mut answer);
        }
        answer.map(|inner| LoggedBody::new(NotedBody::new(body(inner), answering), open))
    }
}
