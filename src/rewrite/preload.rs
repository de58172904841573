//! A preload in a header, decided like one in the page.

use std::sync::Arc;

use super::{
    Allowance, Kind, Page, Rules, edit::Place, headers::LinkValue, link::Context,
    table::preload_kind,
};

/// Decides about links of the page's headers: gives the URL to put in place of the one that is there.
///
/// They are relative to the page itself, and come before any `<base>` (HTML standard, 4.2.4.5).
pub(super) fn header_link(
    rules: Arc<Rules>,
    page: Page,
) -> impl Fn(&LinkValue<'_>, &str, &Allowance) -> Option<String> {
    let context = Context::new(rules, page);
    move |value, url, allowance| {
        let kind = preloaded(value)?;
        let crossorigin = value.get("crossorigin");
        let credentials =
            crossorigin.is_some_and(|mode| mode.eq_ignore_ascii_case("use-credentials"));
        // What is in `imagesrcset` is not looked at here; and where integrity makes the object need CORS, a
        // preload without it would fetch it twice.
        if credentials
            || value.get("imagesrcset").is_some()
            || value.get("integrity").is_some() && crossorigin.is_none()
        {
            return None;
        }
        let moved = context.link(url, kind, Place::Style).ok()?;
        let cors = crossorigin.is_some() && !allowance.target.cors();
        let private = allowance.private.contains(moved.object.hash);
        if cors || private || !allowance.permits(moved.needs) {
            return None;
        }
        let prefix = allowance.target.prefix();
        let fragment = url.find('#').map_or("", |at| &url[at..]);
        let path = &moved.object.path;
        (!path.contains(['<', '>', '"'])).then(|| format!("{prefix}{path}{fragment}"))
    }
}

/// The kind of what is preloaded.
fn preloaded(value: &LinkValue<'_>) -> Option<Kind> {
    let rel = value.get("rel")?;
    let mut words = rel.split_ascii_whitespace();
    words
        .any(|word| word.eq_ignore_ascii_case("preload"))
        .then(|| preload_kind(value.get("as")?))?
}
