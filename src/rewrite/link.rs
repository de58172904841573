//! One URL: whether it moves, and the least change of its text that moves it.

use std::{ops::Range, sync::Arc};

use url::Url;

use super::{
    Kind, Kinds, Page, Rules, Stay,
    edit::{Needs, Object, Place},
    escape::{self, decode},
};
use crate::servers::hash;

/// What is put in place of a part of a URL's text: the server's prefix, then `text`.
///
/// It does not name the server, so one scan serves them all.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Moved {
    /// The bytes of the raw value that go.
    pub(super) range: Range<usize>,
    /// What follows the prefix, escaped for its place.
    pub(super) text: Box<str>,
    pub(super) object: Object,
    pub(super) needs: Needs,
}

/// What relative links are resolved against.
#[derive(Debug)]
enum Base {
    /// The page's own URL.
    Page,
    /// A `<base href>`.
    Element(Url),
    /// A `<base href>` that a policy may have forbidden.
    Doubt,
}

/// All that decides about a link besides the link.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) rules: Arc<Rules>,
    page: Page,
    /// What policies in the page leave room for.
    room: Kinds,
    /// Whether a policy in the page turns http links into https ones.
    upgrades: bool,
    /// Whether an import map was met: what modules import hangs on it.
    pub(super) import_map: bool,
    base: Base,
}

// === impl Context ===

impl Context {
    pub(super) fn new(rules: Arc<Rules>, page: Page) -> Self {
        Self {
            rules,
            page,
            room: Kinds::ALL,
            upgrades: false,
            import_map: false,
            base: Base::Page,
        }
    }

    /// Whether CSS in the page may change: not where a policy knows it by its hash.
    pub(super) const fn styles_may_change(&self) -> bool {
        !self.page.styles_hashed()
    }

    /// A policy of the page's own, which counts for what follows it.
    pub(super) fn narrow(&mut self, policy: &super::csp::MetaPolicy<'_>) {
        let room = self.room.iter();
        self.room = room.filter(|kind| policy.kinds().contains(*kind)).collect();
        self.upgrades |= policy.upgrades();
        if policy.restricts_base() {
            self.page = self.page.clone().with_base_allowed(false);
        }
        if policy.hashes_inline_styles() {
            self.page = self.page.clone().with_styles_hashed(true);
        }
    }

    /// The page's first `<base href>`. Only the first counts (HTML standard, 4.2.3), and it is itself
    /// resolved against the page's URL.
    pub(super) fn set_base(&mut self, raw: &str) {
        if !matches!(self.base, Base::Page) {
            return;
        }
        // How a browser reads other characters hangs on the page's charset, and here the folder that they
        // name would have to be written out.
        self.base = match decode(raw).filter(|href| href.is_ascii()) {
            Some(href) if self.page.base_allowed() => match self.page.url().join(&href) {
                // What is no URL, or one of these two, leaves the page's own; later ones still don't
                // count.
                Ok(url) if matches!(url.scheme(), "data" | "javascript") => {
                    Base::Element(self.page.url().clone())
                }
                Ok(url) => Base::Element(url),
                Err(_) => Base::Element(self.page.url().clone()),
            },
            _ => Base::Doubt,
        };
    }

    /// A `<base href>` that may be the page's first: where none was before, what hangs on it stays.
    pub(super) fn doubt_base(&mut self) {
        if matches!(self.base, Base::Page) {
            self.base = Base::Doubt;
        }
    }

    /// Whether a path from the root is one of the page's own site.
    pub(super) fn base_is_own(&self) -> bool {
        let own = self.page.url().origin();
        self.base().is_some_and(|base| base.origin() == own)
    }

    const fn base(&self) -> Option<&Url> {
        match &self.base {
            Base::Page => Some(self.page.url()),
            Base::Element(url) => Some(url),
            Base::Doubt => None,
        }
    }

    /// Decides about one URL, given as it stands in the page.
    pub(super) fn link(&self, raw: &str, kind: Kind, place: Place) -> Result<Moved, Stay> {
        // Such a value can be as long as a picture: nothing of it need be looked at.
        if is_data(raw) {
            return Err(Stay::Scheme);
        }
        let needs = Needs::of(kind);
        if !self.room.contains_all(needs.kinds) {
            return Err(Stay::Policy);
        }
        let decoded = match place {
            Place::Style => (!raw.contains('\0')).then_some(raw.into()),
            _ => decode(raw),
        };
        let decoded = decoded.ok_or(Stay::Reference)?;
        let link = decoded.trim_matches(is_trimmed);
        if link.is_empty() || link.starts_with('#') {
            return Err(Stay::Fragment);
        }
        let url = self.join(link)?;
        self.may_move(&url)?;
        let (range, text) =
            least_change(raw, link, &url, self.base(), place).ok_or(Stay::Spelling)?;
        Ok(Moved {
            range,
            text,
            object: Object {
                hash: hash::bytes(url.path().as_bytes()),
            },
            needs: Needs {
                https: self.upgrades || url.scheme() == "https",
                ..needs
            },
        })
    }

