//! One visitor: a page and all that it makes a browser fetch, over at most six connections to a host.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use http::{StatusCode, header::SET_COOKIE};
use tokio::time::{Instant, timeout_at};
use url::Url;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::{
    connection::Connection,
    fetch::{Answer, Ask},
    gather::Shared,
    hosts::Host,
    objects::{self, Object},
    reference::{Expected, REDIRECTS},
    tally::{ObjectCount, Outcome, Visited},
    trouble::Trouble,
};
use crate::rewrite::Kind;

/// As many as browsers open to one host for HTTP/1.1.
const CONNECTIONS: usize = 6;
/// Of what goes wrong at one page, so much is told.
const MOST_TROUBLES: usize = 20;
/// Cookies beyond that are not kept.
const MOST_COOKIES: usize = 20;

/// Visits `page` as visitor number `visitor`.
pub(super) async fn visit(shared: &Shared, visitor: u64, page: &Url) -> Visited {
    let began = Instant::now();
    let deadline = began + shared.settings.patience;
    let mut visit = Visit {
        shared,
        visitor,
        lanes: HashMap::new(),
        cookies: HashMap::new(),
        seen: HashSet::new(),
        left: HashSet::new(),
        count: ObjectCount::default(),
        troubles: Vec::new(),
    };
    let outcome = match timeout_at(deadline, visit.page(page)).await {
        Err(_) => Outcome::TimedOut,
        Ok(Err((url, trouble))) => {
            let outcome = Outcome::without_page(&trouble);
            if outcome.is_strange() {
                visit.troubles.push((url, trouble));
            }
            outcome
        }
        Ok(Ok(page)) => {
            let in_time = timeout_at(deadline, visit.objects(&page)).await;
            if in_time.is_err() {
                visit.give_up();
            }
            visit.count.outcome()
        }
    };
    Visited {
        outcome,
        took: began.elapsed(),
        objects: visit.count,
        troubles: visit.troubles,
    }
}

/// A page that is there.
struct Page {
    url: Url,
    objects: Arc<[Object]>,
}

/// A host as one visitor sees it.
struct Lane {
    host: Arc<Host>,
    idle: Vec<Connection>,
    busy: usize,
    queue: VecDeque<Job>,
}

/// An object to be fetched.
struct Job {
    /// As the page names it.
    name: Url,
    /// Where it is, by redirects.
    url: Url,
    kind: Kind,
    redirects: u8,
}

/// An object that was asked for.
struct Done {
    job: Job,
    host: Arc<Host>,
    connection: Option<Connection>,
    answer: Result<Answer, Trouble>,
}

struct Visit<'a> {
    shared: &'a Shared,
    visitor: u64,
    lanes: HashMap<String, Lane>,
    /// By the name of their host.
    cookies: HashMap<String, Vec<(String, String)>>,
    seen: HashSet<Url>,
    /// Objects that are not there yet.
    left: HashSet<Url>,
    count: ObjectCount,
    troubles: Vec<(Url, Trouble)>,
}

// === impl Visit ===

