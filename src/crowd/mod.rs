//! A crowd: browser-like visitors who come whether or not those before them have been served.
//!
//! What counts is *whole pages*: the page and every object that it makes a browser fetch, within the visitor's
//! patience. A server may answer many requests a second and complete no page.
//!
//! ```text
//! Crowd::come ──► arrivals: when, which page (drawn from a seed)
//!      │
//!      └─► visit ──► fetch ══ HTTP/1.1, TLS ══► hosts, each at most six connections
//!            │  └──► objects: what the page, and its stylesheets, fetch
//!            └─────► reference: are those the primary's bytes?
//!            └─────► tally, times ──► report
//! ```
//!
//! A visitor has an address of its own ([`Sources`]), keeps its connections and cookies for the one visit, follows
//! redirects, and goes away when its page is whole or its patience ends. Nothing is kept of what it fetched: every
//! visitor's cache is empty. A crowd goes to this machine and private networks only, unless the owner of a
//! site says otherwise ([`Reach`]).
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use overspill::crowd::{Crowd, Settings};
//! use tokio::time::Instant;
//!
//! let settings = Settings::new(vec!["http://127.0.0.1:8080/".parse()?]);
//! let crowd = Crowd::prepared(settings, true).await?;
//! let (began, length) = (Instant::now(), Duration::from_secs(10));
//! crowd.come(|_| 40.0, length, began).await;
//! println!("{}", crowd.report(40.0, length, began.elapsed()));
//! # Ok(()) }
//! ```

mod arrivals;
mod connection;
mod fetch;
mod gather;
mod hosts;
mod objects;
mod reach;
mod reference;
mod report;
mod settings;
mod sources;
mod tally;
mod times;
mod trouble;
mod visit;

pub use gather::{Crowd, CrowdError};
pub use hosts::HostCount;
pub use reach::Reach;
pub use reference::{Reference, ReferenceError};
pub use report::{Failure, Report, TimesToWhole};
pub use settings::Settings;
pub use sources::{Sources, SourcesError};
pub use tally::{ObjectCount, Tally};
