//! Any attribute value: where its character references are read at all, they are read as a browser's parser does;
//! and what is written instead means what it should.

use html5ever::{parse_document, tendril::TendrilSink};
use markup5ever_rcdom::{Handle, NodeData, RcDom};
use overspill::rewrite::explain;

use super::{oracle, site, text};

pub fn references(data: &[u8]) {
    let value = text(data);
    let cut = |end: &[char]| value.split(end).next().unwrap_or_default();
    for page in [
        format!("<img src=\"{}\">", cut(&['"'])),
        format!("<img src='{}'>", cut(&['\''])),
        format!(
            "<img src=x{}>",
            value
                .split([' ', '\t', '\n', '\r', '\u{c}', '>'])
                .next()
                .unwrap_or_default()
        ),
    ] {
        let rewriter = site::rewriter(site::any_rules(), site::allowance(true));
        let (out, summary) = site::rewrite(rewriter, [page.as_bytes()]);
        let moved = oracle::assert_only_urls_moved(page.as_bytes(), &out);
        assert_eq!(moved, summary.links, "{page}");
        let (findings, _) = explain(site::any_rules(), site::page(), page.as_bytes());
        let read =
            source(&page).map(|value| site::page().url().join(&value).map(String::from).ok());
        for finding in findings.iter().filter(|finding| finding.attribute == "src") {
            if let Some(resolved) = &finding.resolved {
                // A browser takes a carriage return for a line feed; the URL has neither.
                let expected: Option<&Option<String>> = read.as_ref();
                assert_eq!(Some(&Some(resolved.clone())), expected, "{page}");
            }
        }
    }
}

/// The `src` of the page's first element that has one, as a browser's parser reads it.
fn source(page: &str) -> Option<String> {
    let document = parse_document(RcDom::default(), Default::default()).one(page.to_owned());
    let mut nodes: Vec<Handle> = vec![document.document.clone()];
    while let Some(node) = nodes.pop() {
        if let NodeData::Element { attrs, .. } = &node.data
            && let Some(src) = attrs
                .borrow()
                .iter()
                .find(|attr| &*attr.name.local == "src")
        {
            return Some(src.value.to_string());
        }
        nodes.extend(node.children.borrow().iter().rev().cloned());
    }
    None
}
