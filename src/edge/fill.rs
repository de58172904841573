//! One pull for any number of misses: who comes second reads what the first one's pull has brought so far.
//!
//! The pull writes chunks, readers follow at their own pace. An object that turns out too large to be kept
//! goes on to those who read it already; from there on what all of them have read is let go, and the pull
//! waits for the slowest, as long as that one moves: memory stays bounded.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Response, StatusCode, header::CONTENT_LENGTH};
use tokio::time::timeout;

use super::{headers::variant, object::Object, policy::vary, store::Key};

/// How far the fastest reader may be ahead of the slowest in what is not kept.
const WINDOW: usize = 256 * 1024;
/// How long the others wait for a reader that does not move at all.
const STANDSTILL: Duration = Duration::from_secs(10);
/// The place of a reader that the others have left behind.
const LEFT_BEHIND: usize = usize::MAX;

/// What a pull has come to.
#[derive(Clone)]
pub(super) enum Outcome {
    /// Its body is on its way.
    Streams(Arc<Head>),
    /// It is there, and kept.
    Kept(Arc<Object>),
    /// It is not for sharing: who started the pull takes it, the others ask for themselves.
    Passes,
    /// Nothing came that could be given out.
    Failed(StatusCode, &'static str),
}

/// The head of an answer that is shared.
pub(super) struct Head {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) length: Option<u64>,
    /// By what it varies, and the values that it was pulled with.
    pub(super) varies: Box<[HeaderName]>,
    pub(super) variant: Vec<u8>,
}

/// A pull under way.
pub(super) struct Fill(Mutex<State>);

#[derive(Default)]
struct State {
    outcome: Option<Outcome>,
    /// For who started the pull.
    passed: Option<Response<Body>>,
    chunks: VecDeque<Bytes>,
    /// How many chunks have been let go.
    gone: usize,
    held: usize,
    ended: Option<bool>,
    /// Not kept any more: what everyone has read is let go.
    sheds: bool,
    /// The next chunk of each reader.
    readers: Vec<Option<usize>>,
    waiting: Vec<Waker>,
    puller: Option<Waker>,
    /// Counts wake-ups, so that a waiting one knows whether it is registered.
    version: u64,
}

// === impl Head ===

impl Head {
    /// What an answer with these `headers` is to who asked with `asked`.
    pub(super) fn of(headers: &HeaderMap, status: StatusCode, asked: &HeaderMap) -> Self {
        let length = headers.get(CONTENT_LENGTH);
        let mut varies: Vec<HeaderName> = vary(headers)
            .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
            .collect();
        varies.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        varies.dedup();
        Self {
            status,
            headers: headers.clone(),
            length: length.and_then(|length| length.to_str().ok()?.parse().ok()),
            variant: variant(&varies, asked),
            varies: varies.into(),
        }
    }
}

// === impl State ===

impl State {
    fn wake(&mut self) -> Vec<Waker> {
        self.version += 1;
        std::mem::take(&mut self.waiting)
    }

    fn wait(&mut self, place: &mut Option<(u64, usize)>, cx: &Context<'_>) {
        match *place {
            Some((version, index)) if version == self.version => {
                if let Some(waker) = self.waiting.get_mut(index) {
                    waker.clone_from(cx.waker());
                }
            }
            _ => {
                *place = Some((self.version, self.waiting.len()));
                self.waiting.push(cx.waker().clone());
            }
        }
    }

    /// The next chunks of those who read on.
    fn reading(&self) -> impl Iterator<Item = usize> {
        let readers = self.readers.iter().flatten().copied();
        readers.filter(|next| *next != LEFT_BEHIND)
    }

    fn slowest(&self) -> Option<usize> {
        self.reading().min()
    }

    /// Lets go what everyone has read.
    fn shed(&mut self) {
        if !self.sheds {
            return;
        }
        let slowest = self.slowest().unwrap_or(usize::MAX);
        while self.gone < slowest
            && let Some(chunk) = self.chunks.pop_front()
        {
            self.gone += 1;
            self.held -= chunk.len();
        }
        if let Some(puller) = self.puller.take() {
            puller.wake();
        }
    }
}

// === impl Fill ===

