//! What watchers are sent: one task looks once a second, and at once when something was decided; whatever number of
//! them watch, each state is put into words once.
//!
//! ```text
//! task: look ──► history ──► frame ──┬─► watcher (`GET /api/events`, server-sent events)
//!                                    └─► …
//! ```
//!
//! A watcher that does not read misses frames and holds up nobody: the next one that it takes is the newest. The
//! connection's limits end one that never reads ([`guard`](crate::guard)).

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    api::refusal,
    history::{History, STEP},
    lifecycle::Lifecycle,
    server::{Shown, Told},
};

/// So many watch at once.
const WATCHERS: usize = 64;
/// From one frame to the next at least, however much is decided.
const PAUSE: Duration = Duration::from_millis(100);
/// So many decisions are sent to who begins to watch.
const DECISIONS: usize = 100;

/// What is kept for watchers.
#[derive(Debug, Default)]
pub(super) struct Live {
    /// Taken by the task and by whoever asks for it.
    history: Mutex<Past>,
    frames: watch::Sender<Frame>,
    watching: AtomicUsize,
}

/// The last hour, and the same in words once somebody has asked for it.
#[derive(Debug, Default)]
struct Past {
    history: History,
    columns: Option<Bytes>,
}

impl Past {
    fn columns(&mut self) -> Bytes {
        let told = || serde_json::to_vec(&self.history.columns()).unwrap_or_default();
        self.columns.get_or_insert_with(|| told().into()).clone()
    }
}

/// A state in words.
#[derive(Debug, Clone, Default)]
struct Frame {
    status: Bytes,
    /// The newest point, and how many there were before it.
    point: Bytes,
    points: u64,
}

/// One watcher's place; dropping it frees it.
struct Place(Arc<Live>);

// === impl Live ===

impl Live {
    /// The last hour, as JSON.
    pub(super) fn columns(&self) -> Bytes {
        self.history().columns()
    }

    fn history(&self) -> MutexGuard<'_, Past> {
        // Every write leaves it whole.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks again and again, until the process ends.
    pub(super) async fn run(shown: Shown) {
        let mut looks = interval(Duration::from_secs_f64(STEP));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut decisions = shown.overspill.shared().journal.watch();
        loop {
            let is_point = tokio::select! {
                _ = looks.tick() => true,
                // The journal lives as long as what is shown.
                _ = decisions.changed() => false,
            };
            let status = shown.status();
            let live = &shown.live;
            live.tell(&status, is_point);
            sleep(PAUSE).await;
        }
    }

    fn tell(&self, told: &Told, is_point: bool) {
        let status = event("status", told);
        // Held until the frame is out: whoever begins to watch in between has the point in one of them only.
        let mut past = self.history();
        let point = is_point.then(|| {
            past.columns = None;
            past.history.observe(&told.status)
        });
        self.frames.send_modify(|frame| {
            frame.status = status;
            if let Some(point) = point {
                frame.point = event("point", &point);
                frame.points += 1;
            }
        });
    }

    fn enter(self: &Arc<Self>) -> Option<Place> {
        let before = self.watching.fetch_add(1, Ordering::Relaxed);
        let place = Place(self.clone());
        (before < WATCHERS).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.watching.fetch_sub(1, Ordering::Relaxed);
    }
}

/// As the HTML standard has it (section 9.2.6, "Interpreting an event stream"). JSON has no line breaks of its own.
fn event(name: &str, data: &impl serde::Serialize) -> Bytes {
    let data = serde_json::to_string(data).unwrap_or_else(|_| "null".to_owned());
    format!("event: {name}\ndata: {data}\n\n").into()
}

/// A watcher.
struct Watcher {
    shown: Shown,
    frames: watch::Receiver<Frame>,
    /// The last decision and the last point that it was sent.
    decision: u64,
    points: u64,
    begun: bool,
    _place: Place,
}

impl Watcher {
    /// What is new, as soon as there is something; [`None`] when it is over.
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        if !self.begun {
            self.begun = true;
            return Some((Ok(self.beginning()), self));
        }
        tokio::select! {
            biased;
            () = self.shown.lifecycle.until(Lifecycle::ENDED) => return None,
            changed = self.frames.changed() => changed.ok()?,
        }
        let frame = self.frames.borrow_and_update().clone();
        let mut text = Vec::with_capacity(frame.status.len() + frame.point.len());
        text.extend(self.decisions(|journal, last| journal.after(last)));
        text.extend_from_slice(&frame.status);
        if frame.points > self.points {
            self.points = frame.points;
            text.extend_from_slice(&frame.point);
        }
        Some((Ok(text.into()), self))
    }

    fn beginning(&mut self) -> Bytes {
        let mut text = {
            let mut past = self.shown.live.history();
            self.points = self.frames.borrow_and_update().points;
            [b"event: history\ndata: ", &past.columns()[..], b"\n\n"].concat()
        };
        text.extend(self.decisions(|journal, _| journal.last(DECISIONS)));
        text.extend_from_slice(&event("status", &self.shown.status()));
        text.into()
    }

    fn decisions(
        &mut self,
        of: impl FnOnce(&crate::journal::Journal, u64) -> Vec<Arc<crate::journal::Entry>>,
    ) -> Vec<u8> {
        let entries = of(&self.shown.overspill.shared().journal, self.decision);
        if let Some(last) = entries.last() {
            self.decision = last.id;
        }
        let told = entries.iter().map(|entry| event("decision", &**entry));
        told.collect::<Vec<_>>().concat()
    }
}

/// `GET /api/events`.
pub(super) async fn events(State(shown): State<Shown>) -> Response {
    let Some(place) = shown.live.enter() else {
        let message = format!("{WATCHERS} watch already: try again later, or close another");
        let mut response = refusal(StatusCode::SERVICE_UNAVAILABLE, &message);
        let later = HeaderValue::from_static("10");
        response.headers_mut().insert(header::RETRY_AFTER, later);
        return response;
    };
    let watcher = Watcher {
        frames: shown.live.frames.subscribe(),
        shown,
        decision: 0,
        points: 0,
        begun: false,
        _place: place,
    };
    let stream = futures_util::stream::unfold(watcher, Watcher::next);
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, Body::from_stream(stream)).into_response()
}
