//! Conditional requests on their way in.

use http::{
    HeaderMap, HeaderValue,
    header::{IF_MODIFIED_SINCE, IF_NONE_MATCH},
};

use super::tag::{EntityTag, MARK, Tag};

/// What a 304 to a prepared request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// The object as it is, if there is a condition at all: the answer goes out untouched.
    AsItIs,
    /// The page as it was rewritten under the tag: a 304 needs [`not_modified`](super::not_modified).
    Rewritten,
}

/// Translates the conditions of a GET or HEAD request for the inner service.
///
/// `tag` is that of the rewriting that a page would get now, `None` where it would get none.
/// `page_expected` tells whether the request looks like one for a page (Sec-Fetch-Dest, Accept).
///
/// | the client holds | no rewriting | rewriting under the tag |
/// |---|---|---|
/// | the page rewritten under the tag | dropped | taken off; a 304 confirms that version |
/// | the page rewritten otherwise | dropped | dropped |
/// | what carries no tag | kept | dropped where a page is expected |
///
/// If-Modified-Since goes where a page is expected that would be rewritten, and wherever an
/// If-None-Match changed, which had overruled it (RFC 9110, 13.1.3). Without rewriting it may stay: no
/// rewritten page has a Last-Modified.
pub fn prepare_request(
    headers: &mut HeaderMap,
    tag: Option<&Tag>,
    page_expected: bool,
) -> Condition {
    let rewriting = tag.is_some();
    if let Some(may_be_marked) = may_be_marked(headers) {
        // What most browsers hold most of the time: nothing to take apart.
        if !rewriting && !may_be_marked {
            return Condition::AsItIs;
        }
        let Some(kept) = translate(headers, tag, page_expected) else {
            return Condition::AsItIs;
        };
        headers.remove(IF_MODIFIED_SINCE);
        headers.remove(IF_NONE_MATCH);
        let text = kept.validators.join(&b", "[..]);
        // Joined from parts of header values.
        if let Ok(value) = HeaderValue::from_bytes(&text)
            && !kept.validators.is_empty()
        {
            headers.insert(IF_NONE_MATCH, value);
        }
        return kept.about;
    }
    if rewriting && page_expected {
        headers.remove(IF_MODIFIED_SINCE);
    }
    Condition::AsItIs
}

/// Whether If-None-Match may hold a tag of ours; `None` where there is none.
fn may_be_marked(headers: &HeaderMap) -> Option<bool> {
    let (first, rest) = (MARK[0], &MARK[1..]);
    let mut values = headers.get_all(IF_NONE_MATCH).iter().peekable();
    values.peek()?;
    Some(values.map(HeaderValue::as_bytes).any(|value| {
        let mut parts = value.split(|byte| *byte == first).skip(1);
        // Most have not even that byte, which is seen faster than one by one.
        value.contains(&first) && parts.any(|part| part.starts_with(rest))
    }))
}

struct Kept {
    validators: Vec<Vec<u8>>,
    about: Condition,
}

/// What is left of If-None-Match; `None` where it may stay as it is.
fn translate(headers: &HeaderMap, tag: Option<&Tag>, page_expected: bool) -> Option<Kept> {
    let mut untagged = Vec::new();
    let mut inner = Vec::new();
    let mut dropped = false;
    for value in headers.get_all(IF_NONE_MATCH) {
        let Some(entities) = EntityTag::parse_list(value.as_bytes()) else {
            // `*`, or tags of a form of their own: none of ours.
            untagged.push(value.as_bytes().to_vec());
            continue;
        };
        for entity in entities {
            match (entity.split(), tag) {
                (None, _) => untagged.push(entity.text.to_vec()),
                (Some((own, mark)), Some(tag)) if mark == tag.as_str().as_bytes() => {
                    // Whether the page's own was weak is not known; If-None-Match compares weakly, but
                    // not every service does.
                    inner.push([b"\"", own, b"\""].concat());
                    inner.push([b"W/\"", own, b"\""].concat());
                }
                (Some(_), _) => dropped = true,
            }
        }
    }
    if !inner.is_empty() {
        // Who holds a rewritten page asks for a page: were a validator without tag kept as well, it
        // would be open which of the two a 304 is about.
        return Some(Kept {
            validators: inner,
            about: Condition::Rewritten,
        });
    }
    let unwanted = tag.is_some() && page_expected;
    if unwanted {
        untagged.clear();
    }
    (dropped || unwanted).then_some(Kept {
        validators: untagged,
        about: Condition::AsItIs,
    })
}

