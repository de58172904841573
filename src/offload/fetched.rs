//! Which part of a page's weight visitors really fetch.
//!
//! A browser that comes again has most of a page in its cache, of a `srcset` it takes one candidate, and a robot
//! takes the page alone. So the bytes of objects that the primary serves are compared with what its pages weigh.
//! Only while all is calm: in an episode others serve the objects, and a crowd that is kept waiting fetches late, or
//! gives up.

use std::time::Duration;

use tokio::time::Instant;

/// How long it must have been calm: what belongs to pages of the time before has been fetched by then.
const SETTLE: Duration = Duration::from_secs(10);
/// What is compared at once: so long at least, and so many pages.
const WINDOW: Duration = Duration::from_secs(5);
const PAGES: u64 = 10;
/// The pages that what was known before counts as, against a window's. It says less the fewer they were.
const MEMORY: f64 = 100.0;
/// What is believed before anything is known, that visitors fetch all of a page, counts as so many pages: of the first
/// few one may be a robot's, and the objects of another on their way, and a crowd that is promised too little is late.
const BELIEF: f64 = 50.0;
/// However little was fetched, a page promises something: the next visitor may be a browser.
const LEAST: f64 = 0.05;

/// What the primary has served to visitors, since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Passed {
    /// Pages.
    pub pages: u64,
    /// What their objects weigh by their scans, in bytes.
    pub weight: u64,
    /// Objects, in bytes.
    pub bytes: u64,
}

/// What was learnt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Fetched {
    /// The part of a page's weight that a visitor fetches, from 0.05 to 1.
    pub part: f64,
    /// The bytes of objects that visitors fetch for a page; [`None`] before anything is known.
    pub mean: Option<f64>,
}

/// Learns it, in windows without a disturbance.
#[derive(Debug)]
pub(super) struct Learner {
    fetched: Fetched,
    calm_since: Option<Instant>,
    window: Option<(Instant, Passed)>,
    /// The pages that were learnt from, as far as they count.
    known: f64,
}

// === impl Learner ===

impl Learner {
    /// Nothing is known: every page promises all of its weight.
    #[must_use]
    pub(super) const fn new() -> Self {
        Self {
            fetched: Fetched {
                part: 1.0,
                mean: None,
            },
            calm_since: None,
            window: None,
            known: 0.0,
        }
    }

    /// Takes in what has `passed` as of `now`; gives what is known, where that is news. `calm`: nobody is offloaded,
    /// turned away, or kept waiting by a full link.
    pub(super) fn observe(&mut self, passed: Passed, calm: bool, now: Instant) -> Option<Fetched> {
        if !calm {
            (self.calm_since, self.window) = (None, None);
            return None;
        }
        let since = *self.calm_since.get_or_insert(now);
        if now.saturating_duration_since(since) < SETTLE && self.known > 0.0 {
            return None;
        }
        let (began, before) = *self.window.get_or_insert((now, passed));
        let pages = passed.pages - before.pages;
        if pages < PAGES || now.saturating_duration_since(began) < WINDOW {
            return None;
        }
        self.window = Some((now, passed));
        let bytes = (passed.bytes - before.bytes) as f64;
        let weight = (passed.weight - before.weight) as f64;
        let fresh = pages as f64;
        let trust = |known: f64| fresh / (fresh + known);
        let (of_mean, of_part) = (trust(self.known), trust(self.known.max(BELIEF)));
        self.known = (self.known + fresh).min(MEMORY);
        let mean = bytes / fresh;
        self.fetched.mean = Some(match self.fetched.mean {
            Some(known) => known + (mean - known) * of_mean,
            None => mean,
        });
        if weight > 0.0 {
            let part = (bytes / weight).clamp(LEAST, 1.0);
            self.fetched.part += (part - self.fetched.part) * of_part;
        }
        Some(self.fetched)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A second's visits at a time: pages of 100 KB, of which `part` is fetched.
    struct Site {
        learner: Learner,
        passed: Passed,
        now: Instant,
    }

    impl Site {
        fn new() -> Self {
            Self {
                learner: Learner::new(),
                passed: Passed::default(),
                now: Instant::now(),
            }
        }

        fn seconds(&mut self, seconds: u64, part: f64, calm: bool) -> Fetched {
            for _ in 0..seconds {
                self.now += Duration::from_secs(1);
                self.passed.pages += 4;
                self.passed.weight += 400_000;
                self.passed.bytes += (400_000.0 * part) as u64;
                self.learner.observe(self.passed, calm, self.now);
            }
            self.learner.fetched
        }
    }

    #[test]
    fn what_browsers_have_already_is_not_promised() {
        let mut site = Site::new();
        let few = site.seconds(6, 0.3, true);
        assert!(few.part > 0.7, "a few visitors do not tell much: {few:?}");
        let fetched = site.seconds(120, 0.3, true);
        assert!((fetched.part - 0.3).abs() < 0.01, "{fetched:?}");
        assert!((fetched.mean.unwrap() - 30_000.0).abs() < 1_000.0);
        let fetched = site.seconds(300, 0.8, true);
        assert!((fetched.part - 0.8).abs() < 0.02, "it follows: {fetched:?}");
    }

    #[test]
    fn nothing_is_learnt_of_a_crowd() {
        let mut site = Site::new();
        let before = site.seconds(60, 0.9, true);
        let crowd = site.seconds(600, 0.0, false);
        assert_eq!(crowd, before);
        let after = site.seconds(9, 0.0, true);
        assert_eq!(after, before, "nor while what it left is fetched");
    }

    #[test]
    fn a_site_of_robots_alone_promises_a_little() {
        let fetched = Site::new().seconds(600, 0.0, true);
        assert!((fetched.part - LEAST).abs() < 1e-6, "{fetched:?}");
        assert_eq!(fetched.mean, Some(0.0));
    }

    #[test]
    fn pages_without_objects_say_nothing_of_the_part() {
        let mut learner = Learner::new();
        let mut now = Instant::now();
        for pages in (0..600).step_by(10) {
            now += Duration::from_secs(1);
            learner.observe(
                Passed {
                    pages,
                    ..Passed::default()
                },
                true,
                now,
            );
        }
        assert_eq!(learner.fetched.part, 1.0);
    }
}
