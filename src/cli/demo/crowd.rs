//! Visitors who come whether or not those before them have been served.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::Serialize;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};
use url::Url;

use super::{
    story::Story,
    visitor::{Sizes, Visit, visit},
};
use crate::servers::hash;

/// The pages of the site: the first is where half of the visitors come in.
const PAGES: [&str; 8] = [
    "/",
    "/light/",
    "/light/keepers.html",
    "/programme/",
    "/programme/night-watch.html",
    "/visit/",
    "/visit/causeway.html",
    "/gallery/",
];

/// How many visits ended how.
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
}

/// The crowd, and what became of it.
#[derive(Debug)]
pub(super) struct Crowd {
    site: Url,
    sizes: Sizes,
    tally: Mutex<Tally>,
}

// === impl Tally ===

impl Tally {
    fn count(&mut self, visit: Visit) {
        *match visit {
            Visit::Whole => &mut self.whole,
            Visit::TurnedAway => &mut self.turned_away,
            Visit::Dropped => &mut self.dropped,
            Visit::TooSlow => &mut self.too_slow,
            Visit::Broken => &mut self.broken,
        } += 1;
    }
}

// === impl Crowd ===

impl Crowd {
    /// A crowd for the site at `site` whose files have these `sizes`.
    pub(super) fn new(site: Url, sizes: Sizes) -> Arc<Self> {
        Arc::new(Self {
            site,
            sizes,
            tally: Mutex::default(),
        })
    }

    pub(super) fn tally(&self) -> Tally {
        *self.lock()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends visitors as the story says. Dropping the future sends them home.
    pub(super) async fn come(self: Arc<Self>, story: Story, began: Instant) {
        let mut visits = JoinSet::new();
        let mut next = began;
        for visitor in 0_u64.. {
            let rate = story.visitors(next.saturating_duration_since(began));
            if rate <= 0.0 {
                break;
            }
            next += pause(rate, visitor);
            sleep_until(next).await;
            // Who has left needs no place here any more.
            while visits.try_join_next().is_some() {}
            visits.spawn(self.clone().one(visitor));
        }
    }

    async fn one(self: Arc<Self>, visitor: u64) {
        self.lock().came += 1;
        let visit = match self.site.join(page(visitor)) {
            Ok(page) => visit(visitor, &page, &self.sizes).await,
            Err(_) => Visit::Broken,
        };
        self.lock().count(visit);
    }
}

/// Half of the visitors come to the front page, the others anywhere.
fn page(visitor: u64) -> &'static str {
    let place = hash::fraction(visitor, 1) * 2.0 - 1.0;
    PAGES[(place.max(0.0) * PAGES.len() as f64) as usize]
}

/// The time until the next visitor, with `rate` a second who know nothing of each other: exponentially
/// distributed. Drawn from the visitor's number, so that every showing has the same crowd.
fn pause(rate: f64, visitor: u64) -> Duration {
    let place = hash::fraction(visitor, 2);
    Duration::from_secs_f64(-(1.0 - place).max(1e-9).ln() / rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_visitors_see_the_front_page_and_the_others_all_pages() {
        let count = |wanted| {
            (0..8_000)
                .filter(|visitor| page(*visitor) == wanted)
                .count()
        };
        assert!((4_300..4_700).contains(&count("/")), "{}", count("/"));
        for wanted in &PAGES[1..] {
            assert!(count(wanted) > 300, "{wanted}: {}", count(wanted));
        }
    }

    #[test]
    fn as_many_come_as_the_rate_says() {
        let ten_thousand: Duration = (0..10_000).map(|visitor| pause(50.0, visitor)).sum();
        let seconds = ten_thousand.as_secs_f64();
        assert!((190.0..210.0).contains(&seconds), "{seconds}");
    }
}
