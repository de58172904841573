//! Serving a folder: a site made of files.
//!
//! [`Site`] is a tower service. It answers GET and HEAD with the files below one folder, streaming, with
//! strong validators, conditional requests and single ranges (several ranges at once get the whole
//! file, which RFC 9110 section 14.2 allows, and which no one can use to multiply the work).
//!
//! - `/docs/` is `docs/index.html`; `/docs` is redirected to `/docs/`.
//! - What is not there gets the folder's own `404.html`, else a small page or a line of text.
//! - Nothing outside the folder is ever opened: [`check_target`](crate::front::check_target) reads the
//!   path, and what it leads to is resolved, symbolic links and all, before it is opened. A link that stays
//!   in the folder works; so do the folders of links that Kubernetes mounts.
//! - Names with a leading dot are not there, but for `.well-known`. Neither is what is no regular file.
//!
//! ```no_run
//! use overspill::site::Site;
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let site = Site::new(std::path::Path::new("static/site"))?;
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//! axum::serve(listener, axum::Router::new().fallback_service(site)).await?;
//! # Ok(()) }
//! ```

mod conditions;
mod files;
mod objects;
mod service;

pub use self::service::{Site, SiteError, SiteFuture};
