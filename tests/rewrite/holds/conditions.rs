//! Any entity tags in `ETag` and `If-None-Match`: an origin that compares them as RFC 9110 says confirms what a
//! client holds only where the client would get the same page again.
//!
//! The input's first line is the page's own tag, each other one a line of `If-None-Match`, in which `{eu}` and `{us}`
//! are what two rewritings put behind a tag, and `{own}` is the page's own.

use std::{sync::LazyLock, time::Duration};

use http::{
    HeaderMap, HeaderValue,
    header::{ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH},
};
use overspill::rewrite::{
    Target,
    headers::{Condition, Tag, not_modified, prepare_request, rewritten},
};
use url::Url;

use super::{site, text};

static TAGS: LazyLock<[Tag; 2]> = LazyLock::new(|| {
    ["eu", "us"].map(|name| {
        let url = Url::parse(site::PREFIX).expect("the prefix is a URL");
        let target = Target::new(name, &url, true).expect("the prefix is a server's");
        Tag::new(&target, &site::rules())
    })
});

const HOLD: Duration = Duration::from_secs(30);

pub fn conditions(data: &[u8]) {
    let mut lines = text(data).split('\n');
    let own = lines.next().unwrap_or_default();
    let rewritten_by = |tag: &Tag| etag_of(&page(own, tag));
    let [eu, us] = &*TAGS;
    let held: Vec<String> = lines
        .map(|line| {
            line.replace("{eu}", &format!("-{eu}"))
                .replace("{us}", &format!("-{us}"))
                .replace("{own}", own)
        })
        .collect();
    for (tag, other) in [(Some(eu), us), (Some(us), eu), (None, eu), (None, us)] {
        for wants_page in [true, false] {
            let sent = send(&held, tag, wants_page);
            assert_translated(&held, &sent, tag, wants_page);
            let Some(tag) = tag else { continue };
            // Whoever holds this rewriting is told so …
            if let Some(etag) = rewritten_by(tag) {
                let sent = send(std::slice::from_ref(&etag), Some(tag), wants_page);
                assert!(sent.confirms(own) && sent.about == Condition::Rewritten);
                let mut confirmed = headers(own);
                not_modified(&mut confirmed, tag, HOLD);
                assert_eq!(etag_of(&confirmed), Some(etag));
            }
            // … and who holds another, or the page itself, is not.
            if let Some(etag) = rewritten_by(other) {
                assert!(!send(std::slice::from_ref(&etag), Some(tag), wants_page).confirms(own));
                assert!(!send(&[etag], None, wants_page).confirms(own));
            }
            if HeaderValue::from_str(own).is_ok() {
                let sent = send(&[own.to_owned()], Some(tag), true);
                assert!(
                    !sent.confirms(own) || sent.about == Condition::Rewritten && is_marked(own)
                );
            }
        }
    }
}

/// The headers of a page with this tag, changed after `Last-Modified`.
fn headers(etag: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(etag) {
        headers.insert(ETAG, value);
    }
    headers
}

fn page(etag: &str, tag: &Tag) -> HeaderMap {
    let mut headers = headers(etag);
    rewritten(&mut headers, tag, HOLD);
    headers
}

fn etag_of(headers: &HeaderMap) -> Option<String> {
    let etag = headers.get(ETAG)?;
    Some(etag.to_str().ok()?.to_owned())
}

/// A request as the application gets it.
struct Sent {
    none_match: Vec<String>,
    since: bool,
    about: Condition,
}

fn send(held: &[String], tag: Option<&Tag>, wants_page: bool) -> Sent {
    let mut headers = HeaderMap::new();
    for value in held {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.append(IF_NONE_MATCH, value);
        }
    }
    let date = HeaderValue::from_static("Mon, 23 Nov 2026 10:00:00 GMT");
    headers.insert(IF_MODIFIED_SINCE, date);
    let about = prepare_request(&mut headers, tag, wants_page);
    let values = headers.get_all(IF_NONE_MATCH).iter();
    Sent {
        none_match: values
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect(),
        since: headers.contains_key(IF_MODIFIED_SINCE),
        about,
    }
}

impl Sent {
    /// Whether an origin whose page has this tag answers 304 (RFC 9110, 13.1.2: by weak comparison).
    fn confirms(&self, etag: &str) -> bool {
        let own = opaque_tags(etag);
        let lists = self.none_match.iter();
        lists.clone().any(|list| list.trim() == "*")
            || lists
                .flat_map(|list| opaque_tags(list))
                .any(|tag| own == [tag])
    }
}

/// What is between the quotes of each entity tag of a list, as far as it is one.
fn opaque_tags(list: &str) -> Vec<String> {
    let mut tags = Vec::new();
    let mut rest = list;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let quoted = rest.strip_prefix("W/").unwrap_or(rest);
        let Some((tag, after)) = quoted.strip_prefix('"').and_then(|tag| tag.split_once('"'))
        else {
            return tags;
        };
        tags.push(tag.to_owned());
        rest = after;
    }
}

fn is_marked(etag: &str) -> bool {
    TAGS.iter().any(|tag| etag.contains(&format!("-{tag}\"")))
}

fn assert_translated(held: &[String], sent: &Sent, tag: Option<&Tag>, wants_page: bool) {
    let context = || format!("{held:?} became {:?} at {tag:?}", sent.none_match);
    let held: Vec<_> = held
        .iter()
        .filter(|value| HeaderValue::from_str(value).is_ok())
        .collect();
    let unchanged = sent.none_match.iter().eq(held.iter().copied());
    if sent.since && !held.is_empty() {
        assert!(unchanged, "{}", context());
    }
    match sent.about {
        Condition::Rewritten => {
            assert!(tag.is_some() && !sent.since, "{}", context());
            let marks = format!("-{}", tag.unwrap());
            // Each was held as this rewriting.
            for own in sent.none_match.iter().flat_map(|list| opaque_tags(list)) {
                let marked = format!("\"{own}{marks}\"");
                assert!(
                    held.iter().any(|list| list.contains(&marked)),
                    "{}",
                    context()
                );
            }
        }
        Condition::AsItIs if tag.is_some() && wants_page => {
            assert!(!sent.since && sent.none_match.is_empty(), "{}", context());
        }
        Condition::AsItIs => {
            // What was rewritten is not asked about, unless it stands in what is no list.
            let (lists, others): (Vec<&String>, Vec<_>) =
                held.iter().partition(|list| well_formed(list));
            for own in lists.iter().flat_map(|list| opaque_tags(list)) {
                let quoted = format!("\"{own}\"");
                let ours = is_marked(&quoted) && !others.iter().any(|text| text.contains(&quoted));
                let left = sent.none_match.iter().any(|list| list.contains(&quoted));
                assert!(!ours || !left, "{}", context());
            }
        }
    }
}

/// Whether all of a list is entity tags.
fn well_formed(list: &str) -> bool {
    let space = [' ', '\t'];
    let mut rest = list.trim_matches(space);
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return true;
        }
        let quoted = rest.strip_prefix("W/").unwrap_or(rest);
        match quoted.strip_prefix('"').and_then(|tag| tag.split_once('"')) {
            Some((_, after)) => rest = after,
            None => return false,
        }
        rest = rest.trim_start_matches(space);
        if !rest.is_empty() && !rest.starts_with(',') {
            return false;
        }
    }
}
