//! What a page makes a browser fetch without a click.
//!
//! Read by another parser than the one that rewrites pages, so that a visitor is a witness and not a mirror.
//! Of several candidates a browser fetches one: here the first of a `srcset`, and the first `source` of a
//! `picture` instead of its `img`.

use std::cell::RefCell;

use html5ever::{
    tendril::StrTendril,
    tokenizer::{
        BufferQueue, Tag, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts,
        states::RawKind,
    },
};
use url::Url;

/// The objects of a page, in its order, each once.
pub(super) fn of_page(html: &str, page: &Url) -> Vec<Url> {
    let tokenizer = Tokenizer::new(Objects::default(), TokenizerOpts::default());
    let input = BufferQueue::default();
    input.push_back(StrTendril::from(html));
    // The sink never asks for a script to be run: one call reads all.
    let _ = tokenizer.feed(&input);
    tokenizer.end();
    let found = tokenizer.sink.0.into_inner();
    let base = found
        .base
        .and_then(|base| page.join(&base).ok())
        .unwrap_or_else(|| page.clone());
    resolved(found.links.iter().map(String::as_str), &base)
}

/// What a stylesheet fetches: fonts and images.
pub(super) fn of_stylesheet(css: &str, stylesheet: &Url) -> Vec<Url> {
    let links = css.split("url(").skip(1).filter_map(|rest| {
        let link = rest.split(')').next()?;
        Some(link.trim().trim_matches(['"', '\'']))
    });
    resolved(links, stylesheet)
}

fn resolved<'a>(links: impl Iterator<Item = &'a str>, base: &Url) -> Vec<Url> {
    let mut objects: Vec<Url> = Vec::new();
    for link in links.map(str::trim) {
        // A part of the document itself.
        if link.starts_with('#') {
            continue;
        }
        if let Ok(mut url) = base.join(link) {
            url.set_fragment(None);
            if url.scheme().starts_with("http") && !objects.contains(&url) {
                objects.push(url);
            }
        }
    }
    objects
}

#[derive(Default)]
struct Found {
    links: Vec<String>,
    base: Option<String>,
    in_picture: bool,
    /// This `picture` has a `source` already.
    has_source: bool,
}

#[derive(Default)]
struct Objects(RefCell<Found>);

// === impl Objects ===

impl TokenSink for Objects {
    type Handle = ();

    fn process_token(&self, token: Token, _line: u64) -> TokenSinkResult<()> {
        let Token::TagToken(tag) = token else {
            return TokenSinkResult::Continue;
        };
        let mut found = self.0.borrow_mut();
        if tag.kind == TagKind::EndTag {
            if &*tag.name == "picture" {
                found.in_picture = false;
            }
            return TokenSinkResult::Continue;
        }
        found.start(&tag);
        // What stands inside these is no markup.
        match &*tag.name {
            "script" => TokenSinkResult::RawData(RawKind::ScriptData),
            "style" | "noscript" | "iframe" | "xmp" => TokenSinkResult::RawData(RawKind::Rawtext),
            "title" | "textarea" => TokenSinkResult::RawData(RawKind::Rcdata),
            _ => TokenSinkResult::Continue,
        }
    }
}

// === impl Found ===

impl Found {
    fn start(&mut self, tag: &Tag) {
        let attribute = |name: &str| {
            tag.attrs
                .iter()
                .find(|attribute| &*attribute.name.local == name)
                .map(|attribute| attribute.value.to_string())
        };
        let candidate = || attribute("srcset").and_then(|srcset| first_candidate(&srcset));
        let loads = || attribute("preload").as_deref() != Some("none");
        match &*tag.name {
            "base" if self.base.is_none() => self.base = attribute("href"),
            "picture" => (self.in_picture, self.has_source) = (true, false),
            "source" if self.in_picture && !self.has_source => {
                self.has_source = true;
                self.links.extend(candidate());
            }
            "img" if self.in_picture && self.has_source => {}
            "img" => self.links.extend(candidate().or_else(|| attribute("src"))),
            "script" => self.links.extend(attribute("src")),
            "video" => {
                self.links.extend(attribute("poster"));
                self.links.extend(attribute("src").filter(|_| loads()));
            }
            "audio" => self.links.extend(attribute("src").filter(|_| loads())),
            "link" => {
                let fetched = attribute("rel").is_some_and(|rel| {
                    rel.split_ascii_whitespace().any(|rel| {
                        ["stylesheet", "icon", "preload"].contains(&&*rel.to_ascii_lowercase())
                    })
                });
                self.links.extend(attribute("href").filter(|_| fetched));
            }
            _ => {}
        }
    }
}

/// The URL of a `srcset`'s first candidate.
fn first_candidate(srcset: &str) -> Option<String> {
    let start = srcset.trim_start_matches([' ', '\t', '\n', '\r', ',']);
    let url = start.split_ascii_whitespace().next()?;
    Some(url.trim_end_matches(',').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(html: &str) -> Vec<String> {
        let page = Url::parse("http://site.example/visit/").unwrap();
        of_page(html, &page).iter().map(Url::to_string).collect()
    }

    #[test]
    fn takes_what_a_browser_fetches() {
        let html = r#"<link rel="stylesheet" href="/s.css"><link rel="canonical" href="/c">
            <script src=a.js></script><img src=a.png srcset="b.png 480w, c.png 960w">
            <a href="/elsewhere"><img src="//other.example/d.png"></a><img src="data:,x">
            <video poster=p.jpg preload=none src=v.mp4></video><img src=a.js>"#;
        assert_eq!(
            objects(html),
            [
                "http://site.example/s.css",
                "http://site.example/visit/a.js",
                "http://site.example/visit/b.png",
                "http://other.example/d.png",
                "http://site.example/visit/p.jpg",
            ]
        );
    }

    #[test]
    fn a_picture_is_fetched_once() {
        let html = "<picture><source srcset=a.webp><source srcset=b.jpg><img src=c.jpg></picture><img src=d.jpg>";
        assert_eq!(
            objects(html),
            [
                "http://site.example/visit/a.webp",
                "http://site.example/visit/d.jpg"
            ]
        );
    }

    #[test]
    fn text_in_scripts_and_comments_is_no_object() {
        let html = "<!-- <img src=a.png> --><script>'<img src=b.png>'</script><title><img src=c.png></title>";
        assert_eq!(objects(html), [""; 0]);
    }

    #[test]
    fn the_base_counts() {
        let html = "<base href='http://edge.example/x/'><img src=a.png>";
        assert_eq!(objects(html), ["http://edge.example/x/a.png"]);
    }

    #[test]
    fn stylesheets_fetch_relative_to_themselves() {
        let sheet = Url::parse("http://edge.example/assets/site.css").unwrap();
        let css = r#"@font-face { src: url("fonts/a.woff2") } .b { background: url(img/b.png) } .c { mask: url(#m) }"#;
        let found: Vec<String> = of_stylesheet(css, &sheet)
            .iter()
            .map(Url::to_string)
            .collect();
        assert_eq!(
            found,
            [
                "http://edge.example/assets/fonts/a.woff2",
                "http://edge.example/assets/img/b.png",
            ]
        );
    }
}
