//! Content security policies (CSP level 3): letting a page fetch from an offload server, and no more.
//!
//! The server's origin is added to the directive that governs a kind of object, in every policy of the
//! response. Where only `default-src` governs, it is copied into the kind's own directive first, so
//! that nothing else is let in. Where a policy leaves no room (`'none'`, `'strict-dynamic'`), objects
//! of that kind stay.
//!
//! A policy that knows scripts and styles by their nonces and hashes alone is not widened: with the
//! server's origin in it, what has none would be let in. What has one moves without.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY_REPORT_ONLY},
};

use super::{Kind, Kinds};

/// Adds `origin` to the policies of a response for each of `kinds`, and tells which of them may move.
///
/// Reports are no harm to the page: report-only policies are widened as well, but hold nothing back.
pub fn allow(headers: &mut HeaderMap, origin: &str, kinds: Kinds) -> Kinds {
    allow_each(headers, &mut [(origin, kinds)])[0].1
}

/// The same for several origins, each with what may come from it; what may not is taken off.
pub fn allow_each<'a, 'b>(
    headers: &mut HeaderMap,
    origins: &'a mut [(&'b str, Kinds)],
) -> &'a [(&'b str, Kinds)] {
    let Some(enforced) = values(headers, &CONTENT_SECURITY_POLICY) else {
        origins
            .iter_mut()
            .for_each(|(_, kinds)| *kinds = Kinds::NONE);
        return origins;
    };
    for (origin, allowed) in &mut *origins {
        for policy in policies(&enforced) {
            if policy.upgrades() && !origin.starts_with("https:") {
                *allowed = Kinds::NONE;
            }
            let room = allowed.iter().filter(|&kind| policy.leaves_room(kind));
            *allowed = room.collect();
        }
    }
    let reported = values(headers, &CONTENT_SECURITY_POLICY_REPORT_ONLY).unwrap_or_default();
    for (name, values) in [
        (CONTENT_SECURITY_POLICY, enforced),
        (CONTENT_SECURITY_POLICY_REPORT_ONLY, reported),
    ] {
        let widened: Vec<_> = values.iter().map(|value| widen(value, origins)).collect();
        if widened != values {
            replace(headers, &name, widened);
        }
    }
    origins
}

/// Whether a policy of the response says what `<base>` may be, so that one of the page may not count.
#[must_use]
pub fn restricts_base(headers: &HeaderMap) -> bool {
    values(headers, &CONTENT_SECURITY_POLICY).is_none_or(|values| {
        let mut policies = policies(&values);
        policies.any(|policy| policy.find(&["base-uri"]).is_some())
    })
}

/// Whether a policy of the response knows CSS of the page by its hash: then the text of `<style>` and of
/// `style` attributes must not change. True where a policy can't be read.
#[must_use]
pub fn hashes_inline_styles(headers: &HeaderMap) -> bool {
    values(headers, &CONTENT_SECURITY_POLICY)
        .is_none_or(|values| policies(&values).any(|policy| policy.hashes_inline_styles()))
}

/// Whether every policy of the response lets in a classic script of the page's own origin, and lets it write others,
/// those that only report included.
#[must_use]
pub fn allows_own_script(headers: &HeaderMap) -> bool {
    let allows = |name| {
        values(headers, &name)
            .is_some_and(|values| policies(&values).all(|policy| policy.allows_own_script()))
    };
    allows(CONTENT_SECURITY_POLICY) && allows(CONTENT_SECURITY_POLICY_REPORT_ONLY)
}

/// A policy that stands in the page, in a `<meta>`: one, whatever commas it holds.
pub(super) struct MetaPolicy<'a>(Policy<'a>);

impl<'a> MetaPolicy<'a> {
    /// The policy whose text is `content`, character references read.
    pub(super) const fn new(content: &'a str) -> Self {
        Self(Policy(content))
    }

    /// The kinds that an origin can be added for.
    pub(super) fn kinds(&self) -> Kinds {
        Kind::ALL
            .into_iter()
            .filter(|&kind| self.0.leaves_room(kind))
            .collect()
    }

    pub(super) fn upgrades(&self) -> bool {
        self.0.upgrades()
    }

    pub(super) fn restricts_base(&self) -> bool {
        self.0.find(&["base-uri"]).is_some()
    }

    pub(super) fn hashes_inline_styles(&self) -> bool {
        self.0.hashes_inline_styles()
    }

    pub(super) fn allows_own_script(&self) -> bool {
        self.0.allows_own_script()
    }

