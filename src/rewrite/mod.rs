//! What a page becomes: its embedded objects linked to an offload server, nothing else changed.

pub mod csp;
mod escape;
pub mod headers;
mod kind;
mod link;
mod page;
mod rules;
mod scan;
mod scope;
mod settings;
mod splice;
pub mod srcset;
mod table;
mod target;

pub use kind::{Kind, Kinds};
pub use page::{OwnHosts, Page};
pub use rules::{RuleError, Rules};
pub use scan::{BailOut, Rewriter, Summary};
pub use settings::Settings;
pub use target::{Target, TargetError};
