//! Keeps a web site up when more people come than its server can serve.

pub mod gate;
pub mod level;
pub mod load;
pub mod offload;
mod problem;
pub mod rewrite;
pub mod servers;
pub mod units;

pub use problem::Problem;