    /// The policy with each of `origins` let in for its kinds; `None` where nothing changes.
    pub(super) fn widened(&self, origins: &[(&str, Kinds)]) -> Option<String> {
        let widened = self.0.widened(origins);
        (widened != self.0.0).then_some(widened)
    }
}

/// The values of a header; `None` where one is not ASCII text.
fn values(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<String>> {
    let values = headers.get_all(name).iter();
    values
        .map(|value| value.to_str().ok().map(str::to_owned))
        .collect()
}

/// A comma separates policies, as several headers would.
fn policies(values: &[String]) -> impl Iterator<Item = Policy<'_>> {
    values.iter().flat_map(|value| value.split(',')).map(Policy)
}

fn widen(value: &str, origins: &[(&str, Kinds)]) -> String {
    let policies: Vec<_> = value
        .split(',')
        .map(|policy| Policy(policy).widened(origins))
        .collect();
    policies.join(",")
}

fn replace(headers: &mut HeaderMap, name: &HeaderName, values: Vec<String>) {
    headers.remove(name);
    for value in values {
        // An origin is ASCII, so what was a header value is one still.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.append(name, value);
        }
    }
}

/// The directives that govern a kind, the first that is there alone; the one to copy `default-src`
/// into is the last but one.
const fn governing(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Image => &["img-src", "default-src"],
        Kind::Script => &["script-src-elem", "script-src", "default-src"],
        Kind::Style => &["style-src-elem", "style-src", "default-src"],
        Kind::Media => &["media-src", "default-src"],
        Kind::Font => &["font-src", "default-src"],
    }
}

/// One policy, as it is written.
struct Policy<'a>(&'a str);

/// A directive: its place among the policy's, its name and its sources.
struct Directive<'a> {
    index: usize,
    name: &'a str,
    sources: Vec<&'a str>,
}

// === impl Policy ===

impl<'a> Policy<'a> {
    /// The first of `names` that the policy has. Of equal directives, the first counts.
    fn find(&self, names: &[&str]) -> Option<Directive<'a>> {
        names.iter().find_map(|name| {
            self.0.split(';').enumerate().find_map(|(index, text)| {
                let mut words = text.split_ascii_whitespace();
                let name = words
                    .next()
                    .filter(|word| word.eq_ignore_ascii_case(name))?;
                Some(Directive {
                    index,
                    name,
                    sources: words.collect(),
                })
            })
        })
    }

    /// Whether http links become https ones.
    fn upgrades(&self) -> bool {
        self.find(&["upgrade-insecure-requests"]).is_some()
    }

    /// Whether an origin can be added for `kind`.
    fn leaves_room(&self, kind: Kind) -> bool {
        self.find(governing(kind)).is_none_or(|directive| {
            // With 'strict-dynamic', hosts are ignored. A list of nothing is 'none'.
            if directive.is_none() || kind == Kind::Script && directive.has("'strict-dynamic'") {
                return false;
            }
            let known = matches!(kind, Kind::Script | Kind::Style) && directive.knows_objects();
            match directive.place() {
                PlaceForOrigin::Beside => true,
                // Whether what has no nonce may be the site's own hangs on these hosts.
                PlaceForOrigin::Hosts => !known,
                PlaceForOrigin::None => known,
            }
        })
    }

    fn hashes_inline_styles(&self) -> bool {
        [
            ["style-src-elem", "style-src", "default-src"],
            ["style-src-attr", "style-src", "default-src"],
        ]
        .iter()
        .filter_map(|names| self.find(names))
        .any(|directive| directive.sources.iter().any(|source| is_hash(source)))
    }

    /// Not where scripts may not write what could be a script ([Trusted Types]): that is how one is mended.
    ///
    /// [Trusted Types]: https://www.w3.org/TR/trusted-types/
    fn allows_own_script(&self) -> bool {
        self.find(&["require-trusted-types-for"]).is_none()
            && self.find(governing(Kind::Script)).is_none_or(|directive| {
                !directive.has("'strict-dynamic'")
                    && (directive.has("'self'") || directive.has("*"))
            })
    }

    fn widened(&self, origins: &[(&str, Kinds)]) -> String {
        let mut directives: Vec<_> = self.0.split(';').map(str::to_owned).collect();
        let mut copies = String::new();
        for kind in Kind::ALL.into_iter().filter(|&kind| self.leaves_room(kind)) {
            let names = governing(kind);
            let Some(directive) = self.find(names) else {
                continue;
            };
            if directive.place() == PlaceForOrigin::None {
                continue;
            }
            let mut missing: Vec<_> = origins
                .iter()
                .filter(|(origin, kinds)| kinds.contains(kind) && !directive.lets_in(origin))
                .map(|(origin, _)| *origin)
                .collect();
            // Servers may stand on one origin, below different paths.
            missing.sort_unstable();
            missing.dedup();
            if missing.is_empty() {
                continue;
            }
            let missing = missing.join(" ");
            if directive.name.eq_ignore_ascii_case("default-src") {
                let own = names[names.len() - 2];
                copies += &format!("; {own} {} {missing}", directive.sources.join(" "));
            } else {
                let text = &mut directives[directive.index];
                text.truncate(text.trim_ascii_end().len());
                text.push(' ');
                text.push_str(&missing);
            }
        }
        let mut policy = directives.join(";");
        if !copies.is_empty() {
            policy.truncate(policy.trim_end_matches([';', ' ', '\t']).len());
        }
        policy + &copies
    }
}