#[cfg(test)]
mod tests {
    use super::{super::tag::tests::tag, *};

    const DATE: &str = "Mon, 23 Nov 2026 10:00:00 GMT";

    struct Sent {
        none_match: Option<String>,
        since: bool,
        about: Condition,
    }

    fn prepare(none_match: &[&str], tag: Option<&Tag>, page: bool) -> Sent {
        let mut headers = HeaderMap::new();
        for value in none_match {
            headers.append(IF_NONE_MATCH, HeaderValue::from_str(value).unwrap());
        }
        headers.insert(IF_MODIFIED_SINCE, HeaderValue::from_static(DATE));
        let about = prepare_request(&mut headers, tag, page);
        let values: Vec<_> = headers
            .get_all(IF_NONE_MATCH)
            .iter()
            .map(|value| value.to_str().unwrap())
            .collect();
        Sent {
            none_match: (!values.is_empty()).then(|| values.join(", ")),
            since: headers.contains_key(IF_MODIFIED_SINCE),
            about,
        }
    }

    fn marked(tag: &Tag) -> String {
        format!("W/\"abc-{tag}\"")
    }

    #[test]
    fn the_same_rewriting_becomes_the_pages_own_validator() {
        let eu = tag("eu");
        for page in [true, false] {
            let other = format!("{}, \"plain\", {}", marked(&tag("us")), marked(&eu));
            let sent = prepare(&[&other], Some(&eu), page);
            assert_eq!(sent.none_match.as_deref(), Some("\"abc\", W/\"abc\""));
            assert_eq!((sent.since, sent.about), (false, Condition::Rewritten));
        }
    }

    #[test]
    fn another_rewriting_is_never_confirmed() {
        for (now, page) in [
            (None, true),
            (None, false),
            (Some(tag("eu")), true),
            (Some(tag("eu")), false),
        ] {
            let sent = prepare(&[&marked(&tag("us"))], now.as_ref(), page);
            assert_eq!(sent.none_match, None);
            assert_eq!((sent.since, sent.about), (false, Condition::AsItIs));
        }
    }

    #[test]
    fn an_original_page_is_not_confirmed_where_it_would_be_rewritten() {
        let eu = tag("eu");
        for none_match in [
            &["\"abc\""][..],
            &["*"],
            &["W/\"a\", \"b\"", "\"c\""],
            &["bare"],
            &[""],
            &[],
        ] {
            let sent = prepare(none_match, Some(&eu), true);
            assert_eq!(sent.none_match, None, "{none_match:?}");
            assert_eq!((sent.since, sent.about), (false, Condition::AsItIs));
        }
    }

    #[test]
    fn what_carries_no_tag_is_confirmed_where_nothing_is_rewritten() {
        let eu = tag("eu");
        for (now, page) in [(None, true), (None, false), (Some(&eu), false)] {
            for none_match in ["\"abc\"", "*", "W/\"a,b\", \"c\"", "bare"] {
                let sent = prepare(&[none_match], now, page);
                assert_eq!(sent.none_match.as_deref(), Some(none_match));
                assert_eq!((sent.since, sent.about), (true, Condition::AsItIs));
            }
            assert!(prepare(&[], now, page).since);
        }
        let both = format!("\"abc\", {}", marked(&eu));
        let sent = prepare(&[&both], None, true);
        assert_eq!(sent.none_match.as_deref(), Some("\"abc\""));
        assert!(!sent.since);
    }
}
