//! What the objects of a site are, by the hash of their bytes: what visitors hold the answers to.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use tokio::time::timeout;
use url::{Position, Url};
use xxhash_rust::xxh3::xxh3_128;

use super::{
    connection::Connection,
    fetch::{Answer, Ask, Net},
    objects::{self, Object},
    trouble::Trouble,
};
use crate::rewrite::Kind;

/// No site's pages have more.
const MOST: usize = 10_000;
/// A redirect may lead to another, so often.
pub(super) const REDIRECTS: u8 = 10;

/// The objects of a site.
#[derive(Debug, Default)]
pub struct Reference {
    /// By host of the page, path and query.
    objects: HashMap<(String, String), Expected>,
    /// Pages, without what precedes their path, that end with `</html>`.
    closed: HashSet<(String, String)>,
}

/// What the primary has of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    Bytes(u128),
    /// Nothing: it answers with an error.
    Missing,
}

/// Why there is no reference.
#[derive(Debug, thiserror::Error)]
#[error("`--verify` needs {url} once, before the crowd comes: {trouble}")]
pub struct ReferenceError {
    url: Url,
    trouble: Trouble,
}

// === impl Reference ===

impl Reference {
    /// From the files of a site at `site`: path and bytes of each.
    pub fn of_files<'a>(site: &Url, files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let host = authority(site);
        let mut found = Self::default();
        for (path, bytes) in files {
            if ends(bytes) {
                let page = path.strip_suffix("index.html").unwrap_or(path);
                found.closed.insert((host.clone(), page.to_owned()));
            }
            let expected = Expected::Bytes(xxh3_128(bytes));
            found
                .objects
                .insert((host.clone(), path.to_owned()), expected);
        }
        found
    }

    /// What is expected of `url`, an object of `page`. Offload servers may have it below a prefix.
    pub(super) fn expected(&self, page: &Url, url: &Url) -> Option<Expected> {
        candidates(page, url).find_map(|path| {
            self.objects
                .get(&(authority(page), path.to_owned()))
                .copied()
        })
    }

    /// Whether all of a page is there, as far as that can be told of one whose links may differ.
    pub(super) fn is_whole(&self, page: &Url, text: &str) -> bool {
        ends(text.as_bytes()) || !self.closed.contains(&page_key(page))
    }

    pub(super) fn missing(&self) -> impl Iterator<Item = &str> {
        let missing =
            |(_, expected): &(&(String, String), &Expected)| **expected == Expected::Missing;
        self.objects
            .iter()
            .filter(missing)
            .map(|((_, path), _)| path.as_str())
    }

    pub(super) fn count(&self) -> usize {
        self.objects.len()
    }

    /// Fetches all that `pages` make a browser fetch from their own hosts.
    pub(super) async fn fetch(
        net: &Net,
        pages: &[Url],
        patience: Duration,
    ) -> Result<Self, ReferenceError> {
        let mut crawl = Crawl {
            net,
            patience,
            idle: HashMap::new(),
            found: Self::default(),
        };
        for page in pages {
            crawl.page(page).await?;
        }
        Ok(crawl.found)
    }
}

/// The paths that an object may have on its page's host: on another host, what it has there may begin with a
/// prefix.
fn candidates<'a>(page: &Url, url: &'a Url) -> impl Iterator<Item = &'a str> {
    let path = &url[Position::BeforePath..Position::AfterQuery];
    let elsewhere = authority(page) != authority(url);
    let end = path.find('?').unwrap_or(path.len());
    let shorter = path[..end]
        .match_indices('/')
        .skip(1)
        .take(if elsewhere { 8 } else { 0 })
        .map(|(index, _)| &path[index..]);
    std::iter::once(path).chain(shorter)
}

fn authority(url: &Url) -> String {
    url[Position::BeforeHost..Position::AfterPort].to_owned()
}

fn page_key(page: &Url) -> (String, String) {
    let path = &page[Position::BeforePath..Position::AfterQuery];
    (authority(page), path.to_owned())
}

fn ends(text: &[u8]) -> bool {
    const END: &[u8] = b"</html>";
    let text = text.trim_ascii_end();
    text[text.len().saturating_sub(END.len())..].eq_ignore_ascii_case(END)
}

struct Crawl<'a> {
    net: &'a Net,
    patience: Duration,
    idle: HashMap<String, Connection>,
    found: Reference,
}

// === impl Crawl ===

