//! The headers of a page that is rewritten, both ways.
//!
//! A browser that goes from normal to offload and back must never keep the wrong version, so:
//!
//! - A rewritten page's ETag carries a [`Tag`] that names the server and the rules: `W/"abc"` becomes
//!   `W/"abc-ov1a2b3c4d"`. It has no Last-Modified.
//! - On the way in, [`prepare_request`] takes the tag off where the same rewriting would happen again,
//!   so that the inner service can answer 304, and drops validators of other versions, so that it
//!   can't. Only then is a 304 about the rewritten page, and [`not_modified`] makes it say so.
//! - A rewritten page is cached by nobody but the browser, and no longer than the episode's hold.
//!
//! `Range` passes: a 206 is part of the page as it is, and `If-Range` with a rewritten page's weak ETag
//! never matches (RFC 9110, 13.1.5).

mod caching;
mod condition;
mod preload;
mod qualify;
mod tag;

pub(crate) use caching::is_private;
pub use caching::{not_modified, rewritten};
pub use condition::{Condition, prepare_request};
pub use preload::move_preloads;
pub(crate) use preload::{Change, LinkValue};
pub use qualify::{Unqualified, embedder, is_rewritable_charset, qualifies};
pub use tag::Tag;