impl Visit<'_> {
    /// Fetches the page, wherever redirects lead.
    async fn page(&mut self, page: &Url) -> Result<Page, (Url, Trouble)> {
        let mut url = page.clone();
        for _ in 0..=REDIRECTS {
            let answer = match self.document(&url).await {
                Ok(answer) => answer,
                Err(trouble) => return Err((url, trouble)),
            };
            match answer.redirect(&url) {
                Some(Ok(next)) => url = next,
                Some(Err(trouble)) => return Err((url, trouble)),
                None if !answer.status.is_success() => {
                    return Err((url, Trouble::Status(answer.status)));
                }
                None => return self.read(url, answer),
            }
        }
        Err((url, Trouble::Redirects))
    }

    async fn document(&mut self, url: &Url) -> Result<Answer, Trouble> {
        let net = &self.shared.net;
        let host = net.hosts.of(url)?;
        let idle = self.lane(&host).idle.pop();
        let cookies = self.cookies_for(url);
        let ask = Ask {
            url,
            kind: None,
            page: None,
            cookies,
            visitor: self.visitor,
        };
        let (connection, answer) = net.fetch(&host, &ask, idle).await;
        self.lane(&host).idle.extend(connection);
        let answer = answer?;
        self.keep_cookies(url, &answer);
        Ok(answer)
    }

    /// Reads what the page makes a browser fetch.
    fn read(&self, url: Url, answer: Answer) -> Result<Page, (Url, Trouble)> {
        let text = answer.text.unwrap_or_default();
        if let Some(reference) = &self.shared.reference
            && !reference.is_whole(&url, &text)
        {
            return Err((url, Trouble::Cut));
        }
        let objects = self.parsed(&url, &text, objects::of_page);
        Ok(Page { url, objects })
    }

    /// The same page comes for thousands of visitors.
    fn parsed(
        &self,
        url: &Url,
        text: &str,
        parse: impl FnOnce(&str, &Url) -> Vec<Object>,
    ) -> Arc<[Object]> {
        let of_url = xxh3_128_with_seed(url.as_str().as_bytes(), 0);
        let key = of_url ^ xxh3_128_with_seed(text.as_bytes(), of_url as u64);
        self.shared.parsed.get_with(key, || parse(text, url).into())
    }

    /// Fetches objects until there are no more, from all hosts at once.
    async fn objects(&mut self, page: &Page) {
        let shared = self.shared;
        self.enqueue(&page.objects);
        let mut under_way = FuturesUnordered::new();
        loop {
            while let Some((job, host, idle)) = self.next() {
                let (visitor, cookies) = (self.visitor, self.cookies_for(&job.url));
                under_way.push(async move {
                    let ask = Ask {
                        url: &job.url,
                        kind: Some(job.kind),
                        page: Some(&page.url),
                        cookies,
                        visitor,
                    };
                    let (connection, answer) = shared.net.fetch(&host, &ask, idle).await;
                    Done {
                        job,
                        host,
                        connection,
                        answer,
                    }
                });
            }
            let Some(done) = under_way.next().await else {
                return;
            };
            self.done(&page.url, done);
        }
    }

    fn enqueue(&mut self, objects: &[Object]) {
        for Object { url, kind } in objects {
            if self.seen.len() < objects::MOST && self.seen.insert(url.clone()) {
                self.left.insert(url.clone());
                self.put(Job {
                    name: url.clone(),
                    url: url.clone(),
                    kind: *kind,
                    redirects: 0,
                });
            }
        }
    }

    fn put(&mut self, job: Job) {
        match self.shared.net.hosts.of(&job.url) {
            Ok(host) => self.lane(&host).queue.push_back(job),
            Err(trouble) => self.failed(&job, trouble),
        }
    }

    fn lane(&mut self, host: &Arc<Host>) -> &mut Lane {
        self.lanes.entry(host.name.clone()).or_insert_with(|| Lane {
            host: host.clone(),
            idle: Vec::new(),
            busy: 0,
            queue: VecDeque::new(),
        })
    }

    /// Something to fetch for which there is a connection, or may be one.
    fn next(&mut self) -> Option<(Job, Arc<Host>, Option<Connection>)> {
        self.lanes.values_mut().find_map(|lane| {
            // An idle connection is taken first, so there are never more than those that are busy.
            if lane.busy >= CONNECTIONS {
                return None;
            }
            let job = lane.queue.pop_front()?;
            lane.busy += 1;
            Some((job, lane.host.clone(), lane.idle.pop()))
        })
    }

    fn done(&mut self, page: &Url, done: Done) {
        let Done {
            mut job,
            host,
            connection,
            answer,
        } = done;
        let lane = self.lane(&host);
        lane.busy -= 1;
        lane.idle.extend(connection);
        let answer = match answer {
            Ok(answer) => answer,
            Err(trouble) => return self.failed(&job, trouble),
        };
        self.keep_cookies(&job.url, &answer);
        match answer.redirect(&job.url) {
            Some(_) if job.redirects == REDIRECTS => self.failed(&job, Trouble::Redirects),
            Some(Ok(next)) => {
                job.url = next;
                job.redirects += 1;
                self.put(job);
            }
            Some(Err(trouble)) => self.failed(&job, trouble),
            None => self.answered(page, &job, answer),
        }
    }

    fn answered(&mut self, page: &Url, job: &Job, answer: Answer) {
        let reference = self.shared.reference.as_ref();
        let expected = reference.map(|reference| reference.expected(page, &job.name));
        if !answer.status.is_success() {
            // Who has found the primary without it can't miss it.
            if expected == Some(Some(Expected::Missing)) && answer.status.is_client_error() {
                self.left.remove(&job.name);
                self.count.missing += 1;
                return;
            }
            return self.failed(job, Trouble::Status(answer.status));
        }
        match expected {
            Some(Some(Expected::Bytes(hash))) if hash != answer.hash => {
                return self.failed(job, Trouble::Wrong);
            }
            Some(None) => self.count.unverified += 1,
            _ => {}
        }
        self.left.remove(&job.name);
        self.count.whole += 1;
        if job.kind == Kind::Style
            && let Some(text) = answer.text
        {
            let more = self.parsed(&job.url, &text, objects::of_stylesheet);
            self.enqueue(&more);
        }
    }

    fn failed(&mut self, job: &Job, trouble: Trouble) {
        self.left.remove(&job.name);
        *match &trouble {
            Trouble::Foreign(_) => &mut self.count.foreign,
            Trouble::Wrong => &mut self.count.wrong,
            Trouble::TimedOut => &mut self.count.timed_out,
            Trouble::Status(StatusCode::SERVICE_UNAVAILABLE) => &mut self.count.throttled,
            _ => &mut self.count.failed,
        } += 1;
        self.tell(job.url.clone(), trouble);
    }

    /// What is not there yet will not be waited for.
    fn give_up(&mut self) {
        self.count.timed_out += self.left.len() as u64;
        for url in std::mem::take(&mut self.left) {
            self.tell(url, Trouble::TimedOut);
        }
    }

    fn tell(&mut self, url: Url, trouble: Trouble) {
        if self.troubles.len() < MOST_TROUBLES {
            self.troubles.push((url, trouble));
        }
    }

    /// `Cookie` for a host. Paths, domains and ends of life are not looked at: a visit is short.
    fn cookies_for(&self, url: &Url) -> Option<String> {
        let own = self.shared.settings.cookie.as_ref();
        let own = own.map(|name| format!("{name}={}", self.visitor));
        let kept = url.host_str().and_then(|host| self.cookies.get(host));
        let kept = kept.into_iter().flatten();
        let all: Vec<String> = own
            .into_iter()
            .chain(kept.map(|(name, value)| format!("{name}={value}")))
            .collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    fn keep_cookies(&mut self, url: &Url, answer: &Answer) {
        for cookie in answer.headers.get_all(SET_COOKIE) {
            let pair = cookie
                .to_str()
                .ok()
                .and_then(|cookie| cookie.split(';').next());
            let (Some((name, value)), Some(host)) =
                (pair.and_then(|pair| pair.split_once('=')), url.host_str())
            else {
                continue;
            };
            let (name, value) = (name.trim().to_owned(), value.trim().to_owned());
            let kept = self.cookies.entry(host.to_owned()).or_default();
            let known = kept.iter().position(|(known, _)| *known == name);
            match known {
                Some(index) => kept[index].1 = value,
                None if kept.len() < MOST_COOKIES => kept.push((name, value)),
                None => {}
            }
        }
    }
}
