//! Any page, cut anywhere, comes out the same; and a browser's parser sees moved URLs alone.

use super::{
    oracle,
    site::{self, Random},
};

pub fn rewrite(page: &[u8]) {
    let mut random = Random::of(page);
    for cors in [true, false] {
        let rewriter = || site::rewriter(site::any_rules(), site::allowance(cors));
        let (whole, summary) = site::rewrite(rewriter(), [page]);
        let (cut, again) = site::rewrite(rewriter(), random.cut(page));
        assert!(whole == cut, "cut, it becomes another page");
        assert_eq!(summary, again);
        oracle::assert_only_urls_moved(page, &whole);
        // A policy may be widened where nothing follows it that moves.
        let has_policy = page
            .to_ascii_lowercase()
            .windows(10)
            .any(|text| text == b"http-equiv");
        assert!(summary.links > 0 || has_policy || whole == page);
    }
}
