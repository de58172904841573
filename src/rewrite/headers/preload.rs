//! Preloads in `Link` headers (RFC 8288; HTML standard, 4.2.4.5): they move exactly with what they preload.

use std::{ops::Range, sync::Arc};

use http::{
    HeaderMap, HeaderValue,
    header::{Entry, LINK},
};

use crate::rewrite::{Allowance, Page, Rules, preload::header_link};

/// A link of a header: where its URL and the values of its parameters stand, names in lower case.
pub(crate) struct LinkValue<'a> {
    text: &'a str,
    pub(crate) url: Range<usize>,
    parameters: Vec<(String, Range<usize>)>,
}

impl<'a> LinkValue<'a> {
    /// What stands at a place of the header.
    pub(crate) fn at(&self, range: Range<usize>) -> &'a str {
        &self.text[range]
    }

    /// The value of a parameter, without quotes; of equal names the first counts.
    pub(crate) fn get(&self, name: &str) -> Option<&'a str> {
        self.range(name).map(|range| self.at(range))
    }

    /// Where that stands.
    pub(crate) fn range(&self, name: &str) -> Option<Range<usize>> {
        let mut all = self.parameters.iter();
        all.find(|(known, _)| known == name)
            .map(|(_, range)| range.clone())
    }
}

/// A part of a header's text, and what takes its place.
pub(crate) type Change = (Range<usize>, String);

/// Moves the preloads in a response's `Link` headers; what can't be read stays as it is.
pub fn move_preloads(
    headers: &mut HeaderMap,
    rules: &Arc<Rules>,
    page: Page,
    allowance: &Allowance,
) {
    let link = header_link(rules.clone(), page);
    let Entry::Occupied(mut entry) = headers.entry(LINK) else {
        return;
    };
    for value in entry.iter_mut() {
        let moved = value
            .to_str()
            .ok()
            .and_then(|text| moved(text, &|value| link(value, allowance)));
        if let Some(Ok(moved)) = moved.map(HeaderValue::try_from) {
            *value = moved;
        }
    }
}