    /// What a link's text resolves to, for who wants to know.
    pub(super) fn resolve(&self, raw: &str, place: Place) -> Option<Url> {
        let decoded = match place {
            Place::Style => raw.into(),
            _ => decode(raw)?,
        };
        self.join(decoded.trim_matches(is_trimmed)).ok()
    }

    fn join(&self, link: &str) -> Result<Url, Stay> {
        match self.base() {
            Some(base) => base.join(link).map_err(|_| Stay::NotUrl),
            None => independent(link).ok_or(Stay::Base),
        }
    }

    fn may_move(&self, url: &Url) -> Result<(), Stay> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Stay::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Stay::User);
        }
        if !self.page.owns(url) {
            return Err(Stay::Foreign);
        }
        if !self.rules.is_object(url.path()) {
            return Err(Stay::Rules);
        }
        Ok(())
    }
}

/// What the URL standard takes off both ends: C0 controls and space.
const fn is_trimmed(c: char) -> bool {
    c <= ' '
}

fn is_data(raw: &str) -> bool {
    raw.trim_start_matches(is_trimmed)
        .as_bytes()
        .get(..5)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"data:"))
}

/// A link that means the same whatever the base is.
fn independent(link: &str) -> Option<Url> {
    let (scheme, rest) = link.split_once(':')?;
    let http = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    (http && rest.starts_with("//")).then(|| Url::parse(link).ok())?
}

/// The range of `raw` to replace, and what follows the prefix there.
///
/// Where the value is written plainly, only its leading part goes (scheme and authority, leading dot
/// segments, or nothing), so that the rest keeps its bytes, its entities and its charset. Where it is
/// not, the whole value is written anew, if it is ASCII: how other characters of a query are encoded
/// hangs on the page's charset.
fn least_change(
    raw: &str,
    link: &str,
    url: &Url,
    base: Option<&Url>,
    place: Place,
) -> Option<(Range<usize>, Box<str>)> {
    if let Some(change) = leading_part(raw, link, base, place) {
        return Some(change);
    }
    let rest = &url[url::Position::BeforePath..];
    // In a srcset a comma at the end is none of the URL's: this one stood before a control, which went.
    let is_cut = place == Place::Srcset && rest.ends_with(',');
    (link.is_ascii() && !is_cut).then(|| (0..raw.len(), escape::write(rest, place).into()))
}

fn leading_part(
    raw: &str,
    link: &str,
    base: Option<&Url>,
    place: Place,
) -> Option<(Range<usize>, Box<str>)> {
    if link.contains(['\t', '\n', '\r']) {
        return None;
    }
    let start = raw.len() - raw.trim_start_matches(is_trimmed).len();
    let plain = &raw[start..];
    // In a `<style>` an `&` is one.
    let ends = |c: char| matches!(c, '?' | '#') || c == '&' && place != Place::Style;
    let path_end = plain.find(ends).unwrap_or(plain.len());
    // A reference in the path may stand for a slash or a dot.
    if plain[path_end..].starts_with('&') || plain[..path_end].contains('\\') {
        return None;
    }
    let path = &plain[..path_end];
    let (taken, text) = if let Some(authority) = authority(path) {
        let text = if path.len() == authority { "/" } else { "" };
        (authority, text.into())
    } else if path.starts_with('/') && !path.starts_with("//") {
        (0, Box::default())
    } else {
        relative(path, base?, place)?
    };
    let rest = path[taken..].trim_end_matches(is_trimmed);
    let dotted = rest.split('/').any(is_dot_segment);
    (!dotted).then(|| (start..start + taken, text))
}

/// How long scheme and authority are, where they are written plainly.
fn authority(path: &str) -> Option<usize> {
    let scheme = ["http:", "https:", ""].into_iter().find(|scheme| {
        path.as_bytes()
            .get(..scheme.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(scheme.as_bytes()))
            && path[scheme.len()..].starts_with("//")
    })?;
    let rest = &path[scheme.len() + 2..];
    let end = rest.find('/').unwrap_or(rest.len());
    let plain =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    (end > 0 && rest[..end].bytes().all(plain)).then_some(scheme.len() + 2 + end)
}

