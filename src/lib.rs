//! Keeps a web site up when more people come than its server can serve.

pub mod rewrite;
pub mod units;