/// Whether the server's origin has a place among the sources of a directive: it lets in what the page's own
/// origin had let in, and no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PlaceForOrigin {
    /// They let in the page's own.
    Beside,
    /// They name hosts, of which the page's own may be one.
    Hosts,
    /// They name none.
    None,
}

/// A nonce source (CSP level 3, 2.3.1).
fn is_nonce(source: &str) -> bool {
    source
        .get(..7)
        .is_some_and(|text| text.eq_ignore_ascii_case("'nonce-"))
}

/// A hash source (CSP level 3, 2.3.1).
fn is_hash(source: &str) -> bool {
    ["'sha256-", "'sha384-", "'sha512-"].iter().any(|start| {
        source
            .get(..start.len())
            .is_some_and(|text| text.eq_ignore_ascii_case(start))
    })
}

impl Directive<'_> {
    fn has(&self, source: &str) -> bool {
        self.sources
            .iter()
            .any(|known| known.eq_ignore_ascii_case(source))
    }

    /// `'none'` counts alone; beside other sources it is ignored.
    fn is_none(&self) -> bool {
        self.sources
            .iter()
            .all(|source| source.eq_ignore_ascii_case("'none'"))
    }

    fn place(&self) -> PlaceForOrigin {
        let any = ["'self'", "*", "http:", "https:"];
        if any.iter().any(|source| self.has(source)) {
            return PlaceForOrigin::Beside;
        }
        // What is quoted is a keyword, what ends in a colon another scheme, such as `data:`.
        let host = |source: &&str| !source.starts_with('\'') && !source.ends_with(':');
        if self.sources.iter().any(host) {
            PlaceForOrigin::Hosts
        } else {
            PlaceForOrigin::None
        }
    }

    /// Whether it lets in objects by what they are, wherever they come from.
    fn knows_objects(&self) -> bool {
        let mut sources = self.sources.iter();
        sources.any(|source| is_nonce(source) || is_hash(source))
    }

    fn lets_in(&self, origin: &str) -> bool {
        // A source of http lets https in.
        self.has(origin)
            || self.has("*")
            || self.has("http:")
            || self.has("https:") && origin.starts_with("https:")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: &str = "https://eu.example";

    fn headers(policies: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for policy in policies {
            headers.append(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
        }
        headers
    }

    fn allowed(policy: &'static str, kinds: Kinds) -> (String, Kinds) {
        let mut headers = headers(&[policy]);
        let kinds = allow(&mut headers, ORIGIN, kinds);
        let policy = headers[CONTENT_SECURITY_POLICY]
            .to_str()
            .unwrap()
            .to_owned();
        (policy, kinds)
    }

    fn only(kind: Kind) -> Kinds {
        Kinds::NONE.with(kind)
    }

    #[test]
    fn adds_the_origin_to_what_governs() {
        for (kind, policy, expected) in [
            (
                Kind::Image,
                "img-src 'self'",
                "img-src 'self' https://eu.example",
            ),
            (
                Kind::Image,
                "default-src 'self'; IMG-SRC  a.example ; font-src x",
                "default-src 'self'; IMG-SRC  a.example https://eu.example; font-src x",
            ),
            (
                Kind::Script,
                "script-src 'none'; script-src-elem 'self' 'nonce-x'",
                "script-src 'none'; script-src-elem 'self' 'nonce-x' https://eu.example",
            ),
            (
                Kind::Style,
                "style-src 'self';",
                "style-src 'self' https://eu.example;",
            ),
            (
                Kind::Media,
                "img-src a; img-src b; media-src c; media-src d",
                "img-src a; img-src b; media-src c https://eu.example; media-src d",
            ),
        ] {
            assert_eq!(
                allowed(policy, only(kind)),
                (expected.to_owned(), only(kind))
            );
        }
    }

    #[test]
    fn several_origins_are_let_in_each_for_its_own_kinds() {
        let policies = ["default-src 'self'; img-src *", "script-src 'self'"];
        let mut all = headers(&policies);
        let cors = Kinds::ALL;
        let plain = cors.without(Kind::Style).without(Kind::Font);
        let mut origins = [("https://a.example", cors), ("https://b.example", plain)];
        allow_each(&mut all, &mut origins);
        assert_eq!(origins.map(|(_, kinds)| kinds), [cors, plain]);
        let text = all[CONTENT_SECURITY_POLICY].to_str().unwrap();
        for directive in [
            "script-src 'self' https://a.example https://b.example",
            "style-src 'self' https://a.example",
            "font-src 'self' https://a.example",
            "media-src 'self' https://a.example https://b.example",
            "default-src 'self'",
        ] {
            let mut found = text.split("; ");
            assert!(
                found.any(|text| text == directive),
                "{directive} is not in {text}"
            );
        }
        // One after the other it is the same, but for the order.
        let mut one = headers(&policies);
        for (origin, kinds) in origins {
            assert_eq!(allow(&mut one, origin, kinds), kinds);
        }
        let words = |headers: &HeaderMap| {
            let values = values(headers, &CONTENT_SECURITY_POLICY).unwrap();
            let mut words: Vec<_> = values
                .join(" ")
                .split([' ', ';'])
                .map(str::to_owned)
                .collect();
            words.sort();
            words
        };
        assert_eq!(words(&all), words(&one));
        let mut origins = [("http://a.example", cors), ("https://b.example", cors)];
        allow_each(&mut headers(&["upgrade-insecure-requests"]), &mut origins);
        assert_eq!(origins.map(|(_, kinds)| kinds), [Kinds::NONE, cors]);
    }

    #[test]
    fn default_src_is_copied_and_never_widened() {
        let (policy, kinds) = allowed(
            "default-src 'self' cdn.example; object-src 'none'; ",
            Kinds::NONE.with(Kind::Image).with(Kind::Script),
        );
        assert_eq!(
            policy,
            "default-src 'self' cdn.example; object-src 'none'; \
             img-src 'self' cdn.example https://eu.example; \
             script-src 'self' cdn.example https://eu.example"
        );
        assert!(kinds.contains(Kind::Image) && kinds.contains(Kind::Script));
    }

    #[test]
    fn kinds_stay_where_a_policy_leaves_no_room() {
        for policy in [
            "img-src 'none'",
            "img-src",
            "default-src 'NONE'",
            "img-src 'self', img-src 'none'",
        ] {
            let (unchanged, kinds) = allowed(policy, only(Kind::Image));
            assert_eq!((unchanged.as_str(), kinds), (policy, Kinds::NONE));
        }
        let policy = "script-src 'nonce-x' 'strict-dynamic'; img-src 'self'";
        let (policy, kinds) = allowed(policy, Kinds::ALL);
        assert!(!kinds.contains(Kind::Script) && kinds.contains(Kind::Image));
        assert_eq!(
            policy,
            "script-src 'nonce-x' 'strict-dynamic'; img-src 'self' https://eu.example"
        );
    }

    #[test]
    fn policies_that_let_it_in_are_not_touched() {
        for policy in [
            "img-src *",
            "img-src https:",
            "default-src http:",
            "img-src HTTPS://EU.example",
            "sandbox allow-scripts; require-trusted-types-for 'script'",
            "frame-ancestors 'none'",
            "",
        ] {
            let (unchanged, kinds) = allowed(policy, only(Kind::Image));
            assert_eq!((unchanged.as_str(), kinds), (policy, only(Kind::Image)));
        }
    }

    #[test]
    fn what_is_known_by_nonce_or_hash_moves_without_the_origin() {
        for kind in [Kind::Script, Kind::Style] {
            for (policy, moves) in [
                ("default-src 'nonce-x'", true),
                ("default-src 'NONCE-x' 'unsafe-inline' data:", true),
                ("default-src 'sha256-x' 'report-sample'", true),
                ("default-src 'nonce-x' cdn.example", false),
                ("default-src 'unsafe-inline'", false),
                ("default-src data: blob:", false),
            ] {
                let expected = if moves { only(kind) } else { Kinds::NONE };
                assert_eq!(
                    allowed(policy, only(kind)),
                    (policy.to_owned(), expected),
                    "{policy}"
                );
            }
            let (policy, kinds) = allowed("default-src 'nonce-x' 'self'", only(kind));
            assert!(policy.ends_with(ORIGIN) && kinds == only(kind), "{policy}");
        }
        for policy in ["img-src 'nonce-x'", "img-src data:"] {
            assert_eq!(
                allowed(policy, only(Kind::Image)),
                (policy.to_owned(), Kinds::NONE)
            );
        }
    }

    #[test]
    fn every_policy_of_every_header_is_widened() {
        let mut headers = headers(&["img-src a, img-src b;x", "font-src c"]);
        headers.append(
            CONTENT_SECURITY_POLICY_REPORT_ONLY,
            HeaderValue::from_static("img-src 'none', img-src d"),
        );
        let kinds = Kinds::NONE.with(Kind::Image).with(Kind::Font);
        assert_eq!(allow(&mut headers, "http://h:1", kinds), kinds);
        let all = |name| -> Vec<_> { headers.get_all(name).iter().collect() };
        assert_eq!(
            all(CONTENT_SECURITY_POLICY),
            [
                "img-src a http://h:1, img-src b http://h:1;x",
                "font-src c http://h:1"
            ]
        );
        assert_eq!(
            all(CONTENT_SECURITY_POLICY_REPORT_ONLY),
            ["img-src 'none', img-src d http://h:1"]
        );
    }

    #[test]
    fn nothing_moves_where_a_policy_is_not_understood_or_upgrades() {
        let mut headers = HeaderMap::new();
        let value = HeaderValue::from_bytes(b"img-src \xff").unwrap();
        headers.insert(CONTENT_SECURITY_POLICY, value);
        let before = headers.clone();
        assert_eq!(allow(&mut headers, ORIGIN, Kinds::ALL), Kinds::NONE);
        assert_eq!(headers, before);
        assert!(restricts_base(&headers));

        let mut headers = self::headers(&["upgrade-insecure-requests; img-src a"]);
        assert_eq!(allow(&mut headers, "http://h", Kinds::ALL), Kinds::NONE);
        assert_eq!(allow(&mut headers, "https://h", Kinds::ALL), Kinds::ALL);
    }

    #[test]
    fn knows_whether_a_base_counts() {
        assert!(restricts_base(&headers(&[
            "img-src a",
            "x, Base-URI 'self'"
        ])));
        assert!(!restricts_base(&headers(&["default-src 'self'"])));
        assert!(!restricts_base(&HeaderMap::new()));
    }
    #[test]
    fn knows_what_hangs_on_hashes_and_on_the_own_origin() {
        for (policy, hashed, own_script) in [
            ("style-src 'sha256-x'", true, true),
            ("style-src-attr 'SHA512-x'; style-src 'self'", true, true),
            ("default-src 'self' 'sha384-x'", true, true),
            ("style-src 'nonce-x'; script-src 'sha256-x'", false, false),
            ("script-src 'self' 'strict-dynamic'", false, false),
            ("default-src 'none'", false, false),
            ("script-src *", false, true),
            ("img-src a", false, true),
            ("require-trusted-types-for 'script'", false, false),
        ] {
            let headers = headers(&[policy]);
            assert_eq!(hashes_inline_styles(&headers), hashed, "{policy}");
            assert_eq!(allows_own_script(&headers), own_script, "{policy}");
        }
        let mut headers = headers(&["script-src 'self'"]);
        let reported = HeaderValue::from_static("script-src 'nonce-x'");
        headers.insert(CONTENT_SECURITY_POLICY_REPORT_ONLY, reported);
        assert!(!allows_own_script(&headers));
    }

    #[test]
    fn a_policy_in_the_page_is_one() {
        let policy = MetaPolicy::new("img-src 'none'; script-src a, b; upgrade-insecure-requests");
        assert!(!policy.kinds().contains(Kind::Image) && policy.kinds().contains(Kind::Script));
        assert!(policy.upgrades() && !policy.restricts_base());
        let widened = policy.widened(&[(ORIGIN, Kinds::ALL)]).unwrap();
        assert_eq!(
            widened,
            "img-src 'none'; script-src a, b https://eu.example; upgrade-insecure-requests"
        );
        assert_eq!(
            MetaPolicy::new("img-src *").widened(&[(ORIGIN, only(Kind::Image))]),
            None
        );
    }
}
