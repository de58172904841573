//! Any policy: it lets in the server for what may move, and nothing else that it did not let in before; and widened
//! twice, it says the same.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY_REPORT_ONLY},
};
use overspill::rewrite::{Kind, Kinds, csp::allow};

use super::{oracle, site, text};

const ORIGIN: &str = "https://eu.offload.example";

pub fn csp(data: &[u8]) {
    for name in [CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY_REPORT_ONLY] {
        header(&name, data);
    }
    let policy = text(data).replace('&', "&amp;").replace('"', "&quot;");
    let page = format!(
        "<meta http-equiv=content-security-policy content=\"{policy}\"><img src=/a.png><script src=/a.js></script>"
    );
    let rewriter = site::rewriter(site::any_rules(), site::allowance(true));
    let (out, _) = site::rewrite(rewriter, [page.as_bytes()]);
    oracle::assert_only_urls_moved(page.as_bytes(), &out);
}

fn header(name: &HeaderName, data: &[u8]) {
    let lines = data.split(|byte| *byte == b'\n');
    let mut headers = HeaderMap::new();
    for line in lines {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(name, value);
        }
    }
    let before = headers.clone();
    let kinds = allow(&mut headers, ORIGIN, Kinds::ALL);
    let policies = |headers: &HeaderMap| -> Option<Vec<String>> {
        let values = headers.get_all(name).iter();
        let texts: Result<Vec<_>, _> = values.map(HeaderValue::to_str).collect();
        let policies = texts.ok()?.into_iter().flat_map(|text| text.split(','));
        Some(policies.map(str::to_owned).collect())
    };
    let enforced = *name == CONTENT_SECURITY_POLICY;
    let (Some(old), Some(new)) = (policies(&before), policies(&headers)) else {
        assert_eq!(headers, before, "what can't be read was changed");
        assert!(!enforced || kinds.is_empty());
        return;
    };
    if kinds.is_empty() {
        assert_eq!(headers, before);
    }
    let mut again = headers.clone();
    assert_eq!(allow(&mut again, ORIGIN, kinds), kinds);
    assert_eq!(again, headers, "widened twice, it says something else");
    assert_eq!(old.len(), new.len());
    for (old, new) in old.iter().zip(&new) {
        assert_widened(old, new, kinds);
        for kind in kinds.iter().filter(|_| enforced) {
            assert!(lets_in(new, kind), "{kind:?} by {new:?}");
        }
    }
}

/// What a policy says of each kind of fetch: of the directives in this order the first that is there counts.
const FETCHES: [&[&str]; 14] = [
    &["img-src", "default-src"],
    &["media-src", "default-src"],
    &["font-src", "default-src"],
    &["style-src-elem", "style-src", "default-src"],
    &["script-src-elem", "script-src", "default-src"],
    // From here on: what must not be let in where it was not.
    &["connect-src", "default-src"],
    &["object-src", "default-src"],
    &["frame-src", "child-src", "default-src"],
    &["manifest-src", "default-src"],
    &["prefetch-src", "default-src"],
    &["form-action"],
    &["base-uri"],
    &["frame-ancestors"],
    &["navigate-to"],
];
const MOVABLE: usize = 5;

fn assert_widened(old: &str, new: &str, kinds: Kinds) {
    let before = directives(old);
    let after = directives(new);
    assert!(
        before.iter().zip(&after).all(|(a, b)| a.0 == b.0),
        "{old:?} became {new:?}"
    );
    for (index, names) in FETCHES.iter().enumerate() {
        let (Some(a), Some(b)) = (governing(&before, names), governing(&after, names)) else {
            assert!(governing(&after, names).is_none(), "{old:?} became {new:?}");
            continue;
        };
        let without: Vec<_> = b.iter().filter(|source| **source != ORIGIN).collect();
        let own: Vec<_> = a.iter().filter(|source| **source != ORIGIN).collect();
        assert_eq!(own, without, "{old:?} became {new:?}");
        let grew = a.len() != b.len();
        assert!(
            !grew || index < MOVABLE && !kinds.is_empty(),
            "{old:?} became {new:?}"
        );
    }
}

type Directive<'a> = (String, Vec<&'a str>);

/// The directives of a policy, each once (CSP level 3, 2.2.1).
fn directives(policy: &str) -> Vec<Directive<'_>> {
    let mut directives: Vec<Directive<'_>> = Vec::new();
    for text in policy.split(';') {
        let mut words = text
            .split(|c: char| c.is_ascii_whitespace())
            .filter(|word| !word.is_empty());
        let Some(name) = words.next().map(str::to_ascii_lowercase) else {
            continue;
        };
        if directives.iter().all(|(known, _)| *known != name) {
            directives.push((name, words.collect()));
        }
    }
    directives
}

fn governing<'a, 'b>(directives: &'b [Directive<'a>], names: &[&str]) -> Option<&'b Vec<&'a str>> {
    names.iter().find_map(|name| {
        let found = directives.iter().find(|(known, _)| known == name);
        found.map(|(_, sources)| sources)
    })
}

/// Whether an object of `kind` on the server is let in (CSP level 3, 6.7.2.6).
fn lets_in(policy: &str, kind: Kind) -> bool {
    let directives = directives(policy);
    let names = match kind {
        Kind::Image => FETCHES[0],
        Kind::Media => FETCHES[1],
        Kind::Font => FETCHES[2],
        Kind::Style => FETCHES[3],
        Kind::Script => FETCHES[4],
    };
    let Some(sources) = governing(&directives, names) else {
        return true;
    };
    let is = |source: &&str, text: &str| source.eq_ignore_ascii_case(text);
    if kind == Kind::Script && sources.iter().any(|source| is(source, "'strict-dynamic'")) {
        return false;
    }
    let by_place = sources.iter().any(|source| {
        ["*", "http:", "https:", ORIGIN]
            .iter()
            .any(|text| is(source, text))
    });
    // Sources in quotes and of other schemes let in no place: what they let in or keep out has a nonce or a hash, or
    // none, on the server as at the primary.
    let no_place = matches!(kind, Kind::Script | Kind::Style)
        && !sources.iter().any(|source| is(source, "'self'"))
        && sources.iter().any(|source| {
            let source = source.to_ascii_lowercase();
            source.starts_with("'nonce-") || source.starts_with("'sha")
        })
        && sources
            .iter()
            .all(|source| source.starts_with('\'') || source.ends_with(':'));
    by_place || no_place
}
