//! Keeps a web site up when more people come than its server can serve.

pub mod admin;
pub mod app;
#[cfg(feature = "server")]
pub mod cli;
pub mod config;
#[cfg(feature = "server")]
pub mod front;
pub mod gate;
pub mod level;
pub mod load;
pub mod offload;
mod problem;
pub mod rewrite;
pub mod servers;
#[cfg(feature = "server")]
pub mod site;
pub mod units;
#[cfg(feature = "server")]
pub mod upstream;

pub use app::Overspill;
pub use config::Settings;
pub use problem::Problem;
