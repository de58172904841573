//! What holds for any input whatever, one function for each fuzz target.
//!
//! The targets in `fuzz/` are these functions and nothing else; `corpus.rs` runs them over what the targets have
//! found, `properties.rs` over pages made at random.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "the tests and the fuzz targets each use their own part of this"
)]

mod caching;
mod coding;
mod conditions;
mod csp;
mod css;
mod explain;
mod link_header;
pub mod oracle;
mod plan;
mod references;
mod rewrite;
pub mod site;
mod srcset;

pub use caching::caching;
pub use coding::coding;
pub use conditions::conditions;
pub use csp::csp;
pub use css::css;
pub use explain::explain;
pub use link_header::link_header;
pub use plan::plan;
pub use references::references;
pub use rewrite::rewrite;
pub use srcset::srcset;

/// A property of any input.
type Holds = fn(&[u8]);

/// Every one by the name of its fuzz target.
pub const ALL: [(&str, Holds); 11] = [
    ("caching", caching),
    ("coding", coding),
    ("conditions", conditions),
    ("csp", csp),
    ("css", css),
    ("explain", explain),
    ("link_header", link_header),
    ("plan", plan),
    ("references", references),
    ("rewrite", rewrite),
    ("srcset", srcset),
];

/// The input as text, cut where it is none.
fn text(data: &[u8]) -> &str {
    match std::str::from_utf8(data) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&data[..error.valid_up_to()]).unwrap_or_default(),
    }
}
