//! Keeps a web site up when more people come than its server can serve.

pub mod load;
pub mod units;