/// How long the leading dot segments are, and the folder that they lead to.
fn relative(path: &str, base: &Url, place: Place) -> Option<(usize, Box<str>)> {
    let first = path.split('/').next().unwrap_or(path);
    // A colon may end a scheme; a link of query alone keeps the base's last segment.
    if path.is_empty() || path.starts_with('/') || first.contains(':') {
        return None;
    }
    let mut folder = parent(base.path());
    let mut rest = path;
    loop {
        if let Some(inside) = rest.strip_prefix("./") {
            rest = inside;
        } else if let Some(above) = rest.strip_prefix("../") {
            folder = parent(folder.strip_suffix('/').unwrap_or(folder));
            rest = above;
        } else {
            return Some((path.len() - rest.len(), escape::write(folder, place).into()));
        }
    }
}

/// Up to and with the last slash; `/` at the top.
fn parent(path: &str) -> &str {
    path.rfind('/').map_or("/", |slash| &path[..=slash])
}

fn is_dot_segment(segment: &str) -> bool {
    // Nothing longer than "%2e%2e" is one.
    segment.len() <= 6
        && matches!(
            segment.to_ascii_lowercase().replace("%2e", ".").as_str(),
            "." | ".."
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rewrite::Settings;

    const PREFIX: &str = "https://eu.example/p";

    fn context(page: &str) -> Context {
        let page = Url::parse(page).unwrap();
        let host = page.host_str().unwrap().to_owned()
            + &page.port().map_or(String::new(), |port| format!(":{port}"));
        let rules = Rules::new(&Settings {
            include: vec!["**".into()],
            exclude: vec!["private/**".into()],
            ..Settings::default()
        });
        Context::new(
            Arc::new(rules.unwrap()),
            Page::new(
                page.scheme() == "https",
                &host,
                &page[url::Position::BeforePath..url::Position::AfterQuery],
                Arc::default(),
            )
            .unwrap(),
        )
    }

    /// The value after the move, or `None` where it stays.
    fn moved(context: &Context, raw: &str) -> Option<String> {
        let moved = context.link(raw, Kind::Image, Place::Attribute).ok()?;
        let after = format!(
            "{}{}{}{}",
            &raw[..moved.range.start],
            PREFIX,
            moved.text,
            &raw[moved.range.end..]
        );
        // What a browser makes of it is the object on the server.
        let decoded = decode(&after).unwrap();
        let url = Url::parse(&decoded).unwrap();
        let own = context.resolve(raw, Place::Attribute).unwrap();
        let path = |url: &Url| url[url::Position::BeforePath..url::Position::AfterQuery].to_owned();
        assert_eq!(path(&url), format!("/p{}", path(&own)), "{raw}");
        assert_eq!(moved.object.hash, hash::bytes(own.path().as_bytes()));
        Some(after)
    }

    #[test]
    fn plain_links_keep_their_bytes() {
        let context = context("http://a.example/d/e/page?x=/y/z");
        for (raw, expected) in [
            ("/i.png", "https://eu.example/p/i.png"),
            ("i.png", "https://eu.example/p/d/e/i.png"),
            ("./i.png", "https://eu.example/p/d/e/i.png"),
            ("../i.png", "https://eu.example/p/d/i.png"),
            ("../../../i.png", "https://eu.example/p/i.png"),
            (".././../x/i.png", "https://eu.example/p/x/i.png"),
            ("http://a.example/i.png", "https://eu.example/p/i.png"),
            ("HTTPS://A.example:443/i.png", "https://eu.example/p/i.png"),
            ("//a.example/i.png#f", "https://eu.example/p/i.png#f"),
            ("//a.example", "https://eu.example/p/"),
            ("//a.example?q", "https://eu.example/p/?q"),
            ("  /i.png\n", "  https://eu.example/p/i.png\n"),
            (
                "/i.png?a=1&amp;b=2#f",
                "https://eu.example/p/i.png?a=1&amp;b=2#f",
            ),
            ("/i.png?a=1&b=2", "https://eu.example/p/i.png?a=1&b=2"),
            ("größe.png?ü", "https://eu.example/p/d/e/größe.png?ü"),
            ("//a.example//i.png", "https://eu.example/p//i.png"),
            (".//i.png", "https://eu.example/p/d/e//i.png"),
            ("./a:b.png", "https://eu.example/p/d/e/a:b.png"),
            ("a b.png", "https://eu.example/p/d/e/a b.png"),
            (".hidden", "https://eu.example/p/d/e/.hidden"),
            ("./", "https://eu.example/p/d/e/"),
        ] {
            assert_eq!(moved(&context, raw).as_deref(), Some(expected), "{raw}");
        }
    }

    #[test]
    fn odd_links_are_written_anew() {
        let context = context("http://a.example/d&e/page?q");
        for (raw, expected) in [
            ("/x/../i.png", "https://eu.example/p/i.png"),
            (
                "x/%2E./i.png?a&amp;b=1",
                "https://eu.example/p/d&amp;e/i.png?a&amp;b=1",
            ),
            ("\\i.png", "https://eu.example/p/i.png"),
            ("/i\n.png", "https://eu.example/p/i.png"),
            ("&#47;i.png", "https://eu.example/p/i.png"),
            ("http&#58;//a.example/i.png", "https://eu.example/p/i.png"),
            ("http:i.png", "https://eu.example/p/d&amp;e/i.png"),
            ("http://a%2Eexample/i.png", "https://eu.example/p/i.png"),
            ("?i.png", "https://eu.example/p/d&amp;e/page?i.png"),
            ("..", "https://eu.example/p/"),
            ("/it's/../that's.png", "https://eu.example/p/that&#39;s.png"),
        ] {
            assert_eq!(moved(&context, raw).as_deref(), Some(expected), "{raw}");
        }
    }

    #[test]
    fn what_is_not_the_sites_or_in_doubt_stays() {
        let context = context("http://a.example/d/page");
        for raw in [
            "",
            "  ",
            "#f",
            "data:image/png;base64,AAAA",
            " DATA:x",
            "blob:http://a.example/1",
            "javascript:void(0)",
            "http://b.example/i.png",
            "//b.example/i.png",
            "http://a.example:81/i.png",
            "http://u@a.example/i.png",
            "ftp://a.example/i.png",
            "/private/i.png",
            "/x/../private/i.png",
            "&sol;i.png",
            "/i.png?x&copy",
            "/i\0.png",
            "/ü/../i.png",
            "http://",
            "//",
            "///a.example/i.png",
        ] {
            assert_eq!(moved(&context, raw), None, "{raw}");
        }
    }

    #[test]
    fn links_follow_the_first_base() {
        let mut context = context("http://a.example/d/page");
        context.set_base("/other/");
        context.set_base("/late/");
        assert_eq!(
            moved(&context, "i.png").unwrap(),
            "https://eu.example/p/other/i.png"
        );

        let mut context = self::context("http://a.example/d/page");
        context.set_base("http://cdn.example/x/");
        assert_eq!(moved(&context, "i.png"), None);
        assert_eq!(moved(&context, "/i.png"), None);
        assert!(moved(&context, "http://a.example/i.png").is_some());

        let mut context = self::context("http://a.example/d/page");
        context.set_base("data:text/plain,x");
        assert_eq!(
            moved(&context, "i.png").unwrap(),
            "https://eu.example/p/d/i.png"
        );
    }

    #[test]
    fn a_base_in_doubt_holds_what_hangs_on_it() {
        let mut context = context("http://a.example/d/page");
        context.set_base("größe/");
        context.set_base("/late/");
        for raw in ["i.png", "/i.png", "//a.example/i.png", "http:i.png"] {
            assert_eq!(moved(&context, raw), None, "{raw}");
        }
        assert!(moved(&context, "http://a.example/i.png").is_some());
    }

    #[test]
    fn https_links_take_https() {
        let rules = Arc::new(Rules::new(&Settings::default()).unwrap());
        let needs_https = |https, raw| {
            let page = Page::new(https, "a.example", "/", Arc::default()).unwrap();
            let context = Context::new(rules.clone(), page);
            let moved = context.link(raw, Kind::Image, Place::Attribute).unwrap();
            moved.needs.https
        };
        assert!(needs_https(true, "/i.png"));
        assert!(needs_https(false, "https://a.example/i.png"));
        assert!(!needs_https(false, "/i.png"));
    }

    #[test]
    fn what_is_put_in_fits_its_place() {
        let context = context("http://a.example/d'(&)/page");
        for (place, expected) in [
            (Place::Attribute, "/d&#39;(&amp;)/"),
            (Place::Style, "/d\\'\\(&\\)/"),
            (Place::StyleAttribute, "/d\\&#39;\\(&amp;\\)/"),
        ] {
            let moved = context.link("i.png?a&b=", Kind::Image, place).unwrap();
            assert_eq!((moved.range, &*moved.text), (0..0, expected));
        }
    }
}
