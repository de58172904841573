//! Keeps a web site up when more people come than its server can serve.

#[cfg(feature = "server")]
pub mod front;
#[cfg(feature = "server")]
pub mod site;
pub mod units;
#[cfg(feature = "server")]
pub mod upstream;