impl Crawl<'_> {
    async fn page(&mut self, page: &Url) -> Result<(), ReferenceError> {
        let (page, answer) = self
            .get(page, None)
            .await
            .map_err(|trouble| ReferenceError {
                url: page.clone(),
                trouble,
            })?;
        if !answer.status.is_success() {
            let trouble = Trouble::Status(answer.status);
            return Err(ReferenceError { url: page, trouble });
        }
        let text = answer.text.unwrap_or_default();
        if ends(text.as_bytes()) {
            self.found.closed.insert(page_key(&page));
        }
        let mut queue: VecDeque<Object> = objects::of_page(&text, &page).into();
        let mut seen: HashSet<Url> = queue.iter().map(|object| object.url.clone()).collect();
        while let Some(object) = queue.pop_front() {
            if self.found.count() >= MOST {
                break;
            }
            let more = self.object(&page, &object).await?;
            queue.extend(
                more.into_iter()
                    .filter(|more| seen.insert(more.url.clone())),
            );
        }
        Ok(())
    }

    /// Fetches an object from the page's host, where that has it, else from where it is. Gives what it fetches.
    async fn object(&mut self, page: &Url, object: &Object) -> Result<Vec<Object>, ReferenceError> {
        let mut last = None;
        for path in candidates(page, &object.url) {
            let Ok(url) = page.join(path) else { continue };
            let key = (authority(page), path.to_owned());
            if self.found.objects.contains_key(&key) {
                return Ok(Vec::new());
            }
            match self.get(&url, Some(object.kind)).await {
                Ok((_, answer)) if answer.status.is_success() => {
                    self.found.objects.insert(key, Expected::Bytes(answer.hash));
                    let text = answer.text.unwrap_or_default();
                    return Ok(objects::of_stylesheet(&text, &url));
                }
                Ok((_, answer)) if answer.status.is_client_error() => {
                    last = Some((key, Expected::Missing))
                }
                Ok((_, answer)) => {
                    let trouble = Trouble::Status(answer.status);
                    return Err(ReferenceError { url, trouble });
                }
                // Not ours to fetch: nobody will.
                Err(Trouble::Foreign(_)) => return Ok(Vec::new()),
                Err(trouble) => return Err(ReferenceError { url, trouble }),
            }
        }
        if authority(page) == authority(&object.url) {
            self.found.objects.extend(last);
            return Ok(Vec::new());
        }
        // Another site's, which visitors may or may not fetch: held to what it is now, if it can be had.
        let Ok((_, answer)) = self.get(&object.url, Some(object.kind)).await else {
            return Ok(Vec::new());
        };
        if !answer.status.is_success() {
            return Ok(Vec::new());
        }
        let path = &object.url[Position::BeforePath..Position::AfterQuery];
        let key = (authority(page), path.to_owned());
        self.found.objects.insert(key, Expected::Bytes(answer.hash));
        Ok(objects::of_stylesheet(
            &answer.text.unwrap_or_default(),
            &object.url,
        ))
    }

    /// Follows redirects; gives where they led.
    async fn get(&mut self, url: &Url, kind: Option<Kind>) -> Result<(Url, Answer), Trouble> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS {
            let host = self.net.hosts.of(&url)?;
            let idle = self.idle.remove(&host.name);
            let ask = Ask {
                url: &url,
                kind,
                page: None,
                cookies: None,
                visitor: 0,
            };
            let fetched = timeout(self.patience, self.net.fetch(&host, &ask, idle)).await;
            let (connection, answer) = fetched.map_err(|_| Trouble::TimedOut)?;
            if let Some(connection) = connection {
                self.idle.insert(host.name.clone(), connection);
            }
            let answer = answer?;
            match answer.redirect(&url) {
                Some(next) => url = next?,
                None => return Ok((url, answer)),
            }
        }
        Err(Trouble::Redirects)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn knows_an_object_wherever_it_comes_from() {
        let site = url("http://site.example/");
        let files = [
            ("/a.png", &b"a"[..]),
            ("/b/a.png?v=1/2", b"b"),
            ("/index.html", b"<p></html>"),
        ];
        let reference = Reference::of_files(&site, files);
        let a = Some(Expected::Bytes(xxh3_128(b"a")));
        let b = Some(Expected::Bytes(xxh3_128(b"b")));
        for (object, expected) in [
            ("http://site.example/a.png", a),
            ("https://eu.example/a.png", a),
            ("https://eu.example/some/prefix/a.png", a),
            ("http://eu.example:81/prefix/b/a.png?v=1/2", b),
            ("http://site.example/b/a.png?v=1/2", b),
            ("http://site.example/b/a.png", None),
            ("http://eu.example/c.png?/a.png", None),
        ] {
            assert_eq!(
                reference.expected(&site, &url(object)),
                expected,
                "{object}"
            );
        }
    }

    #[test]
    fn knows_of_files_which_pages_end() {
        let site = url("http://site.example/");
        let files = [("/index.html", &b"<p></html>\n"[..]), ("/a.html", b"<p>")];
        let reference = Reference::of_files(&site, files);
        assert!(!reference.is_whole(&site, "<p></html"));
        assert!(reference.is_whole(&url("http://site.example/a.html"), ""));
    }

    #[test]
    fn a_page_that_ends_must_end() {
        let site = url("http://site.example/a");
        let mut reference = Reference::default();
        assert!(reference.is_whole(&site, "<p>"));
        reference.closed.insert(page_key(&site));
        assert!(reference.is_whole(&site, "<p></HTML>\n"));
        assert!(!reference.is_whole(&site, "<p>é"));
        assert!(!reference.is_whole(&site, ""));
        assert!(reference.is_whole(&url("http://site.example/b"), ""));
    }
}
