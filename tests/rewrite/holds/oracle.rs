//! A browser's parser (html5ever) before and after: the trees may differ in moved URLs alone.

use html5ever::{parse_document, tendril::TendrilSink};
use markup5ever_rcdom::{Handle, NodeData, RcDom};
use overspill::rewrite::srcset;
use url::{Position, Url};

use super::{
    css::{Lexed, Piece, tokens},
    site::{PREFIX, page},
};

/// The `src` of the fallback script, where a page has one.
pub const FALLBACK: &str = "/.overspill/fallback.js";

/// Parses both and panics where anything but moved URLs differs. Returns how many moved.
pub fn assert_only_urls_moved(before: &[u8], after: &[u8]) -> u32 {
    let before = parse(before);
    let after = parse(after);
    let base = base(&before.document);
    let mut moved = 0;
    let mut pairs = vec![(before.document.clone(), after.document.clone())];
    while let Some((before, after)) = pairs.pop() {
        moved += compare(&base, &before, &after);
        let before: Vec<_> = children(&before);
        let after: Vec<_> = children(&after)
            .into_iter()
            .filter(|node| !is_fallback(node))
            .collect();
        assert_eq!(before.len(), after.len(), "another number of nodes");
        pairs.extend(before.into_iter().zip(after));
    }
    moved
}

/// Whether a browser's tree may hang on URLs: of formatting elements that are open and wholly alike, no more than
/// three are opened again ("Noah's Ark", HTML standard, 13.2.4.3). Where one of them has moved and its likes have not,
/// it is another tree.
pub fn counts_likes(html: &[u8]) -> bool {
    const FORMATTING: [&str; 14] = [
        "a", "b", "big", "code", "em", "font", "i", "nobr", "s", "small", "strike", "strong", "tt",
        "u",
    ];
    let text = String::from_utf8_lossy(html).to_ascii_lowercase();
    let tags = text.split('<').filter(|tag| {
        let name = tag
            .split(|c: char| c.is_ascii_whitespace() || c == '/')
            .next();
        // What can move there is in its style.
        name.is_some_and(|name| FORMATTING.contains(&name)) && tag.contains("style")
    });
    tags.count() > 3
}

fn parse(html: &[u8]) -> RcDom {
    // As the rewriter does, by bytes: each is a character.
    let text: String = html.iter().map(|b| char::from(*b)).collect();
    parse_document(RcDom::default(), Default::default()).one(text)
}

fn children(node: &Handle) -> Vec<Handle> {
    let mut children = node.children.borrow().clone();
    if let NodeData::Element {
        template_contents, ..
    } = &node.data
    {
        children.extend(template_contents.borrow().clone());
    }
    children
}

/// Whether a node is the fallback script, which a page did not have before.
fn is_fallback(node: &Handle) -> bool {
    let NodeData::Element { name, attrs, .. } = &node.data else {
        return false;
    };
    let attrs = attrs.borrow();
    let values: Vec<_> = attrs
        .iter()
        .map(|attr| (&*attr.name.local, &*attr.value))
        .collect();
    &*name.local == "script" && values == [("src", FALLBACK), ("data-from", PREFIX)]
}

/// What links may be relative to: the page, and its first `<base href>`.
fn base(document: &Handle) -> Vec<Url> {
    let own = page().url().clone();
    let mut bases = vec![own.clone()];
    let mut nodes = vec![document.clone()];
    while let Some(node) = nodes.pop() {
        if let NodeData::Element { name, attrs, .. } = &node.data
            && &*name.local == "base"
            && &*name.ns == "http://www.w3.org/1999/xhtml"
        {
            let attrs = attrs.borrow();
            let href = attrs.iter().find(|attr| &*attr.name.local == "href");
            if let Some(url) = href.and_then(|href| own.join(&href.value).ok()) {
                bases.push(url);
                break;
            }
        }
        nodes.extend(node.children.borrow().iter().rev().cloned());
    }
    bases
}

