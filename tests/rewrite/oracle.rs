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
            assert_eq!(*a.borrow(), *b.borrow());
            0
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
        if &*old.name.local == "srcset" {
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