impl Fill {
    fn new() -> Self {
        Self(Mutex::default())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Held for a few instructions only, none of which can panic half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first word about it counts.
    pub(super) fn settle(&self, outcome: Outcome) {
        let mut state = self.state();
        if state.outcome.is_none() {
            state.outcome = Some(outcome);
        }
        let woken = state.wake();
        drop(state);
        woken.into_iter().for_each(Waker::wake);
    }

    /// For who started the pull alone.
    pub(super) fn pass(&self, answer: Response<Body>) {
        self.state().passed = Some(answer);
        self.settle(Outcome::Passes);
    }

    pub(super) fn passed(&self) -> Option<Response<Body>> {
        self.state().passed.take()
    }

    /// Waits until it is known what becomes of it.
    pub(super) async fn outcome(&self) -> Outcome {
        let mut place = None;
        poll_fn(|cx| {
            let mut state = self.state();
            match &state.outcome {
                Some(outcome) => Poll::Ready(outcome.clone()),
                None => {
                    state.wait(&mut place, cx);
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Waits until nothing more comes of it.
    pub(super) async fn finished(&self) {
        let mut place = None;
        poll_fn(|cx| {
            let mut state = self.state();
            let is_coming = matches!(state.outcome, None | Some(Outcome::Streams(_)));
            if is_coming && state.ended.is_none() {
                state.wait(&mut place, cx);
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
    }

    pub(super) fn push(&self, chunk: Bytes) {
        let mut state = self.state();
        state.held += chunk.len();
        state.chunks.push_back(chunk);
        let woken = state.wake();
        drop(state);
        woken.into_iter().for_each(Waker::wake);
    }

    /// From now on it is not kept; nobody joins it any more.
    pub(super) fn shed(&self) {
        let mut state = self.state();
        state.sheds = true;
        state.shed();
    }

    pub(super) fn is_read(&self) -> bool {
        self.state().reading().next().is_some()
    }

    /// Waits until there is room for more of what is not kept; false: nobody reads it. Who stands still while others wait
    /// is left behind.
    pub(super) async fn has_room(&self) -> bool {
        loop {
            let slowest = self.state().slowest();
            match timeout(STANDSTILL, self.room()).await {
                Ok(has_room) => return has_room,
                Err(_) => self.leave_behind(slowest),
            }
        }
    }

    fn leave_behind(&self, slowest: Option<usize>) {
        let mut state = self.state();
        let others_wait = state.reading().any(|next| Some(next) != slowest);
        if state.slowest() != slowest || !others_wait {
            return;
        }
        for reader in state.readers.iter_mut().flatten() {
            if Some(*reader) == slowest {
                *reader = LEFT_BEHIND;
            }
        }
        state.shed();
        let woken = state.wake();
        drop(state);
        woken.into_iter().for_each(Waker::wake);
    }

    async fn room(&self) -> bool {
        poll_fn(|cx| {
            let mut state = self.state();
            if state.reading().next().is_none() {
                return Poll::Ready(false);
            }
            if state.held <= WINDOW {
                return Poll::Ready(true);
            }
            state.puller = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// The body has ended, whole or cut; the first word about it counts.
    pub(super) fn end(&self, whole: bool) {
        let mut state = self.state();
        state.ended.get_or_insert(whole);
        let woken = state.wake();
        drop(state);
        woken.into_iter().for_each(Waker::wake);
    }

    /// All that came, in one piece of exactly its size.
    pub(super) fn joined(&self) -> Bytes {
        let state = self.state();
        let mut whole = Vec::with_capacity(state.held);
        for chunk in &state.chunks {
            whole.extend_from_slice(chunk);
        }
        Bytes::from(whole.into_boxed_slice())
    }

    /// A reader from the beginning; [`None`]: the beginning is not there any more.
    pub(super) fn reader(self: &Arc<Self>) -> Option<Reader> {
        let mut state = self.state();
        if state.sheds {
            return None;
        }
        let free = state.readers.iter().position(Option::is_none);
        let slot = free.unwrap_or(state.readers.len());
        if free.is_some() {
            state.readers[slot] = Some(0);
        } else {
            state.readers.push(Some(0));
        }
        drop(state);
        Some(Reader {
            fill: Arc::clone(self),
            slot,
            next: 0,
            place: None,
        })
    }
}

/// Reads a body that is still coming.
pub(super) struct Reader {
    fill: Arc<Fill>,
    slot: usize,
    next: usize,
    place: Option<(u64, usize)>,
}

/// The primary's answer broke off, or the others did not wait any longer.
#[derive(Debug, thiserror::Error)]
#[error("the primary's answer broke off, or its reader stood still while others waited")]
pub(super) struct Cut;

// === impl Reader ===

impl Reader {
    pub(super) fn poll_chunk(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        let mut state = self.fill.state();
        if state.readers.get(self.slot) == Some(&Some(LEFT_BEHIND)) {
            return Poll::Ready(Some(Err(Cut)));
        }
        let at = self.next - state.gone.min(self.next);
        if let Some(chunk) = state.chunks.get(at).cloned() {
            self.next += 1;
            let (slot, next) = (self.slot, self.next);
            if let Some(place) = state.readers.get_mut(slot) {
                *place = Some(next);
            }
            state.shed();
            return Poll::Ready(Some(Ok(chunk)));
        }
        match state.ended {
            Some(true) => Poll::Ready(None),
            Some(false) => Poll::Ready(Some(Err(Cut))),
            None => {
                state.wait(&mut self.place, cx);
                Poll::Pending
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.fill.state();
        if let Some(place) = state.readers.get_mut(self.slot) {
            *place = None;
        }
        state.shed();
    }
}

/// The pulls that others can join.
#[derive(Default)]
pub(super) struct Fills(Mutex<HashMap<Key, Arc<Fill>>>);

// === impl Fills ===

impl Fills {
    fn fills(&self) -> MutexGuard<'_, HashMap<Key, Arc<Fill>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pull for `key`, and whether it is a new one, to be begun by who asks.
    pub(super) fn join(&self, key: Key) -> (Arc<Fill>, bool) {
        let mut fills = self.fills();
        if let Some(fill) = fills.get(&key) {
            return (Arc::clone(fill), false);
        }
        let fill = Arc::new(Fill::new());
        fills.insert(key, Arc::clone(&fill));
        (fill, true)
    }

    /// Who asks for `too` joins `fill` as well, for as long as those do who ask for `key`.
    pub(super) fn join_by(&self, key: Key, fill: &Arc<Fill>, too: Key) {
        let mut fills = self.fills();
        // Not, where it has been left: what was asked for before a purge is not joined after it.
        if fills
            .get(&key)
            .is_some_and(|found| Arc::ptr_eq(found, fill))
        {
            fills.entry(too).or_insert_with(|| Arc::clone(fill));
        }
    }

    /// Nobody joins `fill` any more.
    pub(super) fn leave(&self, key: Key, fill: &Arc<Fill>) {
        let mut fills = self.fills();
        if fills
            .get(&key)
            .is_some_and(|found| Arc::ptr_eq(found, fill))
        {
            fills.remove(&key);
        }
    }

    /// What is asked for from now on is pulled anew.
    pub(super) fn leave_all(&self) {
        self.fills().clear();
    }

    pub(super) fn count(&self) -> usize {
        // One may be there under two keys.
        let fills = self.fills();
        let distinct: HashSet<_> = fills.values().map(Arc::as_ptr).collect();
        distinct.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn next(reader: &mut Reader) -> Option<Result<Bytes, Cut>> {
        poll_fn(|cx| reader.poll_chunk(cx)).await
    }

    #[tokio::test]
    async fn a_second_reader_reads_while_the_fill_is_under_way() {
        let (fill, mine) = Fills::default().join(1);
        assert!(mine);
        let mut first = fill.reader().unwrap();
        fill.push("a".into());
        assert_eq!(next(&mut first).await.unwrap().unwrap(), "a");
        let mut second = fill.reader().unwrap();
        assert_eq!(next(&mut second).await.unwrap().unwrap(), "a");
        let (chunk, ()) = tokio::join!(next(&mut second), async { fill.push("b".into()) });
        assert_eq!(chunk.unwrap().unwrap(), "b");
        fill.end(true);
        assert!(next(&mut second).await.is_none());
        assert_eq!(next(&mut first).await.unwrap().unwrap(), "b");
        assert!(next(&mut first).await.is_none());
        assert_eq!(fill.joined(), "ab");
    }

    #[test]
    fn a_fill_is_joined_by_its_variant_too_until_it_is_left() {
        let fills = Fills::default();
        let (fill, _) = fills.join(1);
        fills.join_by(1, &fill, 2);
        let (same, mine) = fills.join(2);
        assert!(Arc::ptr_eq(&fill, &same) && !mine);
        assert_eq!(fills.count(), 1);
        fills.leave_all();
        fills.join_by(1, &fill, 2);
        assert!(fills.join(2).1, "after a purge it is pulled anew");
    }

    #[tokio::test]
    async fn what_is_cut_is_cut_for_everyone() {
        let (fill, _) = Fills::default().join(1);
        let mut reader = fill.reader().unwrap();
        fill.push("a".into());
        fill.end(false);
        assert!(next(&mut reader).await.unwrap().is_ok());
        assert!(next(&mut reader).await.unwrap().is_err());
    }

    #[tokio::test]
    async fn what_is_not_kept_waits_for_the_slowest_and_takes_no_more_than_a_window() {
        let (fill, _) = Fills::default().join(1);
        let (mut fast, mut slow) = (fill.reader().unwrap(), fill.reader().unwrap());
        fill.shed();
        assert!(fill.reader().is_none());
        let chunk = Bytes::from(vec![0; WINDOW]);
        for _ in 0..2 {
            fill.push(chunk.clone());
            next(&mut fast).await.unwrap().unwrap();
        }
        let mut room = std::pin::pin!(fill.has_room());
        let waker = std::task::Waker::noop();
        let mut cx = Context::from_waker(waker);
        assert!(room.as_mut().poll(&mut cx).is_pending());
        next(&mut slow).await.unwrap().unwrap();
        assert!(room.await);
        drop((fast, slow));
        assert!(!fill.has_room().await);
        assert_eq!(fill.state().held, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_stands_still_is_left_behind_and_only_where_others_wait() {
        let (fill, _) = Fills::default().join(1);
        let (mut fast, mut still) = (fill.reader().unwrap(), fill.reader().unwrap());
        fill.shed();
        let chunk = Bytes::from(vec![0; WINDOW + 1]);
        fill.push(chunk.clone());
        // Nobody has moved: the client of neither is faster.
        let both = tokio::time::timeout(STANDSTILL * 3, fill.has_room());
        assert!(both.await.is_err());
        next(&mut fast).await.unwrap().unwrap();
        assert!(fill.has_room().await);
        fill.push(chunk);
        assert!(next(&mut fast).await.unwrap().is_ok());
        assert!(next(&mut still).await.unwrap().is_err());
        fill.end(true);
        assert!(next(&mut fast).await.is_none());
    }
}
