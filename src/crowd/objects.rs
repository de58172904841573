//! What a page makes a browser fetch without a click.
//!
//! Read by another parser than the one that rewrites pages, so that a visitor is a witness and not a mirror.
//! Of several candidates a browser fetches one: here the first of a `srcset`, the first `source` of a
//! `picture` instead of its `img`, and the first of a `video`. Pictures that a browser would fetch late
//! (`loading=lazy`) are fetched with the others, and so is all that a stylesheet names, used or not.

use std::{cell::RefCell, collections::HashSet};

use html5ever::{
    tendril::StrTendril,
    tokenizer::{
        BufferQueue, Tag, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts,
        states::RawKind,
    },
};
use url::Url;

use crate::rewrite::{Kind, css};

/// No visitor fetches more than that for one page.
pub(super) const MOST: usize = 1_000;

/// Something to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) url: Url,
    pub(super) kind: Kind,
}

/// The objects of a page, in its order, each once.
pub(super) fn of_page(html: &str, page: &Url) -> Vec<Object> {
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
    let links = found.links.iter();
    resolved(links.map(|(kind, link)| (*kind, link.as_str())), &base)
}

/// What a stylesheet fetches: other stylesheets, fonts and images.
pub(super) fn of_stylesheet(text: &str, stylesheet: &Url) -> Vec<Object> {
    let links = css::urls(text, css::Text::Stylesheet);
    resolved(
        links
            .iter()
            .map(|link| (link.kind, &text[link.range.clone()])),
        stylesheet,
    )
}

fn resolved<'a>(links: impl Iterator<Item = (Kind, &'a str)>, base: &Url) -> Vec<Object> {
    let mut seen: HashSet<Url> = HashSet::new();
    let mut objects = Vec::new();
    for (kind, link) in links {
        let link = link.trim();
        // A part of the document itself; and an empty link is none (HTML, "update the image data").
        if link.is_empty() || link.starts_with('#') {
            continue;
        }
        if let Ok(mut url) = base.join(link) {
            url.set_fragment(None);
            if matches!(url.scheme(), "http" | "https") && seen.insert(url.clone()) {
                objects.push(Object { url, kind });
                if objects.len() == MOST {
                    break;
                }
            }
        }
    }
    objects
}

#[derive(Default)]
struct Found {
    links: Vec<(Kind, String)>,
    base: Option<String>,
    parent: Parent,
    /// The text of the `style` that is open.
    style: Option<String>,
    /// Templates that are open: nothing in them is fetched.
    templates: u32,
}

/// What a `source` belongs to.
#[derive(Clone, Copy, Default)]
enum Parent {
    #[default]
    None,
    /// A picture that has no `source` yet.
    Picture,
    /// A video or audio that has no source yet.
    Media,
    /// Either, whose source is found; an `img` in it is for others.
    Served,
}

#[derive(Default)]
struct Objects(RefCell<Found>);

// === impl Objects ===

impl TokenSink for Objects {
    type Handle = ();

