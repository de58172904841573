//! One visit of a page: what Chromium fetched for it, what it made of it, and what it complained of.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::{wait::until, webdriver::Browser};

/// A page that has been looked at.
#[derive(Debug)]
pub(crate) struct Visit {
    /// Everything that was asked for, the page itself first.
    pub(crate) requests: Vec<Request>,
    /// What the console was told, `level: text`, without the names of the servers.
    pub(crate) console: Vec<String>,
    /// What the look gave, without the names of the servers.
    pub(crate) state: Value,
}

/// A request of the browser.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) url: String,
    /// What came, or why nothing did.
    pub(crate) answer: Result<u16, String>,
    /// It was not asked for again, but taken from memory or disk.
    pub(crate) cached: bool,
}

/// Where things may come from.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    pub(crate) primary: String,
    pub(crate) server: String,
}

// === impl Places ===

impl Places {
    /// A text in which both servers have no name.
    fn nameless(&self, text: &str) -> String {
        text.replace(&self.server, "").replace(&self.primary, "")
    }

    fn nameless_in(&self, value: Value) -> Value {
        match value {
            Value::String(text) => self.nameless(&text).into(),
            Value::Array(list) => list
                .into_iter()
                .map(|item| self.nameless_in(item))
                .collect(),
            Value::Object(map) => map
                .into_iter()
                .map(|(key, item)| (key, self.nameless_in(item)))
                .collect(),
            value => value,
        }
    }
}

// === impl Request ===

impl Request {
    /// Path and query, if it is at `origin`.
    pub(crate) fn path_at(&self, origin: &str) -> Option<&str> {
        self.url
            .strip_prefix(origin)
            .filter(|path| path.starts_with('/'))
    }
}

// === impl Visit ===

impl Visit {
    /// Opens `url`, runs `look` in it, which waits for what the page does later and tells what is to be seen,
    /// and waits until nothing is on its way any more.
    pub(crate) async fn pay(browser: &Browser, places: &Places, url: &str, look: &str) -> Self {
        let mut network = Network::default();
        // What is left of the page before goes first.
        browser.open("about:blank").await;
        browser.events().await;
        browser.console().await;
        browser.open(url).await;
        let state = places.nameless_in(browser.run(look).await);
        assert!(state.get("thrown").is_none(), "{url}: {state}");
        until(
            format_args!("all that {url} fetches has come"),
            async || {
                browser
                    .events()
                    .await
                    .iter()
                    .for_each(|event| network.take(event));
                network.is_quiet().then_some(())
            },
        )
        .await;
        let mut visit = Self {
            requests: network.requests,
            console: Vec::new(),
            state,
        };
        visit.listen(browser, places).await;
        visit
    }

    /// Takes what the console was told meanwhile.
    pub(crate) async fn listen(&mut self, browser: &Browser, places: &Places) {
        for entry in browser.console().await {
            let level = entry["level"].as_str().unwrap_or_default();
            let text = entry["message"].as_str().unwrap_or_default();
            // "url place text". Whether the parser met a link first, or what runs ahead of it, is chance.
            let mut parts = text.splitn(3, ' ');
            let url = parts.next().unwrap_or_default();
            let text = parts.nth(1).unwrap_or_default();
            // A list of sources has one more, which has no name here.
            let text = places.nameless(&format!("{url} {text}"));
            let text = text.replace(" \"", "\"").replace(" ;", ";");
            self.console.push(format!("{level}: {text}"));
        }
    }

    /// What was fetched and not taken from a cache, wherever, with what came: sorted, each as often as it was.
    pub(crate) fn fetched(&self, places: &Places) -> Vec<String> {
        let fetched = self.requests.iter().filter(|request| !request.cached);
        let mut fetched: Vec<_> = fetched
            .map(|request| format!("{} {:?}", places.nameless(&request.url), request.answer))
            .collect();
        fetched.sort();
        fetched
    }

    /// Path and query of every object that was asked for at `origin`, sorted, each as often as it was.
    pub(crate) fn objects_at(&self, origin: &str) -> Vec<&str> {
        let objects = self.requests.iter().skip(1);
        let mut paths: Vec<_> = objects
            .filter_map(|object| object.path_at(origin))
            .collect();
        paths.sort_unstable();
        paths
    }

    /// What the console says here more often than there.
    pub(crate) fn complains_more_than(&self, other: &Self) -> Vec<&str> {
        let mut known = BTreeMap::<&str, usize>::new();
        for line in &other.console {
            *known.entry(line).or_default() += 1;
        }
        let mut new = Vec::new();
        for line in &self.console {
            match known.get_mut(line.as_str()) {
                Some(left @ 1..) => *left -= 1,
                _ => new.push(line.as_str()),
            }
        }
        new
    }
}

/// What is known of the requests so far.
#[derive(Default)]
struct Network {
    requests: Vec<Request>,
    /// By the number that the browser gave it: where it stands in the list.
    index: BTreeMap<String, usize>,
    open: BTreeMap<String, ()>,
}

// === impl Network ===

impl Network {
    fn take(&mut self, event: &Value) {
        let parameters = &event["params"];
        let id = parameters["requestId"].as_str().unwrap_or_default();
        match event["method"].as_str().unwrap_or_default() {
            "Network.requestWillBeSent" => {
                let url = parameters["request"]["url"].as_str().unwrap_or_default();
                // Icons and reports are the browser's own affair: it sends for them when it likes.
                let aside = ["icon", "/reports"].iter().any(|name| url.contains(name));
                let aside = aside && parameters["type"] == "Other";
                if url.starts_with("http") && !aside {
                    self.open.insert(id.to_owned(), ());
                    self.index.insert(id.to_owned(), self.requests.len());
                    self.requests.push(Request {
                        url: url.split('#').next().unwrap_or(url).to_owned(),
                        answer: Err("no answer".to_owned()),
                        cached: false,
                    });
                }
            }
            "Network.requestServedFromCache" => self.change(id, |request| request.cached = true),
            "Network.responseReceived" => {
                let response = &parameters["response"];
                self.change(id, |request| {
                    let status = response["status"].as_u64().unwrap_or_default();
                    request.answer = Ok(u16::try_from(status).unwrap_or_default());
                    request.cached |= response["fromDiskCache"] == true;
                });
            }
            "Network.loadingFinished" => drop(self.open.remove(id)),
            "Network.loadingFailed" => {
                self.open.remove(id);
                let why = parameters["errorText"].as_str().unwrap_or_default();
                // Of a film no more is taken than is needed: that it came is what counts.
                self.change(id, |request| {
                    if request.answer.is_err() {
                        request.answer = Err(why.to_owned());
                    }
                });
            }
            _ => {}
        }
    }

    fn change(&mut self, id: &str, change: impl FnOnce(&mut Request)) {
        if let Some(request) = self.index.get(id).and_then(|at| self.requests.get_mut(*at)) {
            change(request);
        }
    }

    fn is_quiet(&self) -> bool {
        !self.requests.is_empty() && self.open.is_empty()
    }
}
