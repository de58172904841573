//! What happens to each link of a page, and why.

use std::sync::Arc;

use super::{BailOut, Kinds, Page, Rules, Stay, Target, edit::Needs, scan, table::Fetch};

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

    /// The source of a picture, once its `img` tells how it is fetched; `None` where that comes too late.
    pub(super) fn decide(&mut self, fetch: Option<Fetch>) {
        if let Ok(needs) = &mut self.needs {
            match fetch {
                Some(Fetch::Plain) => {}
                Some(Fetch::Cors) => needs.cors = true,
                Some(Fetch::Credentials) => self.needs = Err(Stay::Credentials),
                None => self.needs = Err(Stay::Picture),
            }
        }
    }

    /// Why it stays for the visitors of one server, where it may move at all; `None` where it moves.
    #[must_use]
    pub fn refused_by(&self, target: &Target, kinds: Kinds) -> Option<&'static str> {
        let needs = self.needs.ok()?;
        if needs.https && !target.https() {
            Some("the server is not reached by https")
        } else if needs.cors && !target.cors() {
            Some("it is fetched with CORS, and the server has no `cors`")
        } else if !kinds.contains_all(needs.kinds) {
            Some("a content security policy leaves no room for it")
        } else {
            None
        }
    }
}

/// Looks at every link of a page; the second tells why the end of the page was not looked at, if it was not.
#[must_use]
pub fn explain(rules: Arc<Rules>, page: Page, body: &[u8]) -> (Vec<Finding>, Option<BailOut>) {
    scan::findings(rules, page, body)
}
