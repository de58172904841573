//! A browser's parser (html5ever) before and after: the trees may differ in moved URLs alone.

use html5ever::{parse_document, tendril::TendrilSink};
use markup5ever_rcdom::{Handle, NodeData, RcDom};
use overspill::rewrite::srcset;
use url::{Position, Url};

use super::{PREFIX, page};

/// Parses both and panics where anything but moved URLs differs. Returns how many moved.
pub(crate) fn assert_only_urls_moved(before: &[u8], after: &[u8]) -> u32 {
    let before = parse(before);
    let after = parse(after);
    let base = base(&before.document);
    let mut moved = 0;
    let mut pairs = vec![(before.document.clone(), after.document.clone())];
    while let Some((before, after)) = pairs.pop() {
        moved += compare(&base, &before, &after);
        let before: Vec<_> = children(&before);
        let after: Vec<_> = children(&after);
        assert_eq!(before.len(), after.len(), "another number of nodes");
        pairs.extend(before.into_iter().zip(after));
    }
    moved
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
            // Only the text of a `<style>` may differ, and only in its URLs.
            css(bases, &a.borrow(), &b.borrow())
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
            attributes(bases, &before.borrow(), &after.borrow())
        }
        (a, b) => panic!("{a:?} became {b:?}"),
    }
}

fn attributes(
    bases: &[Url],
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
        let context = format!("{}: {:?} became {:?}", old.name.local, old.value, new.value);
        let name = &*old.name.local;
        if name == "style" {
            moved += css(bases, &old.value, &new.value);
        } else if name == "content" {
            assert_only_widened(&old.value, &new.value);
        } else if matches!(name, "srcset" | "data-srcset" | "imagesrcset") {
            let urls = |set: &str| -> Vec<String> {
                srcset::urls(set)
                    .map(|range| set[range].to_owned())
                    .collect()
            };
            let (before, after) = (urls(&old.value), urls(&new.value));
            assert_eq!(before.len(), after.len(), "{context}");
            let rest = |set: &str| {
                srcset::urls(set)
                    .collect::<Vec<_>>()
                    .into_iter()
                    .rev()
                    .fold(set.to_owned(), |mut set, range| {
                        set.replace_range(range, "");
                        set
                    })
            };
            assert_eq!(rest(&old.value), rest(&new.value), "{context}");
            for (before, after) in before.iter().zip(&after).filter(|(a, b)| a != b) {
                assert!(is_moved(bases, before, after), "{context}");
                moved += 1;
            }
        } else {
            assert!(is_moved(bases, &old.value, &new.value), "{context}");
            moved += 1;
        }
    }
    assert!(after.next().is_none(), "an attribute was added");
    moved
}

/// CSS whose URLs may have moved: what is between their delimiters.
fn css(bases: &[Url], before: &str, after: &str) -> u32 {
    let (mut before, mut after, mut moved) = (before, after, 0);
    let is_delimiter = |c: char| matches!(c, '(' | ')' | '"' | '\'') || c.is_ascii_whitespace();
    loop {
        let (old, new) = (word(before, is_delimiter), word(after, is_delimiter));
        if old != new {
            assert!(is_moved(bases, old, new), "{old:?} became {new:?}");
            moved += 1;
        }
        (before, after) = (&before[old.len()..], &after[new.len()..]);
        let (a, b) = (before.chars().next(), after.chars().next());
        assert_eq!(a, b, "{before:?} became {after:?}");
        let Some(delimiter) = a else { return moved };
        (before, after) = (
            &before[delimiter.len_utf8()..],
            &after[delimiter.len_utf8()..],
        );
    }
}

fn word(text: &str, is_delimiter: impl Fn(char) -> bool) -> &str {
    &text[..text.find(is_delimiter).unwrap_or(text.len())]
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

/// Whether `new` is, on the server, what `old` is on the site.
fn is_moved(bases: &[Url], old: &str, new: &str) -> bool {
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
