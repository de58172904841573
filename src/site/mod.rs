//! Serving a folder, fast: a site made of files.
//!
//! [`Site`] is a tower service. It answers GET and HEAD with the files below one folder, with strong validators,
//! conditional requests (RFC 9110 section 13) and ranges (section 14), also several at once.
//!
//! - Files that are asked for are kept in memory with their headers, within `memory` bytes. What was looked at less than a
//!   second ago goes out without a system call; so a file that changed is served for a second more at most. It is never
//!   served torn: it is read whole, and again if it was changed meanwhile. Files above `file_size` are read from
//!   the disk while they are sent.
//! - A validator stands for one content. In memory it is a hash of it; on the disk it is length, time and place. As long
//!   as a file could be changed again and look the same, its time is not told, and its tag is given once.
//! - A `.br`, `.zst` or `.gz` beside a file is served to those who accept it (section 12.5.3). Texts that are hot are
//!   compressed in the background, once.
//! - `/docs/` is `docs/index.html`; `/docs` is redirected to `/docs/`. With `tidy_urls`, `/about` is `about.html`.
//! - What is not there gets the folder's own `404.html`, else a small page or a line of text.
//! - Nothing outside the folder is ever opened: [`check_target`](crate::front::check_target) reads the
//!   path, and what it leads to is resolved, symbolic links and all, before it is opened. A link that stays
//!   in the folder works; so do the folders of links that Kubernetes mounts.
//! - Names with a leading dot are not there, but for `.well-known`. Neither is what is no regular file.
//!
//! A page from memory goes out as the same bytes each time. The layer knows it by their place ([`crate::offload`]): so a
//! hot page that is rewritten is one lookup there, too.
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
//!
//! With other settings than the defaults:
//!
//! ```no_run
//! use overspill::site::{CacheControlSettings, Site, SiteSettings};
//!
//! # fn run() -> Result<Site, Box<dyn std::error::Error>> {
//! let settings = SiteSettings {
//!     memory: "1GiB".parse()?,
//!     tidy_urls: true,
//!     cache_control: vec![CacheControlSettings {
//!         paths: vec!["/assets/**".to_owned()],
//!         value: "public, max-age=31536000, immutable".to_owned(),
//!     }],
//!     ..SiteSettings::default()
//! };
//! let site = Site::with_settings(std::path::Path::new("static/site"), &settings)?;
//! # Ok(site) }
//! ```

mod accept;
mod answer;
mod aside;
mod body;
mod conditions;
mod disk;
mod entry;
mod files;
mod kind;
mod objects;
mod ranges;
mod rounds;
mod service;
mod settings;
mod store;
mod table;

pub use self::{
    body::SiteBody,
    service::{Site, SiteError, SiteFuture},
    settings::{CacheControlSettings, SiteSettings},
};
