//! What a page becomes: its embedded objects linked to an offload server, nothing else changed.
//!
//! [`Rules`] say what may be moved, a [`Target`] where to, a [`Page`] where the page stands. A
//! [`Rewriter`] takes the page as it streams by; [`headers`] and [`csp`] make its headers fit. Whatever
//! is in doubt stays as it is: a page is never broken for the sake of offloading.
//!
//! ```
//! use std::sync::Arc;
//!
//! use bytes::BytesMut;
//! use overspill::rewrite::{OwnHosts, Page, Rewriter, Rules, Settings, Target};
//!
//! let rules = Arc::new(Rules::new(&Settings::default()).unwrap());
//! let server = "https://eu.offload.example".parse().unwrap();
//! let target = Arc::new(Target::new("eu", &server, false).unwrap());
//! let hosts = Arc::new(OwnHosts::new(&["www.example.com"]).unwrap());
//! let page = Page::new(true, "www.example.com", "/news/", hosts).unwrap();
//!
//! let kinds = target.kinds();
//! let mut rewriter = Rewriter::new(rules, page, target, kinds);
//! let mut out = BytesMut::new();
//! rewriter.push(b"<h1>News</h1><img src='pic", &mut out);
//! rewriter.push(b"ture.png'>", &mut out);
//! let summary = rewriter.finish(&mut out);
//! assert_eq!(out, "<h1>News</h1><img src='https://eu.offload.example/news/picture.png'>");
//! assert_eq!(summary.links, 1);
//! ```
//!
//! # How
//!
//! | part | does |
//! |---|---|
//! | `scan` | lets lol_html scan the stream, and applies edits as the bytes pass |
//! | `table` | knows which attributes of which elements link to objects |
//! | `cdata` | watches for CDATA that a browser may read in another way |
//! | `scope` | knows what is open: pictures, media, templates, what is switched off |
//! | `link` | decides about one URL, and finds the least change of its text |
//! | `splice` | holds the edits that wait for their bytes |
//! | [`srcset`] | finds the URLs of a srcset |
//!
//! # `<base>`
//!
//! Links are resolved as a browser does when it meets them: against the page's URL, and from the first
//! `<base href>` on against that. A `<base>` that comes after links is an error in HTML; those links are
//! not looked at again. What a script does to the base can't be known: such pages say
//! `data-overspill="off"`, or their links are kept out by `rewrite.exclude`.

mod cdata;
pub mod coding;
pub mod csp;
pub mod css;
mod edit;
mod escape;
mod explain;
pub mod headers;
mod kind;
mod link;
mod page;
mod plan;
mod preload;
mod private;
mod rules;
mod scan;
mod scope;
mod settings;
mod splice;
pub mod srcset;
mod stay;
mod table;
mod target;

pub use edit::{Allowance, Placed, Spread};
pub use explain::{Finding, explain};
pub use kind::{Kind, Kinds};
pub use page::{OwnHosts, Page};
pub use plan::{Plan, Replay};
pub(crate) use plan::{page_hash, text_hash};
pub use private::Private;
pub(crate) use rules::compile_globs as globs;
pub use rules::{RuleError, Rules};
pub use scan::{BailOut, Rewriter, Summary};
pub use settings::Settings;
pub use stay::Stay;
pub use target::{Target, TargetError};
