//! The offload server: a cache that gives out the site's objects and pulls from the primary what it lacks.
//!
//! ```text
//! visitor ──► checks ──► site ──► store ── fresh ──────────────────────► answer (conditions, range, HEAD)
//!                                   │ nothing, or not fresh any more        ▲
//!                                   └──► fill: one pull for all who wait ───┘
//!                                          │ X-Overspill-Token, Via, CDN-Loop, the load report
//!                                          ▼
//!                                       primary
//! ```
//!
//! It does only what the primary sends: GET and HEAD of the configured primaries' objects. It is no proxy: the
//! address that is pulled from is never the visitor's choice, redirects are not followed, and neither cookies nor
//! `Authorization` go one way or the other. When a pull fails it gives out what it has, as long as the primary
//! allows, and else says clearly what is wrong (502, 504; 508 in a circle; 503 where it is full itself).
//!
//! ```no_run
//! use overspill::{Settings, edge::Edge};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let settings = Settings::load()?;
//! let edge = Edge::start(&settings.edge, &settings.load)?;
//! let listener = tokio::net::TcpListener::bind(settings.edge.listen).await?;
//! overspill::edge::serve(edge, listener, std::future::pending()).await;
//! # Ok(()) }
//! ```

mod agent;
mod counters;
mod fill;
mod headers;
mod object;
mod own;
mod policy;
mod pull;
mod report;
mod respond;
mod serve;
mod service;
mod settings;
mod sites;
mod status;
mod store;

pub use self::{
    agent::answer_agents,
    respond::EdgeBody,
    serve::{Listening, serve},
    service::{Edge, EdgeError, EdgeFuture},
    settings::{EdgeSettings, EdgeSite},
    status::admin,
};
