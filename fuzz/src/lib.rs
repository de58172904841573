//! What the targets check: the properties of `tests/rewrite`, compiled once for all of them.

#[path = "../../tests/rewrite/holds/mod.rs"]
pub mod holds;
