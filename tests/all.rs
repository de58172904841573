//! The tests of what is built, as one program: a program for each file would compile what they share and link all that
//! they need dozens of times.
//!
//! Each file is about one thing, and takes what it shares with others from `support`. `cargo test --test all site::` runs
//! those of `site.rs`. They run at the same time, in one process: none may change what belongs to the process, such as
//! its environment, nor count what the others have too, such as its files. Those that must be alone are programs of
//! their own (Cargo.toml says why).

mod access_log;
mod admin;
mod asking;
mod browser;
mod check;
mod classes;
mod commands;
mod config_file;
mod crowd;
#[cfg(target_os = "linux")]
mod crowd_network;
mod dashboard;
mod discovery;
mod drop;
mod edge;
mod edge_network;
mod explain;
mod floods;
mod gate;
#[cfg(unix)]
mod handover;
mod headers;
mod layer;
mod limits;
mod offload_servers;
mod operator;
mod pages;
mod prometheus;
#[cfg(unix)]
mod readme;
mod real_site;
mod reload;
mod serve;
mod shared_caches;
mod site;
mod smuggling;
mod spread;
mod status;
mod support;
mod tls;
mod upstream;
mod upstream_answers;
mod upstream_http2;
mod upstream_program;
mod upstream_streams;
mod upstream_upgrade;
mod validators;