fn compare(bases: &[Url], before: &Handle, after: &Handle) -> u32 {
    match (&before.data, &after.data) {
        (NodeData::Document, NodeData::Document) => 0,
        (
            NodeData::Doctype {
                name: a,
                public_id: b,
                system_id: c,
            },
            NodeData::Doctype {
                name: x,
                public_id: y,
                system_id: z,
            },
        ) => {
            assert_eq!((a, b, c), (x, y, z));
            0
        }
        (NodeData::Text { contents: a }, NodeData::Text { contents: b }) => {
            let (a, b) = (a.borrow(), b.borrow());
            if *a == *b {
                return 0;
            }
            // Only the text of a `<style>` may differ, and only in its URLs.
            assert!(is_in_style(before), "{a:?} became {b:?}");
            css(bases, &a, &b)
        }
        (NodeData::Comment { contents: a }, NodeData::Comment { contents: b }) => {
            assert_eq!(a, b);
            0
        }
        (
            NodeData::Element {
                name: a,
                attrs: before,
                ..
            },
            NodeData::Element {
                name: b,
                attrs: after,
                ..
            },
        ) => {
            assert_eq!(a, b, "another element");
            attributes(bases, &a.local, &before.borrow(), &after.borrow())
        }
        (a, b) => panic!("{a:?} became {b:?}"),
    }
}

fn is_in_style(text: &Handle) -> bool {
    let parent = text.parent.take();
    text.parent.set(parent.clone());
    let parent = parent.and_then(|parent| parent.upgrade());
    parent.is_some_and(|parent| {
        matches!(&parent.data, NodeData::Element { name, .. }
            if &*name.local == "style" && &*name.ns == "http://www.w3.org/1999/xhtml")
    })
}

fn attributes(
    bases: &[Url],
    element: &str,
    before: &[html5ever::Attribute],
    after: &[html5ever::Attribute],
) -> u32 {
    let mut moved = 0;
    let mut after = after.iter().peekable();
    let has = |name: &str| before.iter().any(|attr| &*attr.name.local == name);
    for old in before {
        if &*old.name.local == "integrity"
            && let Some(added) =
                after.next_if(|new| &*new.name.local == "crossorigin" && !has("crossorigin"))
        {
            assert_eq!(&*added.value, "anonymous");
        }
        let new = after.next().expect("an attribute is gone");
        assert_eq!(old.name, new.name);
        if old.value == new.value {
            continue;
        }
        let name = &*old.name.local;
        let context = format!("{element} {name}: {:?} became {:?}", old.value, new.value);
        assert!(may_move(element, name, before), "{context}");
        if name == "style" {
            moved += css(bases, &old.value, &new.value);
        } else if name == "content" && element == "meta" {
            let is_policy = before.iter().any(|attr| {
                &*attr.name.local == "http-equiv"
                    && attr.value.eq_ignore_ascii_case("content-security-policy")
            });
            assert!(is_policy, "{context}");
            assert_only_widened(&old.value, &new.value);
        } else if matches!(name, "srcset" | "data-srcset" | "imagesrcset") {
            moved += set(bases, &old.value, &new.value, &context);
        } else {
            assert!(is_moved_from(bases, &old.value, &new.value), "{context}");
            moved += 1;
        }
    }
    assert!(after.next().is_none(), "an attribute was added");
    moved
}

/// Whether such an attribute of such an element can link to an embedded object at all.
fn may_move(element: &str, name: &str, attributes: &[html5ever::Attribute]) -> bool {
    let words = |name: &str| {
        let value = attributes.iter().find(|attr| &*attr.name.local == name);
        value.map_or(String::new(), |attr| attr.value.to_ascii_lowercase())
    };
    match (element, name) {
        (_, "style") | ("meta", "content") => true,
        ("img", "src" | "srcset" | "data-src" | "data-srcset" | "data-zoom") => true,
        ("source", "src" | "srcset") | ("audio", "src") | ("video", "src" | "poster") => true,
        ("input", "src") => words("type") == "image",
        ("script", "src" | "href" | "xlink:href") => {
            let kind = words("type");
            kind.is_empty() || kind.contains("script") || kind.trim() == "module"
        }
        ("link", "href") => words("rel").split_ascii_whitespace().any(|word| {
            let embeds = ["stylesheet", "icon", "preload", "modulepreload"];
            embeds.contains(&word) || word.starts_with("apple-touch-icon")
        }),
        ("link", "imagesrcset") => true,
        // A parser calls an `image` outside of SVG an `img`, which has no use for a `href`.
        ("image" | "img", "href" | "xlink:href") => true,
        ("body" | "table" | "tbody" | "thead" | "tfoot" | "tr" | "td" | "th", "background") => true,
        ("a", "data-file") | ("x-viewer", "full") => true,
        _ => false,
    }
}

