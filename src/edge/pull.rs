//! Asking the primary, and what comes of it.

use std::{
    sync::{Arc, OnceLock, atomic::Ordering::Relaxed},
    time::SystemTime,
};

use axum::body::Body;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONTENT_LENGTH, HOST, IF_MODIFIED_SINCE, IF_NONE_MATCH, VIA},
    request,
};
use http_body_util::BodyExt;
use tokio::time::Instant;

use super::{
    counters::count,
    fill::{Fill, Head, Outcome},
    headers::{CDN_LOOP, clean, told},
    object::{Name, Object},
    policy::{self, State, Verdict, condition, millis, renewed},
    service::Inner,
    store::{Entry, Key, Varies},
};
use crate::{
    offload::{LOAD_HEADER, NAME_HEADER, TOKEN_HEADER, sign_report},
    upstream::Failure,
};

/// How long what can't be shared is asked for by everyone alone, before somebody tries again.
const PASSES_FOR: u64 = 10_000;
/// How long an object that can't be renewed is given out at once, in seconds beyond the patience for the primary: in
/// which somebody tries aside.
const BEARS_FOR: u64 = 5;
/// Bytes a second: what comes more slowly, and nobody reads, is given up once the patience is over.
const SLOWEST: u64 = 1024;

/// A pull, and who waits for it.
pub(super) struct Pull {
    pub(super) inner: Arc<Inner>,
    pub(super) fill: Arc<Fill>,
    pub(super) key: Key,
    /// That of its variant, under which others join it too, once that is known.
    pub(super) variant: OnceLock<Key>,
    pub(super) site: u16,
    pub(super) target: String,
    /// What the visitor sent who began it.
    pub(super) headers: HeaderMap,
    /// What is kept and not fresh any more.
    pub(super) kept: Option<Arc<Object>>,
    /// How often something had been purged when it began.
    pub(super) purges: u64,
}

impl Drop for Pull {
    fn drop(&mut self) {
        // However it ended, nobody waits for ever. Where it ended well, this changes nothing.
        self.give_up(StatusCode::BAD_GATEWAY, "The site has failed to answer.");
    }
}

// === impl Pull ===

impl Pull {
    /// The object that is kept, if there is one, has to do for a while.
    fn fail(&self, status: StatusCode, sentence: &'static str) {
        if let Some(kept) = &self.kept {
            self.inner.bear_with(self.key, kept);
        }
        self.give_up(status, sentence);
    }

    /// Nobody joins it any more.
    fn leave(&self) {
        for key in [Some(&self.key), self.variant.get()].into_iter().flatten() {
            self.inner.fills.leave(*key, &self.fill);
        }
    }

    fn give_up(&self, status: StatusCode, sentence: &'static str) {
        self.fill.settle(Outcome::Failed(status, sentence));
        self.fill.end(false);
        self.leave();
    }

    pub(super) async fn run(self) {
        let inner = &*self.inner;
        let Some(mut asked) = inner.asked(&Method::GET, self.site, &self.target, &self.headers)
        else {
            return self.fail(StatusCode::BAD_REQUEST, "The address is none.");
        };
        let now = SystemTime::now();
        let kept = self.kept.as_ref().map(|kept| (kept, kept.headers(0)));
        if let Some((_, headers)) = &kept {
            condition(&mut asked, headers, now);
        }
        let mut answer = match inner.send(self.site, &asked, Body::empty()).await {
            Ok(answer) => answer,
            Err((status, sentence)) => return self.fail(status, sentence),
        };
        if answer.status() == StatusCode::NOT_MODIFIED
            && let Some((kept, headers)) = &kept
        {
            let (mut parts, _) = answer.into_parts();
            clean(&mut parts.headers);
            let (status, now) = (kept.status(), SystemTime::now());
            let new = renewed(&asked, headers, status, &parts, &inner.settings, now);
            if let Some((headers, Verdict::Keep(life))) = new {
                return self.renew(kept, headers, life);
            }
            // It is about another object than the one that is kept, or that may be kept no more: the whole is needed.
            for name in [IF_NONE_MATCH, IF_MODIFIED_SINCE] {
                asked.headers.remove(name);
            }
            answer = match inner.send(self.site, &asked, Body::empty()).await {
                Ok(answer) => answer,
                Err((status, sentence)) => return self.fail(status, sentence),
            };
        }
        let now = SystemTime::now();
        let (mut parts, body) = answer.into_parts();
        match policy::judge(&asked, &parts, &self.target, &inner.settings, now) {
            Verdict::Refuse(status, sentence) => {
                inner.tell_refused(&asked, parts.status, sentence);
                self.fail(status, sentence);
            }
            Verdict::Pass(why) => {
                tracing::debug!(target = self.target, why, "not for sharing");
                if self.kept.is_none() || policy::displaces(parts.status) {
                    self.pass_from_now_on(millis(now));
                } else {
                    // A refusal, say: for who asked alone.
                    self.leave();
                }
                clean(&mut parts.headers);
                self.fill.pass(Response::from_parts(parts, body));
            }
            Verdict::Keep(life) => {
                clean(&mut parts.headers);
                let head = Head::of(&parts.headers, parts.status, &self.headers);
                self.keep(head, body, life).await;
            }
        }
    }

