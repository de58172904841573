//! A preload in a header, decided like one in the page.

use std::{ops::Range, sync::Arc};

use url::Position;

use super::{
    Allowance, Kind, Page, Rules,
    edit::{Needs, Place},
    headers::{Change, LinkValue},
    link::Context,
    srcset,
    table::preload_kind,
};

/// Decides about links of the page's headers: gives what to put in place of their URLs.
///
/// They are relative to the page itself, and come before any `<base>` (HTML standard, 4.2.4.5).
pub(super) fn header_link(
    rules: Arc<Rules>,
    page: Page,
) -> impl Fn(&LinkValue<'_>, &Allowance) -> Vec<Change> {
    let context = Context::new(rules, page);
    move |value, allowance| {
        let is_module = preloads_module(value);
        if is_module && !context.rules.modules() {
            return Vec::new();
        }
        let kind = is_module.then_some(Kind::Script);
        let Some(kind) = kind.or_else(|| preloaded(value)) else {
            return Vec::new();
        };
        let crossorigin = value.get("crossorigin");
        let credentials =
            crossorigin.is_some_and(|mode| mode.eq_ignore_ascii_case("use-credentials"));
        // Where integrity makes the object need CORS, a preload without it would fetch it twice. Modules are always
        // fetched so.
        let cors = crossorigin.is_some() || is_module;
        let integrity = value.get("integrity").is_some() && !cors;
        if credentials || integrity {
            return Vec::new();
        }
        let mut urls = vec![value.url.clone()];
        if let (Kind::Image, Some(set)) = (kind, value.range("imagesrcset")) {
            let parts = srcset::urls(value.at(set.clone()));
            urls.extend(parts.map(|part| set.start + part.start..set.start + part.end));
        }
        let change = |range: Range<usize>| {
            let url = moved_url(&context, value.at(range.clone()), kind, cors, allowance)?;
            Some((range, url))
        };
        urls.into_iter().filter_map(change).collect()
    }
}

/// `cors`: it is fetched so, whatever its kind.
fn moved_url(
    context: &Context,
    url: &str,
    kind: Kind,
    cors: bool,
    allowance: &Allowance,
) -> Option<String> {
    let moved = context.link(url, kind, Place::Style).ok()?;
    let needs = Needs {
        cors: cors || moved.needs.cors,
        ..moved.needs
    };
    let prefix = allowance.target_of(moved.object, needs)?.prefix();
    let fragment = url.find('#').map_or("", |at| &url[at..]);
    let resolved = context.resolve(url, Place::Style)?;
    let path = &resolved[Position::BeforePath..Position::AfterQuery];
    (!path.contains(['<', '>', '"'])).then(|| format!("{prefix}{path}{fragment}"))
}

/// Whether a module is preloaded, which nothing but scripts of the page take. (That the page has an import map, with
/// which modules stay, is not known yet: then it is fetched from both.)
fn preloads_module(value: &LinkValue<'_>) -> bool {
    let rel = value.get("rel").unwrap_or_default();
    let to = value.get("as").unwrap_or_default();
    rel.trim().eq_ignore_ascii_case("modulepreload") && matches!(to.trim(), "" | "script")
}

/// The kind of what is preloaded.
fn preloaded(value: &LinkValue<'_>) -> Option<Kind> {
    let rel = value.get("rel")?;
    let mut words = rel.split_ascii_whitespace();
    words
        .any(|word| word.eq_ignore_ascii_case("preload"))
        .then(|| preload_kind(value.get("as")?))?
}
