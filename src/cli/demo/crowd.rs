//! The demo's visitors: a crowd as `overspill crowd` sends it, that holds what it gets to the site's files.

use std::time::Duration;

use include_dir::Dir;
use serde::Serialize;
use url::Url;

use crate::crowd::{Crowd, Reach, Reference, Settings, Sources};

/// The cookie that tells visitors apart.
pub(super) const COOKIE: &str = "visitor";

/// The pages of the site: the first is where half of the visitors come in, the others anywhere.
const PAGES: [&str; 8] = [
    "",
    "light/",
    "light/keepers.html",
    "programme/",
    "programme/night-watch.html",
    "visit/",
    "visit/causeway.html",
    "gallery/",
];

/// Whether visitors take the object at `path`. Of a picture's sizes they take the first, as all visitors of
/// `overspill crowd` do: of this site's, JPEG in 480 pixels and WebP in 960.
pub(super) fn takes(path: &str) -> bool {
    !path.ends_with("-960.jpg") && !path.contains("-1600.")
}

/// How many visits ended how. Each visitor is counted once beside `came`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Tally {
    /// Visitors who came.
    pub(super) came: u64,
    /// Pages that arrived with all their objects.
    pub(super) whole: u64,
    /// 503 pages.
    pub(super) turned_away: u64,
    /// Connections closed without an answer.
    pub(super) dropped: u64,
    /// Let in, but out of patience before the page was whole.
    pub(super) too_slow: u64,
    /// Let in, but something is missing.
    pub(super) broken: u64,
    /// Still waiting.
    pub(super) still_there: u64,
    /// Not sent, since this machine has no file or port left.
    pub(super) not_sent: u64,
}

/// The crowd for the site at `site`, which has these `files`. Two with the same seed are the same.
pub(super) fn crowd(
    site: &str,
    files: &Dir<'_>,
    patience: Duration,
    seed: u64,
) -> Result<Crowd, url::ParseError> {
    let site: Url = site.parse()?;
    let pages: Vec<Url> = PAGES
        .iter()
        .map(|page| site.join(page))
        .collect::<Result<_, _>>()?;
    let entrance = std::iter::repeat_n(pages[0].clone(), PAGES.len());
    let settings = Settings {
        pages: entrance.chain(pages.iter().cloned()).collect(),
        patience,
        most: usize::MAX,
        // All from one: the cookie tells them apart.
        sources: Sources::System,
        reach: Reach::default(),
        cookie: Some(COOKIE.to_owned()),
        seed,
    };
    Ok(Crowd::new(settings, Some(reference(&site, files))))
}

fn reference(site: &Url, files: &Dir<'_>) -> Reference {
    let mut found = Vec::new();
    let mut folders = vec![files];
    while let Some(folder) = folders.pop() {
        folders.extend(folder.dirs());
        for file in folder.files() {
            let path = file.path().to_string_lossy().replace('\\', "/");
            found.push((format!("/{path}"), file.contents()));
        }
    }
    Reference::of_files(
        site,
        found.iter().map(|(path, bytes)| (path.as_str(), *bytes)),
    )
}

// === impl Tally ===

impl Tally {
    /// In the words of the story.
    pub(super) fn of(crowd: &Crowd) -> Self {
        let visitors = crowd.tally();
        Self {
            came: visitors.offered,
            whole: visitors.whole,
            turned_away: visitors.throttled,
            dropped: visitors.dropped,
            too_slow: visitors.timed_out + visitors.partial_timed_out,
            broken: visitors.partial - visitors.partial_timed_out
                + visitors.refused
                + visitors.failed,
            still_there: visitors.unfinished,
            not_sent: visitors.not_started,
        }
    }

    /// Those who were not told to come again later, and know how it ended.
    pub(super) const fn let_in(&self) -> u64 {
        self.whole + self.too_slow + self.broken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::SITE;

    #[test]
    fn every_page_is_one_of_the_site() {
        for page in PAGES {
            let file = match page {
                page if page.is_empty() || page.ends_with('/') => format!("{page}index.html"),
                page => page.to_owned(),
            };
            assert!(SITE.get_file(&file).is_some(), "{file}");
        }
    }
}
