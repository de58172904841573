//! What happens to each link of a page, and why.

use std::sync::Arc;

use super::{BailOut, Page, Rules, Stay, edit::Needs, scan};

/// One link of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The element's name.
    pub element: String,
    /// The attribute's name; `text` for the text of a `<style>`.
    pub attribute: String,
    /// As it stands in the page.
    pub value: String,
    /// What a browser makes of it; `None` where that is not known.
    pub resolved: Option<String>,
    pub(super) needs: Result<Needs, Stay>,
}

impl Finding {
    /// Why it stays, wherever the visitor is sent; `None` where it may move.
    #[must_use]
    pub fn stays(&self) -> Option<Stay> {
        self.needs.err()
    }
}

/// Looks at every link of a page; the second tells why the end of the page was not looked at, if it was not.
#[must_use]
pub fn explain(rules: Arc<Rules>, page: Page, body: &[u8]) -> (Vec<Finding>, Option<BailOut>) {
    scan::findings(rules, page, body)
}