/// CSS whose URLs may have moved: all other tokens are the same.
fn css(bases: &[Url], before: &str, after: &str) -> u32 {
    let context = || format!("{before:?} became {after:?}");
    let (old, new) = match (tokens(before), tokens(after)) {
        (Some(old), Some(new)) => (old, new),
        // Too deep to look at.
        _ => return 0,
    };
    assert_eq!(old.len(), new.len(), "{}", context());
    let mut moved = 0;
    for (old, new) in old
        .iter()
        .zip(&new)
        .filter(|(old, new)| old.token != new.token)
    {
        match (&old.token, &new.token) {
            (Lexed::Url(old), Lexed::Url(new)) | (Lexed::String(old), Lexed::String(new)) => {
                assert!(is_moved_from(bases, old, new), "{}", context());
                moved += 1;
            }
            _ => panic!("{}", context()),
        }
        // The quotes and the function's name are as they were.
        let edge = |css: &str, piece: &Piece| {
            let text = &css[piece.range.clone()];
            let behind = text
                .find('(')
                .filter(|_| matches!(piece.token, Lexed::Url(_)));
            text[..=behind.unwrap_or(0)].to_owned()
        };
        assert_eq!(edge(before, old), edge(after, new), "{}", context());
    }
    moved
}

/// A policy may have grown by the server's origin, in directives that were there or are copies.
fn assert_only_widened(before: &str, after: &str) {
    let origin = Url::parse(PREFIX).unwrap().origin().ascii_serialization();
    let narrow = |policy: &str| -> Vec<Vec<String>> {
        policy
            .split(';')
            .map(|directive| {
                let words = directive.split_ascii_whitespace();
                words
                    .filter(|word| **word != *origin)
                    .map(str::to_owned)
                    .collect()
            })
            .filter(|words: &Vec<String>| !words.is_empty())
            .collect()
    };
    let (before, after) = (narrow(before), narrow(after));
    assert_eq!(before, after[..before.len()], "a directive changed");
    let default = before
        .iter()
        .find(|words| words[0].eq_ignore_ascii_case("default-src"));
    for copy in &after[before.len()..] {
        let default = default.expect("there is something to copy");
        assert_eq!(copy[1..], default[1..], "a copy is more than a copy");
    }
}

/// A `srcset`, in which nothing but URLs may have moved. Returns how many have.
fn set(bases: &[Url], before: &str, after: &str, context: &str) -> u32 {
    let urls = |set: &str| -> Vec<String> {
        srcset::urls(set)
            .map(|range| set[range].to_owned())
            .collect()
    };
    let rest = |set: &str| {
        let ranges: Vec<_> = srcset::urls(set).collect();
        ranges
            .into_iter()
            .rev()
            .fold(set.to_owned(), |mut set, range| {
                set.replace_range(range, "");
                set
            })
    };
    assert_eq!(rest(before), rest(after), "{context}");
    let (before, after) = (urls(before), urls(after));
    assert_eq!(before.len(), after.len(), "{context}");
    let mut moved = 0;
    for (before, after) in before.iter().zip(&after).filter(|(a, b)| a != b) {
        assert!(is_moved_from(bases, before, after), "{context}");
        moved += 1;
    }
    moved
}

/// A `srcset` of a page without `<base>`, in which nothing but URLs may have moved. Returns how many have.
pub fn assert_only_urls_of_set_moved(before: &str, after: &str, context: &str) -> u32 {
    set(&[page().url().clone()], before, after, context)
}

/// [`is_moved_from`] of a page without `<base>`.
pub fn is_moved(old: &str, new: &str) -> bool {
    is_moved_from(&[page().url().clone()], old, new)
}

/// Whether `new` is, on the server, what `old` is on the site.
fn is_moved_from(bases: &[Url], old: &str, new: &str) -> bool {
    let Ok(new) = Url::parse(new) else {
        return false;
    };
    bases.iter().any(|base| {
        base.join(old).is_ok_and(|old| {
            let object = &old[Position::BeforePath..];
            page().owns(&old) && new.as_str() == format!("{PREFIX}{object}")
        })
    })
}