    /// Until then nobody waits for a pull that can't be shared.
    fn pass_from_now_on(&self, now: u64) {
        let until = now + PASSES_FOR;
        self.inner.store.insert(self.key, Entry::Passes { until });
        self.leave();
    }

    fn renew(&self, kept: &Arc<Object>, mut headers: HeaderMap, life: policy::Life) {
        let inner = &self.inner;
        count(&inner.counters.renewed);
        headers.remove(CONTENT_LENGTH);
        let variant = kept.variant().to_vec();
        let name = Name {
            site: self.site,
            target: &self.target,
            variant: &variant,
        };
        let object = Object::new(name, kept.status(), &headers, &kept.body(), life);
        if let Some(object) = object.map(Arc::new) {
            self.store(self.key, Entry::Object(object.clone()));
            self.fill.settle(Outcome::Kept(object));
        }
        self.leave();
    }

    fn store(&self, key: Key, entry: Entry) {
        self.inner
            .store
            .insert_unless_purged(key, entry, self.purges);
    }

    /// Whether there is something to give out instead.
    fn has_other(&self) -> bool {
        let now = millis(SystemTime::now());
        let kept = self.kept.as_ref();
        kept.is_some_and(|kept| kept.life.state(now) != State::Dead)
    }

    async fn keep(&self, head: Head, mut body: Body, life: policy::Life) {
        let inner = &*self.inner;
        let variant = head.variant.clone();
        let name = Name {
            site: self.site,
            target: &self.target,
            variant: &variant,
        };
        if !head.varies.is_empty() {
            // Those whose variant is another find it here.
            let base = Name {
                variant: b"",
                ..name
            };
            // And those whose variant it is find the pull there.
            let variant = *self.variant.get_or_init(|| inner.store.key(name));
            inner.fills.join_by(self.key, &self.fill, variant);
            let varies = Varies::new(base, head.varies.clone());
            self.store(inner.store.key(base), Entry::Varies(Arc::new(varies)));
        }
        let head = Arc::new(head);
        // With an older one at hand nobody gets the new one before it is whole.
        let has_other = self.has_other();
        if !has_other {
            self.fill.settle(Outcome::Streams(head.clone()));
        }
        let largest = inner.settings.largest.bytes();
        let mut filling = Filling { inner, bytes: 0 };
        let begun = Instant::now();
        let mut shed = false;
        loop {
            let chunk = match body.frame().await {
                None => break,
                Some(Err(error)) => {
                    inner.tell_broken(&self.target, &error);
                    return self.fail(StatusCode::BAD_GATEWAY, "The site's answer broke off.");
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(chunk) => chunk,
                    // Trailers: nothing of an object's.
                    Err(_) => continue,
                },
            };
            inner
                .counters
                .pulled_bytes
                .fetch_add(chunk.len() as u64, Relaxed);
            filling.add(chunk.len() as u64);
            let elapsed = begun.elapsed();
            if elapsed > inner.settings.patience
                && filling.bytes < SLOWEST * elapsed.as_secs()
                && !self.fill.is_read()
            {
                inner.tell_broken(&self.target, &"it comes too slowly");
                return self.fail(
                    StatusCode::GATEWAY_TIMEOUT,
                    "The site took too long to answer.",
                );
            }
            if !shed && (filling.bytes > largest || filling.is_too_much()) {
                self.pass_from_now_on(millis(SystemTime::now()));
                if has_other {
                    // Nobody reads yet: each asks alone.
                    self.fill.settle(Outcome::Passes);
                    return;
                }
                self.until_read().await;
                self.fill.shed();
                shed = true;
            }
            self.fill.push(chunk);
            if shed && !self.fill.has_room().await {
                return;
            }
        }
        if !shed {
            let body = self.fill.joined();
            let mut headers = head.headers.clone();
            headers.remove(CONTENT_LENGTH);
            let object = Object::new(name, head.status, &headers, &body, life).map(Arc::new);
            if let Some(object) = object {
                self.store(inner.store.key(name), Entry::Object(object.clone()));
                self.fill.settle(Outcome::Kept(object));
            } else {
                self.fill.settle(Outcome::Streams(head));
            }
        }
        self.fill.end(true);
        self.leave();
    }

