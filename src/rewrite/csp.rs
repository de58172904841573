//! Content security policies.

use http::HeaderMap;

use super::Kinds;

/// Adds `origin` to the policies of a response for each of `kinds`, and tells which may move.
pub fn allow(_headers: &mut HeaderMap, _origin: &str, _kinds: Kinds) -> Kinds {
    todo!()
}

/// Whether a policy says what `<base>` may be.
#[must_use]
pub fn restricts_base(_headers: &HeaderMap) -> bool {
    todo!()
}
