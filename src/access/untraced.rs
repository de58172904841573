//! Without the feature `otel` nothing is exported.

use http::HeaderMap;

use super::entry::{Entry, Span};
use crate::problem::Problem;

/// There is none.
#[derive(Debug)]
pub(super) enum Exporter {}

// === impl Exporter ===

impl Exporter {
    pub(super) const fn start() -> Result<Option<Self>, Problem> {
        Ok(None)
    }

    pub(super) const fn begin(&self, _headers: &mut HeaderMap) -> Span {
        match *self {}
    }

    pub(super) const fn export(&self, _entry: &Entry) {
        match *self {}
    }

    pub(super) const fn end(&self) {
        match *self {}
    }
}