/// A header's text with its preloads moved; `None` where none does.
fn moved(text: &str, link: &dyn Fn(&LinkValue<'_>) -> Vec<Change>) -> Option<String> {
    let mut out = String::new();
    let mut at = 0;
    for value in parse(text)? {
        for (range, url) in link(&value) {
            out.push_str(&text[at..range.start]);
            out.push_str(&url);
            at = range.end;
        }
    }
    (at > 0).then(|| out + &text[at..])
}

/// `<url>; name=value; name="value", …`; `None` where it is something else.
fn parse(text: &str) -> Option<Vec<LinkValue<'_>>> {
    let mut values = Vec::new();
    let mut rest = Cursor { text, at: 0 };
    loop {
        rest.skip(|c| c == ',');
        if rest.is_over() {
            return Some(values);
        }
        rest.take('<')?;
        let start = rest.at;
        let url = start..start + rest.until(|c| c == '>').len();
        rest.take('>')?;
        let mut parameters = Vec::new();
        loop {
            rest.skip(|_| false);
            if !rest.rest().starts_with(';') {
                break;
            }
            rest.skip(|c| c == ';');
            let name = rest.until(|c| matches!(c, '=' | ';' | ',') || c.is_ascii_whitespace());
            rest.skip(|_| false);
            let value = match rest.take('=') {
                Some(()) => {
                    rest.skip(|_| false);
                    rest.value()?
                }
                None => rest.at..rest.at,
            };
            if !name.is_empty() {
                parameters.push((name.to_ascii_lowercase(), value));
            }
        }
        if !rest.is_over() && !rest.rest().starts_with(',') {
            return None;
        }
        values.push(LinkValue {
            text,
            url,
            parameters,
        });
    }
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

// === impl Cursor ===

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn is_over(&self) -> bool {
        self.at == self.text.len()
    }

    /// Skips white space and what `also` says.
    fn skip(&mut self, also: impl Fn(char) -> bool) {
        let rest = self.rest();
        let left = rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || also(c));
        self.at += rest.len() - left.len();
    }

    fn take(&mut self, c: char) -> Option<()> {
        self.rest().starts_with(c).then(|| self.at += c.len_utf8())
    }

    fn until(&mut self, end: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let taken = &rest[..rest.find(end).unwrap_or(rest.len())];
        self.at += taken.len();
        taken
    }

    /// Where a token or a quoted string stands; a value with a backslash is not understood.
    fn value(&mut self) -> Option<Range<usize>> {
        let quoted = self.take('"').is_some();
        let start = self.at;
        if !quoted {
            self.until(|c| matches!(c, ';' | ',') || c.is_ascii_whitespace());
            return Some(start..self.at);
        }
        let value = self.until(|c| c == '"');
        self.take('"')?;
        (!value.contains('\\')).then_some(start..start + value.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use url::Url;

    use super::*;
    use crate::rewrite::{Kinds, Settings, Target};

    fn move_all(values: &[&str], cors: bool) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(LINK, HeaderValue::from_str(value).unwrap());
        }
        let rules = Arc::new(Rules::new(&Settings::default()).unwrap());
        let page = Page::new(false, "a.example", "/d/page", Arc::default()).unwrap();
        let url = Url::parse("https://eu.example").unwrap();
        let target = Arc::new(Target::new("eu", &url, cors).unwrap());
        move_preloads(
            &mut headers,
            &rules,
            page,
            &Allowance::new(target, Kinds::ALL),
        );
        let values = headers.get_all(LINK).iter();
        values
            .map(|value| value.to_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn preloads_move_with_their_objects() {
        for (value, expected) in [
            (
                "</a.png>; rel=preload; as=image",
                "<https://eu.example/a.png>; rel=preload; as=image",
            ),
            (
                "<b.js>;as=\"script\" ;REL=\"x Preload\"",
                "<https://eu.example/d/b.js>;as=\"script\" ;REL=\"x Preload\"",
            ),
            (
                "</a.png>;rel=preload;as=image;imagesrcset=\"/a.png, b.png 2x, /x 3x\";imagesizes=\"1px\"",
                "<https://eu.example/a.png>;rel=preload;as=image;imagesrcset=\"https://eu.example/a.png, https://eu.example/d/b.png 2x, /x 3x\";imagesizes=\"1px\"",
            ),
            (
                "</x>; rel=preload; as=image; imagesrcset=/a.png, </a.png>; rel=preload; as=image; imagesrcset",
                "</x>; rel=preload; as=image; imagesrcset=https://eu.example/a.png, <https://eu.example/a.png>; rel=preload; as=image; imagesrcset",
            ),
            (
                "</x>; rel=next, <a.css>; rel=preload; as=style, </f.woff2>; rel=preload; as=font; crossorigin",
                "</x>; rel=next, <https://eu.example/d/a.css>; rel=preload; as=style, <https://eu.example/f.woff2>; rel=preload; as=font; crossorigin",
            ),
        ] {
            assert_eq!(move_all(&[value], true), [expected]);
        }
    }

    #[test]
    fn what_stays_in_the_page_stays_in_the_header() {
        for value in [
            "</a.css>; rel=preload; as=style",
            "</f.woff2>; rel=preload; as=font; crossorigin",
            "</a.png>; rel=preload; as=image; crossorigin",
            "</a.js>; rel=preload; as=script; integrity=\"sha256-x\"",
            "</a.js>; rel=preload; as=script; imagesrcset=\"/a.png 1x\"; integrity=x",
            "</a.json>; rel=preload; as=fetch",
            "</a.js>; rel=modulepreload",
            "<https://other.example/a.png>; rel=preload; as=image",
            "</a.png>; rel=prefetch; as=image",
            "</a.png>; rel=preload",
            "</a.png>; rel=preload; as=image; title=\"a\\\"b\"",
            "/a.png; rel=preload; as=image",
            "</a.png; rel=preload; as=image",
        ] {
            assert_eq!(move_all(&[value], false), [value]);
        }
        let credentials = "</a.png>; rel=preload; as=image; crossorigin=use-credentials";
        assert_eq!(move_all(&[credentials, ""], true), [credentials, ""]);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_harm(text in "[<>;,=\"\\\\ a-z/.]{0,60}") {
            let none = moved(&text, &|_| Vec::new());
            prop_assert_eq!(none, None);
            if let Some(values) = parse(&text) {
                let mut at = 0;
                for value in values {
                    prop_assert!(value.url.start >= at && value.url.end <= text.len());
                    at = value.url.end;
                }
            }
        }
    }
}
