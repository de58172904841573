//! What a page becomes, seen from outside: fixtures, properties with a browser's parser as the oracle,
//! pages that nobody should have written, and what they take of memory.

mod corpus;
mod fallback;
mod fixtures;
mod holds;
mod hostile;
#[path = "../support/manuals.rs"]
mod manuals;
mod memory;
mod properties;
mod real;

use holds::{
    oracle,
    site::{self, PREFIX, Random},
};
use overspill::rewrite::{Rewriter, Summary};

fn rewriter(cors: bool) -> Rewriter {
    site::rewriter(site::rules(), site::allowance(cors))
}

/// Rewrites `chunks` as one page.
fn rewrite<'a>(cors: bool, chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, Summary) {
    site::rewrite(rewriter(cors), chunks)
}
