//! Keeps a web site up when more people come than its server can serve.
//!
//! An axum/tower layer (and, with the feature `server`, a program) that measures the load of the *primary*
//! server and answers in four levels: `normal`; `offload`, where the pages of some visitors are rewritten as
//! they stream by, so that their embedded objects come from an *offload server*; `throttle`, where some
//! visitors get a 503 page; and `drop`, where some connections are closed without a byte.
//!
//! ```no_run
//! # async fn page() -> &'static str { "" }
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use std::net::SocketAddr;
//! use axum::{Router, routing::get};
//! use overspill::{Overspill, Settings};
//!
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//! let overspill = Overspill::start(Settings::load()?)?;        // starts the sampler and the probes
//! let app = Router::new().route("/", get(page)).layer(overspill.layer());
//! axum::serve(overspill.gate(listener), app.into_make_service_with_connect_info::<SocketAddr>()).await?;
//! # Ok(()) }
//! ```
//!
//! # The way of a request
//!
//! 0. [`gate`]: at `drop`, new connections are closed right after accept, by their address.
//! 1. client: the address (from trusted proxies only), the identity (a cookie or header), one key for both.
//! 2. bypass: health paths, exempt addresses and the offload servers' pulls go straight to the service.
//! 3. choose: is this client in the share, and which offload server takes it ([`servers::Select`])?
//! 4. admit: at `throttle` and above some are turned away, by class, then by a hash of the client ([`offload::Admit`]).
//! 5. route: a GET on a redirect path is sent to the server by a 307.
//! 6. serve: the inner service answers; conditional headers are translated first.
//! 7. qualify: only a whole HTML page, plain or in a coding that is known, is rewritten; all else goes out as it came.
//! 8. rewrite: the links are changed by the page's plan, or, the first time, as the page streams by ([`rewrite`]).
//! 9. headers: validators, caching and the content security policy say what is true of the new page.
//! 10. account: when the body ends or is given up, its outcome is counted.
//!
//! Beside this, a thread of its own samples the load ([`load`]), decides ([`level`], [`offload::Control`])
//! and publishes one immutable [`offload::Snapshot`]: that, and atomics, is all that a request reads.
//!
//! # Features
//!
//! `server` (default) adds what the program `overspill` needs: the folder and upstream services, the admin
//! listener, the commands. Without it this is the library alone. `otel` sends a span of each request to an OpenTelemetry
//! collector.

#[cfg(feature = "server")]
pub mod access;
pub mod admin;
pub mod app;
#[cfg(feature = "server")]
pub mod cli;
pub mod config;
#[cfg(feature = "server")]
pub mod crowd;
#[cfg(feature = "server")]
pub mod edge;
#[cfg(feature = "server")]
pub mod front;
pub mod gate;
pub mod guard;
#[cfg(feature = "server")]
pub mod handover;
pub mod journal;
pub mod level;
pub mod load;
pub mod offload;
mod problem;
pub mod rewrite;
mod seldom;
pub mod servers;
#[cfg(feature = "server")]
pub mod site;
pub mod tls;
#[cfg(feature = "server")]
pub mod trace;
pub mod units;
#[cfg(feature = "server")]
pub mod upstream;

pub use app::Overspill;
pub use config::Settings;
pub use problem::Problem;