    /// All of an answer may be there at once: who was told of it a moment ago begins to read before its beginning is let
    /// go of, and need not ask again. Who has gone meanwhile is not waited for.
    async fn until_read(&self) {
        for _ in 0..20 {
            if self.fill.is_read() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }
}

/// Bytes that are being gathered.
struct Filling<'a> {
    inner: &'a Inner,
    bytes: u64,
}

impl Filling<'_> {
    fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.inner.filling.fetch_add(bytes, Relaxed);
    }

    /// What is gathered has to stay within bounds, as what is kept has.
    fn is_too_much(&self) -> bool {
        self.inner.filling.load(Relaxed) > self.inner.settings.memory.bytes()
    }
}

impl Drop for Filling<'_> {
    fn drop(&mut self) {
        self.inner.filling.fetch_sub(self.bytes, Relaxed);
    }
}

// === impl Inner ===

impl Inner {
    /// The request that the primary gets; [`None`]: there is no such address.
    pub(super) fn asked(
        &self,
        method: &Method,
        site: u16,
        target: &str,
        headers: &HeaderMap,
    ) -> Option<request::Parts> {
        let site = self.sites.get(usize::from(site));
        let primary = site.primary.target();
        let mut request = Request::new(());
        *request.method_mut() = method.clone();
        *request.uri_mut() = primary.address(&target.parse().ok()?)?;
        *request.version_mut() = Version::HTTP_11;
        let mut sent = told(headers);
        sent.insert(
            HOST,
            HeaderValue::try_from(primary.authority.as_str()).ok()?,
        );
        sent.append(CDN_LOOP.clone(), self.id.clone());
        sent.insert(VIA, self.via.clone());
        if let Some(token) = &site.token {
            sent.insert(HeaderName::from_static(TOKEN_HEADER), token.clone());
            if let Some(report) = self.load.report().header.clone() {
                sent.insert(HeaderName::from_static(LOAD_HEADER), report);
            }
            let name = match &*self.settings.name {
                "" => site.learnt(),
                name => Some(name.into()),
            };
            if let Some(name) = name.and_then(|name| HeaderValue::try_from(&*name).ok()) {
                sent.insert(HeaderName::from_static(NAME_HEADER), name);
            }
            sign_report(&mut sent, token.as_bytes(), SystemTime::now());
        }
        *request.headers_mut() = sent;
        Some(request.into_parts().0)
    }

    /// Asks; what went wrong is told in the log, and to the client by a status and a sentence.
    pub(super) async fn send(
        &self,
        site: u16,
        asked: &request::Parts,
        body: Body,
    ) -> Result<Response<Body>, (StatusCode, &'static str)> {
        count(&self.counters.pulls);
        let site = self.sites.get(usize::from(site));
        let request = Request::from_parts(asked.clone(), body);
        let answer = site.primary.pass_on(request).await.map_err(|failure: Failure| {
            count(&self.counters.failed_pulls);
            if self.said.broken.is_due() {
                tracing::warn!(primary = %site.primary.target().authority, %failure, "no answer from the primary");
            }
            failure.told()
        })?;
        if answer.headers().contains_key(TOKEN_HEADER) && self.said.token.is_due() {
            tracing::warn!(
                primary = %site.primary.target().authority,
                "the primary does not know our token, so pulls are treated as visitors: set `edge.token` to its \
                 `offload.token`"
            );
        }
        Ok(answer)
    }

    fn tell_refused(&self, asked: &request::Parts, status: StatusCode, why: &str) {
        count(&self.counters.failed_pulls);
        if self.said.refused.is_due() {
            tracing::warn!(asked = %asked.uri, %status, why, "an answer of the primary's is not given out");
        }
    }

    /// `kept` could not be renewed.
    pub(super) fn bear_with(&self, key: Key, kept: &Arc<Object>) {
        let seconds = self.settings.patience.as_secs() + BEARS_FOR;
        let now = millis(SystemTime::now());
        self.store.bear_with(key, kept, now, seconds);
    }

    fn tell_broken(&self, path: &str, error: &dyn std::fmt::Display) {
        count(&self.counters.failed_pulls);
        if self.said.broken.is_due() {
            tracing::warn!(path, %error, "an answer of the primary's broke off");
        }
    }
}