    fn process_token(&self, token: Token, _line: u64) -> TokenSinkResult<()> {
        let mut found = self.0.borrow_mut();
        let tag = match token {
            Token::TagToken(tag) => tag,
            Token::CharacterTokens(text) => {
                if let Some(style) = &mut found.style {
                    style.push_str(&text);
                }
                return TokenSinkResult::Continue;
            }
            _ => return TokenSinkResult::Continue,
        };
        if tag.kind == TagKind::EndTag {
            found.end(&tag.name);
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
        if &*tag.name == "template" {
            self.templates += 1;
        }
        if self.templates > 0 {
            return;
        }
        let attribute = |name: &str| {
            tag.attrs
                .iter()
                .find(|attribute| &*attribute.name.local == name)
                .map(|attribute| attribute.value.to_string())
        };
        let candidate = |name| attribute(name).and_then(|srcset| first_candidate(&srcset));
        if let Some(style) = attribute("style") {
            self.css(&style, css::Text::Declarations);
        }
        match (&*tag.name, self.parent) {
            ("base", _) if self.base.is_none() => self.base = attribute("href"),
            ("picture", _) => self.parent = Parent::Picture,
            ("source", Parent::Picture) => {
                if let Some(link) = candidate("srcset") {
                    self.parent = Parent::Served;
                    self.push(Kind::Image, Some(link));
                }
            }
            ("source", Parent::Media) => {
                self.parent = Parent::Served;
                self.push(Kind::Media, attribute("src"));
            }
            ("img", Parent::Served) => {}
            ("img", _) => self.push(
                Kind::Image,
                candidate("srcset").or_else(|| attribute("src")),
            ),
            ("input", _)
                if attribute("type").is_some_and(|of| of.eq_ignore_ascii_case("image")) =>
            {
                self.push(Kind::Image, attribute("src"));
            }
            ("image", _) => {
                self.push(
                    Kind::Image,
                    attribute("href").or_else(|| attribute("xlink:href")),
                );
            }
            ("body" | "table" | "td" | "th", _) => self.push(Kind::Image, attribute("background")),
            ("script", _) if attribute("nomodule").is_none() => {
                self.push(Kind::Script, attribute("src"));
            }
            ("style", _) => self.style = Some(String::new()),
            ("video" | "audio", _) => {
                self.push(Kind::Image, attribute("poster"));
                let loads = attribute("preload").as_deref() != Some("none");
                let src = attribute("src");
                self.parent = if src.is_some() || !loads {
                    Parent::Served
                } else {
                    Parent::Media
                };
                self.push(Kind::Media, src.filter(|_| loads));
            }
            ("link", _) => self.link(attribute, candidate("imagesrcset")),
            _ => {}
        }
    }

    fn link(&mut self, attribute: impl Fn(&str) -> Option<String>, candidate: Option<String>) {
        let rel = attribute("rel").unwrap_or_default().to_ascii_lowercase();
        let is = |name| rel.split_ascii_whitespace().any(|rel| rel == name);
        let kind = if is("stylesheet") && attribute("disabled").is_none() {
            Kind::Style
        } else if is("modulepreload") {
            Kind::Script
        } else if is("preload") {
            match attribute("as").unwrap_or_default().as_str() {
                "style" => Kind::Style,
                "script" => Kind::Script,
                "font" => Kind::Font,
                "video" | "audio" => Kind::Media,
                _ => Kind::Image,
            }
        } else if is("icon") {
            Kind::Image
        } else {
            return;
        };
        self.push(kind, candidate.or_else(|| attribute("href")));
    }

    fn end(&mut self, name: &str) {
        match name {
            "template" => self.templates = self.templates.saturating_sub(1),
            "picture" | "video" | "audio" => self.parent = Parent::None,
            "style" => {
                if let Some(text) = self.style.take() {
                    self.css(&text, css::Text::Stylesheet);
                }
            }
            _ => {}
        }
    }

    fn css(&mut self, text: &str, what: css::Text) {
        for link in css::urls(text, what) {
            self.push(link.kind, Some(text[link.range].to_owned()));
        }
    }

    fn push(&mut self, kind: Kind, link: Option<String>) {
        // Those that turn out to be the same are not counted yet.
        if self.links.len() < 4 * MOST {
            self.links.extend(link.map(|link| (kind, link)));
        }
    }
}

/// The URL of a `srcset`'s first candidate.
fn first_candidate(srcset: &str) -> Option<String> {
    let start = srcset.trim_start_matches([' ', '\t', '\n', '\r', '\x0c', ',']);
    let url = start.split_ascii_whitespace().next()?;
    Some(url.trim_end_matches(',').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(html: &str) -> Vec<String> {
        let page = Url::parse("http://site.example/visit/").unwrap();
        let objects = of_page(html, &page).into_iter();
        objects.map(|object| object.url.to_string()).collect()
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
    fn knows_what_each_object_is() {
        let html = "<link rel='preload stylesheet' href=/a as=style><link rel=icon href=/b>\
            <link rel=preload as=font href=/c><link rel=modulepreload href=/d><audio src=/e></audio>\
            <link rel=preload as=image href=/f imagesrcset='/g 1x, /h 2x'><link rel=alternate href=/i>";
        let page = Url::parse("http://site.example/").unwrap();
        let found: Vec<(String, Kind)> = of_page(html, &page)
            .into_iter()
            .map(|object| (object.url.path().to_owned(), object.kind))
            .collect();
        let expected = [
            ("/a", Kind::Style),
            ("/b", Kind::Image),
            ("/c", Kind::Font),
            ("/d", Kind::Script),
            ("/e", Kind::Media),
            ("/g", Kind::Image),
        ];
        assert_eq!(found, expected.map(|(path, kind)| (path.to_owned(), kind)));
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
    fn a_film_is_fetched_once() {
        let html = "<video><source src=a.webm><source src=b.mp4></video>\
            <video preload=none><source src=c.mp4></video><video src=d.mp4><source src=e.mp4></video>";
        assert_eq!(
            objects(html),
            [
                "http://site.example/visit/a.webm",
                "http://site.example/visit/d.mp4"
            ]
        );
    }

    #[test]
    fn text_in_scripts_comments_and_templates_is_no_object() {
        let html = "<!-- <img src=a.png> --><script>'<img src=b.png>'</script><title><img src=c.png></title>\
            <template><img src=d.png><template></template><img src=e.png></template><noscript><img src=f.png></noscript>\
            <script nomodule src=g.js></script><img src=''>";
        assert_eq!(objects(html), [""; 0]);
    }

    #[test]
    fn css_in_the_page_fetches() {
        let html = "<style>@import '/a.css'; p { background: url(b.png) } /* url(no.png) */</style>\
            <p style=\"background: url('c.png')\">url(no.png)</p>";
        assert_eq!(
            objects(html),
            [
                "http://site.example/a.css",
                "http://site.example/visit/b.png",
                "http://site.example/visit/c.png"
            ]
        );
    }

    #[test]
    fn the_base_counts() {
        let html = "<base href='http://edge.example/x/'><img src=a.png>";
        assert_eq!(objects(html), ["http://edge.example/x/a.png"]);
    }

    #[test]
    fn a_page_of_a_million_pictures_is_bounded() {
        let html: String = (0..10_000).map(|n| format!("<img src={n}>")).collect();
        assert_eq!(objects(&html).len(), MOST);
    }

    #[test]
    fn stylesheets_fetch_relative_to_themselves() {
        let sheet = Url::parse("http://edge.example/assets/site.css").unwrap();
        let css = r#"@import "more.css"; @font-face { src: url("fonts/a.woff2") } .b { background: url(img/b.png) }
            .c { mask: url(#m) }"#;
        let found: Vec<(String, Kind)> = of_stylesheet(css, &sheet)
            .into_iter()
            .map(|object| (object.url.to_string(), object.kind))
            .collect();
        let expected = [
            ("more.css", Kind::Style),
            ("fonts/a.woff2", Kind::Font),
            ("img/b.png", Kind::Image),
        ];
        assert_eq!(
            found,
            expected.map(|(path, kind)| (format!("http://edge.example/assets/{path}"), kind))
        );
    }
}
